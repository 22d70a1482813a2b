"""VTC-Bench's recorded cases: its smaller pictures, and its groups of questions."""

from __future__ import annotations

from typing import Any

import torch

from ..comparison.groups import accuracy, hard_and_easy
from ..models.pixels import resize_with_pil
from .findings import Case, Findings


def check(case: Case, params: dict[str, Any], dtype: torch.dtype, findings: Findings) -> None:
    """Every pixel of a smaller picture, or the questions of both groups and a method's accuracy in them."""
    if params["kind"] == "groups":
        full, control, answered, right, given = (
            case[name].bool().numpy() for name in ("full", "down", "has_down", "method", "has_method")
        )
        both = hard_and_easy(full, control, answered)
        for ours, name in zip(both, ("group_a", "group_b"), strict=True):
            findings.decided(torch.from_numpy(ours), case[name].long())
        shares = [100 * accuracy(group, right, given) for group in both]
        findings.values(torch.tensor(shares, dtype=torch.float64), case["recorded_accuracy"].double())
        return
    image, ratio = case["image"], params["ratio"]
    height, width = image.shape[0] // ratio, image.shape[1] // ratio
    findings.decided(resize_with_pil(image[None], (height, width))[0].permute(1, 2, 0), case["resized"])
