"""POT's solvers, one problem at a time on the CPU, with the interface of our own.

Source: POT, Flamary et al., JMLR 2021.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from .sinkhorn import Explicit, Transport

Solve = Callable[[np.ndarray, np.ndarray, np.ndarray], "tuple[np.ndarray, dict[str, Any]]"]
"""u (M,), v (N,) and cost (M, N) to the plan (M, N) and what POT's log says: ``u`` and ``v`` potentials, ``niter``."""

RESIDUE = 1e-15
"""Entries of a plan up to this are what rounding left of a zero."""


def exact(cost: Tensor, u: Tensor, v: Tensor, *, max_iterations: int = 100_000) -> Transport:
    """Exact optimal transport, by the network simplex."""
    import ot

    return _each(cost, u, v, max_iterations, lambda a, b, c: ot.emd(a, b, c, numItermax=max_iterations, log=True))


def log_sinkhorn(
    cost: Tensor, u: Tensor, v: Tensor, *, eps: float = 0.1, max_iterations: int = 1000, tolerance: float = 1e-6
) -> Transport:
    """Sinkhorn in the log domain, stopped on the L2 error of a marginal."""
    import ot

    def solve(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        solved = ot.sinkhorn(
            a, b, c, eps, method="sinkhorn_log", numItermax=max_iterations, stopThr=tolerance, warn=False, log=True
        )
        plan, log = cast("tuple[np.ndarray, dict[str, Any]]", solved)
        return plan, {"u": eps * log["log_u"], "v": eps * log["log_v"], "niter": log["niter"]}

    return _each(cost, u, v, max_iterations, solve)


def partial(cost: Tensor, u: Tensor, v: Tensor, *, mass: float = 0.9, max_iterations: int = 100_000) -> Transport:
    """Exact transport of the cheapest ``mass`` of the whole; a source that is not transported has an empty row."""
    import ot

    def solve(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        most = min(mass, a.sum(), b.sum())  # 1 can be more than there is by rounding
        return cast(np.ndarray, ot.partial.partial_wasserstein(a, b, c, m=most, numItermax=max_iterations)), {}

    return _each(cost, u, v, max_iterations, solve)


def _each(cost: Tensor, u: Tensor, v: Tensor, max_iterations: int, solve: Solve) -> Transport:
    """Solve every problem of a batch in float64, without padding.

    POT warns of a problem it could not finish: that one counts as having run all its iterations.
    """
    entries = torch.zeros_like(cost)
    potentials = torch.full_like(cost[:, :, 0], torch.nan), torch.full_like(cost[:, 0], torch.nan)
    iterations = torch.zeros(len(cost), dtype=torch.long, device=cost.device)
    error = cost.new_zeros(len(cost))
    for i in range(len(cost)):
        here, there = u[i] > 0, v[i] > 0
        if not (bool(here.any()) and bool(there.any())):
            continue
        a, b = (_mass(marginal) for marginal in (u[i][here], v[i][there]))
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            plan, log = solve(a, b, cost[i][here][:, there].cpu().double().numpy())
        missed = np.abs(plan.sum(1) - a).sum() + np.abs(plan.sum(0) - b).sum()
        at = here.nonzero(), there.nonzero()[:, 0]
        entries[i].index_put_(at, torch.from_numpy(np.where(plan > RESIDUE, plan, 0)).to(cost))
        for potential, valid, key in zip(potentials, (here, there), ("u", "v"), strict=True):
            if key in log:
                potential[i, valid] = torch.as_tensor(log[key]).to(cost)
        iterations[i] = max_iterations if warned else int(log.get("niter", -1)) + 1
        error[i] = float(missed)
    return Explicit(iterations, error, *potentials, entries)


def _mass(marginal: Tensor) -> np.ndarray:
    """Float64, its sum exactly as near 1 as rounding allows: the network simplex is strict about it."""
    mass = marginal.cpu().double().numpy()
    return mass / mass.sum()
