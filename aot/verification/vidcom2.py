"""VidCom2's recorded cases: of its authors' functions, and of vLLM's that meets a count."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..stages.methods.vidcom2 import (
    VidCom2,
    brought_to,
    counts_of,
    frame_shares,
    quiet_directions,
    similarities,
)
from ..stages.toolkit.language_grid import LanguageGrid
from ..stages.toolkit.ranking import top_k_mask
from ..tokens.video_tokens import VideoTokens
from .findings import Case, Findings, fresh, sources_of


def check(case: Case, params: dict[str, Any], dtype: torch.dtype, findings: Findings) -> None:
    """Scores and shares where they are recorded; which tokens are kept, in which order."""
    tokens = fresh(case["features"], case.get("newline"))
    computed = getattr(torch, params["dtype"])
    similarity, frame_similarity = similarities(quiet_directions(LanguageGrid.of(VidCom2.title, tokens).depths))
    score = similarity + frame_similarity
    if params["variant"] == "vllm":
        ours, features = _served(tokens, similarity, score, params["q"])
    else:
        shares = frame_shares(similarity, params["retention"])
        findings.decided(counts_of(shares, score.shape[1]), case["counts"])
        findings.values(score, case["recorded_score"], computed=computed)
        findings.values(shares, case["recorded_shares"], computed=computed)
        reduced = VidCom2(ratio=params["retention"])(tokens)
        ours, features = sources_of(reduced), reduced.features
    findings.decided(ours, case["indices"])
    findings.values(features, case["recorded_tokens"], computed=computed)


def _served(tokens: VideoTokens, similarity: Tensor, score: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """Indices and features kept where vLLM counts: the share is 1 - rate, and its product with the tokens cut off."""
    frames, cells = score.shape
    ratio = 1 - rate
    keep = top_k_mask(-score, counts_of(frame_shares(similarity, ratio), cells))
    kept = brought_to(keep, score, max(frames, int(frames * cells * ratio))).flatten().nonzero()[:, 0]
    return kept, tokens.features[kept]
