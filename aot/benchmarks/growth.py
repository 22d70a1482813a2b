"""How reduction time grows with frames, grid and width of a token: curves and their fitted exponents."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from ..files import whole_file
from ..stages.chain import Chain
from .measuring import medians
from .reduction import random_tokens

AXES = MappingProxyType(
    {
        "frames": ((8, 32, 128, 512, 1024), lambda x: {"frames": x, "dim": 384}),
        "grid": ((14, 20, 27, 38, 54), lambda x: {"frames": 8, "dim": 1152, "grid": (x, x)}),
        "dim": ((384, 768, 1536, 3584, 8192), lambda x: {"frames": 16, "dim": x}),
    }
)
"""By axis: the values, and the shape of the video for each value x. A grid's x is its side."""


def bench_growth(
    pipeline: Chain,
    axis: str,
    values: Sequence[int] | None = None,
    *,
    device: torch.device | str = "cpu",
    repeats: int = 3,
) -> dict[str, Any]:
    """Time a pipeline on random tokens along one axis.

    Args:
        pipeline: the stages.
        axis: one of :data:`AXES`.
        values: along the axis; None takes those in ``AXES``.
        device: where the pipeline runs.
        repeats: measured rounds; medians are reported.

    Returns:
        ``axis``, ``x`` (the values; for "grid" tokens per frame), ``seconds`` (medians), ``exponent`` (of x, by least
        squares on logarithms).
    """
    usual, video = AXES[axis]
    values = values or usual
    seconds = []
    for value in values:
        tokens = random_tokens(**video(value), device=device)
        run = {"reduce": lambda tokens=tokens: pipeline(dataclasses.replace(tokens))}
        seconds.append(medians(run, tokens.features, repeats)["reduce"])
    x = [value**2 if axis == "grid" else value for value in values]
    return {"axis": axis, "x": x, "seconds": seconds, "exponent": exponent(x, seconds)}


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """The p of the power law ``y = c x^p`` that fits best on logarithms."""
    logs = [(math.log(a), math.log(b)) for a, b in zip(x, y, strict=True)]
    means = [sum(column) / len(logs) for column in zip(*logs, strict=True)]
    spread = sum((a - means[0]) ** 2 for a, _ in logs)
    return sum((a - means[0]) * (b - means[1]) for a, b in logs) / spread


def plot_growth(curves: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the curves side by side on logarithmic axes, each with a line of its fitted exponent."""
    from matplotlib.figure import Figure

    titles = {
        "frames": "frames (729 x 384 each)",
        "grid": "tokens a frame (8 x 1152)",
        "dim": "width (16 x 729 tokens)",
    }
    figure = Figure(figsize=(12, 4), layout="constrained")
    for axes, curve in zip(figure.subplots(1, len(curves)), curves, strict=True):
        x, y = curve["x"], curve["seconds"]
        middle = math.exp(
            sum(math.log(b) - curve["exponent"] * math.log(a) for a, b in zip(x, y, strict=True)) / len(x)
        )
        axes.loglog(x, [middle * a ** curve["exponent"] for a in x], color="#999999", linestyle="--")
        axes.loglog(x, y, color="#0072b2", marker="o")
        axes.set_title(f"time ~ x^{curve['exponent']:.2f}")
        axes.set_xlabel(titles[curve["axis"]])
        axes.set_xticks(x, [f"{value:g}" for value in x])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("seconds")
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
