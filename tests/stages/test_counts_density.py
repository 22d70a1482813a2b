"""What stages that cluster by density ask of a device: few operations and fewer waits, however long the video."""

import pytest
import torch

from comfyui_aot.aot.benchmarks.operations import OperationCounter
from comfyui_aot.aot.stages.toolkit import dpc_knn
from comfyui_aot.aot.stages.toolkit.dpc_knn import Groups, clustered, density_scores


def uneven(number, largest=60):
    """Groups of 1 to ``largest`` points, and a third as many clusters of each."""
    generator = torch.Generator().manual_seed(number)
    sizes = tuple(torch.randint(1, largest + 1, (number,), generator=generator).tolist())
    points = torch.randn(sum(sizes), 6, generator=generator)
    return Groups(points, torch.arange(sum(sizes)), sizes), tuple(max(1, size // 3) for size in sizes)


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
