"""Sinkhorn: marginals, agreement with POT, padding, and the released stop rule."""

import numpy as np
import ot
import pytest
import torch

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.transport import cosine_similarity, sinkhorn, uniform_marginal


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


@pytest.mark.parametrize("wrong", [{"eps": 0.0}, {"eps": -1.0}, {"max_iterations": 0}, {"stop": "never"}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(InputError, match="Sinkhorn with"):
        sinkhorn(*problem(), **wrong)


def test_cosine_of_a_zero_vector_is_zero():
    a, b = torch.randn(1, 3, 4), torch.randn(1, 2, 4)
    a[0, 1] = 0
    similarity = cosine_similarity(a, b)
    expected = torch.nn.functional.cosine_similarity(a[:, :, None], b[:, None], dim=-1)
    torch.testing.assert_close(similarity, expected)
    assert similarity[0, 1].tolist() == [0, 0]
