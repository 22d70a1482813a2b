"""VisionZip's recorded cases."""

from __future__ import annotations

import math
from typing import Any

import torch

from ..stages.grid import Grid
from ..stages.visionzip import VisionZip, zipped
from ..tokens import Extra, Layout, VideoTokens
from .findings import Case, Findings


def check(case: Case, params: dict[str, Any], dtype: torch.dtype, findings: Findings) -> None:
    """Dominant cells, targets and who joins them; the tokens of the whole stage."""
    frames, cells, _ = case["features"].shape
    side = math.isqrt(cells)
    tokens = VideoTokens.encoded(
        case["features"],
        Layout(frames, (side, side), params["pool"] or "none", params["newline"]),
        case["attention"],
        case["attention"],
        torch.arange(frames, dtype=torch.float64),
        newline=case.get("newline"),
        extras={Extra.LAST: case["attention"], Extra.KEYS: case["keys"]},
    )
    grid = Grid.of(VisionZip.title, tokens.to_language_grid())
    dominant = params["dominant"]
    heads, _, owner = zipped(grid.attention(Extra.LAST), grid.vectors(Extra.KEYS), dominant, params["contextual"])
    findings.decided(heads[:, :dominant], case["dominant"])
    findings.decided(heads[:, dominant:], case["context"])
    joined = torch.ones_like(owner, dtype=torch.bool).scatter_(1, heads, False)
    findings.decided(owner[joined].reshape(frames, -1) - dominant, case["assigned"])
    stage = VisionZip(tokens_per_frame=params["spatial_tokens"], dominant_ratio=params["dominant_ratio"])
    findings.values(stage(tokens).features, case["recorded_tokens"], computed=case["recorded_tokens"].dtype)
