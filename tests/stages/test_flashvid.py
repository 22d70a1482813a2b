"""FlashVID: what stands out, trees along time, clusters in space, and what is lost on the way as released."""

import dataclasses
import math
import warnings

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.aot.stages.methods.flashvid import (
    FlashVID,
    Segments,
    Trees,
    cluster_counts,
    most_similar,
    spread_out,
    thresholds,
)
from comfyui_aot.aot.stages.toolkit.language_grid import LanguageGrid, SubstituteWarning, unit
from comfyui_aot.aot.tokens.video_tokens import Extra, Layout, Role, VideoTokens
from comfyui_aot.tests.support.searches import examples


def video(features, grid=None, attention=None, newline="none"):
    """(T, N, D) features on a grid one cell high unless it is given, attention even unless it is given."""
    frames, cells, _ = features.shape
    attention = torch.ones(frames, cells) if attention is None else attention
    layout = Layout(frames, grid or (1, cells), "none", newline)
    seconds = torch.arange(frames, dtype=torch.float64)
    ends = features.new_ones(features.shape[2])
    extras = {Extra.LAST: attention}
    return VideoTokens.encoded(features, layout, attention, attention, seconds, newline=ends, extras=extras)


def moving(frames=6, grid=(6, 7), seed=0, dim=8, noise=0.2, **layout):
    """A scene whose cells change a little, with a cut in the middle."""
    generator = torch.Generator().manual_seed(seed)
    cells = grid[0] * grid[1]
    scenes = 1 + torch.randn(2, cells, dim, generator=generator, dtype=torch.float64)
    scene = (torch.arange(frames) >= frames // 2).long()
    change = noise * torch.randn(frames, cells, dim, generator=generator, dtype=torch.float64)
    attention = torch.rand(frames, cells, generator=generator, dtype=torch.float64)
    return video(scenes[scene] + change, grid, attention, **layout)


def segments(*lengths):
    return Segments.of(lengths, torch.device("cpu"))


def test_cells_are_chosen_as_far_as_possible_from_those_chosen_before():
    # Directions at 0, 10, 90 and 180 degrees: nobody is farther from his nearest than 180 is from 90, and 90 from 10.
    angles = torch.tensor([0.0, 10, 90, 180], dtype=torch.float64).deg2rad()
    directions = torch.stack((angles.cos(), angles.sin()), 1)[None]
    weight = torch.ones(1, 4, dtype=torch.float64)
    assert spread_out(directions, weight, 4, once=True).tolist() == [[3, 0, 2, 1]]
    # What is attended to five times as much counts as five times as far, seen from any other.
    weight[0, 1] = 5
    assert spread_out(directions, weight, 2, once=True).tolist() == [[3, 1]]


def test_released_a_frame_of_equal_cells_chooses_one_over_and_over():
    directions = unit(torch.ones(1, 5, 3, dtype=torch.float64))
    weight = torch.ones(1, 5, dtype=torch.float64)
    assert len(set(spread_out(directions, weight, 4, once=False)[0].tolist())) == 1
    assert len(set(spread_out(directions, weight, 4, once=True)[0].tolist())) == 4


def test_a_cell_looks_for_its_parent_among_free_cells_of_the_frame_before():
    east, north = [1.0, 0], [0, 1.0]
    frame = torch.tensor([[east, north], [east, north], [east, north]])
    free = torch.tensor([[True, True], [True, False], [True, True]])
    best, parent = most_similar(frame, free, segments(3))
    assert best.tolist() == [[-1, -1], [1, -1], [1, 0]]
    assert parent[1, 0] == 0
    assert parent[2].tolist() == [0, 0]
    assert most_similar(frame, free, segments(2, 1))[0].tolist() == [[-1, -1], [1, -1], [-1, -1]]


def test_the_threshold_rises_in_a_segment_that_would_keep_too_little():
    best = torch.tensor([[-1.0, -1], [0.95, 0.9], [0.85, 0.7], [-1, -1], [0.99, 0.2]])
    # Of six cells four must stay: two links at most, and the second best cosine itself is not above the bar.
    bars = thresholds(best, segments(3, 2), [2, 1, 1, 1, 0], 0.8)
    assert bars.tolist() == pytest.approx([0.9] * 3 + [0.8] * 2)
    assert int((best[:3] > bars[:3, None]).sum()) == 1
    assert thresholds(best, segments(3, 2), [1, 1, 1, 1, 0], 0.8).tolist() == pytest.approx([0.8] * 5)
    assert not bool((best > thresholds(best, segments(3, 2), [2] * 5, 0.8)[:, None]).any())


def test_a_chain_of_four_becomes_twice_its_mean_as_released():
    chain = torch.arange(4)[:, None].sub(1).clamp(min=0)
    every = torch.ones(4, dtype=torch.bool)
    assert Trees.grown(chain, every, 4, true_mean=False).share.tolist() == [0.5] * 4
    assert Trees.grown(chain, every, 4, true_mean=True).share.tolist() == [0.25] * 4


def test_children_linked_to_one_cell_are_all_counted():
    linked = torch.tensor([[0, 1, 2], [0, 0, 2]])
    trees = Trees.grown(linked, torch.ones(6, dtype=torch.bool), 2, true_mean=False)
    assert trees.roots.tolist() == [True] * 3 + [False] * 3
    assert trees.share.tolist() == pytest.approx([1 / 3, 1, 1 / 2, 1 / 3, 1 / 3, 1 / 2])


def test_clusters_are_rounded_up_and_the_largest_give_one_back_to_a_budget():
    assert cluster_counts([10, 5, 1, 8], [1, 1, 2, 5], (3, 1), exact=False) == [3, 2, 1, 5]
    assert cluster_counts([10, 5, 1, 8], [1, 1, 2, 5], (3, 1), exact=True) == [2, 1, 1, 5]
    assert cluster_counts([4, 4], [0, 0], (2,), exact=False) == [0, 0]


EXPANDED = [("10-expanded", 25), ("15-expanded", 37), ("20-expanded", 49), ("25-expanded", 62)]


@pytest.mark.parametrize(("preset", "budget"), [("10", 20), ("15", 30), ("20", 40), ("25", 49), *EXPANDED])
def test_presets_keep_what_the_released_code_keeps(preset, budget):
    tokens = moving(32, (14, 14))
    reduced = parse(f"flashvid-{preset}")(tokens)
    assert budget * 32 <= reduced.tokens_kept < (budget + 1) * 32
    assert int((reduced.role == Role.KEPT).sum()) >= math.ceil(0.7 * budget) * 32


def test_a_static_video_becomes_its_first_frame_twice_as_long():
    """Every cell a chain of four frames: four times the cell, over one and one direct child."""
    frame = 1 + torch.randn(1, 20, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    tokens = video(frame.repeat(4, 1, 1))
    stage = FlashVID(retention_ratio=0.25, expansion=1, min_segments=1, alpha=0)
    reduced = stage(tokens)
    assert set(reduced.frame.tolist()) == {0}
    torch.testing.assert_close(reduced.features, 2 * frame[0])
    torch.testing.assert_close(dataclasses.replace(stage, true_mean=True)(tokens).features, frame[0])


def test_released_rows_exceed_one_and_true_means_do_not():
    tokens = moving(12, noise=0.1)
    stage = FlashVID(retention_ratio=0.1, min_segments=2)
    released, mean = stage(tokens), dataclasses.replace(stage, true_mean=True)(tokens)
    assert float(released.map.row_mass().max()) > 1.5
    torch.testing.assert_close(mean.map.row_mass(), torch.ones(mean.map.kept, dtype=torch.float64))
    torch.testing.assert_close(released.map.apply(tokens.features), released.features)
    torch.testing.assert_close(released.map.means.row_mass(), torch.ones(released.map.kept, dtype=torch.float64))


def test_up_to_eight_frames_nothing_is_merged_along_time():
    for least, alone in ((8, True), (2, False)):
        reduced = FlashVID(min_segments=least)(moving(8))
        row, col = reduced.map.sparse().coalesce().indices()
        assert bool((reduced.frame[row] == col // 42).all()) == alone


@given(
    frames=st.integers(1, 12),
    height=st.integers(1, 7),
    share=st.floats(0, 1),
    alpha=st.sampled_from([0, 0.3, 0.7, 1]),
    least=st.integers(1, 9),
    selection=st.sampled_from(["attn_div_v2", "attn_div", "attn", "div"]),
    newline=st.sampled_from(["none", "grid"]),
    seed=st.integers(0, 99),
)
@settings(max_examples=examples(30), deadline=None)
def test_a_budget_is_met_to_the_token(frames, height, share, alpha, least, selection, newline, seed):
    tokens = moving(frames, (height, 5), seed, noise=(0.1, 0.5, 2)[seed % 3], newline=newline)
    wanted = frames + round(share * (tokens.tokens_full - frames))
    reduced = FlashVID(keep_tokens=wanted, alpha=alpha, min_segments=least, selection=selection)(tokens)
    assert reduced.tokens_kept == wanted
    means = reduced.map.means
    assert all(float(factor.coordinates()[2].min()) > 0 for factor in means.factors)
    torch.testing.assert_close(means.row_mass(), torch.ones(means.kept, dtype=torch.float64))
    torch.testing.assert_close(reduced.map.apply(tokens.features), reduced.features)


def test_no_cell_is_chosen_twice_for_a_budget():
    tokens = video(torch.randn(3, 40, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    stage = FlashVID(alpha=1, min_segments=1, segment_threshold=-1)
    grid = LanguageGrid.of("FlashVID", tokens.to_language_grid())
    assert len(set(stage.chosen(grid, unit(grid.features), segments(3), 35, once=False)[0].tolist())) < 35
    places = dataclasses.replace(stage, keep_tokens=105)(tokens).place
    assert len(set(map(tuple, places.tolist()))) == 105


def test_zero_and_equal_features_give_no_nan():
    for features in (torch.zeros(9, 12, 4), torch.ones(9, 12, 4)):
        for stage in (FlashVID(), FlashVID(retention=0.3, min_segments=2)):
            assert bool(torch.isfinite(stage(video(features)).features).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_tokens_of_float32(dtype):
    full = moving(10)
    half = dataclasses.replace(full, features=full.features.to(dtype))
    single = dataclasses.replace(half, features=half.features.float())
    stage = FlashVID(min_segments=2)
    reduced, expected = stage(half), stage(single)
    assert reduced.features.dtype == dtype
    assert torch.equal(reduced.place, expected.place)
    torch.testing.assert_close(reduced.features.float(), expected.features, atol=2e-2, rtol=1e-2)


def test_more_than_a_frame_has_is_refused():
    with pytest.raises(InputError, match="53 tokens of a frame of 42; lower one"):
        FlashVID(retention_ratio=1)(moving())


def test_other_attention_in_place_of_the_last_blocks_is_said():
    tokens = moving()
    with pytest.warns(SubstituteWarning, match=r"without the attention at the last block, .* AOT's deep layer"):
        FlashVID()(dataclasses.replace(tokens, extras={}))
    with warnings.catch_warnings():
        warnings.simplefilter("error", SubstituteWarning)
        FlashVID()(tokens)
        FlashVID(selection="div")(dataclasses.replace(tokens, extras={}))
