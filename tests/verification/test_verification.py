"""Cases recorded from the released code."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from comfyui_aot.aot.cli.main import main
from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.verification import COMPANIONS, Findings, verify

RECORDED = Path(__file__).parents[1] / "recorded"


def test_every_recorded_case_passes_in_both_precisions(capsys):
    assert main(["verify", str(RECORDED), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    cases = [file for file in RECORDED.rglob("*.safetensors") if file.stem not in COMPANIONS]
    assert len(summary["cases"]) == 2 * len(cases) == 192
    assert summary["decisions"] == 0


@pytest.fixture
def sinkhorn_case(tmp_path):
    """A case of our own in the recorded format: two identical sources and targets, whose plan is known."""
    cost = torch.zeros(1, 2, 2, dtype=torch.float64)
    params = {"eps": 0.1, "max_iter": 100, "stop_threshold": 0.01}
    tensors = {"cost": cost, "plan": torch.full_like(cost, 0.25)}
    save_file(tensors, tmp_path / "sinkhorn.safetensors", {"params": json.dumps(params)})
    return tmp_path


def test_a_case_that_agrees_passes_in_both_precisions(sinkhorn_case):
    results = list(verify(sinkhorn_case))
    assert [(result.dtype, result.passed) for result in results] == [("float64", True), ("float32", True)]


def test_a_case_that_differs_fails_with_exit_code_1(sinkhorn_case, capsys):
    file = sinkhorn_case / "sinkhorn.safetensors"
    with safe_open(file, "pt") as stored:
        metadata, cost = stored.metadata(), stored.get_tensor("cost")
    save_file({"cost": cost, "plan": torch.full_like(cost, 0.2500001)}, file, metadata)
    assert main(["verify", str(sinkhorn_case)]) == 1
    assert "FAILED sinkhorn" in capsys.readouterr().out


def test_nan_never_passes():
    findings = Findings(tolerance=1e-9)
    findings.values(torch.tensor([1.0, torch.nan]), torch.ones(2))
    assert findings.error == float("inf")


def test_a_folder_without_cases_is_one_line(tmp_path, capsys):
    assert main(["verify", str(tmp_path)]) == 2
    assert "No recorded case" in capsys.readouterr().err


def test_an_unknown_kind_and_a_broken_file_are_refused(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "poetry.safetensors", {"params": "{}"})
    with pytest.raises(InputError, match="no kind of case"):
        list(verify(tmp_path))
    (tmp_path / "poetry.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(InputError, match="cannot be read"):
        list(verify(tmp_path))
