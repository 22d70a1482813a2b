"""FastV's recorded cases."""

from __future__ import annotations

from typing import Any

import torch

from ..stages.methods.fastv import FastV
from .findings import Case, Findings
from .recorded_llm import check_one_cut


def check(case: Case, params: dict[str, Any], dtype: torch.dtype, findings: Findings) -> None:
    """Rows that stay; logits, decoding with and without a cache, and cache of an LLM with the stage inside."""
    keep = params["rank"] / params["n"] if params.get("rank") else 1 - params["r"]
    check_one_cut(case, params, FastV(layer=params.get("k", 2), keep=keep), dtype, findings)
