"""8- and 4-bit weights with a real bitsandbytes: of the LLM's layers, and of nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .small_models import save

BITSANDBYTES = Path(sys.prefix) / "bitsandbytes"


@pytest.mark.skipif(not BITSANDBYTES.is_dir(), reason=f"no {BITSANDBYTES}, which make test fills: nothing to quantize")
@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_5_vl", "qwen3_vl", "internvl"])
@pytest.mark.parametrize(("quantization", "kind", "off"), [("8-bit", "Linear8bitLt", 0.5), ("4-bit", "Linear4bit", 2)])
def test_the_llm_is_quantized_and_nothing_else(family, quantization, kind, off, tmp_path, embedded_folder):
    save(tmp_path / "model", family, embedded_folder)
    script = Path(__file__).with_name("quantized.py")
    paths = [str(BITSANDBYTES), *filter(None, [os.environ.get("PYTHONPATH")])]
    run = subprocess.run(
        [sys.executable, script, tmp_path / "model", quantization],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        check=True,
        capture_output=True,
        text=True,
    )
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["llm"] == [kind]
    assert found["others"] == ["Linear"]
    assert found["encoded"] < 1e-5
    assert 0 < found["logits"] < off
    assert found["bytes"] < found["whole_bytes"] / (2 if quantization == "8-bit" else 3)
