"""Sinkhorn: marginals, agreement with POT, padding, and the released stop rule."""

import numpy as np
import ot
import pytest
import torch

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.transport.sinkhorn import (
    log_sinkhorn,
    sinkhorn,
    unbalanced_sinkhorn,
    uniform_marginal,
    weighted_marginal,
)


def problem(batch=3, sources=20, targets=7, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    cost = torch.rand(batch, sources, targets, generator=generator, dtype=dtype)
    ones = torch.ones(batch, sources, dtype=torch.bool), torch.ones(batch, targets, dtype=torch.bool)
    return cost, uniform_marginal(ones[0]), uniform_marginal(ones[1])


def test_a_converged_plan_has_both_marginals():
    cost, u, v = problem()
    plan = sinkhorn(cost, u, v, max_iterations=10_000, tolerance=1e-14).plan
    torch.testing.assert_close(plan.sum(2), u)
    torch.testing.assert_close(plan.sum(1), v)


def test_a_converged_plan_is_pots():
    cost, u, v = problem(batch=1)
    plan = sinkhorn(cost, u, v, eps=0.1, max_iterations=10_000, tolerance=1e-14).plan[0].numpy()
    theirs = ot.sinkhorn(u[0].numpy(), v[0].numpy(), cost[0].numpy(), 0.1, stopThr=1e-14, numItermax=10_000)
    np.testing.assert_allclose(plan, theirs, atol=1e-10)


def test_the_target_marginal_is_exact_even_when_stopped_early():
    cost, u, v = problem()
    solved = sinkhorn(cost, u, v, max_iterations=1)
    torch.testing.assert_close(solved.plan.sum(1), v)
    assert bool((solved.marginal_error > 1e-3).all())
    torch.testing.assert_close(solved.marginal_error, (solved.plan.sum(2) - u).abs().sum(1))


def test_padding_changes_nothing_and_carries_nothing():
    cost, u, v = problem()
    padded = torch.full((3, 24, 9), 5.0, dtype=torch.float64)
    padded[:, :20, :7] = cost
    wide = [torch.nn.functional.pad(u, (0, 4)), torch.nn.functional.pad(v, (0, 2))]
    plain, ragged = sinkhorn(cost, u, v), sinkhorn(padded, *wide)
    torch.testing.assert_close(ragged.plan[:, :20, :7], plain.plan)
    assert float(ragged.plan[:, 20:].abs().sum() + ragged.plan[:, :, 7:].abs().sum()) == 0
    assert torch.equal(ragged.iterations, plain.iterations)


def test_each_problem_stops_as_if_it_were_alone():
    cost, u, v = problem(batch=4)
    cost = cost * torch.tensor([0.01, 1.0, 3.0, 6.0])[:, None, None]
    together = sinkhorn(cost, u, v, stop="each")
    alone = [sinkhorn(cost[i : i + 1], u[i : i + 1], v[i : i + 1]) for i in range(4)]
    assert together.iterations.tolist() == [int(one.iterations) for one in alone]
    assert len(set(together.iterations.tolist())) > 1
    torch.testing.assert_close(together.plan, torch.cat([one.plan for one in alone]))


def test_the_batch_stops_on_the_mean_of_all():
    cost, u, v = problem(batch=2)
    cost = cost * torch.tensor([0.01, 6.0])[:, None, None]
    assert len(set(sinkhorn(cost, u, v, stop="batch").iterations.tolist())) == 1


def test_a_kernel_that_vanishes_gives_no_nan():
    cost, u, v = problem(dtype=torch.float32)
    assert bool(torch.isfinite(sinkhorn(cost * 2000, u, v, eps=1e-3).plan).all())


def test_a_tolerance_on_the_marginals_is_met_by_each_problem_in_its_own_time():
    cost, u, v = problem(batch=5)
    cost = cost * torch.tensor([0.01, 0.5, 1.0, 2.0, 3.0])[:, None, None]
    together = sinkhorn(cost, u, v, max_iterations=10_000, tolerance=1e-9, stop="marginal")
    alone = [
        sinkhorn(*(each[i : i + 1] for each in (cost, u, v)), max_iterations=10_000, tolerance=1e-9, stop="marginal")
        for i in range(5)
    ]
    assert bool((together.marginal_error < 1e-9).all())
    assert together.iterations.tolist() == [int(one.iterations) for one in alone]
    assert len(set(together.iterations.tolist())) > 1
    torch.testing.assert_close(together.plan, torch.cat([one.plan for one in alone]))


def test_logarithms_give_the_same_plan():
    cost, u, v = problem()
    plain = sinkhorn(cost, u, v, max_iterations=1000, tolerance=1e-10, stop="marginal")
    logarithmic = log_sinkhorn(cost, u, v, max_iterations=1000, tolerance=1e-10)
    torch.testing.assert_close(logarithmic.plan, plain.plan)
    assert torch.equal(logarithmic.iterations, plain.iterations)


def test_logarithms_hold_where_the_kernel_has_vanished():
    cost, u, v = problem(batch=1, sources=30, targets=6)
    plan = log_sinkhorn(cost, u, v, eps=5e-3, max_iterations=50_000, tolerance=1e-7).plan
    torch.testing.assert_close(plan.sum(2), u, atol=1e-7, rtol=0)
    exact = ot.emd2(u[0].numpy(), v[0].numpy(), cost[0].numpy())
    assert float((plan * cost).sum()) == pytest.approx(exact, abs=5e-3)


def test_potentials_give_the_plan_back():
    cost, u, v = problem()
    for solved in (sinkhorn(cost, u, v), log_sinkhorn(cost, u, v)):
        f, g = solved.source_potential[:, :, None], solved.target_potential[:, None, :]
        torch.testing.assert_close(torch.exp((f + g - cost) / 0.1), solved.plan)


def test_an_unbalanced_problem_that_is_all_padding_has_an_empty_plan():
    u = uniform_marginal(torch.tensor([[True] * 4, [False] * 4]))
    v = uniform_marginal(torch.ones(2, 3, dtype=torch.bool))
    plan = unbalanced_sinkhorn(torch.rand(2, 4, 3), u, v).plan
    assert plan[0].sum() > 0.5
    assert plan[1].tolist() == [[0] * 3] * 4


def test_an_importance_is_a_mass_that_leaves_no_token_out():
    valid = torch.tensor([[True, True, True, False], [True, False, False, False]])
    mass = weighted_marginal(torch.tensor([[3.0, 1.0, 0.0, 9.0], [0.0, 0.0, 0.0, 0.0]]), valid)
    torch.testing.assert_close(mass.sum(1), torch.ones(2, dtype=torch.float64))
    assert float(mass[0, 0] / mass[0, 1]) == pytest.approx(3)
    assert float(mass[0, 2]) > 0
    assert mass[:, 3].tolist() == [0, 0]


def test_an_unknown_stop_rule_is_refused():
    with pytest.raises(InputError, match="give one of batch, each, marginal"):
        sinkhorn(*problem(), stop="never")
