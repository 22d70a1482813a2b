"""EVS's recorded cases, of vLLM's function."""

from __future__ import annotations

from typing import Any

import torch

from ..stages.methods.evs import EVS
from .findings import Case, Findings, fresh, sources_of


def check(case: Case, params: dict[str, Any], dtype: torch.dtype, findings: Findings) -> None:
    """Which tokens are kept, and that they are kept as they are."""
    reduced = EVS(pruning_rate=params["q"])(fresh(case["features"]))
    mask = torch.zeros_like(case["mask"])
    mask[sources_of(reduced)] = True
    findings.decided(mask, case["mask"])
    findings.values(reduced.features, case["recorded_tokens"], computed=case["recorded_tokens"].dtype)
