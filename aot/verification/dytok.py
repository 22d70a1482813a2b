"""DyToK's recorded cases: the assistant's query and keys to frames' budgets, spent by VisionZip."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from ..stages.methods.dytok import DyToK
from ..stages.methods.visionzip import dominant_and_contextual
from ..tokens.question import ASSISTANT
from ..tokens.video_tokens import Extra, Question
from .findings import Case, Findings, fresh


def check(case: Case, params: dict[str, Any], dtype: torch.dtype, findings: Findings) -> None:
    """Frames' weights, what each keeps and merges, which cells stay, and the tokens of the whole stage."""
    features = case["features"]
    frames, cells = features.shape[:2]
    layers = _layers(params["attn_layer"], len(case["query"]))
    start = params["start"]
    keys = case["text_keys"][layers, :, start : start + frames * cells]
    weights = _weights(case["query"][layers], keys, frames)
    # The released weights are float32 whatever their inputs are.
    findings.values(weights, case["recorded_frame_weights"], computed=torch.float32)
    extras = {Extra.LAST: case["attention"], Extra.KEYS: case["keys"]}
    tokens = fresh(features, attention=case["attention"], extras=extras)
    question = Question("", features[0, :1], frames={ASSISTANT: weights.mean(0)})
    total = frames * (params["dominant"] + params["contextual"])
    stage = DyToK(keep_tokens=total, upper_limit=params["upper_limit"])
    reduced = stage(dataclasses.replace(tokens, question=question))
    counts = torch.tensor(reduced.frame_counts)
    findings.decided(counts, case["dominant_counts"] + case["contextual_counts"])
    dominant = 6 * counts // 7
    findings.decided(dominant, case["dominant_counts"])
    present = [t for t, count in enumerate(counts.tolist()) if count]
    heads, _, _ = dominant_and_contextual(
        case["attention"][present],
        case["keys"][present],
        dominant[present].tolist(),
        (counts - dominant)[present].tolist(),
    )
    kept = [cells * t + row[: int(dominant[t])] for t, row in zip(present, heads, strict=True)]
    findings.decided(torch.cat(kept), case["dominant_places"])
    findings.values(reduced.features, case["recorded_tokens"], computed=case["recorded_tokens"].dtype)


def _layers(setting: float | None, layers: int) -> list[int]:
    """The layers a released setting means: one, all, or "first.last" with two decimals."""
    if setting is None or isinstance(setting, int):
        return list(range(layers)) if setting is None else [setting]
    first, last = f"{setting:.2f}".split(".")
    return list(range(int(first), min(int(last) + 1, layers)))


def _weights(query: Tensor, keys: Tensor, frames: int) -> Tensor:
    """(layers, T): a softmax over the video's tokens alone, mean over heads and each frame.

    Args:
        query: (layers, H, h) of the prompt's last token.
        keys: (layers, Hkv, T n, h) of the video's tokens.
        frames: T.
    """
    keys = keys.repeat_interleave(query.shape[1] // keys.shape[1], 1)
    scores = torch.einsum("lhd,lhnd->lhn", query, keys) * query.shape[2] ** -0.5
    return scores.softmax(2).mean(1).reshape(len(query), frames, -1).mean(2)
