"""AOT's own cases; the start of a case's name says what it checks."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import torch

from ..errors import InputError
from ..stages.methods.anchor_ot.clip_transport import absorb, absorption, below_quantile, quantile_places
from ..stages.methods.anchor_ot.inter import InterFrame
from ..stages.methods.anchor_ot.intra import COVERED, ROUNDING, IntraFrame, anchor_weights, select_anchors
from ..stages.toolkit.ranking import true_indices
from ..tokens.video_tokens import Layout, VideoTokens
from ..transport.costs import COSINE_LIMIT, Cost, Points, time_factor
from ..transport.sinkhorn import sinkhorn, uniform_marginal
from ..transport.solvers import Solver
from .findings import Case, Check, Findings

NEAR_QUANTILE = 1e-6
"""In float32 a keep decision this close to its quantile may flip; such flips are counted apart."""


def check(case: Case, params: dict[str, Any], dtype: torch.dtype, findings: Findings) -> None:
    """Run one case.

    Raises:
        InputError: its name is of no kind known here.
    """
    name = params["case"]
    run = next((run for kind, run in CHECKS.items() if name.startswith(kind)), None)
    if run is None:
        raise InputError(f"{name} is no kind of case known here; names start with {', '.join(CHECKS)}.")
    run(case, params, dtype, findings)


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
    index = true_indices(mask, int(mask[0].sum()))
    weights = anchor_weights(
        Points.of(features),
        ~mask,
        index,
        (27, 27),
        Cost(spatial_weight=params["spatial_weight"]),
        Solver("released", params["eps"], params["max_iter"]),
        u=uniform_marginal(~mask),
        v=uniform_marginal(torch.ones_like(index, dtype=torch.bool)),
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
        kept = case["mask"].double() @ pooling.T >= COVERED - ROUNDING[pooling.dtype]
        findings.decided(kept, case[f"{mode}_mask"])


def _inter_step(case: Case, params: dict[str, Any], dtype: torch.dtype, findings: Findings) -> None:
    anchors, sources = (
        Points.of(tokens, valid=torch.ones(tokens.shape[:2], dtype=torch.bool))
        for tokens in (case["anchors"], case["sources"])
    )
    solver = Solver("early", params["eps"], params["max_iter"])
    assert sources.valid is not None and anchors.valid is not None
    u, v = uniform_marginal(sources.valid), uniform_marginal(anchors.valid)
    factor = time_factor(params["frame_offset"], params["sigma_t"])
    cost = Cost(limit=COSINE_LIMIT)
    apart = cost.between(sources, anchors)
    plan = solver.plan(apart, u, v, factor=factor, shifted=True, largest=cost.largest)
    findings.values(plan, case["recorded_plan"])
    shares = solver.shares(plan, u)
    q = shares.amax(2).double()
    threshold = q.quantile(params["keep_ratio"], dim=1, keepdim=True)
    near = (q - threshold).abs() <= NEAR_QUANTILE if dtype == torch.float32 else None
    around = quantile_places((q.shape[1],) * len(q), params["keep_ratio"], q.device, q.dtype)
    findings.decided(below_quantile(q, *around), case["keep"], near)
    absorbed = shares * ~case["keep"][:, :, None]
    parts = absorption(absorbed, None, params["scaling"])
    merged = absorb(anchors.features, sources.features, absorbed, *parts)
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
