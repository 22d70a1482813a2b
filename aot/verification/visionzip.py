"""VisionZip's recorded cases."""

from __future__ import annotations

from typing import Any

import torch

from ..stages.methods.visionzip import VisionZip, dominant_and_contextual
from ..stages.toolkit.language_grid import LanguageGrid
from ..tokens.video_tokens import Extra
from .findings import Case, Findings, fresh


def check(case: Case, params: dict[str, Any], dtype: torch.dtype, findings: Findings) -> None:
    """Dominant cells, targets and who joins them; the tokens of the whole stage."""
    attention, frames = case["attention"], len(case["features"])
    newline = case["newline"] if params["newline"] == "grid" else None
    extras = {Extra.LAST: attention, Extra.KEYS: case["keys"]}
    tokens = fresh(case["features"], newline, attention=attention, extras=extras, pooling=params["pool"] or "none")
    grid = LanguageGrid.of(VisionZip.title, tokens.to_language_grid())
    dominant = params["dominant"]
    heads, _, owner = dominant_and_contextual(
        grid.attention(Extra.LAST), grid.vectors(Extra.KEYS), (dominant,) * frames, (params["contextual"],) * frames
    )
    findings.decided(heads[:, :dominant], case["dominant"])
    findings.decided(heads[:, dominant:], case["context"])
    joined = torch.ones_like(owner, dtype=torch.bool).scatter_(1, heads, False)
    findings.decided(owner[joined].reshape(frames, -1) - dominant, case["assigned"])
    stage = VisionZip(tokens_per_frame=params["spatial_tokens"], dominant_ratio=params["dominant_ratio"])
    findings.values(stage(tokens).features, case["recorded_tokens"], computed=case["recorded_tokens"].dtype)
