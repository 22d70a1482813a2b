"""HoliTom before the LLM: windows, clusters, budgets."""

import dataclasses
import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.aot.stages.methods.holitom import HoliTom, Windows, cut
from comfyui_aot.aot.stages.toolkit.budget_search import counts_of_total, lowest_threshold
from comfyui_aot.aot.tokens.video_tokens import Extra, Layout, Role, VideoTokens
from comfyui_aot.tests.support.searches import examples


def video(features, attention=None, pooling="none", newline="one_token", grid=None):
    """(T, N, D) features on a grid one cell high unless it is given."""
    frames, cells, _ = features.shape
    attention = torch.ones(frames, cells) if attention is None else attention
    return VideoTokens.encoded(
        features,
        Layout(frames, grid or (1, cells), pooling, newline),
        attention,
        attention,
        torch.arange(frames, dtype=torch.float64),
        newline=features.new_ones(features.shape[2]),
        extras={Extra.LAST: attention},
    )


def restless(frames=6, grid=(6, 7), seed=0, dtype=torch.float64, **layout):
    """Places that stay more or less alike, and a cut in the middle."""
    generator = torch.Generator().manual_seed(seed)
    cells, dim = grid[0] * grid[1], 6
    scenes = torch.randn(2, cells, dim, generator=generator, dtype=torch.float64)
    scene = (torch.arange(frames) >= frames // 2).long()
    change = torch.rand(cells, 1, generator=generator, dtype=torch.float64)
    noise = torch.randn(frames, cells, dim, generator=generator, dtype=torch.float64)
    attention = torch.rand(frames, cells, generator=generator)
    return video((scenes[scene] + change * noise).to(dtype), attention, grid=grid, **layout)


@given(data=st.data(), frames=st.integers(1, 7), longest=st.integers(1, 7))
@settings(max_examples=examples(60), deadline=None)
def test_windows_gain_as_much_as_any_way_to_cut_the_video(data, frames, longest):
    rows = data.draw(
        st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=frames - 1, max_size=frames - 1)
    )
    alike = np.array(rows, dtype=bool).reshape(frames - 1, 4)

    def gain(lengths):
        starts = itertools.accumulate((0, *lengths[:-1]))
        runs = [(alike[a : a + w - 1].all(0), w) for a, w in zip(starts, lengths, strict=True)]
        return sum(int(still.sum()) * (w - 1) for still, w in runs)

    ways = [
        tuple(b - a for a, b in itertools.pairwise((0, *cuts, frames)))
        for count in range(frames)
        for cuts in itertools.combinations(range(1, frames), count)
    ]
    lengths, gained = cut(alike, longest)
    assert sum(lengths) == frames
    assert max(lengths) <= longest
    assert gained == gain(lengths) == max(gain(way) for way in ways if max(way) <= longest)


def test_a_window_that_gains_nothing_is_one_frame_and_of_equal_gains_the_shortest_last_window_wins():
    assert cut(np.zeros((3, 5), dtype=bool), 1024) == ((1, 1, 1, 1), 0)
    either = np.array([[True, False], [False, True]])
    assert cut(either, 1024) == ((2, 1), 1)
    assert Windows.of(either, 1024).still.tolist() == [[True, False], [False, False]]
    assert cut(np.array([[True, True], [True, False], [True, True]]), 1024) == ((2, 2), 4)


def test_still_places_become_weighted_means_and_others_the_most_attended():
    """Two frames of five places: 0 to 2 still, 0 and 1 near each other; 3 and 4 turn about."""
    frame = torch.tensor([[0.4, 0], [0.4, 0.1], [0, 0.9], [0.5, 0], [0, 0.5]])
    other = torch.cat((frame[:3] * 3, -frame[3:]))
    attention = torch.tensor([[1.0, 1, 1, 2, 3], [1, 1, 1, 5, 4]])
    # 7 tokens are left; 0.5 * 10 of them are asked for: round(3 * 5/7) = 2 clusters, ceil(2 * 5/7) = 2 cells a frame
    reduced = HoliTom(target=0.5)(video(torch.stack((frame, other)), attention))
    assert reduced.place[:, [0, 2]].tolist() == [[0, 0], [0, 2], [0, 3], [0, 4], [1, 3], [1, 4]]
    weights = reduced.map.sparse().to_dense()
    assert weights[0].tolist() == pytest.approx([0.3, 0.2, 0, 0, 0, 0.3, 0.2, 0, 0, 0])
    assert weights[1].tolist() == [0, 0, 0.5, 0, 0, 0, 0, 0.5, 0, 0]
    assert reduced.role.tolist() == [Role.MERGED] * 2 + [Role.KEPT] * 4
    # 0.3 * 10 of 7: round(3 * 3/7) = 1 cluster, ceil(2 * 3/7) = 1 cell a frame, the one that is attended to
    fewer = HoliTom(target=0.3)(video(torch.stack((frame, other)), attention))
    assert fewer.place[1:, [0, 2]].tolist() == [[0, 4], [1, 3]]
    plain = HoliTom(target=0.3, merge="average")(video(torch.stack((frame, other)), attention))
    assert plain.map.sparse().to_dense()[0].tolist() == pytest.approx([1 / 6] * 3 + [0] * 2 + [1 / 6] * 3 + [0] * 2)


def test_a_still_video_gives_less_than_is_asked_for_as_released_and_exactly_a_budget():
    still = torch.randn(1, 12, 4, generator=torch.Generator().manual_seed(0)).expand(8, -1, -1)
    assert HoliTom(target=0.5)(video(still)).tokens_kept == 12
    assert HoliTom(retention=0.5)(video(still)).tokens_kept == 48


def test_a_budget_of_as_many_as_the_released_rounding_gives_keeps_the_very_same_tokens():
    for target in (0.1, 0.3, 0.6):
        tokens = restless(seed=1)
        released = HoliTom(target=target, similarity=0.8)(tokens)
        exact = HoliTom(keep_tokens=released.tokens_kept, similarity=0.8)(tokens)
        assert torch.equal(exact.place, released.place)
        assert torch.equal(exact.features, released.features)


def test_a_budget_above_the_grid_is_refused_with_the_range():
    with pytest.raises(InputError, match="give 1 to 252 tokens"):
        HoliTom(keep_tokens=253)(restless())


def test_only_rows_that_keep_a_token_end_in_a_newline():
    reduced = HoliTom(keep_tokens=9)(restless(newline="grid"))
    held = {
        (t, y) for (t, y, _), role in zip(reduced.place.tolist(), reduced.role, strict=True) if role != Role.NEWLINE
    }
    ends = reduced.place[reduced.role == Role.NEWLINE]
    assert [tuple(end) for end in ends[:, :2].tolist()] == sorted(held)


def test_the_threshold_follows_what_is_asked_for_as_the_authors_ran_it():
    tokens = restless()
    assert torch.equal(HoliTom(target=0.1)(tokens).place, HoliTom(target=0.1, similarity=0.65)(tokens).place)
    assert torch.equal(HoliTom(retention=0.2)(tokens).place, HoliTom(retention=0.2, similarity=0.8)(tokens).place)
    assert not torch.equal(HoliTom(target=0.1)(tokens).place, HoliTom(target=0.1, similarity=0.8)(tokens).place)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close_to_float32(dtype):
    half = restless(dtype=dtype)
    single = dataclasses.replace(half, features=half.features.float())
    reduced, expected = HoliTom(retention=0.3)(half), HoliTom(retention=0.3)(single)
    assert torch.equal(reduced.place, expected.place)
    torch.testing.assert_close(reduced.features.float(), expected.features, atol=2e-2, rtol=1e-2)


def test_a_target_that_leaves_nothing_says_what_to_do():
    with pytest.raises(InputError, match="raise it, or set keep_tokens"):
        HoliTom(target=0.1)(video(torch.ones(2, 1, 3)))


def test_a_thousand_frames_are_cut_into_windows():
    alike = np.random.default_rng(0).random((1023, 20)) > 0.3
    lengths, gain = cut(alike, 1024)
    assert sum(lengths) == 1024
    assert gain > 0


def test_the_presets_are_the_authors_runs():
    tokens = restless()
    for name, target, similarity in (("holitom-10", 0.1, 0.65), ("holitom-25", 0.25, 0.8)):
        expected = HoliTom(target=target, similarity=similarity)(tokens)
        assert torch.equal(parse(name)(tokens).features, expected.features)


def test_counts_meet_any_total_between_their_ends():
    sizes = np.array([5, 5, 0, 9])
    for total in range(20):
        counts = counts_of_total(lambda share: np.ceil(sizes * share).astype(np.int64), total)
        assert counts.sum() == total
        assert ((counts >= 0) & (counts <= sizes)).all()
    assert counts_of_total(lambda share: np.ceil(sizes * share).astype(np.int64), 10).tolist() in (
        [3, 3, 0, 4],
        [2, 3, 0, 5],
    )


def test_a_threshold_is_raised_no_further_than_it_must():
    values = np.array([0.1, 0.5, 0.7, 0.7, 0.9])

    def left(above):
        return 10 - int((values > above).sum())

    assert lowest_threshold(values, 0.3, left, 6) == 0.3
    assert lowest_threshold(values, 0.3, left, 7) == pytest.approx(0.5)
    assert lowest_threshold(values, 0.3, left, 8) == pytest.approx(0.7)
    assert lowest_threshold(values, 0.3, left, 10) == pytest.approx(0.9)
