"""Sinkhorn as one operation: by steps as ever; by the kernel the same, in Triton's interpreter and on a GPU."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from comfyui_aot.aot.benchmarks.operations import OperationCounter
from comfyui_aot.aot.transport import fused
from comfyui_aot.aot.transport.solvers import Solver

SCRIPT = Path(__file__).parents[1] / "support" / "interpreted_transport.py"
SHAPES = [(2, 70, 9), (3, 28, 28), (1, 1, 1), (2, 200, 33), (1, 5, 70)]
WAYS = [(shifted, shares) for shifted in (False, True) for shares in (False, True)]
KINDS = [(shape, *way) for shape in SHAPES for way in WAYS]

with_triton = pytest.mark.skipif(find_spec("triton") is None, reason="no Triton, which make test-kernels brings")
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: the kernel's own is not tried")


def problem(shape, shifted=True, shares=False, iterations=30):
    """Arguments of the operation: padding among sources and targets, and a problem that is padding only."""
    batch, sources, targets = shape
    generator = torch.Generator().manual_seed(sources)
    cost, u, v = (torch.rand(size, generator=generator) for size in (shape, shape[:2], (batch, targets)))
    if sources > 4 and targets > 4:
        u[0, 1:3] = v[0, 2:4] = 0
    if batch == 3:
        u[1] = 0
    u, v = (each / each.sum(1, keepdim=True).clamp(min=1e-9) for each in (u, v))
    return cost, u, v, 0.1, 0.7 if shifted else 1.0, iterations, 1e-2, shifted, shares


def plainly(cost, u, v, eps, factor, iterations, tolerance, shifted, shares):
    """A loop over problems, by the book, in float64."""
    plans = torch.zeros_like(cost, dtype=torch.float64)
    for plan, each, a, b in zip(plans, cost.double(), u.double(), v.double(), strict=True):
        here, there = a > 0, b > 0
        if not here.any():
            continue
        part = each[here][:, there]
        kernel = torch.exp(-(part - part.min()) * factor / eps) if shifted else torch.exp(-part * factor / eps)
        r, c = torch.ones(len(part), dtype=torch.float64), torch.ones(part.shape[1], dtype=torch.float64)
        for _ in range(iterations):
            before, r = r, a[here] / (kernel @ c)
            c = b[there] / (kernel.T @ r)
            if (r - before).abs().mean() < tolerance:
                break
        solved = r[:, None] * kernel * c
        solved = solved / solved.sum(1, keepdim=True) if shares else solved
        plan[here.nonzero(), there.nonzero()[:, 0]] = solved
    return plans.float()


@pytest.mark.parametrize(("shape", "shifted", "shares"), KINDS)
def test_the_operation_does_sinkhorn_by_the_book(shape, shifted, shares):
    case = problem(shape, shifted, shares)
    torch.testing.assert_close(torch.ops.comfyui_aot.transport(*case), plainly(*case), atol=1e-6, rtol=1e-4)


def test_it_is_one_operation_and_no_wait():
    case = problem((2, 70, 9))
    with OperationCounter() as counter:
        torch.ops.comfyui_aot.transport(*case)
    assert (counter.operations.total(), counter.waits.total()) == (1, 0)


def test_a_solver_uses_it_where_float32_holds_the_kernel():
    cost, u, v, *_ = problem((2, 70, 9))
    solver = Solver("early")
    torch.testing.assert_close(solver.plan(cost, u, v, largest=2.0), solver.solve(cost, u, v).plan)
    counts = []
    for largest, eps in ((2.0, 0.1), (2.0, 0.001), (None, 0.1)):
        with OperationCounter() as counter:
            Solver("early", eps).plan(cost, u, v, largest=largest)
        counts.append(counter.operations["transport"])
    assert counts == [1, 0, 0]


@with_triton
def test_the_kernel_gives_the_same_in_the_interpreter(tmp_path):
    cases = [problem(*kind) for kind in KINDS]
    cases += [problem((2, 70, 9), iterations=1), problem((2, 70, 9), iterations=2)]
    torch.save(cases, tmp_path / "given.pt")
    subprocess.run(
        [sys.executable, SCRIPT, tmp_path / "given.pt", tmp_path / "found.pt"],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        check=True,
    )
    for case, plan in zip(cases, torch.load(tmp_path / "found.pt"), strict=True):
        torch.testing.assert_close(plan, plainly(*case), atol=1e-6, rtol=1e-4)


@with_triton
@pytest.mark.parametrize("generation", [80, 90], ids=["Ampere", "Hopper"])
@pytest.mark.parametrize("way", WAYS)
def test_the_kernel_compiles_for_gpus(generation, way, tmp_path, monkeypatch):
    import triton
    from triton.backends.compiler import GPUTarget

    from comfyui_aot.aot.transport import fused_kernel

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    constants = {"SHIFTED": way[0], "SHARES": way[1], "ROWS": 64, "COLUMNS": 128}
    pointers = dict.fromkeys(("cost", "u", "v", "plan", "r"), "*fp32")
    numbers = dict.fromkeys(("eps", "factor", "tolerance", "tiny", "vanished"), "fp32")
    types = {**pointers, **numbers, **dict.fromkeys(constants, "constexpr")}
    kernel = fused_kernel._sinkhorn
    signature = {name: types.get(name, "i32") for name in kernel.arg_names}
    source = triton.compiler.ASTSource(kernel, signature, constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", generation, 32), options={"num_warps": 8})
    assert compiled.metadata.shared <= 64 * 1024


@on_gpu
@with_triton
@pytest.mark.parametrize(("shape", "shifted", "shares"), KINDS)
def test_the_kernel_gives_the_same_on_a_gpu(shape, shifted, shares):
    case = [each.cuda() if isinstance(each, torch.Tensor) else each for each in problem(shape, shifted, shares)]
    assert fused._launcher(case[0].device) is not None
    plan = torch.ops.comfyui_aot.transport(*case).cpu()
    torch.testing.assert_close(plan, plainly(*problem(shape, shifted, shares)), atol=1e-6, rtol=1e-3)


def test_a_trial_without_memory_is_no_verdict_on_the_kernel(monkeypatch):
    def launch(*problem):
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setitem(sys.modules, f"{fused.__package__}.fused_kernel", SimpleNamespace(launch=launch))
    device = torch.device("cpu", 0)  # no other test asks about it by this name
    with pytest.raises(torch.cuda.OutOfMemoryError):
        fused._launcher(device)
    monkeypatch.setitem(sys.modules, f"{fused.__package__}.fused_kernel", SimpleNamespace(launch=fused.in_steps))
    assert fused._launcher(device) is fused.in_steps


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="no GPU beside the first")
@pytest.mark.parametrize("shape", SHAPES)
def test_a_gpu_that_is_not_the_current_one_is_waited_for(shape):
    """By the kernel, where there is one, and by the steps."""
    case = [each.to("cuda:1") if isinstance(each, torch.Tensor) else each for each in problem(shape)]
    assert torch.cuda.current_device() == 0
    torch.testing.assert_close(
        torch.ops.comfyui_aot.transport(*case).cpu(), plainly(*problem(shape)), atol=1e-6, rtol=1e-3
    )
    torch.testing.assert_close(fused.in_steps(*case).cpu(), plainly(*problem(shape)), atol=1e-6, rtol=1e-3)
    if find_spec("triton") is not None:
        assert fused._launcher(case[0].device) is not None
