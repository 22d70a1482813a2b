"""FastVID: segments, salient cells, anchors in some frames, and what joins them."""

import dataclasses
import warnings

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.aot.stages.methods.fastvid import FastVID, anchor_counts
from comfyui_aot.aot.stages.toolkit.language_grid import EXTRAS, SubstituteWarning
from comfyui_aot.aot.tokens.video_tokens import Extra, Layout, Role, VideoTokens
from comfyui_aot.nodes.comfy import HAS_COMFYUI
from comfyui_aot.nodes.stages import stage_node
from comfyui_aot.tests.support.searches import examples


def video(features, grid=None, attention=None, vectors=None, newline="none"):
    """(T, N, D) features on a grid one cell high unless it is given; attention and frame vectors even likewise."""
    frames, cells, _ = features.shape
    attention = torch.ones(frames, cells) if attention is None else attention
    vectors = torch.ones(frames, 3) if vectors is None else vectors
    layout = Layout(frames, grid or (1, cells), "none", newline)
    seconds = torch.arange(frames, dtype=torch.float64)
    ends = features.new_ones(features.shape[2])
    extras = {Extra.HEAD: attention, Extra.GLOBAL: vectors}
    return VideoTokens.encoded(features, layout, attention, attention, seconds, newline=ends, extras=extras)


def drawn(frames=6, grid=(6, 7), seed=0, dim=8, **layout):
    """A scene whose cells change a little, with a cut in the middle that the frame vectors show."""
    generator = torch.Generator().manual_seed(seed)
    cells = grid[0] * grid[1]
    scenes = torch.randn(2, cells, dim, generator=generator, dtype=torch.float64)
    scene = (torch.arange(frames) >= frames // 2).long()
    change = 0.3 * torch.randn(frames, cells, dim, generator=generator, dtype=torch.float64)
    attention = torch.rand(frames, cells, generator=generator, dtype=torch.float64)
    vectors = torch.eye(2, dtype=torch.float64)[scene] + 0.01 * torch.rand(
        frames, 2, generator=generator, dtype=torch.float64
    )
    return video(scenes[scene] + change, grid, attention, vectors, **layout)


def test_anchors_go_to_every_fourth_frame_from_the_last_and_the_remainder_is_lost_as_released():
    numbers, pools = anchor_counts([7] * 6, [20] * 6, (5, 1), 4, exact=False)
    assert numbers == [17, 0, 0, 0, 17, 7]
    assert pools == [(0, 5)] * 5 + [(5, 1)]


def test_a_budget_hands_the_remainder_out():
    numbers, _ = anchor_counts([7] * 6, [20] * 6, (5, 1), 4, exact=True)
    assert sorted(numbers) == [0, 0, 0, 7, 17, 18]
    assert numbers[1:4] == [0, 0, 0]


def test_what_a_frame_has_no_room_for_goes_to_the_others_of_its_segment():
    numbers, pools = anchor_counts([9] * 4, [12, 13, 12, 13], (4,), 4, exact=True)
    assert numbers[3] == 13
    assert sum(numbers) == 36
    assert max(numbers[:3]) - min(numbers[:3]) <= 1
    assert pools == [(0, 4)] * 4


def test_one_anchor_a_frame_is_one_a_frame_that_gathers_from_itself_as_released():
    numbers, pools = anchor_counts([1] * 3, [9] * 3, (3,), 2, exact=False)
    assert numbers == [1, 0, 1]
    assert pools == [(0, 1), (1, 1), (2, 1)]
    numbers, pools = anchor_counts([1] * 3, [9] * 3, (3,), 2, exact=True)
    assert sum(numbers) == 3
    assert pools == [(0, 3)] * 3


def test_an_anchor_keeps_its_weight_and_takes_the_mean_of_all_that_joined_it_itself_among_them():
    """Two frames of one segment: the last one's densest cell gathers what is not salient, salient cells stay."""
    east, near, far, north = [1.0, 0], [1, 0.1], [1, 0.4], [0, 5]
    features = torch.tensor([[near, far, north], [east, far, north]], dtype=torch.float64)
    attention = torch.tensor([[1, 2, 3], [1, 2, 3]], dtype=torch.float64)
    tokens = video(features, attention=attention)
    # Two tokens a frame, one salient; one anchor a frame, so two in the second frame, its other two cells.
    reduced = FastVID(retention_ratio=0.67, context_share=0.5, min_segments=1)(tokens)
    assert reduced.place[:, [0, 2]].tolist() == [[0, 2], [1, 0], [1, 1], [1, 2]]
    assert [Role(role).name for role in reduced.role.tolist()] == ["KEPT", "MERGED", "MERGED", "KEPT"]
    expected = torch.zeros(4, 6, dtype=torch.float64)
    expected[0, 2] = expected[3, 5] = 1
    expected[1, 3], expected[1, 0] = 0.6 + 0.4 / 2, 0.4 / 2
    expected[2, 4], expected[2, 1] = 0.6 + 0.4 / 2, 0.4 / 2
    torch.testing.assert_close(reduced.map.sparse().to_dense(), expected)
    lighter = FastVID(retention_ratio=0.67, context_share=0.5, min_segments=1, anchor_weight=0)(tokens)
    assert float(lighter.map.sparse().to_dense()[1, 3]) == pytest.approx(1 / 3 + 2 / 3 / 2)


def test_an_anchor_that_nothing_joins_but_itself_stays_as_it_is():
    features = torch.eye(4, dtype=torch.float64)[None]
    reduced = FastVID(retention_ratio=1, context_share=0.5, min_segments=1)(video(features))
    assert reduced.role.tolist() == [Role.KEPT] * 4
    torch.testing.assert_close(reduced.features, features[0])


def test_a_cell_joins_an_anchor_of_every_anchor_frame_of_its_segment():
    reduced = FastVID(retention_ratio=0.3, min_segments=2)(drawn(12))
    row, col = reduced.map.sparse().coalesce().indices()
    # Of 12 tokens a frame 8 are salient; both segments, of six frames, have anchors in their second and their last.
    times = torch.bincount(col, minlength=12 * 42)
    assert times.bincount().tolist() == [0, 12 * 8, 12 * 34]
    merged = reduced.role == Role.MERGED
    assert reduced.frame[merged].unique().tolist() == [1, 5, 7, 11]
    assert bool((reduced.frame[row] // 6 == col // 42 // 6).all())


def test_frame_vectors_decide_the_segments():
    tokens = drawn(6)
    row, col = FastVID(min_segments=1, retention_ratio=0.3)(tokens).map.sparse().coalesce().indices()
    reduced = FastVID(min_segments=1, retention_ratio=0.3)(tokens)
    frame = reduced.frame[row]
    assert bool(((frame < 3) == (col // 42 < 3)).all())
    assert bool((frame != col // 42).any())


@pytest.mark.parametrize(
    ("percent", "least", "most"), [(10, 602, 608), (15, 922, 928), (20, 1242, 1248), (25, 1562, 1568)]
)
def test_presets_keep_what_the_released_code_keeps(percent, least, most):
    reduced = parse(f"fastvid-{percent}")(drawn(32, (14, 14)))
    assert least <= reduced.tokens_kept <= most


@given(
    frames=st.integers(1, 12),
    height=st.integers(1, 7),
    share=st.floats(0, 1),
    context=st.sampled_from([0, 0.1, 0.4, 1]),
    least=st.integers(1, 9),
    stride=st.integers(1, 5),
    newline=st.sampled_from(["none", "grid"]),
    seed=st.integers(0, 99),
)
@settings(max_examples=examples(40), deadline=None)
def test_a_budget_is_met_to_the_token(frames, height, share, context, least, stride, newline, seed):
    tokens = drawn(frames, (height, 5), seed, newline=newline)
    wanted = frames + round(share * (tokens.tokens_full - frames))
    stage = FastVID(keep_tokens=wanted, context_share=context, min_segments=least, anchor_stride=stride)
    reduced = stage(tokens)
    assert reduced.tokens_kept == wanted
    places = reduced.place[reduced.role != Role.NEWLINE]
    assert len(set(map(tuple, places.tolist()))) == wanted
    assert float(reduced.map.sparse().values().min()) > 0
    torch.testing.assert_close(reduced.map.row_mass(), torch.ones(reduced.map.kept, dtype=torch.float64))
    torch.testing.assert_close(reduced.map.apply(tokens.features), reduced.features)


def test_zero_and_equal_features_give_no_nan():
    for features in (torch.zeros(9, 12, 4), torch.ones(9, 12, 4)):
        for stage in (FastVID(), FastVID(retention=0.3, min_segments=2)):
            tokens = dataclasses.replace(video(features), extras={Extra.LAST: torch.zeros(9, 12)})
            with pytest.warns(SubstituteWarning):
                assert bool(torch.isfinite(stage(tokens).features).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_tokens_of_float32(dtype):
    full = drawn(10)
    half = dataclasses.replace(full, features=full.features.to(dtype))
    single = dataclasses.replace(half, features=half.features.float())
    stage = FastVID(retention=0.3, min_segments=2)
    reduced, expected = stage(half), stage(single)
    assert reduced.features.dtype == dtype
    assert torch.equal(reduced.place, expected.place)
    torch.testing.assert_close(reduced.features.float(), expected.features, atol=2e-2, rtol=1e-2)


def test_a_share_that_leaves_no_token_is_refused_with_one_that_does():
    with pytest.raises(InputError, match=r"nothing of a frame of 42; give 0\.0239 or more"):
        FastVID(retention_ratio=0.023)(drawn())
    assert FastVID(retention_ratio=0.0239)(drawn()).tokens_kept == 6


def test_what_stands_in_for_the_pooling_head_is_said_and_used():
    tokens = drawn()
    swapped = dataclasses.replace(tokens, extras={Extra.LAST: tokens.extras[Extra.HEAD]})
    with pytest.warns(SubstituteWarning) as said:
        reduced = FastVID(retention_ratio=0.3, min_segments=2)(swapped)
    assert [str(each.message).partition("taken instead: ")[2] for each in said] == [
        f"{EXTRAS[Extra.LAST]}.",
        "the means of the frames' features.",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error", SubstituteWarning)
        known = FastVID(retention_ratio=0.3, min_segments=2)(tokens)
    assert torch.equal(reduced.place, known.place)


@pytest.mark.skipif(HAS_COMFYUI, reason="the stand-in is not used where ComfyUI can be imported")
def test_the_node_says_what_stands_in_each_once():
    tokens = dataclasses.replace(drawn(), extras={})
    text = stage_node(FastVID).execute(tokens=tokens, retention=0.2).ui["text"][0].splitlines()
    assert len(text) == 3
    assert text[0].startswith("252 to 50 tokens")
    assert all(line.startswith("These tokens come without") for line in text[1:])
