"""One interface to every way of solving a transport problem, by name."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor

from ..devices import widest
from ..errors import InputError
from . import fused, pot
from .sinkhorn import (
    VANISHED,
    Explicit,
    Transport,
    log_sinkhorn,
    shifted_cost,
    sinkhorn,
    unbalanced_sinkhorn,
)

RELEASED_TOLERANCE = 1e-2
"""AOT's authors stop where the scaling changes by less than this on average."""


class UnconvergedWarning(UserWarning):
    """A solver that iterates to a tolerance stopped short of it."""


@dataclass(frozen=True)
class Solver:
    """How transport problems are solved.

    Args:
        name: one of :data:`SOLVERS`.
        eps: entropic regularisation, above 0, in units of cost; not used by "emd", "partial" and "nearest".
        max_iterations: of the solvers that iterate, at most.
        tolerance: of the marginals' L1 error, where a solver iterates to one.
        relaxation: of "unbalanced", weight of the marginals; large is balanced.
        mass: of "partial", the share that is transported, above 0, at most 1.

    Raises:
        InputError: a name or a number outside what is allowed.
    """

    name: str = "early"
    eps: float = 0.1
    max_iterations: int = 100
    tolerance: float = 1e-6
    relaxation: float = 1.0
    mass: float = 0.9

    def __post_init__(self) -> None:
        if self.name not in SOLVERS:
            raise InputError(f"No solver is called {self.name!r}; give one of {', '.join(SOLVERS)}.")
        numbers = self.eps, self.max_iterations, self.tolerance, self.relaxation, self.mass
        if not (min(numbers) > 0 and self.mass <= 1):
            raise InputError(
                f"A solver with eps {self.eps}, {self.max_iterations} iterations, tolerance {self.tolerance}, "
                f"relaxation {self.relaxation} and mass {self.mass}; all are above 0, mass is at most 1."
            )

    @property
    def balanced(self) -> bool:
        """Whether the plan gives out all of every source."""
        return self.name not in ("unbalanced", "partial")

    @property
    def looks_at_the_batch(self) -> bool:
        """Whether a problem's plan depends on the problems it is solved with."""
        return self.name == "released"

    def solve(self, cost: Tensor, u: Tensor, v: Tensor, *, largest: float | None = None) -> Transport:
        """The plans from sources to targets.

        Warns :class:`UnconvergedWarning` where a marginal error stays above the tolerance.

        Args:
            cost: (B, M, N) floating.
            u: (B, M) marginal over sources, of mass 1; zeros mark padding.
            v: (B, N) marginal over targets, of mass 1; zeros mark padding.
            largest: a bound of the costs, to choose between scalings and their logarithms; None looks for it.
        """
        solved = SOLVERS[self.name](self, cost, u, v, largest)
        if self.name in _CONVERGING:
            self._warn(solved)
        return solved

    def plan(
        self,
        cost: Tensor,
        u: Tensor,
        v: Tensor,
        *,
        factor: float = 1.0,
        shifted: bool = False,
        shares: bool = False,
        largest: float | None = None,
    ) -> Tensor:
        """The plans alone, or their :meth:`shares`: for "early" in one operation, where float32 holds the kernel.

        Args:
            cost: (B, M, N) floating.
            u: (B, M) marginal over sources, of mass 1; zeros mark padding.
            v: (B, N) marginal over targets, of mass 1; zeros mark padding.
            factor: what the cost is multiplied with, above 0.
            shifted: whether each problem's cost is first shifted so that its least is 0; a factor needs it.
            shares: whether to give shares.
            largest: a bound of ``cost``; None looks for it.

        Returns:
            (B, M, N), zero in padding.
        """
        largest = largest if largest is None else largest * factor
        fits = largest is not None and largest / self.eps < 0.9 * _room(torch.float32)
        if self.name == "early" and cost.dtype == torch.float32 and fits:
            limits = {"max_iterations": self.max_iterations, "tolerance": RELEASED_TOLERANCE}
            return fused.transport(cost, u, v, eps=self.eps, factor=factor, shifted=shifted, shares=shares, **limits)
        if shifted:
            cost = shifted_cost(cost, u, v, factor)
        plan = self.solve(cost, u, v, largest=largest).plan
        return self.shares(plan, u) if shares else plan

    def shares(self, plan: Tensor, u: Tensor) -> Tensor:
        """(B, M, N): what part of each source goes to each target, rows of the plan to a whole token.

        A balanced plan's rows sum to 1, whatever marginal error an early stop left; the others keep what was not
        transported out.
        """
        mass = plan.sum(2, keepdim=True) if self.balanced else u.to(plan)[:, :, None]
        return plan / mass.clamp(min=VANISHED)

    def _warn(self, solved: Transport) -> None:
        short = (solved.iterations >= self.max_iterations) & (solved.marginal_error > self.tolerance)
        number = int(short.sum())
        if number:
            worst = float(solved.marginal_error[short].max())
            warnings.warn(
                f"{number} of {len(short)} transport problems ended unconverged after {self.max_iterations} "
                f"iterations: marginal error {worst:.1e} where {self.tolerance:g} was asked; raise max_iterations, "
                "eps or the tolerance.",
                UnconvergedWarning,
                stacklevel=3,
            )


def _scaling(
    stop: str, tolerance: float | None = None
) -> Callable[[Solver, Tensor, Tensor, Tensor, float | None], Transport]:
    """Our Sinkhorn by a stop rule: in float64 where the kernel would vanish, on logarithms where it would there too."""

    def solve(solver: Solver, cost: Tensor, u: Tensor, v: Tensor, largest: float | None) -> Transport:
        exponent = (float(cost.max()) if largest is None else largest) / solver.eps
        wide = next((dtype for dtype in (cost.dtype, widest(cost.device)) if exponent < 0.9 * _room(dtype)), None)
        method = log_sinkhorn if wide is None else partial(sinkhorn, dtype=wide)
        return method(
            cost,
            u,
            v,
            eps=solver.eps,
            max_iterations=solver.max_iterations,
            tolerance=tolerance or solver.tolerance,
            stop=stop,
        )

    return solve


def _room(dtype: torch.dtype) -> float:
    """The largest x whose exp(-x) is a normal number of the dtype."""
    return -math.log(torch.finfo(dtype).tiny)


def _logarithmic(solver: Solver, cost: Tensor, u: Tensor, v: Tensor, largest: float | None) -> Transport:
    return log_sinkhorn(cost, u, v, eps=solver.eps, max_iterations=solver.max_iterations, tolerance=solver.tolerance)


def _exact(solver: Solver, cost: Tensor, u: Tensor, v: Tensor, largest: float | None) -> Transport:
    return pot.exact(cost, u, v)


def _pot_log(solver: Solver, cost: Tensor, u: Tensor, v: Tensor, largest: float | None) -> Transport:
    return pot.log_sinkhorn(
        cost, u, v, eps=solver.eps, max_iterations=solver.max_iterations, tolerance=solver.tolerance
    )


def _unbalanced(solver: Solver, cost: Tensor, u: Tensor, v: Tensor, largest: float | None) -> Transport:
    return unbalanced_sinkhorn(
        cost,
        u,
        v,
        eps=solver.eps,
        relaxation=solver.relaxation,
        max_iterations=solver.max_iterations,
        tolerance=solver.tolerance,
    )


def _partial(solver: Solver, cost: Tensor, u: Tensor, v: Tensor, largest: float | None) -> Transport:
    return pot.partial(cost, u, v, mass=solver.mass)


def _nearest(solver: Solver, cost: Tensor, u: Tensor, v: Tensor, largest: float | None) -> Transport:
    """Every source whole to its cheapest target, whatever the targets' marginal says."""
    cheapest = cost.masked_fill((v <= 0)[:, None], torch.inf).argmin(2, keepdim=True)
    plan = torch.zeros_like(cost).scatter_(2, cheapest, u.to(cost)[:, :, None])
    none = torch.full_like(u, torch.nan), torch.full_like(v, torch.nan)
    error = (plan.sum(1) - v.to(cost)).abs().sum(1)
    return Explicit(torch.zeros(len(u), dtype=torch.long, device=u.device), error, *none, plan)


SOLVERS: Mapping[str, Callable[[Solver, Tensor, Tensor, Tensor, float | None], Transport]] = MappingProxyType(
    {
        "early": _scaling("each", RELEASED_TOLERANCE),
        "released": _scaling("batch", RELEASED_TOLERANCE),
        "sinkhorn": _scaling("marginal"),
        "log": _logarithmic,
        "emd": _exact,
        "pot-log": _pot_log,
        "unbalanced": _unbalanced,
        "partial": _partial,
        "nearest": _nearest,
    }
)
"""Ways of solving a problem.

"early" and "released" are Sinkhorn with the released stop rule, a problem for itself or all of a batch together;
"sinkhorn" and "log" iterate to the tolerance; "nearest" gives up transport, each source going whole to its cheapest
target; "unbalanced" may miss the marginals; the others are POT's: exact, in the log domain, partial.
"""

_CONVERGING = frozenset({"sinkhorn", "log", "pot-log", "unbalanced"})
