"""Entropic optimal transport between two sets of tokens: costs, and the batched Sinkhorn that solves them.

A problem is a cost (B, M, N) and two marginals, u (B, M) over sources and v (B, N) over targets. A zero in
a marginal marks padding, so ragged problems share a batch. The plan minimises

    <P, C> + eps * sum P (log P - 1)   subject to   P 1 = u,  P' 1 = v.

Source: Cuturi, "Sinkhorn Distances", NeurIPS 2013; the stop rule is the one AOT's authors released.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import InputError

NORM_FLOOR = 1e-8
"""Lengths below this count as this much, so that a zero vector has cosine 0 with everything."""


@dataclass(frozen=True)
class Transport:
    """A solved problem.

    Args:
        plan: (B, M, N), zero in padding.
        iterations: (B,) long, iterations each problem ran.
        marginal_error: (B,) L1 distance of the plan's source marginal from u; the target marginal is exact.
    """

    plan: Tensor
    iterations: Tensor
    marginal_error: Tensor


def cosine_similarity(a: Tensor, b: Tensor) -> Tensor:
    """(B, M, D) and (B, N, D) to (B, M, N): one matrix product, then norms; no normalised copies."""
    lengths_a = torch.linalg.vector_norm(a, dim=-1).clamp(min=NORM_FLOOR)
    lengths_b = torch.linalg.vector_norm(b, dim=-1).clamp(min=NORM_FLOOR)
    return torch.bmm(a, b.mT) / lengths_a[:, :, None] / lengths_b[:, None, :]


def uniform_marginal(valid: Tensor) -> Tensor:
    """(B, M) bool to (B, M) float64 of total mass 1 over the valid entries of each row, 0 elsewhere."""
    return valid / valid.sum(1, keepdim=True).clamp(min=1).double()


def sinkhorn(
    cost: Tensor,
    u: Tensor,
    v: Tensor,
    *,
    eps: float = 0.1,
    max_iterations: int = 100,
    tolerance: float = 1e-2,
    stop: str = "batch",
) -> Transport:
    """Sinkhorn scaling with the released stop rule.

    With K = exp(-C / eps) and r = c = 1: ``r = u / (K c)``, ``c = v / (K' r)``, until the mean change of r
    falls below ``tolerance``; the iteration that falls below still counts.

    Args:
        cost: (B, M, N) floating.
        u, v: (B, M), (B, N); zeros mark padding.
        eps: entropic regularisation, above 0, in units of cost.
        max_iterations: at most this many.
        tolerance: of the mean absolute change of r over its valid entries.
        stop: "batch", one mean over all problems (the released phase I), or "each", one per problem, those
            that are done staying as they are (the released phase II, a frame at a time).

    Returns:
        The plan ``r K c`` and how it ended.

    Raises:
        InputError: eps, max_iterations or stop outside what is allowed.
    """
    if not eps > 0 or max_iterations < 1 or stop not in ("batch", "each"):
        raise InputError(
            f"Sinkhorn with eps {eps}, {max_iterations} iterations and stop {stop!r}; "
            'eps starts above 0, iterations at 1, stop is "batch" or "each".'
        )
    u, v = u.to(cost), v.to(cost)
    sources, targets = u > 0, v > 0
    kernel = torch.exp(cost / -eps)
    count = sources.sum(1).clamp(min=1)
    if stop == "batch":
        count = count.sum().expand(len(cost))
    r, c = sources.to(cost), targets.to(cost)
    active = torch.ones(len(cost), dtype=torch.bool, device=cost.device)
    iterations = torch.zeros(len(cost), dtype=torch.long, device=cost.device)
    for _ in range(max_iterations):
        new_r = _divide(u, torch.bmm(kernel, c[:, :, None])[:, :, 0], sources)
        new_c = _divide(v, torch.bmm(new_r[:, None, :], kernel)[:, 0], targets)
        change = (new_r - r).abs().sum(1)
        if stop == "batch":
            change = change.sum().expand(len(cost))
        r = torch.where(active[:, None], new_r, r)
        c = torch.where(active[:, None], new_c, c)
        iterations += active
        active = active & (change / count >= tolerance)
        if not bool(active.any()):
            break
    plan = kernel.mul_(r[:, :, None]).mul_(c[:, None, :])
    return Transport(plan, iterations, (plan.sum(2) - u).abs().sum(1))


def _divide(mass: Tensor, by: Tensor, valid: Tensor) -> Tensor:
    """mass / by where valid, 0 in padding; a vanished kernel sum counts as the smallest positive number."""
    floor = torch.finfo(by.dtype).tiny
    return torch.where(valid, mass / by.clamp(min=floor), torch.zeros_like(mass))
