"""Recorded cases of a method's released code, run through ours: the largest error, the decisions that differ.

A case is a safetensors file with inputs and outputs as tensors and its settings as JSON under ``params``.
What a case checks is told by the start of its name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .costs import COSINE_LIMIT, Cost, Points, time_factor
from .errors import InputError
from .solvers import Solver
from .stages.anchors import COVERED, ROUNDING, IntraFrame, anchor_weights, select_anchors
from .stages.keyframes import InterFrame
from .stages.walking import absorb, below_quantile, frame_plan
from .tokens import Layout, VideoTokens
from .transport import sinkhorn, uniform_marginal

TOLERANCES = MappingProxyType({torch.float64: 1e-9, torch.float32: 2e-5})
"""Largest error allowed relative to the largest recorded value."""

NEAR_QUANTILE = 1e-6
"""In float32 a keep decision this close to its quantile may flip; such flips are counted apart."""


@dataclass(frozen=True)
class CaseResult:
    """How one case came out in one dtype.

    Args:
        error: largest absolute error over the largest recorded value.
        tolerance: what it may be.
        decisions, near: masks and keeps that differ, and how many more differ within rounding of a threshold.
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


@dataclass
class Findings:
    """Differences gathered while a case runs."""

    error: float = 0.0
    tolerance: float = 0.0
    decisions: int = 0
    near: int = 0

    def values(self, ours: Tensor, recorded: Tensor) -> None:
        """Compare values; a recording in float32 cannot be met closer than its own rounding."""
        if ours.shape != recorded.shape:
            self.error = float("inf")
            return
        scale = float(recorded.abs().max()) or 1.0
        error = float((ours.double() - recorded.double()).abs().max()) / scale
        self.error = max(self.error, error if math.isfinite(error) else float("inf"))
        if recorded.dtype == torch.float32:
            self.tolerance = max(self.tolerance, torch.finfo(torch.float32).eps / 2)

    def decided(self, ours: Tensor, recorded: Tensor, near: Tensor | None = None) -> None:
        """Compare decisions; where ``near`` is True a difference is rounding, not disagreement."""
        differ = ours != recorded
        excused = differ & near if near is not None else torch.zeros_like(differ)
        self.near += int(excused.sum())
        self.decisions += int((differ & ~excused).sum())


Case = dict[str, Tensor]
Check = Callable[[Case, dict[str, Any], torch.dtype, Findings], None]


def verify(folder: Path, dtypes: tuple[torch.dtype, ...] = tuple(TOLERANCES)) -> Iterator[CaseResult]:
    """Run every recorded case of a folder in each dtype.

    Raises:
        InputError: no case in the folder, a file that cannot be read, or a case of unknown kind.
    """
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    if not files:
        raise InputError(f"No recorded case (*.safetensors) in {folder}; give the folder that holds them.")
    for file in files:
        tensors, params = _read(file)
        check = next((check for kind, check in CHECKS.items() if file.stem.startswith(kind)), None)
        if check is None:
            raise InputError(f"{file.name} is no kind of case known here; names start with {', '.join(CHECKS)}.")
        for dtype in dtypes:
            findings = Findings(tolerance=TOLERANCES[dtype])
            cast = {key: t.to(dtype) if t.is_floating_point() else t for key, t in tensors.items()}
            check(cast | {f"recorded_{key}": tensor for key, tensor in tensors.items()}, params, dtype, findings)
            yield CaseResult(
                file.stem,
                str(dtype).removeprefix("torch."),
                findings.error,
                findings.tolerance,
                findings.decisions,
                findings.near,
            )


def _read(file: Path) -> tuple[Case, dict[str, Any]]:
    try:
        with safe_open(file, "pt") as stored:
            params = json.loads(stored.metadata()["params"])
            return {key: stored.get_tensor(key) for key in stored.keys()}, params  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file.name} cannot be read as a recorded case ({error}); fetch it again.") from error


def _anchors(case: Case, params: dict[str, Any], dtype: torch.dtype, findings: Findings) -> None:
    mask = select_anchors(
        case["shallow"],
        case["deep"],
        params["budget"],
        params["global_ratio"],
        params["window"],
        tuple(params["grid"]),
    )
    findings.decided(mask, case["mask"])


def _sinkhorn(case: Case, params: dict[str, Any], dtype: torch.dtype, findings: Findings) -> None:
    problems, sources, targets = case["cost"].shape
    solved = sinkhorn(
        case["cost"],
        uniform_marginal(torch.ones(problems, sources, dtype=torch.bool)),
        uniform_marginal(torch.ones(problems, targets, dtype=torch.bool)),
        eps=params["eps"],
        max_iterations=params["max_iter"],
        tolerance=params["stop_threshold"],
    )
    findings.values(solved.plan, case["recorded_plan"])


def _intra(case: Case, params: dict[str, Any], dtype: torch.dtype, findings: Findings) -> None:
    features, mask = case["features"], case["mask"]
    weights = anchor_weights(
        Points(features, torch.linalg.vector_norm(features, dim=-1)),
        mask,
        (27, 27),
        Cost(spatial_weight=params["spatial_weight"]),
        Solver("released", params["eps"], params["max_iter"]),
        mass=uniform_marginal(mask) + uniform_marginal(~mask),
        scaling=params["scaling"],
        nearest_blend=params["nearest_blend"],
    )
    merged = features.clone()
    merged[mask] = torch.bmm(weights, features).flatten(0, 1)
    findings.values(merged, case["recorded_merged"])


def _pool(case: Case, params: dict[str, Any], dtype: torch.dtype, findings: Findings) -> None:
    for mode in ("bilinear", "average"):
        pooling = Layout(len(case["features"]), (27, 27), mode).pooling_matrix()
        findings.values(pooling.to(dtype) @ case["features"], case[f"recorded_{mode}"])
        kept = case["mask"].double() @ pooling.T >= COVERED - ROUNDING
        findings.decided(kept, case[f"{mode}_mask"])


def _inter_step(case: Case, params: dict[str, Any], dtype: torch.dtype, findings: Findings) -> None:
    anchors, sources = (
        Points(tokens, torch.linalg.vector_norm(tokens, dim=-1), valid=torch.ones(tokens.shape[:2], dtype=torch.bool))
        for tokens in (case["anchors"], case["sources"])
    )
    solver = Solver("early", params["eps"], params["max_iter"])
    u, v = uniform_marginal(sources.valid), uniform_marginal(anchors.valid)
    factor = time_factor(params["frame_offset"], params["sigma_t"])
    plan = frame_plan(sources, anchors, u, v, Cost(limit=COSINE_LIMIT), solver, factor).plan
    findings.values(plan, case["recorded_plan"])
    shares = solver.shares(plan, u)
    q = shares.amax(2).double()
    threshold = q.quantile(params["keep_ratio"], dim=1, keepdim=True)
    near = (q - threshold).abs() <= NEAR_QUANTILE if dtype == torch.float32 else None
    findings.decided(below_quantile(q, params["keep_ratio"]), case["keep"], near)
    absorbed = shares * ~case["keep"][:, :, None]
    count = torch.ones_like(anchors.lengths)
    merged, _, _ = absorb(anchors.features, sources.features, absorbed, count, params["scaling"])
    findings.values(merged, case["recorded_merged"])


def _pipeline(case: Case, params: dict[str, Any], dtype: torch.dtype, findings: Findings) -> None:
    frames = params["frames"]
    tokens = VideoTokens.encoded(
        case["features"],
        Layout(frames, (27, 27), params["pool"], params["newline"]),
        case["shallow"],
        case["deep"],
        torch.arange(frames, dtype=torch.float64),
        newline=case["newline"],
    )
    intra = IntraFrame(budget=params["budget"], global_ratio=params["global_ratio"], solver="released")
    inter = InterFrame(clip_length=params["clip_length"], keep_ratio=params["keep_ratio"])
    findings.values(inter(intra(tokens)).features, case["recorded_tokens"])


CHECKS: MappingProxyType[str, Check] = MappingProxyType(
    {
        "anchors": _anchors,
        "sinkhorn": _sinkhorn,
        "intra": _intra,
        "pool": _pool,
        "inter_step": _inter_step,
        "pipeline": _pipeline,
    }
)
