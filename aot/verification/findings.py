"""A recorded case, and the differences between its values and ours."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ..tokens.video_tokens import Layout, VideoTokens

TOLERANCES = MappingProxyType({torch.float64: 1e-9, torch.float32: 2e-5})
"""Largest error allowed relative to the largest recorded value."""


@dataclass
class Findings:
    """Differences gathered while a case runs."""

    error: float = 0.0
    tolerance: float = 0.0
    decisions: int = 0
    near: int = 0

    def values(self, ours: Tensor, recorded: Tensor, *, computed: torch.dtype = torch.float64) -> None:
        """Compare values; a recording in float32 cannot be met closer than its own rounding.

        Args:
            ours: floating, of any shape.
            recorded: floating, of the same shape.
            computed: the dtype the recording was computed in, which bounds how closely it can be met.
        """
        if ours.shape != recorded.shape:
            self.error = float("inf")
            return
        scale = float(recorded.abs().max()) or 1.0
        error = float((ours.double() - recorded.double()).abs().max()) / scale
        self.error = max(self.error, error if math.isfinite(error) else float("inf"))
        if recorded.dtype == torch.float32:
            self.tolerance = max(self.tolerance, torch.finfo(torch.float32).eps / 2)
        if computed == torch.float32:
            self.tolerance = max(self.tolerance, TOLERANCES[torch.float32])

    def decided(self, ours: Tensor, recorded: Tensor, near: Tensor | None = None) -> None:
        """Compare decisions; where ``near`` is True a difference is rounding, not disagreement."""
        if ours.shape != recorded.shape:
            self.decisions += max(ours.numel(), recorded.numel())
            return
        differ = ours != recorded
        excused = differ & near if near is not None else torch.zeros_like(differ)
        self.near += int(excused.sum())
        self.decisions += int((differ & ~excused).sum())


Case = dict[str, Tensor]
Check = Callable[[Case, dict[str, Any], torch.dtype, Findings], None]
"""Runs one case. Takes its tensors in the requested dtype (in the recorded one under ``recorded_NAME``), its settings
with its name under ``case``, the dtype, and the findings to add differences to."""


def fresh(
    features: Tensor,
    newline: Tensor | None = None,
    *,
    attention: Tensor | None = None,
    extras: Mapping[str, Tensor] = MappingProxyType({}),
    pooling: str = "none",
) -> VideoTokens:
    """A recorded case's video on a square grid, which is the language grid unless pooling is still to come.

    Args:
        features: (T, N, D) floating.
        newline: (D,) floating, where every grid row ends in one.
        attention: (T, N) floating, received; None is the same everywhere, for methods that look at features alone.
        extras: what else the encoder saw.
        pooling: as in :class:`Layout`.
    """
    frames, cells = features.shape[:2]
    side = math.isqrt(cells)
    layout = Layout(frames, (side, side), pooling, "none" if newline is None else "grid")
    received = torch.ones(frames, cells) if attention is None else attention
    times = torch.arange(frames).double()
    return VideoTokens.encoded(features, layout, received, received, times, newline=newline, extras=extras)


def sources_of(reduced: VideoTokens) -> Tensor:
    """(K,) long: the language grid's token at the place of each token, newlines at the ends of rows."""
    (height, width), newlines = reduced.layout.language_grid, reduced.layout.newlines
    line = width + (1 if newlines else 0)
    return (reduced.place * torch.tensor([height * line, line, 1])).sum(1)
