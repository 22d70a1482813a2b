"""FastVID's recorded cases."""

from __future__ import annotations

from typing import Any

import torch

from ..stages.base import Part
from ..stages.methods.fastvid import FastVID
from ..stages.toolkit.language_grid import LanguageGrid
from ..tokens.video_tokens import Extra
from .findings import Case, Findings, fresh


def check(case: Case, params: dict[str, Any], dtype: torch.dtype, findings: Findings) -> None:
    """Segments, salient cells, and the whole stage with the noise the authors drew."""
    frames = len(case["features"])
    attention = case["attention"]
    extras = {Extra.HEAD: attention, Extra.GLOBAL: case["global_features"]}
    tokens = fresh(case["features"], attention=attention, extras=extras).to_language_grid()
    stage = FastVID(
        retention_ratio=params["retention"],
        context_share=params["context_share"],
        min_segments=params["min_segments"],
        similarity=params["tau"],
        anchor_stride=params["anchor_stride"],
        anchor_weight=params["beta"],
    )
    grid = LanguageGrid.of(stage.title, tokens)
    findings.decided(torch.tensor(stage.segments(grid)), case["segments"])
    count = case["salient"].shape[1]
    findings.decided(stage.salient(grid, (count,) * frames).nonzero()[:, 1].reshape(frames, -1), case["salient"])
    reduction = stage.build(tokens, Part(0, frames), case["noise"].flatten())
    reduced = tokens.reduced(reduction.factor, reduction.place, reduction.role)
    findings.decided(tokens.layout.index(reduction.place), case["source"])
    recorded = case["recorded_tokens"]
    findings.values(reduced.features, recorded, computed=recorded.dtype)
