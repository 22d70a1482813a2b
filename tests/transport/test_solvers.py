"""Every solver behind its name: POT's figures, what is warned of, what is refused."""

import warnings

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.transport.sinkhorn import uniform_marginal, weighted_marginal
from comfyui_aot.aot.transport.solvers import SOLVERS, Solver, UnconvergedWarning
from comfyui_aot.tests.support.searches import examples

BALANCED = [name for name in SOLVERS if Solver(name).balanced]
CONVERGED = ("sinkhorn", "log", "pot-log")


def problem(batch=3, sources=24, targets=7, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    cost = torch.rand(batch, sources, targets, generator=generator, dtype=torch.float64).to(dtype)
    valid = torch.ones(batch, sources, dtype=torch.bool), torch.ones(batch, targets, dtype=torch.bool)
    u = weighted_marginal(torch.rand(batch, sources, generator=generator), valid[0])
    return cost, u, uniform_marginal(valid[1])


def of_pot(solve, cost, u, v):
    return np.stack([solve(a, b, c) for a, b, c in zip(u.numpy(), v.numpy(), cost.numpy(), strict=True)])


@pytest.mark.parametrize("name", CONVERGED)
@pytest.mark.parametrize("eps", [0.02, 0.1, 1.0])
def test_a_converged_plan_is_pots_at_the_same_epsilon_and_tolerance(name, eps):
    cost, u, v = problem()
    plan = Solver(name, eps, max_iterations=50_000, tolerance=1e-9).solve(cost, u, v).plan
    theirs = of_pot(lambda a, b, c: ot.sinkhorn(a, b, c, eps, stopThr=1e-9, numItermax=50_000), cost, u, v)
    np.testing.assert_allclose(plan.numpy(), theirs, atol=1e-6)


def test_emd_is_exact():
    cost, u, v = problem()
    np.testing.assert_allclose(Solver("emd").solve(cost, u, v).plan.numpy(), of_pot(ot.emd, cost, u, v), atol=1e-9)


def test_unbalanced_is_pots():
    cost, u, v = problem()
    plan = Solver("unbalanced", relaxation=0.5, max_iterations=20_000, tolerance=1e-12).solve(cost, u, v).plan

    def solve(a, b, c):
        return ot.unbalanced.sinkhorn_unbalanced(a, b, c, 0.1, 0.5, numItermax=20_000, stopThr=1e-12)

    np.testing.assert_allclose(plan.numpy(), of_pot(solve, cost, u, v), atol=1e-6)


def test_unbalanced_is_right_where_scalings_outgrow_floating_point():
    """POT's stabilized form gives plans of a mass of 1e12 there, and its plain one needs more than float64 has."""
    cost, u, v = problem()
    for eps in (0.01, 1e-3):
        plan = Solver("unbalanced", eps, max_iterations=50_000, tolerance=1e-10).solve(8 * cost, u, v).plan
        # At the optimum the plan is what its own marginals say it is.
        rows, columns = plan.sum(2), plan.sum(1)
        logarithm = -8 * cost / eps + (u.log() - (rows / u).log() / eps)[:, :, None]
        logarithm += (v.log() - (columns / v).log() / eps)[:, None, :]
        torch.testing.assert_close(plan, logarithm.exp(), atol=1e-7, rtol=1e-4)


def test_unbalanced_leaves_padding_empty_and_its_problem_as_it_is_alone():
    cost, u, v = problem(1)
    alone = Solver("unbalanced").solve(cost, u, v)
    wide = torch.nn.functional.pad(cost, (0, 2, 0, 3), value=0.5)
    padded = Solver("unbalanced").solve(wide, torch.nn.functional.pad(u, (0, 3)), torch.nn.functional.pad(v, (0, 2)))
    torch.testing.assert_close(padded.plan[:, : cost.shape[1], : cost.shape[2]], alone.plan)
    assert float(padded.plan.sum()) == pytest.approx(float(alone.plan.sum()))
    assert torch.equal(padded.iterations, alone.iterations)


def test_nearest_sends_each_source_whole_to_its_cheapest_target():
    cost, u, v = problem()
    v[1, 3] = 0
    solved = Solver("nearest").solve(cost, u, v)
    for b in range(3):
        for i in range(24):
            open_to = [j for j in range(7) if v[b, j] > 0]
            best = min(open_to, key=lambda j: float(cost[b, i, j]))
            assert solved.plan[b, i].nonzero().flatten().tolist() == [best]
            assert float(solved.plan[b, i, best]) == pytest.approx(float(u[b, i]))


def test_partial_carries_the_mass_it_is_told_to():
    cost, u, v = problem()
    plan = Solver("partial", mass=0.6).solve(cost, u, v).plan
    torch.testing.assert_close(plan.sum((1, 2)), torch.full((3,), 0.6, dtype=torch.float64))
    assert bool((plan.sum(2) <= u + 1e-12).all())


@pytest.mark.parametrize("name", list(SOLVERS))
def test_padding_carries_nothing_and_changes_nothing(name):
    cost, u, v = problem()
    wide = torch.full((4, 30, 9), 3.0, dtype=torch.float64)
    wide[:3, :24, :7] = cost
    pads = torch.nn.functional.pad(u, (0, 6, 0, 1)), torch.nn.functional.pad(v, (0, 2, 0, 1))
    solver = Solver(name, max_iterations=2000)
    plain, ragged = solver.solve(cost, u, v).plan, solver.solve(wide, *pads).plan
    torch.testing.assert_close(ragged[:3, :24, :7], plain)
    assert float(ragged.abs().sum()) == pytest.approx(float(plain.sum()))


@pytest.mark.parametrize("name", list(SOLVERS))
def test_the_marginal_error_is_that_of_the_plan(name):
    cost, u, v = problem()
    solved = quiet(name, cost, u, v)
    error = (solved.plan.sum(2) - u).abs().sum(1) + (solved.plan.sum(1) - v).abs().sum(1)
    torch.testing.assert_close(solved.marginal_error, error, atol=1e-12, rtol=1e-6)


def quiet(name, cost, u, v):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnconvergedWarning)
        return Solver(name, max_iterations=20).solve(cost, u, v)


def test_all_of_the_mass_can_be_carried():
    for seed in range(20):
        plan = Solver("partial", mass=1.0).solve(*problem(seed=seed)).plan
        torch.testing.assert_close(plan.sum((1, 2)), torch.ones(3, dtype=torch.float64))


@pytest.mark.filterwarnings("ignore::comfyui_aot.aot.transport.solvers.UnconvergedWarning")
@pytest.mark.parametrize("name", ["early", "released", "sinkhorn"])
@pytest.mark.parametrize("eps", [0.0025, 0.005, 0.01])
def test_a_float32_cost_whose_kernel_vanishes_is_solved_as_in_float64(name, eps):
    cost, u, v = problem(3, 60, 12)
    assert 87 < float(cost.max()) / eps < 600
    wide, narrow = (Solver(name, eps).solve(given, u, v) for given in (cost.float().double(), cost.float()))
    assert torch.equal(narrow.iterations, wide.iterations)
    for value in (narrow.plan, narrow.source_potential, narrow.target_potential, narrow.marginal_error):
        assert value.dtype == torch.float32
    torch.testing.assert_close(narrow.plan, wide.plan.float(), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(narrow.source_potential, wide.source_potential.float())


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("eps", [1e-4, 1e-2, 10.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_epsilon_gives_a_finite_plan(name, eps, dtype):
    cost, u, v = problem(dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnconvergedWarning)
        solver = Solver(name, eps)
        plan = solver.solve(2 * cost, u, v).plan
        shares = solver.shares(plan, u)
    assert bool(torch.isfinite(plan).all() and torch.isfinite(shares).all())
    assert float(plan.min()) >= 0
    assert float(plan.sum()) > 0


@pytest.mark.parametrize("name", BALANCED)
@given(sources=st.integers(1, 12), targets=st.integers(1, 12), seed=st.integers(0, 999))
@settings(max_examples=examples(10), deadline=None)
def test_the_order_of_the_sources_changes_nothing(name, sources, targets, seed):
    cost, u, v = problem(1, sources, targets, seed)
    order = torch.randperm(sources, generator=torch.Generator().manual_seed(seed))
    solver = Solver(name, max_iterations=5000)
    torch.testing.assert_close(
        solver.solve(cost[:, order], u[:, order], v).plan, solver.solve(cost, u, v).plan[:, order], atol=1e-9, rtol=1e-6
    )


@pytest.mark.parametrize("name", CONVERGED)
def test_ending_unconverged_is_warned_of_with_the_error(name):
    cost, u, v = problem()
    with pytest.warns(UnconvergedWarning, match=r"3 of 3 .* marginal error \d.* raise max_iterations"):
        Solver(name, 0.05, max_iterations=10, tolerance=1e-9).solve(5 * cost, u, v)


def test_stopping_early_on_purpose_is_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Solver("early").solve(*problem())


@pytest.mark.parametrize("name", BALANCED)
def test_shares_hand_out_whole_tokens(name):
    cost, u, v = problem()
    solver = Solver(name, max_iterations=1000)
    shares = solver.shares(solver.solve(cost, u, v).plan, u)
    torch.testing.assert_close(shares.sum(2), torch.ones_like(u))


def test_shares_of_partial_transport_leave_the_rest_out():
    cost, u, v = problem()
    solver = Solver("partial", mass=0.5)
    shares = solver.shares(solver.solve(cost, u, v).plan, u)
    assert float((shares.sum(2) * u).sum()) == pytest.approx(3 * 0.5)
    assert float(shares.sum(2).max()) <= 1 + 1e-9


@pytest.mark.parametrize(
    "wrong", [{"name": "magic"}, {"eps": 0.0}, {"eps": -1.0}, {"max_iterations": 0}, {"mass": 1.5}, {"tolerance": 0.0}]
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(InputError, match="solver"):
        Solver(**wrong)
