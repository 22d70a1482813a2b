"""DyCoke's recorded cases."""

from __future__ import annotations

from typing import Any

import torch

from ..stages.methods.dycoke import DyCoke
from .findings import Case, Findings, fresh, sources_of


def check(case: Case, params: dict[str, Any], dtype: torch.dtype, findings: Findings) -> None:
    """Which tokens are kept, in which order, and that they are kept as they are."""
    reduced = DyCoke(pruning_ratio=params["merging_ratio"])(fresh(case["features"]))
    findings.decided(sources_of(reduced), case["source"])
    findings.values(reduced.features, case["recorded_tokens"], computed=case["recorded_tokens"].dtype)
