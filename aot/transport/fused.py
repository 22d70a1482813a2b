"""Sinkhorn as one operation: every problem of a batch iterates until it is done, and the host waits for none.

On CUDA it is one kernel, where Triton is installed and works; elsewhere the same is done in steps.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .sinkhorn import VANISHED, shifted_cost, sinkhorn

WIDEST = 4096
"""Targets of a problem that the kernel takes at most."""

AGREEMENT = 1e-4
"""How far a plan of the kernel's may be from that of the steps, of its largest entry, to be trusted."""

_LIBRARY = torch.library.Library("comfyui_aot", "FRAGMENT")


def transport(
    cost: Tensor,
    u: Tensor,
    v: Tensor,
    *,
    eps: float,
    max_iterations: int,
    tolerance: float,
    factor: float = 1.0,
    shifted: bool = False,
    shares: bool = False,
) -> Tensor:
    """The plans of :func:`~.sinkhorn.sinkhorn` with the stop rule "each".

    Args:
        cost: (B, M, N) float32, finite; what is in padding does not matter.
        u: (B, M) marginal over sources, of mass 1; zeros mark padding.
        v: (B, N) marginal over targets, of mass 1; zeros mark padding.
        eps: entropic regularisation, above 0, in units of cost.
        max_iterations: at most this many, 1 or more.
        tolerance: a problem is done where the mean absolute change of r over its sources is under this.
        factor: what the cost is multiplied with, above 0.
        shifted: whether each problem's cost is first shifted so that its least is 0.
        shares: whether rows are divided by their sums, so that each says where a whole token goes.

    Returns:
        (B, M, N) float32, zero in padding.
    """
    operation = torch.ops.comfyui_aot.transport
    return operation(cost, u, v, eps, factor, max_iterations, tolerance, shifted, shares)


def in_steps(
    cost: Tensor,
    u: Tensor,
    v: Tensor,
    eps: float,
    factor: float,
    max_iterations: int,
    tolerance: float,
    shifted: bool,
    shares: bool,
) -> Tensor:
    """:func:`transport`, of which it takes all arguments, by the operations of PyTorch."""
    if shifted:
        cost = shifted_cost(cost, u, v, factor)
    elif factor != 1:
        cost = cost * factor
    solved = sinkhorn(cost, u, v, eps=eps, max_iterations=max_iterations, tolerance=tolerance, stop="each")
    plan = solved.plan
    return plan.div_(plan.sum(2, keepdim=True).clamp_(min=VANISHED)) if shares else plan


def _on_cuda(cost: Tensor, *problem: Any) -> Tensor:
    """As :func:`in_steps`, by the kernel where there is one."""
    launch = _launcher(cost.device) if cost.shape[2] <= WIDEST else None
    return (launch or in_steps)(cost, *problem)


@lru_cache(maxsize=8)
def _launcher(device: torch.device) -> Callable[..., Tensor] | None:
    """The kernel, where it can be had on this device and gives what the steps do; None elsewhere."""
    generator = torch.Generator().manual_seed(0)
    cost, u, v = (torch.rand(shape, generator=generator).to(device) for shape in ((2, 70, 9), (2, 70), (2, 9)))
    u[1, 50:] = v[1, 7:] = 0
    problem = cost, u / u.sum(1, keepdim=True), v / v.sum(1, keepdim=True), 0.1, 0.5, 20, 1e-3, True, False
    try:
        from .fused_kernel import launch

        plan, expected = launch(*problem), in_steps(*problem)
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception:  # no Triton, no compiler for it, or a device that it does not know
        return None
    return launch if bool((plan - expected).abs().max() <= AGREEMENT * expected.max()) else None


def _register() -> None:
    """Make the operation known to PyTorch, once in a process, under however many names this module is imported."""
    if hasattr(torch.ops.comfyui_aot, "transport"):
        return
    _LIBRARY.define(
        "transport(Tensor cost, Tensor u, Tensor v, float eps, float factor, int max_iterations, float tolerance, "
        "bool shifted, bool shares) -> Tensor"
    )
    _LIBRARY.impl("transport", in_steps, "CompositeExplicitAutograd")
    _LIBRARY.impl("transport", _on_cuda, "CUDA")


_register()
