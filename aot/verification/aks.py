"""AKS's recorded cases, of its authors' script."""

from __future__ import annotations

from typing import Any

import torch

from ..stages.methods.frames.aks import FramesForQuestion
from .findings import Case, Findings


def check(case: Case, params: dict[str, Any], dtype: torch.dtype, findings: Findings) -> None:
    """Which frames are chosen, and in which order halving ended."""
    stage = FramesForQuestion(
        threshold=params["t1"], spread=params["t2"], depth=params["all_depth"], every=params["ratio"], fill=False
    )
    chosen, parts = stage.chosen(case["recorded_scores"].numpy(), params["max_num_frames"])
    findings.decided(case["frames"][torch.from_numpy(chosen)], case["selected"])
    segments = [[part.stop - part.first, part.depth] for part in parts]
    findings.decided(torch.tensor(segments, dtype=torch.int64).reshape(-1, 2), case["segments"].reshape(-1, 2))
