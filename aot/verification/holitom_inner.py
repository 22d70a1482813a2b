"""Recorded cases of HoliTom's inner half."""

from __future__ import annotations

from typing import Any

import torch

from ..stages.methods.holitom_inner import HoliTomInner
from .findings import Case, Findings
from .recorded_llm import check_one_cut


def check(case: Case, params: dict[str, Any], dtype: torch.dtype, findings: Findings) -> None:
    """Rows that stay and what they become; logits, decoding and cache of an LLM with the stage inside."""
    stage = HoliTomInner(layer=params.get("k", 18), keep=1 - params["r"])
    check_one_cut(case, params, stage, dtype, findings)
