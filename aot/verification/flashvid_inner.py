"""Recorded cases of FlashVID's inner half."""

from __future__ import annotations

from typing import Any

import torch

from ..stages.methods.flashvid_inner import FlashVIDInner
from .findings import Case, Findings
from .recorded_llm import check_one_cut


def check(case: Case, params: dict[str, Any], dtype: torch.dtype, findings: Findings) -> None:
    """Rows that stay and their positions; logits, decoding and cache of an LLM with the stage inside."""
    check_one_cut(case, params, FlashVIDInner(layer=params.get("k", 20), keep=params["r"]), dtype, findings)
