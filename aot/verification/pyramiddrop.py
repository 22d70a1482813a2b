"""PyramidDrop's recorded cases."""

from __future__ import annotations

from typing import Any

import torch

from ..stages.methods.pyramiddrop import PyramidDrop
from .findings import Case, Findings
from .recorded_llm import check_run, rows_of, run


def check(case: Case, params: dict[str, Any], dtype: torch.dtype, findings: Findings) -> None:
    """Rows that stay at every cut; logits, decoding and cache of the LLM."""
    layers, ratios = ("/".join(map(str, params[name])) for name in ("layer_list", "ratios"))
    found = run(case, params, PyramidDrop(layers=layers, ratios=ratios), dtype)
    rows = rows_of(found.seen, params["start"], len(case["embeds"]), params["n"])
    for number, kept in enumerate(rows):
        findings.decided(kept, case[f"kept_{number}"])
    check_run(case, params, found, findings)
