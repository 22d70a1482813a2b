"""CDPruner's recorded cases, with CLIP's joint space."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from ..stages.methods.cdpruner import CDPruner, greedy_determinant, of_clip
from ..stages.toolkit.language_grid import unit
from ..tokens.question import CLIP
from ..tokens.video_tokens import Layout, Question, VideoTokens
from .findings import Case, Findings


def check(case: Case, params: dict[str, Any], dtype: torch.dtype, findings: Findings) -> None:
    """The relevance, which tokens are taken in which order, and that they are kept as they are."""
    features, keep = case["features"], params["keep"]
    cosines = unit(case["image_embeds"]) @ unit(case["text_embeds"]).mean(0)
    relevance = of_clip(cosines)
    findings.values(relevance, case["recorded_relevance"], computed=case["recorded_relevance"].dtype)
    order, gains = greedy_determinant(unit(features), relevance, keep)
    findings.decided(order, case["order"])
    # The released similarity is float32 whatever the features are.
    findings.values(gains, case["recorded_gain"], computed=torch.float32)
    frames, cells = features.shape[:2]
    received = torch.ones(frames, cells)
    tokens = VideoTokens.encoded(
        features, Layout(frames, (1, cells), "none", "none"), received, received, torch.arange(frames).double()
    )
    question = Question("", features[0, :1], {CLIP: cosines})
    stage = CDPruner(keep_tokens=frames * keep, relevance=CLIP)
    reduced = stage(dataclasses.replace(tokens, question=question))
    mask = torch.zeros(frames, cells, dtype=torch.bool)
    mask[reduced.place[:, 0], reduced.place[:, 2]] = True
    findings.decided(mask, case["mask"])
    findings.values(reduced.features, case["recorded_tokens"], computed=case["recorded_tokens"].dtype)
