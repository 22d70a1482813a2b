"""SemVID's recorded cases, of both released forms."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from ..stages.methods.semvid import SemVID, question_vectors
from .findings import Case, Findings


def check(case: Case, params: dict[str, Any], dtype: torch.dtype, findings: Findings) -> None:
    """Segments, budgets, which tokens are kept and what for, and that they are kept as they are."""
    features = case["features"]
    frames, cells = features.shape[:2]
    known = {field.name for field in dataclasses.fields(SemVID)}
    settings = {key: value for key, value in params.items() if key in known and key != "retention"}
    stage = SemVID(**settings, longest=params["query_token_max"])
    valid = case["question_mask"].bool()
    words = case["question"][valid] if bool(valid.any()) else case["question"]
    total = max(round(frames * cells * params["retention"]), frames * stage.base(cells))
    grid = tuple(params["grid"]) if params.get("grid") else (1, cells)
    vectors = question_vectors(words, stage.longest)
    role, sharing = stage.chosen(features, case["scores"], vectors, total, grid)
    computed = case["recorded_tokens"].dtype
    findings.decided(torch.tensor(sharing.lengths), case["segments"])
    findings.decided(torch.from_numpy(sharing.budget), case["budget"])
    findings.values(torch.from_numpy(sharing.relevance), case["recorded_frame_relevance"], computed=computed)
    source = role.flatten().nonzero()[:, 0]
    findings.decided(source, case["source"])
    if "role" in case:
        findings.decided(role.flatten()[source], case["role"])
    findings.values(features.flatten(0, 1)[source], case["recorded_tokens"], computed=computed)
