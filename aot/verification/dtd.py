"""DTD's recorded cases."""

from __future__ import annotations

from typing import Any

import torch

from ..models.pixels import pixel_change
from ..stages.methods.dtd import DTD
from ..tokens.layout import Layout
from ..tokens.video_tokens import Extra, VideoTokens
from .findings import Case, Findings, sources_of


def check(case: Case, params: dict[str, Any], dtype: torch.dtype, findings: Findings) -> None:
    """Which tokens are kept, at which places, and that they are kept as they are."""
    features, times = case["features"], torch.tensor(params["times"])
    frames, shared = len(features), len(set(params["times"])) < len(features)
    layout = Layout(frames, tuple(params["grid"]), "none", "none")
    received = torch.ones(frames, layout.cells)
    # Times increase here: two frames that share a position are given half of it each.
    seconds = times + torch.arange(frames).double() % 2 / 2 if shared else times.double()
    extras = {Extra.PIXELS: pixel_change(case["frames"].to(dtype) / 255, layout)} if "frames" in case else {}
    tokens = VideoTokens.encoded(features, layout, received, received, seconds, extras=extras)
    shares = params["absolute"] is False
    stage = DTD(threshold=params["threshold"], rule=params["rule"], shares=shares, rate=1.0 if shared else 0.0)
    reduced = stage(tokens)
    findings.decided(sources_of(reduced), case["source"].long())
    positions = torch.stack((times[reduced.place[:, 0]], *reduced.place[:, 1:].T))
    findings.decided(positions, case["positions"].long())
    findings.values(reduced.features, case["recorded_tokens"], computed=getattr(torch, params["dtype"]))
