"""Entropic optimal transport between two sets of tokens, many problems at a time.

A problem is a cost (B, M, N) and two marginals, u (B, M) over sources and v (B, N) over targets. A zero in
a marginal marks padding, so ragged problems share a batch. The plan minimises

    <P, C> + eps * sum P (log P - 1)   subject to   P 1 = u,  P' 1 = v

and has the form ``P_ij = exp((f_i + g_j - C_ij) / eps)`` with the potentials f and g.

Source: Cuturi, "Sinkhorn Distances", NeurIPS 2013; the stop rules on the change of the scaling are those AOT's
authors released.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import chain, repeat

import torch
from torch import Tensor

from ..devices import widened
from ..errors import InputError

STOPS = ("batch", "each", "marginal")

_CHANGE = "change"
"""The stop rule of unbalanced transport: the largest relative change of a problem's scalings."""

FIRST_RUNS = (4, 2, 4, 8, 16)
"""Iterations until the first look whether problems are done, from there to the second, and so on; 16 from then on."""

VANISHED = 1e-9
"""Row masses of a plan below this count as this much."""


@dataclass(frozen=True)
class Scaled:
    """A plan as Sinkhorn's scalings leave it: ``r_i K_ij c_j``. What is not asked for is not computed.

    Args:
        iterations: (B,) long, iterations each problem ran.
        kernel: (B, M, N) ``exp(-C / eps)``.
        r: (B, M), zero in padding.
        c: (B, N), zero in padding.
        u: (B, M), the marginal over sources. All these are in the dtype that was iterated in.
        eps: in units of cost.
        dtype: of the plan, the potentials and the error.
    """

    iterations: Tensor
    kernel: Tensor
    r: Tensor
    c: Tensor
    u: Tensor
    eps: float
    dtype: torch.dtype

    @cached_property
    def plan(self) -> Tensor:
        """(B, M, N), zero in padding."""
        return (self.kernel * self.r[:, :, None]).mul_(self.c[:, None, :]).to(self.dtype)

    @cached_property
    def marginal_error(self) -> Tensor:
        """(B,) L1 distance of the plan's marginals from u and v."""
        return (self.r * _SCALING.reach(self.kernel, self.c) - self.u).abs().sum(1).to(self.dtype)

    @property
    def source_potential(self) -> Tensor:
        """(B, M) f, in units of cost; minus infinity in padding."""
        return (self.eps * self.r.log()).to(self.dtype)

    @property
    def target_potential(self) -> Tensor:
        """(B, N) g, in units of cost; minus infinity in padding."""
        return (self.eps * self.c.log()).to(self.dtype)


@dataclass(frozen=True)
class Potential:
    """A plan as its potentials give it: ``exp((f_i + g_j - C_ij) / eps)``.

    Args:
        iterations: (B,) long, iterations each problem ran.
        marginal_error: (B,) L1 distance of the plan's marginals from u and v.
        source_potential: (B, M) f, in units of cost; minus infinity in padding.
        target_potential: (B, N) g.
        cost: (B, M, N).
        eps: in units of cost.
    """

    iterations: Tensor
    marginal_error: Tensor
    source_potential: Tensor
    target_potential: Tensor
    cost: Tensor
    eps: float

    @cached_property
    def plan(self) -> Tensor:
        """(B, M, N), zero in padding."""
        exponent = self.source_potential[:, :, None] - self.cost
        return exponent.add_(self.target_potential[:, None, :]).div_(self.eps).exp_()


@dataclass(frozen=True)
class Explicit:
    """A plan that the solver gave whole.

    Args:
        iterations: (B,) long, iterations each problem ran.
        marginal_error: (B,) L1 distance of the plan's marginals from u and v.
        source_potential: (B, M) f, in units of cost; NaN where the solver has none.
        target_potential: (B, N) g.
        entries: (B, M, N), zero in padding.
    """

    iterations: Tensor
    marginal_error: Tensor
    source_potential: Tensor
    target_potential: Tensor
    entries: Tensor

    @property
    def plan(self) -> Tensor:
        """(B, M, N), zero in padding."""
        return self.entries


Transport = Scaled | Potential | Explicit
"""A solved batch of problems."""


def uniform_marginal(valid: Tensor) -> Tensor:
    """(B, M) bool to (B, M) float64 of total mass 1 over the valid entries of each row, 0 elsewhere."""
    return valid / widened(valid.sum(1, keepdim=True).clamp(min=1))


def weighted_marginal(importance: Tensor, valid: Tensor) -> Tensor:
    """(B, M) float64 of total mass 1, proportional to importance over the valid entries, 0 elsewhere.

    An importance under a millionth of the mean counts as that much, so that no token is left out.
    """
    mass = widened(importance) * valid
    mean = mass.sum(1, keepdim=True) / valid.sum(1, keepdim=True).clamp(min=1)
    mass = torch.where(mean > 0, mass.maximum(1e-6 * mean), 1.0) * valid
    return mass / mass.sum(1, keepdim=True).clamp(min=torch.finfo(mass.dtype).tiny)


def sinkhorn(
    cost: Tensor,
    u: Tensor,
    v: Tensor,
    *,
    eps: float = 0.1,
    max_iterations: int = 100,
    tolerance: float = 1e-2,
    stop: str = "batch",
    dtype: torch.dtype | None = None,
) -> Scaled:
    """Sinkhorn scaling: with K = exp(-C / eps) and r = c = 1, in turn ``r = u / (K c)`` and ``c = v / (K' r)``.

    Problems that are done stay as they are, and stop costing once they are half of those at work.

    Args:
        cost: (B, M, N) floating.
        u: (B, M) marginal over sources, of mass 1; zeros mark padding.
        v: (B, N) marginal over targets, of mass 1; zeros mark padding.
        eps: entropic regularisation, above 0, in units of cost. Costs beyond some 80 eps vanish from a float32 kernel,
            beyond some 600 from a float64 one: :func:`log_sinkhorn` is for those.
        max_iterations: at most this many, 1 or more.
        tolerance: what ``stop`` compares with.
        stop: when a problem is done. "batch": the mean absolute change of r over the sources of all problems is under
            ``tolerance`` (the released phase I; the iteration that falls below still counts). "each": the mean over its
            own sources (the released phase II). "marginal": the L1 error of its source marginal is under ``tolerance``;
            the target marginal is exact.
        dtype: to iterate in, by default the cost's; what is returned has the cost's.
    """
    _require_stop(stop)
    kernel = torch.div(cost, -eps).to(dtype or cost.dtype).exp_()
    u, v = u.to(kernel), v.to(kernel)
    r, c, iterations = _iterate(_SCALING, kernel, u, v, max_iterations, stop, tolerance)
    return Scaled(iterations, kernel, r, c, u, eps, cost.dtype)


def log_sinkhorn(
    cost: Tensor,
    u: Tensor,
    v: Tensor,
    *,
    eps: float = 0.1,
    max_iterations: int = 100,
    tolerance: float = 1e-6,
    stop: str = "marginal",
) -> Potential:
    """:func:`sinkhorn` on the logarithms of its scalings: slower, and right for any eps."""
    u, v = u.to(cost), v.to(cost)
    _require_stop(stop)
    kernel = cost / -eps
    r, c, iterations = _iterate(_LOGARITHMIC, kernel, u, v, max_iterations, stop, tolerance)
    error = (torch.exp(r + _LOGARITHMIC.reach(kernel, c)) - u).abs().sum(1)
    return Potential(iterations, error, eps * r, eps * c, cost, eps)


def unbalanced_sinkhorn(
    cost: Tensor,
    u: Tensor,
    v: Tensor,
    *,
    eps: float = 0.1,
    relaxation: float = 1.0,
    max_iterations: int = 1000,
    tolerance: float = 1e-6,
) -> Potential:
    """Transport whose marginals may miss u and v, on logarithms and in float64: right for any eps.

    The plan minimises ``<P, C> + eps KL(P | u v') + relaxation (KL(P 1 | u) + KL(P' 1 | v))``.

    Args:
        cost: (B, M, N) floating.
        u: (B, M) marginal over sources, of mass 1; zeros mark padding.
        v: (B, N) marginal over targets, of mass 1; zeros mark padding.
        eps: entropic regularisation, above 0, in units of cost.
        relaxation: weight of the marginals, above 0, in units of cost; large is balanced.
        max_iterations: at most this many.
        tolerance: of the largest relative change of a problem's scalings from one iteration to the next.

    Returns:
        The plans; ``marginal_error`` is the L1 distance of both marginals from u and v, which stays above 0.

    Source: Chizat, Peyre, Schmitzer, Vialard, "Scaling algorithms for unbalanced optimal transport problems",
    Mathematics of Computation 2018; with POT's reference measure, u v'.
    """
    u, v, wide = widened(u), widened(v), widened(cost)
    logarithms = u.log(), v.log()
    kernel = wide / -eps + logarithms[0][:, :, None] + logarithms[1][:, None, :]
    power = relaxation / (relaxation + eps)
    domain = replace(_LOGARITHMIC, divide=lambda mass, by: power * _subtract(mass, by))
    r, c, iterations = _iterate(domain, kernel, u, v, max_iterations, _CHANGE, tolerance)
    rows = torch.exp(r + _LOGARITHMIC.reach(kernel, c))
    columns = torch.exp(c + _LOGARITHMIC.back(kernel, r))
    error = (rows - u).abs().sum(1) + (columns - v).abs().sum(1)
    limit = torch.finfo(cost.dtype).max / 4  # a problem that is all padding has a g above it
    f, g = (
        (eps * (scaling + mass)).clamp(max=limit).to(cost) for scaling, mass in zip((r, c), logarithms, strict=True)
    )
    return Potential(iterations, error.to(cost), f, g, cost, eps)


def shifted_cost(cost: Tensor, u: Tensor, v: Tensor, factor: float) -> Tensor:
    """Costs shifted so that each problem's least is 0, then multiplied; 0 in padding.

    Args:
        cost: (B, M, N) floating.
        u: (B, M), zeros mark padding.
        v: (B, N), zeros mark padding.
        factor: above 0.
    """
    padding = ~((u > 0)[:, :, None] & (v > 0)[:, None, :])
    least = cost.masked_fill(padding, torch.inf).amin((1, 2), keepdim=True)
    return (cost - least).mul_(factor).masked_fill_(padding, 0)


def _require_stop(stop: str) -> None:
    if stop not in STOPS:
        raise InputError(f"Sinkhorn cannot stop by {stop!r}; give one of {', '.join(STOPS)}.")


def _largest_change(logarithms: Tensor) -> Tensor:
    """(n + 1, B, M) to (n, B), from one state to the next: of finite logarithms; padding does not change."""
    return logarithms.diff(dim=0).nan_to_num(0.0).abs().amax(2)


@dataclass(frozen=True)
class _Domain:
    """The arithmetic of Sinkhorn's two half steps, on scalings or on their logarithms.

    ``reach`` is K c and ``back`` is K' r, never 0; ``divide`` is a marginal over either, nothing in padding; ``mass``
    is the product of r and reach.
    """

    start: Callable[[Tensor], Tensor]
    reach: Callable[[Tensor, Tensor], Tensor]
    back: Callable[[Tensor, Tensor], Tensor]
    divide: Callable[[Tensor, Tensor], Tensor]
    scaling: Callable[[Tensor], Tensor]
    mass: Callable[[Tensor, Tensor], Tensor]


def _matmul(x: Tensor, y: Tensor) -> Tensor:
    """x @ y of batches, and the smallest positive number more, so that what vanishes can be divided by."""
    return torch.baddbmm(_tiny(x.dtype, x.device), x, y)


@lru_cache(maxsize=8)
def _tiny(dtype: torch.dtype, device: torch.device) -> Tensor:
    """(1, 1, 1), the smallest normal number. Shared: not to be changed."""
    return torch.full((1, 1, 1), torch.finfo(dtype).tiny, dtype=dtype, device=device)


def _subtract(mass: Tensor, by: Tensor) -> Tensor:
    """log(mass / exp(by)), minus infinity in padding."""
    return torch.where(mass > 0, mass.log() - by.clamp(min=torch.finfo(by.dtype).min / 4), -torch.inf)


_SCALING = _Domain(
    start=lambda mass: (mass > 0).to(mass),
    reach=lambda kernel, c: _matmul(kernel, c[:, :, None])[:, :, 0],
    back=lambda kernel, r: _matmul(r[:, None, :], kernel)[:, 0],
    divide=torch.div,
    scaling=lambda r: r,
    mass=torch.mul,
)
_LOGARITHMIC = _Domain(
    start=lambda mass: (mass > 0).to(mass).log(),
    reach=lambda kernel, c: torch.logsumexp(kernel + c[:, None, :], 2),
    back=lambda kernel, r: torch.logsumexp(kernel + r[:, :, None], 1),
    divide=_subtract,
    scaling=torch.exp,
    mass=lambda r, reach: torch.exp(r + reach),
)


def _iterate(
    domain: _Domain, kernel: Tensor, u: Tensor, v: Tensor, max_iterations: int, stop: str, tolerance: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Both scalings and the iterations each problem ran.

    Several iterations run before it is looked up whether problems are done; each then has what its last one gave.
    """
    r, c = domain.start(u), domain.start(v)
    sources = (u > 0).sum(1).clamp(min=1)
    number = torch.arange(len(u), device=u.device)
    iterations, running = torch.zeros_like(number), torch.ones_like(number, dtype=torch.bool)
    ended: tuple[Tensor, Tensor, Tensor] | None = None
    index = number
    watch = _Watch()
    run = 0
    for length in _runs(max_iterations):
        rs, cs, reached = [r], [c], []
        for _ in range(length):
            reached.append(domain.reach(kernel, cs[-1]))
            rs.append(domain.divide(u, reached[-1]))
            cs.append(domain.divide(v, domain.back(kernel, rs[-1])))
        r_of, c_of = torch.stack(rs), torch.stack(cs)
        if stop == "marginal":
            error = (domain.mass(r_of[:-1], torch.stack(reached)) - u).abs().sum(2)
            error = error if run else error.index_fill(0, number[:1], torch.inf)
            unfinished = error >= tolerance
        elif stop == _CHANGE:
            unfinished = torch.maximum(_largest_change(r_of), _largest_change(c_of)) >= tolerance
        else:
            change = domain.scaling(r_of).diff(dim=0).abs_().sum(2)
            mean = change / sources if stop == "each" else change.sum(1, keepdim=True) / sources.sum()
            unfinished = ~(mean < tolerance).expand(length, len(sources))
        before = unfinished.cumprod(0).sum(0)
        last = before if stop == "marginal" else (before + 1).clamp(max=length)
        last = last * running if run else last
        place = torch.arange(len(last), device=last.device)
        r, c, iterations = r_of[last, place], c_of[last, place], iterations + last
        running = running & (before == length)
        run += length
        left = watch.running(running) if run < max_iterations else 0
        if left == 0:
            break
        if 2 * left <= len(index):
            ended = _put(ended, index, r, c, iterations)
            index, kernel, u, v, r, c, iterations, sources = (
                each[running] for each in (index, kernel, u, v, r, c, iterations, sources)
            )
            running = running[running]
    return (r, c, iterations) if ended is None else _put(ended, index, r, c, iterations)


def _runs(iterations: int) -> Iterator[int]:
    """Lengths of the runs of iterations between two looks: few at first, where most problems end."""
    left = iterations
    for length in chain(FIRST_RUNS, repeat(FIRST_RUNS[-1])):
        if not left:
            return
        yield min(length, left)
        left -= min(length, left)


def _put(ended: tuple[Tensor, Tensor, Tensor] | None, index: Tensor, *results: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Results of the problems ``index`` among those of all; the first are all of them."""
    if ended is None:
        r, c, iterations = results
        return r.clone(), c.clone(), iterations.clone()
    r, c, iterations = (every.index_copy(0, index, part) for every, part in zip(ended, results, strict=True))
    return r, c, iterations


class _Watch:
    """How many problems still run, without waiting for a GPU: there the number comes some iterations late.

    Until it comes all of them count as running, and the iterations in between change nothing of what is done.
    """

    def __init__(self) -> None:
        self._coming: tuple[Tensor, torch.cuda.Event] | None = None

    def running(self, running: Tensor) -> int:
        if not running.is_cuda:
            return int(running.sum())
        if self._coming is None:
            self._coming = running.sum().to("cpu", non_blocking=True), torch.cuda.Event()
            self._coming[1].record(torch.cuda.current_stream(running.device))
        number, event = self._coming
        if not event.query():
            return len(running)
        self._coming = None
        return len(running) if int(number) else 0
