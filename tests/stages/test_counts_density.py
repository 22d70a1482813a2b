"""What stages that cluster by density ask of a device: few operations and fewer waits, however long the video."""

import warnings

import numpy as np
import pytest
import torch

from comfyui_aot.aot.benchmarks.operations import OperationCounter
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.aot.stages.toolkit import dpc_knn
from comfyui_aot.aot.stages.toolkit.dpc_knn import Groups, clustered, density_scores
from comfyui_aot.aot.stages.toolkit.uploads import uploaded
from comfyui_aot.aot.tokens.video_tokens import Extra, Layout, Role, VideoTokens
from comfyui_aot.tests.support.simulated_device import DEVICE, moved, simulated, waits_of


def uneven(number, largest=60):
    """Groups of 1 to ``largest`` points, and a third as many clusters of each."""
    generator = torch.Generator().manual_seed(number)
    sizes = tuple(torch.randint(1, largest + 1, (number,), generator=generator).tolist())
    points = torch.randn(sum(sizes), 6, generator=generator)
    return Groups(points, torch.arange(sum(sizes)), sizes), tuple(max(1, size // 3) for size in sizes)


def scenes(frames, newline, grid=(27, 27), dim=8):
    """Scenes of six frames, in which places stay more or less alike."""
    generator = torch.Generator().manual_seed(0)
    cells = grid[0] * grid[1]
    still = torch.randn(frames // 6 + 1, cells, dim, generator=generator)[torch.arange(frames) // 6]
    change = torch.rand(cells, 1, generator=generator)
    features = still + change * torch.randn(frames, cells, dim, generator=generator)
    attention = torch.rand(frames, cells, generator=generator)
    seconds = torch.arange(frames, dtype=torch.float64)
    return VideoTokens.encoded(
        features,
        Layout(frames, grid, newline=newline),
        attention,
        attention,
        seconds,
        newline=torch.ones(dim),
        extras={Extra.LAST: attention},
    )


@pytest.mark.parametrize("number", [10, 40, 300])
def test_clustering_launches_as_much_for_many_groups_as_for_some_and_never_waits(number):
    groups, counts = uneven(number)
    with OperationCounter() as counter:
        clustered(groups, counts, [min(7, count) for count in counts], by_place=True)
        density_scores(groups, 4, torch.rand(len(groups.member)))
    assert counter.operations.total() <= 250
    assert counter.waits.total() == 0


@pytest.mark.parametrize("noisy", [False, True])
def test_batches_that_memory_asks_for_change_nothing(monkeypatch, noisy):
    groups, counts = uneven(40)
    noise = torch.rand(len(groups.member), generator=torch.Generator().manual_seed(1)) if noisy else None
    scores, clusters = density_scores(groups, 7, noise), clustered(groups, counts, 7, noise)
    monkeypatch.setattr(dpc_knn, "BATCH", 3 * 60**2)
    monkeypatch.setattr(dpc_knn, "POINTS", 2 * 60 * 6)
    torch.testing.assert_close(density_scores(groups, 7, noise), scores, atol=1e-5, rtol=1e-4)
    for mine, expected in zip(clustered(groups, counts, 7, noise), clusters, strict=True):
        assert torch.equal(mine, expected)


def test_no_groups_are_no_clusters():
    groups = Groups(torch.zeros(3, 2), torch.empty(0, dtype=torch.long), ())
    assert density_scores(groups, 7).shape == (0,)
    assert [len(each) for each in clustered(groups, (), 7)] == [0, 0]


def test_index_arrays_reach_the_device_in_one_copy():
    arrays = [np.arange(6).reshape(2, 3), np.empty((0, 4), np.int64), np.array([7, 8], np.int32)]
    with simulated() as waits, OperationCounter() as counter:
        sent = uploaded(arrays, DEVICE)
        assert [each.cpu().tolist() for each in sent] == [array.tolist() for array in arrays]
        assert all(each.device == DEVICE and each.dtype == torch.long for each in sent)
    assert (counter.operations["_to_copy"], waits["_to_copy"]) == (1 + len(sent), len(sent))


@pytest.mark.parametrize("newline", ["one_token", "grid"])
@pytest.mark.parametrize("name", ["holitom", "prunevid"])
def test_a_stage_asks_as_little_of_a_device_however_long_the_video(name, newline):
    for chain in (parse(f"{name}:retention=0.1"), parse(name)):
        for frames in (8, 32, 128):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                chain(scenes(frames, newline))
                tokens = scenes(frames, newline)
                with OperationCounter() as counter:
                    reduced = chain(tokens)
            assert counter.operations.total() <= 400
            assert counter.waits.total() <= 2
            assert bool((reduced.role == int(Role.MERGED)).any())


@pytest.mark.parametrize("newline", ["one_token", "grid"])
@pytest.mark.parametrize(("name", "waits"), [("holitom", 2), ("prunevid", 3)])
def test_a_stage_waits_for_its_check_its_similarities_and_its_segments(name, waits, newline):
    tokens = scenes(8, newline, grid=(12, 12))
    expected = parse(name)(tokens)
    counter = waits_of(parse(name), tokens)
    assert counter.total() <= waits + (newline == "grid"), counter
    with simulated():
        reduced = parse(name)(moved(tokens))
        assert torch.equal(reduced.place.cpu(), expected.place)
