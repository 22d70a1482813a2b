"""Costs: cosine, squared Euclidean, places and time, and their units."""

import pytest
import torch

from comfyui_aot.aot.transport.costs import Cost, Points, time_factor, unit_places


def points(count, seed=0, batch=2, dim=5):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, count, dim, generator=generator, dtype=torch.float64)
    places = torch.rand(1, count, 2, generator=generator, dtype=torch.float64)
    return Points(features, features.norm(dim=-1), places)


def test_the_cosine_cost_is_one_minus_the_cosine():
    x, a = points(4), points(3, seed=1)
    expected = 1 - torch.nn.functional.cosine_similarity(x.features[:, :, None], a.features[:, None], dim=-1)
    torch.testing.assert_close(Cost().between(x, a), expected)


def test_the_cosine_of_a_zero_vector_is_zero():
    x, a = points(4), points(3, seed=1)
    zero = Points.of(torch.zeros_like(x.features))
    assert bool((Cost().between(zero, a) == 1).all())


def test_the_squared_euclidean_cost_is_in_units_of_the_mean_square():
    x, a = points(4), points(3, seed=1)
    unit = torch.cat((x.lengths, a.lengths), 1).square().mean(1)[:, None, None]
    expected = torch.cdist(x.features, a.features).square() / (2 * unit)
    torch.testing.assert_close(Cost("sqeuclidean").between(x, a), expected)


def test_tokens_of_equal_length_cost_the_same_by_both_metrics():
    x, a = (Points(p.features / p.lengths[:, :, None], torch.ones_like(p.lengths)) for p in (points(4), points(3, 1)))
    torch.testing.assert_close(Cost("sqeuclidean").between(x, a), Cost().between(x, a))


def test_padding_has_no_part_in_the_unit():
    x, a = points(4), points(3, seed=1)
    wide = Points(
        torch.cat((x.features, torch.full_like(x.features[:, :1], 9.0)), 1),
        torch.cat((x.lengths, torch.full_like(x.lengths[:, :1], 20.0)), 1),
        valid=torch.tensor([[True] * 4 + [False]] * 2),
    )
    torch.testing.assert_close(Cost("sqeuclidean").between(wide, a)[:, :4], Cost("sqeuclidean").between(x, a))


def test_places_add_their_weighted_distance():
    x, a = points(4), points(3, seed=1)
    expected = Cost().between(x, a) + 0.5 * torch.cdist(x.places, a.places)
    torch.testing.assert_close(Cost(spatial_weight=0.5).between(x, a), expected)


def test_the_bound_of_a_cosine_cost_holds():
    x, a = points(40), points(30, seed=1)
    cost = Cost(spatial_weight=2.0)
    assert float(cost.between(x, a).max()) <= cost.largest


def test_the_time_factor_grows_from_nothing_to_one():
    factors = [time_factor(offset, 1.5) for offset in (0, 1, 2, 10)]
    assert factors == sorted(factors)
    assert factors[0] == 0
    assert factors[1] == pytest.approx(0.1993, abs=1e-4)
    assert factors[-1] == pytest.approx(1)


def test_places_lie_on_the_unit_square_whatever_the_grid():
    cells = torch.tensor([[0, 0], [2, 4], [1, 2], [1, 5]])
    assert unit_places(cells, (3, 5)).tolist() == [[0, 0], [1, 1], [0.5, 0.5], [0.5, 1]]
    assert unit_places(torch.tensor([[0, 0]]), (1, 1)).tolist() == [[0, 0]]
