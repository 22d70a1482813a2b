"""8- and 4-bit weights with a real bitsandbytes: of the LLM's layers, and of nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch import nn

from comfyui_aot.aot.models.folder import use_general_products
from comfyui_aot.tests.support.small_models import save

BITSANDBYTES = Path(sys.prefix) / "bitsandbytes"


FAMILIES = ("llava_onevision", "qwen2_5_vl", "qwen3_vl", "internvl")


@pytest.fixture(scope="module")
def differences(tmp_path_factory, embedded_folder):
    """What became of a small model of each family, in a process that has bitsandbytes."""
    folder = tmp_path_factory.mktemp("whole")
    for family in FAMILIES:
        save(folder / family, family, embedded_folder)
    script = Path(__file__).parents[1] / "support" / "quantized.py"
    paths = [str(BITSANDBYTES), *filter(None, [os.environ.get("PYTHONPATH")])]
    run = subprocess.run(
        [sys.executable, script, *FAMILIES],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.skipif(not BITSANDBYTES.is_dir(), reason=f"no {BITSANDBYTES}, which make test fills: nothing to quantize")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("quantization", "kind"), [("8-bit", "Linear8bitLt"), ("4-bit", "Linear4bit")])
def test_the_llm_is_quantized_and_nothing_else(differences, family, quantization, kind):
    found = differences[family][quantization]
    assert found["llm"] == [kind]
    assert found["others"] == ["Linear"]
    assert found["encoded"] < 1e-5
    assert found["logits"] > 0
    # Four bits change these random weights' logits as they please; of the products nothing but rounding may be left.
    # Eight bits round what goes through the layers as well.
    assert found["beyond_rounding"] < (0.5 if quantization == "8-bit" else 1e-3)
    assert found["bytes"] < found["whole_bytes"] / (2 if quantization == "8-bit" else 3)


class Layer(nn.Module):
    """As a 4-bit layer of bitsandbytes is on a processor with bfloat16 units."""

    def __init__(self, outputs, inputs, blocksize=64):
        super().__init__()
        self.weight = SimpleNamespace(quant_state=SimpleNamespace(shape=(outputs, inputs), blocksize=blocksize))
        self.support_avx512bf16_for_cpu = True


def test_layers_too_odd_for_packed_products_take_the_general_ones():
    layers = nn.ModuleList([Layer(64, 128), Layer(48, 128), Layer(64, 96), Layer(4096, 1024), nn.Linear(3, 3)])
    use_general_products(layers)
    assert [layer.support_avx512bf16_for_cpu for layer in layers[:4]] == [True, False, False, True]
