"""Recorded cases of a method's released code, run through ours: the largest error, the decisions that differ.

A case is a safetensors file with inputs and outputs as tensors and its settings as JSON under ``params``.
Every method has a file here whose ``check`` runs one of its cases.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..errors import InputError
from ..files import parse_json
from .findings import TOLERANCES, Case, Check, Findings

__all__ = ["CaseResult", "Findings", "methods", "verify"]

OWN = "anchor_transport"

COMPANIONS = ("tower",)
"""Files beside cases that hold what these share, such as the weights of a small tower."""


@dataclass(frozen=True)
class CaseResult:
    """How one case came out in one dtype.

    Args:
        case: its file's name.
        dtype: that it ran in.
        error: largest absolute error over the largest recorded value.
        tolerance: what it may be.
        decisions: entries of masks and keeps that differ.
        near: how many more differ within rounding of a threshold.
    """

    case: str
    dtype: str
    error: float
    tolerance: float
    decisions: int
    near: int

    @property
    def passed(self) -> bool:
        """Whether the error is in tolerance and every decision equal."""
        return self.decisions == 0 and self.error <= self.tolerance


def verify(folder: Path, dtypes: tuple[torch.dtype, ...] = tuple(TOLERANCES)) -> Iterator[CaseResult]:
    """Run every recorded case of a folder in each dtype.

    Raises:
        InputError: no case in the folder, a file that cannot be read, or a case of unknown kind.
    """
    files = sorted(folder.rglob("*.safetensors")) if folder.is_dir() else []
    if not files:
        raise InputError(f"No recorded case (*.safetensors) in {folder}; give the folder that holds them.")
    for file in files:
        tensors, params = _read(file)
        if file.stem in COMPANIONS:
            continue
        check = _check_of(_method(file.parent, params))
        for dtype in dtypes:
            findings = Findings(tolerance=TOLERANCES[dtype])
            cast = {key: t.to(dtype) if t.is_floating_point() else t for key, t in tensors.items()}
            check(
                cast | {f"recorded_{key}": tensor for key, tensor in tensors.items()},
                params | {"case": file.stem, "companions": _companions(file.parent)},
                dtype,
                findings,
            )
            yield CaseResult(
                file.stem,
                str(dtype).removeprefix("torch."),
                findings.error,
                findings.tolerance,
                findings.decisions,
                findings.near,
            )


def methods() -> list[str]:
    """Names of the methods whose cases can be run, AOT's own under ``anchor_transport``."""
    return [module.name for module in pkgutil.iter_modules(__path__) if module.name not in ("findings", "recorded_llm")]


def _method(folder: Path, params: dict[str, Any]) -> str:
    """The method of a case: in its parameters, or the name of its folder or of the one above, or else AOT's own."""
    if "method" in params:
        return str(params["method"])
    folders = folder.resolve().name, folder.resolve().parent.name
    return next((name for name in folders if name in methods()), OWN)


def _check_of(method: str) -> Check:
    if method not in methods():
        raise InputError(f"Cases of {method!r} are not known here; there are {', '.join(methods())}.")
    return importlib.import_module(f".{method}", __name__).check


def _companions(folder: Path) -> dict[str, Case]:
    """The tensors that all cases of a folder share, by the names of their files."""
    files = (folder / f"{name}.safetensors" for name in COMPANIONS)
    return {file.stem: _read(file)[0] for file in files if file.exists()}


def _read(file: Path) -> tuple[Case, dict[str, Any]]:
    try:
        with safe_open(file, "pt") as stored:
            params = parse_json(stored.metadata()["params"], kind=dict)
            return {key: stored.get_tensor(key) for key in stored.keys()}, params  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file.name} cannot be read as a recorded case ({error}); fetch it again.") from error
