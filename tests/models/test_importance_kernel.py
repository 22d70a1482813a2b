"""The fused kernel's column sums are those of eager attention: in Triton's interpreter here, and on a GPU where one is.

Whether it compiles for a GPU is tried without one.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import SiglipVisionConfig, SiglipVisionModel

from comfyui_aot.aot.models.importance import ATTENTION, CHUNK_BYTES, attention_received, capture, fused_kernel

SCRIPT = Path(__file__).parents[1] / "support" / "interpreted_kernel.py"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(1, 1, 1, 16), (2, 3, 197, 64), (1, 2, 129, 72), (1, 2, 64, 80), (2, 1, 130, 128)]
"""(B, heads, S, d): one token, whole blocks, and a few tokens more than blocks."""
MASKS = [(70, 70), (1, 1, 1, 70), (2, 1, 70, 70), (2, 3, 70, 70)]

with_triton = pytest.mark.skipif(find_spec("triton") is None, reason="no Triton, which make test-kernels brings")
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: the kernel's own is not tried")


def heads(shape, dtype, scale=1.0):
    """Queries and keys as towers lay them out: a token's heads side by side."""
    batch, number, length, width = shape
    values = torch.randn(2, batch, length, number, width, generator=torch.Generator().manual_seed(2)) * scale
    return values.to(dtype).transpose(2, 3)


def cases():
    """Arguments by name of a case."""
    for dtype in DTYPES:
        for shape in SHAPES:
            query, key = heads(shape, dtype)
            yield f"{dtype} {shape}", {"query": query, "key": key, "scaling": shape[3] ** -0.5}
        for shape in MASKS:
            query, key = heads((2, 3, 70, 8), dtype)
            keep = torch.randn(shape, generator=torch.Generator().manual_seed(4)) > -0.5
            if shape[-2] > 1:
                keep[..., 5, :] = False  # a query that may see nothing
            added = torch.zeros(shape, dtype=dtype).masked_fill(~keep, -torch.inf)
            for kind, mask in {"boolean": keep, "added": added}.items():
                yield f"{dtype} {kind} {shape}", {"query": query, "key": key, "scaling": 0.5, "mask": mask}
        query, key = heads((2, 3, 100, 64), dtype)
        window = torch.arange(100) // 16
        window = window[:, None] == window
        yield f"{dtype} windows", {"query": query, "key": key, "scaling": 0.2, "mask": window}
    query, key = heads((1, 2, 30, 64), torch.float32, scale=300)
    yield "scores beyond half precision", {"query": query, "key": key, "scaling": 1.0}


def exact(query, key, scaling, mask=None):
    scores = query.double() @ key.double().mT * scaling
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask.double()
    return scores.softmax(-1).nan_to_num(0).sum(2).mean(1).float()


@with_triton
def test_sums_are_within_a_hundred_thousandth_of_eager_ones_in_the_interpreter(tmp_path):
    given = dict(cases())
    torch.save(list(given.values()), tmp_path / "given.pt")
    subprocess.run(
        [sys.executable, SCRIPT, tmp_path / "given.pt", tmp_path / "found.pt"],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        check=True,
    )
    for (name, case), sums in zip(given.items(), torch.load(tmp_path / "found.pt"), strict=True):
        torch.testing.assert_close(
            sums, exact(**case), atol=1e-5, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )


@with_triton
@pytest.mark.parametrize("generation", [80, 90], ids=["Ampere", "Hopper"])
@pytest.mark.parametrize("masked", [False, True])
def test_both_passes_compile_for_gpus_and_use_their_matrix_units(generation, masked, tmp_path, monkeypatch):
    import triton
    from triton.backends.compiler import GPUTarget

    from comfyui_aot.aot.models import importance_kernel

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    constants = {"q_channel": 1, "k_channel": 1, "WIDTH": 72, "CHANNELS": 128, "BLOCK": 64, "MASKED": masked}
    pointers = {"queries": "*bf16", "keys": "*bf16", "mask": "*fp32", "logarithms": "*fp32", "sums": "*fp32"}
    types = {**pointers, "scaling": "fp32", **dict.fromkeys(constants, "constexpr")}
    for kernel in (importance_kernel._logarithms, importance_kernel._sums):
        signature = {name: types.get(name, "i32") for name in kernel.arg_names}
        source = triton.compiler.ASTSource(kernel, signature, constants)
        compiled = triton.compile(source, target=GPUTarget("cuda", generation, 32), options={"num_stages": 3})
        assert "mma" in compiled.asm["ptx"]
        assert compiled.metadata.shared <= 64 * 1024


def test_there_is_no_kernel_for_a_cpu():
    assert fused_kernel(torch.device("cpu"), torch.float32, 64, False) is None


@on_gpu
@with_triton
@pytest.mark.parametrize("name", dict(cases()))
def test_sums_are_within_a_hundred_thousandth_of_eager_ones_on_a_gpu(name):
    case = dict(cases())[name]
    on_device = {key: value.cuda() if isinstance(value, torch.Tensor) else value for key, value in case.items()}
    query = on_device["query"]
    assert fused_kernel(query.device, query.dtype, query.shape[-1], "mask" in case) is not None
    torch.testing.assert_close(attention_received(**on_device).cpu(), exact(**case), atol=1e-5, rtol=0)


@on_gpu
@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tower_on_a_gpu_says_the_same_and_its_importance_is_that_of_chunks(dtype, monkeypatch):
    config = SiglipVisionConfig(
        hidden_size=288, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4, image_size=378
    )
    torch.manual_seed(0)
    tower = SiglipVisionModel(config).eval().to("cuda", dtype)
    pixels = torch.randn(8, 3, 378, 378, generator=torch.Generator().manual_seed(1)).to("cuda", dtype)
    tower.set_attn_implementation("sdpa")
    plain = tower(pixels).last_hidden_state
    tower.set_attn_implementation(ATTENTION)
    with capture(1, 3) as fused:
        assert torch.equal(tower(pixels).last_hidden_state, plain)
    chunked = lambda query, key, scaling, mask: attention_received(query, key, scaling, mask, CHUNK_BYTES)  # noqa: E731
    monkeypatch.setattr("comfyui_aot.aot.models.importance.attention_received", chunked)
    with capture(1, 3) as chunks:
        tower(pixels)
    for layer, sums in fused.sums.items():
        torch.testing.assert_close(sums, chunks.sums[layer], atol=1e-5, rtol=1e-5)
