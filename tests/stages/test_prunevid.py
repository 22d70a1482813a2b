"""PruneVid before the LLM: segments, static places, clusters, budgets."""

import dataclasses

import pytest
import torch

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.stages.methods.prunevid import PruneVid, contiguous, similarity_over
from comfyui_aot.aot.tokens.video_tokens import Layout, VideoTokens


def video(features, grid=None, pooling="none", newline="one_token"):
    """(T, N, D) features on a grid one cell high unless it is given."""
    frames, cells, _ = features.shape
    attention = torch.ones(frames, cells)
    layout = Layout(frames, grid or (1, cells), pooling, newline)
    seconds = torch.arange(frames, dtype=torch.float64)
    ends = features.new_ones(features.shape[2])
    return VideoTokens.encoded(features, layout, attention, attention, seconds, newline=ends)


def restless(frames=8, grid=(6, 7), seed=0, dtype=torch.float64, **layout):
    """Places that stay more or less alike, and a cut in the middle."""
    generator = torch.Generator().manual_seed(seed)
    cells, dim = grid[0] * grid[1], 6
    scenes = torch.randn(2, cells, dim, generator=generator, dtype=torch.float64)
    scene = (torch.arange(frames) >= frames // 2).long()
    change = torch.rand(cells, 1, generator=generator, dtype=torch.float64)
    noise = torch.randn(frames, cells, dim, generator=generator, dtype=torch.float64)
    return video((scenes[scene] + change * noise).to(dtype), grid, **layout)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0, 0, 0, 1, 1], [0, 0, 0, 1, 1]),
        ([0, 0, 1, 0, 0], [0, 0, 0, 0, 0]),
        ([2, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1]),
        ([0, 0, 2, 1, 1, 1], [0, 0, 1, 1, 1, 1]),
        ([0, 0, 2, 1, 1], [0, 0, 0, 1, 1]),
        ([0, 0, 2, 1, 1, 1, 0, 3, 3], [0, 0, 1, 1, 1, 1, 1, 3, 3]),
        ([0, 0, 2, 1, 1, 2, 3, 3, 3], [0, 0, 0, 1, 1, 3, 3, 3, 3]),
        ([0, 1, 2, 0], [0, 0, 0, 0]),
        ([4], [0]),
    ],
)
def test_frames_outside_their_labels_longest_stretch_go_to_the_longer_neighbour(labels, expected):
    assert contiguous(labels) == expected


def test_a_place_is_as_static_as_its_mean_over_all_pairs_of_frames():
    turns = torch.tensor([[1.0, 0], [0, 1], [1, 0]])
    zeros = torch.tensor([[1.0, 0], [1, 0], [0, 0]])
    similarity = similarity_over(torch.stack((turns, zeros), 1), (3,))
    # Of three pairs one is alike; of two equal tokens and none, 2^2 less 3 of 6.
    assert similarity[0].tolist() == pytest.approx([1 / 3, 1 / 6])
    assert similarity_over(turns[:, None], (2, 1))[:, 0].tolist() == pytest.approx([0, -torch.inf])


def test_static_places_come_first_then_every_frame_and_small_groups_are_left_whole():
    """Eight frames of sixteen places, one segment: twelve stay as they are, four turn about with every frame."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, 16, 4, generator=generator).repeat(8, 1, 1)
    moving = [1, 5, 6, 11]
    features[::2, moving] *= -1
    tokens = video(features)
    reduced = PruneVid(segment_ratio=0.125)(tokens)
    static = [place for place in range(16) if place not in moving]
    assert reduced.place[:12, [0, 2]].tolist() == [[0, place] for place in static]
    assert reduced.place[12:, [0, 2]].tolist() == [[t, place] for t in range(8) for place in moving]
    assert reduced.map.column_mass().tolist() == pytest.approx(
        [1.0 if cell % 16 in moving else 1 / 8 for cell in range(128)]
    )


def test_a_group_of_fifteen_becomes_seven_and_one_of_fourteen_stays():
    generator = torch.Generator().manual_seed(1)
    for cells, kept in ((14, 14), (15, 7)):
        still = torch.randn(1, cells, 4, generator=generator).expand(8, -1, -1)
        assert PruneVid(segment_ratio=0.125)(video(still)).tokens_kept == kept


def test_nothing_is_dropped_and_nothing_is_in_two_tokens():
    tokens = restless(grid=(8, 9))
    weights = PruneVid()(tokens).map.sparse().to_dense()
    assert bool(((weights > 0).sum(0) == 1).all())


def test_a_budget_of_as_many_as_a_ratio_gives_keeps_the_very_same_tokens():
    tokens = restless(grid=(9, 10))
    for ratio in (0.2, 0.5, 1):
        released = PruneVid(cluster_ratio=ratio)(tokens)
        exact = PruneVid(keep_tokens=released.tokens_kept)(tokens)
        assert torch.equal(exact.place, released.place)
        assert torch.equal(exact.features, released.features)


def test_a_budget_under_a_token_a_group_is_refused_with_the_range():
    tokens = restless()
    with pytest.raises(InputError, match=r"give \d+ to 336 tokens") as error:
        PruneVid(keep_tokens=3)(tokens)
    least = int(str(error.value).split("give ")[1].split()[0])
    assert PruneVid(keep_tokens=least)(tokens).tokens_kept == least


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close_to_float32(dtype):
    half = restless(dtype=dtype)
    single = dataclasses.replace(half, features=half.features.float())
    reduced, expected = PruneVid(retention=0.3)(half), PruneVid(retention=0.3)(single)
    assert torch.equal(reduced.place, expected.place)
    torch.testing.assert_close(reduced.features.float(), expected.features, atol=2e-2, rtol=1e-2)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_and_zero_tokens_give_no_nan(value):
    tokens = restless()
    flat = dataclasses.replace(tokens, features=torch.full_like(tokens.features, value))
    assert bool(torch.isfinite(PruneVid()(flat).features).all())
