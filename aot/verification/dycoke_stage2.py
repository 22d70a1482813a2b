"""Recorded cases of DyCoke's second stage."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..stages.methods.dycoke_inner import DyCokeInner
from .findings import Case, Findings
from .recorded_llm import check_run, run


def check(case: Case, params: dict[str, Any], dtype: torch.dtype, findings: Findings) -> None:
    """What every step reads, from recorded attention; logits, decoding and cache of the LLM with the stage inside."""
    stage = DyCokeInner(layer=params.get("l", 3), unread=params["p"])
    start, end = params["start"], params["start"] + params["n"]
    before: Tensor | None = None
    for step in range(params["steps"]):
        attention = case[f"attention_{step}"].mean(0)
        scores = attention[start : end + 1]  # the last of a video's tokens counts as text
        read = stage.read(scores, before)
        before = scores
        after = torch.arange(end, len(attention))
        places = after[:0] if read is None else torch.cat((torch.arange(start), start + read[:-1], after))
        findings.decided(places, case[f"read_{step}"])
    if params["kind"] == "model":
        found = run(case, {**params, "n": params["n"] + 1}, stage, dtype)
        check_run(case, {**params, "cache": False}, found, findings)
        findings.decided(found.after, case["kv_lengths"])
