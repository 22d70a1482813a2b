"""Token Merging: which pairs merge, round by round, and what becomes of them."""

import math

import pytest
import torch

from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.aot.stages.methods.tome import match
from comfyui_aot.aot.tokens.factors import Sparse
from comfyui_aot.aot.tokens.video_tokens import Extra, Layout, Role, VideoTokens

DEGREES = (0, 10, 50, 55, 120, 180)
"""Six cells in a row: 0, 2 and 4 are dealt into A, the others into B."""


def turned(degrees):
    return torch.tensor([[math.cos(math.radians(angle)), math.sin(math.radians(angle))] for angle in degrees]).double()


def groups(count, round_share=0.5, degrees=DEGREES):
    """The cells of each token, under the cell it was merged into."""
    heads, owner = match(turned(degrees)[None], (count,), round_share)
    members = [(owner[0] == token).nonzero()[:, 0].tolist() for token in range(count)]
    return dict(zip(heads[0].tolist(), members, strict=True))


def test_the_likest_pairs_merge_first():
    assert groups(5) == {0: [0], 1: [1], 3: [2, 3], 4: [4], 5: [5]}
    assert groups(4) == {1: [0, 1], 3: [2, 3], 4: [4], 5: [5]}
    assert groups(3) == {1: [0, 1], 3: [2, 3], 5: [4, 5]}


def test_where_half_is_not_enough_another_round_follows():
    assert groups(2) == {3: [0, 1, 2, 3], 5: [4, 5]}  # 5, 52.5 and 150 degrees: the first is nearer the second
    assert groups(1) == {5: [0, 1, 2, 3, 4, 5]}


def test_small_rounds_look_again_before_they_merge_unlike_tokens():
    assert groups(3, round_share=0.17) == {3: [0, 1, 2, 3], 4: [4], 5: [5]}


def test_several_tokens_may_merge_into_one():
    assert groups(4, degrees=(0, 2, 3, 90, 10, 180)) == {1: [0, 1, 2], 3: [3], 4: [4], 5: [5]}


def reduced_by(extras):
    features = torch.arange(12, dtype=torch.float64).reshape(1, 6, 2)
    attention = torch.ones(1, 6)
    tokens = VideoTokens.encoded(
        features, Layout(1, (2, 3), "none", "none"), attention, attention, torch.zeros(1).double(), extras=extras
    )
    return parse("tome:keep_tokens=3")(tokens)


def test_keys_decide_and_features_are_averaged_cell_by_cell():
    reduced = reduced_by({Extra.KEYS: turned(DEGREES)[None].float()})
    assert reduced.features.tolist() == [[1, 2], [5, 6], [9, 10]]
    assert reduced.place.tolist() == [[0, 0, 1], [0, 1, 0], [0, 1, 2]]
    assert reduced.role.tolist() == [Role.MERGED] * 3


def test_tokens_without_keys_are_matched_by_their_features_and_it_says_so():
    with pytest.warns(UserWarning, match="taken instead: the features"):
        assert reduced_by({}).tokens_kept == 3


@pytest.mark.parametrize("counts", [(5, 5, 5), (5, 6, 5), (3, 2, 3), (12, 11, 12)])
def test_each_frame_is_merged_for_itself_down_to_its_own_count(counts):
    keys = torch.randn(3, 12, 4, generator=torch.Generator().manual_seed(0)).double()
    heads, owner = match(keys, counts)
    for frame, count in enumerate(counts):
        alone = match(keys[frame : frame + 1], (count,))
        assert torch.equal(heads[frame, :count], alone[0][0])
        assert bool((heads[frame, count:] == -1).all())
        assert torch.equal(owner[frame], alone[1][0])


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
)
def test_members_are_added_up_in_their_order(device):
    """In another order the last digits differ, and with them perhaps what merges next."""
    row, values = torch.tensor([1, 0, 1, 1, 0, 1]), torch.tensor([[1e8], [1.0], [1.0], [-1e8], [2.0], [3.0]])
    sums = Sparse.sums(row.to(device), 2, values).apply(values.to(device))
    assert sums.tolist() == [[3.0], [3.0]]
    many = torch.randn(20_000, 8, generator=torch.Generator().manual_seed(0)).to(device)
    every = Sparse.sums(torch.arange(20_000, device=device) % 7, 7, many)
    assert all(torch.equal(every.apply(many), every.apply(many)) for _ in range(5))
