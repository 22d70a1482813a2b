"""Sinkhorn in one kernel of Triton's: a program a problem, which iterates until its own problem is done."""

# pyright: reportMissingImports=false, reportIndexIssue=false
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .sinkhorn import VANISHED

ENTRIES = 8192
"""Entries of a cost that a program works on at one time."""


@triton.jit(do_not_specialize=["max_iterations"])
def _sinkhorn(
    cost,
    u,
    v,
    plan,
    r,
    M,
    N,
    eps,
    factor,
    tolerance,
    tiny,
    vanished,
    max_iterations,
    SHIFTED: tl.constexpr,
    SHARES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    problem = tl.program_id(0).to(tl.int64)
    cost += problem * M * N
    plan += problem * M * N
    u += problem * M
    r += problem * M
    column = tl.arange(0, COLUMNS)
    target = tl.load(v + problem * N + column, mask=column < N, other=0.0)
    c = tl.where(target > 0, 1.0, 0.0)

    least = 0.0
    if SHIFTED:
        lowest = tl.full([COLUMNS], float("inf"), tl.float32)
        for start in range(0, M, ROWS):
            row = start + tl.arange(0, ROWS)
            mass = tl.load(u + row, mask=row < M, other=0.0)
            valid = (mass > 0)[:, None] & (target > 0)[None, :]
            at = row[:, None] * N + column[None, :]
            entry = tl.load(cost + at, mask=valid, other=float("inf"))
            lowest = tl.minimum(lowest, tl.min(entry, 0))
        least = tl.min(lowest, 0)

    sources = 0.0
    for start in range(0, M, ROWS):
        row = start + tl.arange(0, ROWS)
        mass = tl.load(u + row, mask=row < M, other=0.0)
        present = tl.where(mass > 0, 1.0, 0.0)
        valid = (mass > 0)[:, None] & (target > 0)[None, :]
        at = row[:, None] * N + column[None, :]
        entry = tl.load(cost + at, mask=valid, other=0.0)
        kernel = tl.where(valid, tl.exp((entry - least) * factor / -eps), 0.0)
        tl.store(plan + at, kernel, mask=(row < M)[:, None] & (column < N)[None, :])
        tl.store(r + row, present, mask=row < M)
        sources += tl.sum(present, 0)
    tl.debug_barrier()

    left = max_iterations
    while left > 0:
        change = 0.0
        back = tl.zeros([COLUMNS], tl.float32)
        for start in range(0, M, ROWS):
            row = start + tl.arange(0, ROWS)
            at = row[:, None] * N + column[None, :]
            kernel = tl.load(plan + at, mask=(row < M)[:, None] & (column < N)[None, :], other=0.0)
            mass = tl.load(u + row, mask=row < M, other=0.0)
            before = tl.load(r + row, mask=row < M, other=0.0)
            scaling = mass / (tl.sum(kernel * c[None, :], 1) + tiny)
            change += tl.sum(tl.abs(scaling - before), 0)
            back += tl.sum(kernel * scaling[:, None], 0)
            tl.debug_barrier()
            tl.store(r + row, scaling, mask=row < M)
        tl.debug_barrier()
        c = target / (back + tiny)
        left = tl.where(change / tl.maximum(sources, 1.0) < tolerance, 0, left - 1)

    for start in range(0, M, ROWS):
        row = start + tl.arange(0, ROWS)
        inside = (row < M)[:, None] & (column < N)[None, :]
        at = row[:, None] * N + column[None, :]
        entry = tl.load(plan + at, mask=inside, other=0.0) * c[None, :]
        entry = entry * tl.load(r + row, mask=row < M, other=0.0)[:, None]
        if SHARES:
            entry = entry / tl.maximum(tl.sum(entry, 1), vanished)[:, None]
        tl.store(plan + at, entry, mask=inside)


def launch(
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
    """:func:`~.fused.transport`, of which it takes all arguments, on the tensors' device."""
    problems, sources, targets = cost.shape
    cost, u, v = cost.contiguous(), u.float().contiguous(), v.float().contiguous()
    plan, r = torch.empty_like(cost), torch.empty_like(u)
    columns = triton.next_power_of_2(max(targets, 16))
    # Triton launches on the current device, which may be another GPU.
    with torch.cuda.device_of(cost):
        _sinkhorn[(problems,)](
            cost,
            u,
            v,
            plan,
            r,
            sources,
            targets,
            eps,
            factor,
            tolerance,
            torch.finfo(torch.float32).tiny,
            VANISHED,
            max_iterations,
            SHIFTED=shifted,
            SHARES=shares,
            ROWS=max(1, min(64, ENTRIES // columns)),
            COLUMNS=columns,
            num_warps=8,
        )
    return plan
