"""DART's recorded cases: the released rule on an LLM's states and keys."""

from __future__ import annotations

from typing import Any

import torch

from ..stages.methods.dart import pivots_of, taken, turns_of
from .findings import Case, Findings


def check(case: Case, params: dict[str, Any], dtype: torch.dtype, findings: Findings) -> None:
    """Which tokens are kept, and that they are kept as they are."""
    states, keys = case["states"], case["keys"]
    start, length = params["start"], params["length"]
    image = pivots_of(keys, start, start + length, params["image_pivots"])
    text = pivots_of(keys, start + length, keys.shape[1], params["text_pivots"])
    turns = turns_of(image, text)
    share = length * (1 - params["reduction"])
    if params["form"] == "llava":
        each = int((params["most"] or share) // len(turns))
    else:
        each = int(share / len(turns))
    keep = taken(states, start, length, image, turns, (each,) * len(turns))
    source = keep.nonzero()[:, 0]
    findings.decided(source, case["source"])
    findings.values(states[start + source], case["recorded_tokens"], computed=case["recorded_tokens"].dtype)
