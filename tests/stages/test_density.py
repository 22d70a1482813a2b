"""Density-peaks clustering of groups of points."""

import math

import pytest
import torch

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.stages.toolkit.dpc_knn import Groups, clustered, density_scores

LINE = torch.tensor([[0.0], [1], [3], [10]])
"""Four points with distances that can be told by eye."""


def test_scores_are_distance_to_a_denser_point_times_density():
    # Squared distances to itself and to the nearest: 0 + 1, 0 + 1, 0 + 4, 0 + 49; the first two are as dense.
    scores = density_scores(Groups.even(LINE[None]), 2)
    dense, sparse, lone = math.exp(-0.5), math.exp(-2), math.exp(-24.5)
    assert scores.tolist() == pytest.approx([10 * dense, 1 * dense, 2 * sparse, 7 * lone])


def test_distances_are_divided_by_the_root_of_the_width():
    wide = torch.cat((LINE, torch.zeros(4, 3)), 1)
    assert torch.allclose(density_scores(Groups.even(wide[None]), 2), density_scores(Groups.even(LINE[None] / 2), 2))


def test_noise_orders_equal_densities_and_without_it_the_first_wins():
    groups = Groups.even(LINE[None])
    assert clustered(groups, (1,), 1)[0].tolist() == [0]
    assert clustered(groups, (1,), 1, torch.tensor([0.1, 0.2, 0.9, 0.3]))[0].tolist() == [2]
    as_released = density_scores(groups, 1, torch.zeros(4))
    assert as_released.tolist() == [10, 10, 10, 10]


def test_centres_come_by_score_or_by_place_and_a_tie_joins_the_first_of_them():
    points = torch.tensor([[0.5], [0], [0.01], [1], [1.01], [1.02]])
    by_score, owner = clustered(Groups.even(points[None]), (2,), 3)
    assert by_score.tolist() == [4, 2]
    assert owner.tolist() == [1, 1, 1, 0, 0, 0]
    by_place, owner = clustered(Groups.even(points[None]), (2,), 3, by_place=True)
    assert by_place.tolist() == [2, 4]
    assert owner.tolist() == [0, 0, 0, 1, 1, 1]
    even = torch.tensor([[0.0], [1], [2]])
    assert clustered(Groups.even(even[None]), (2,), 1, torch.tensor([0.5, 0, 1]))[1].tolist() == [1, 0, 0]


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("by_place", [False, True])
def test_groups_together_are_what_each_is_alone(noisy, by_place):
    generator = torch.Generator().manual_seed(0)
    sizes = [int(size) for size in torch.randint(1, 60, (40,), generator=generator)]
    points = torch.randn(2 * sum(sizes), 6, generator=generator)
    member = torch.randperm(len(points), generator=generator)[: sum(sizes)]
    noise = torch.rand(sum(sizes), generator=generator) if noisy else None
    counts = [max(1, size // 3) for size in sizes]
    neighbours = [min(7, count) for count in counts]
    groups = Groups(points, member, tuple(sizes))
    scores = density_scores(groups, neighbours, noise)
    centre, owner = clustered(groups, counts, neighbours, noise, by_place)
    first = before = 0
    for size, count, k in zip(sizes, counts, neighbours, strict=True):
        here = slice(first, first + size)
        alone, drawn = Groups.even(points[member[here]][None]), None if noise is None else noise[here]
        torch.testing.assert_close(density_scores(alone, k, drawn), scores[here], atol=1e-5, rtol=1e-4)
        its_centre, its_owner = clustered(alone, (count,), k, drawn, by_place)
        assert torch.equal(its_centre + first, centre[before : before + count])
        assert torch.equal(its_owner + before, owner[here])
        first, before = first + size, before + count


def test_copies_of_one_point_are_one_cluster_and_nothing_else_is_lost():
    points = torch.cat((torch.zeros(5, 3), torch.ones(2, 3)))
    centre, owner = clustered(Groups.even(points[None]), (2,), 3)
    assert centre.tolist() == [0, 5]
    assert owner.tolist() == [0] * 5 + [1] * 2


def test_a_group_smaller_than_the_neighbours_counts_all_of_itself():
    assert torch.equal(density_scores(Groups.even(LINE[None]), 9), density_scores(Groups.even(LINE[None]), 4))


def test_counts_and_sizes_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="give 1 to a group's size"):
        clustered(Groups.even(LINE[None]), (5,), 2)
    with pytest.raises(InputError, match="give the size of each group"):
        Groups(LINE, torch.arange(4), (3, 2))
