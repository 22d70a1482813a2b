"""Merges of whole frames, worked out by hand: means and what is lost."""

import pytest
import torch

from comfyui_aot.aot.tokens.frame_merge import FrameMerge


@pytest.fixture
def merge():
    """Six frames: the first stays, two are mixed, one is lost, two are a mean."""
    return FrameMerge.of([{0: 1.0}, {1: 0.25, 2: 0.75}, {4: 0.5, 5: 0.5}], 6)


def test_frames_are_means_at_the_place_of_the_heaviest(merge):
    assert merge.place.tolist() == [0, 2, 4]
    assert (merge.frames, merge.left, merge.mixes) == (6, 3, True)
    values = torch.arange(12.0).reshape(6, 2)
    assert merge.apply(values).tolist() == [[0, 1], [3.5, 4.5], [9, 10]]


def test_a_weight_of_nothing_leaves_a_frame_out_bit_by_bit():
    merge = FrameMerge.of([{1: 1.0, 2: 0.0}, {3: 1.0}], 4)
    assert not merge.mixes
    values = torch.randn(4, 3, 5, dtype=torch.bfloat16)
    assert torch.equal(merge.apply(values), values[[1, 3]])
    assert merge.factor(3, torch.float32, torch.device("cpu")).selects


def test_what_is_spread_comes_back_by_the_means(merge):
    values = torch.tensor([[1.0], [2.0], [3.0]])
    spread = merge.spread(values)
    assert spread[:, 0].tolist() == [1, 2, 2, 0, 3, 3]
    torch.testing.assert_close(merge.apply(spread), values)


def test_one_merge_after_another_is_their_product(merge):
    later = FrameMerge.of([{0: 0.5, 2: 0.5}], 3)
    both, values = merge.then(later), torch.randn(6, 4, dtype=torch.float64)
    torch.testing.assert_close(both.apply(values), later.apply(merge.apply(values)))
    assert both.weight.tolist() == [0.5, 0, 0, 0, 0.25, 0.25]
    assert both.place.tolist() == [0]


def test_its_factor_is_the_same_means_over_every_token(merge):
    factor = merge.factor(3, torch.float64, torch.device("cpu"))
    values = torch.randn(6, 3, 2, dtype=torch.float64)
    torch.testing.assert_close(factor.apply(values.flatten(0, 1)), merge.apply(values).flatten(0, 1))


def test_no_merge_leaves_all_as_it_is():
    none, values = FrameMerge.none(4), torch.randn(4, 2)
    assert torch.equal(none.apply(values), values)
    assert torch.equal(none.spread(values), values)
