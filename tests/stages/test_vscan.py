"""VScan: which cells the two scans choose, and where the others go."""

import pytest
import torch

from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.aot.stages.methods.vscan import scan
from comfyui_aot.tests.support.stages import video


def chosen(shallow, deep, count, ratio=0.5, window=2):
    mask = scan(torch.tensor([shallow]).float(), torch.tensor([deep]).float(), (count,), ratio, window, (2, 4))
    return mask.nonzero()[:, 1].tolist()


SHALLOW = [1, 2, 8, 3, 4, 3, 5, 6]
DEEP = [9, 1, 7, 6, 1, 2, 8, 3]
"""Two windows of 2 x 2: cells 0, 1, 4, 5 and 2, 3, 6, 7."""


def test_each_window_gives_its_best_and_the_frame_the_best_of_the_rest():
    assert chosen(SHALLOW, DEEP, 4) == [0, 2, 4, 6]  # local 4 and 2, then global 0 and 6


def test_what_the_windows_cannot_share_evenly_goes_to_the_global_scan():
    assert chosen(SHALLOW, DEEP, 3) == [0, 2, 6]  # one local token for two windows is none each
    assert chosen(SHALLOW, DEEP, 7, ratio=0.5) == [0, 2, 3, 4, 5, 6, 7]  # local 4 and 2, then 0, 6, 3, 7, 5


@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0])
def test_any_count_is_met_whatever_the_windows(ratio):
    tokens = video(2, (5, 7), pooling="none", newline="none")
    for window in (1, 2, 3, 9):
        for count in range(1, 36):
            mask = scan(tokens.shallow, tokens.deep, (count, count - 1), ratio, window, (5, 7))
            assert mask.sum(1).tolist() == [count, count - 1]


@pytest.mark.parametrize("retention", [0.25, 0.5])
def test_it_is_phase_one_of_aot_with_merging_in_place_of_transport_where_nothing_is_pooled(retention):
    tokens = video(3, (8, 8), dtype=torch.float64, pooling="none", newline="none")
    merging = "solver=nearest,aggregation=counts,spatial_weight=0,nearest_blend=0"
    phase = parse(f"intra:retention={retention},window=4,{merging}")(tokens)
    reduced = parse(f"vscan:retention={retention},window=4")(tokens)
    assert torch.equal(reduced.place, phase.place)
    torch.testing.assert_close(reduced.features, phase.features)


def test_without_a_local_scan_it_is_the_merging_by_cosine():
    tokens = video(3, (10, 12), dtype=torch.float64, pooling="average", newline="grid")
    one, other = (parse(chain)(tokens) for chain in ("vscan:global_ratio=1", "cosine"))
    assert torch.equal(one.place, other.place)
    assert torch.equal(one.role, other.role)
    torch.testing.assert_close(one.features, other.features)
