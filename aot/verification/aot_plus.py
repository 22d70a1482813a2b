"""Anchor OT Plus' recorded cases, of this project's own oracle: it has no other authors."""

from __future__ import annotations

from typing import Any

import torch

from ..stages.base import Part
from ..stages.methods.anchor_ot.plus import AnchorOTPlus
from .findings import Case, Findings, fresh, sources_of


def check(case: Case, params: dict[str, Any], dtype: torch.dtype, findings: Findings) -> None:
    """Which cells are anchors, in which order, and what is carried to them."""
    stage = AnchorOTPlus(keep_tokens=len(case["indices"]), **params["settings"])
    tokens = fresh(case["features"], attention=case["attention"])
    budgets = params.get("budgets")
    part = None if budgets is None else Part(0, tokens.layout.frames, tuple(budgets))
    reduced = stage.reduce(tokens, part)
    findings.decided(sources_of(reduced), case["indices"])
    findings.values(reduced.features, case["recorded_tokens"])
