"""Two figures beside the curve: in which families each variant fails, and what its answers cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .curve import COLOURS
from .summary import Row, Summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PARTS = ("encode", "reduce", "prefill", "questions")
"""What a clip's answers take, in the order in which it is done; a row's seconds are called after them."""

_LOSS = 50
"""Points below full tokens from which on a cell is as dark as any."""
_DARK = 0.65
_ROW, _MARGIN = 0.27, 1.6
"""Inches: of a row, and of all around them."""
_WIDTH, _NAMES, _COLUMN = 9.0, 2.7, 0.7
"""Inches: of a figure at least, of the rows' names, and of a column."""
_LEVEL = 13
"""Characters of a family's name up to which names are written level."""


def families_figure(summary: Summary, title: str) -> Figure:
    """A row for each variant, a column for each family: per cent right, the darker the more is lost to full tokens.

    At least one question has a truth.

    Under a family's name stands its number of questions.

    Args:
        summary: of all variants, full tokens first.
        title: of the figure.
    """
    families = list(summary.asked)
    right = np.array([[100 * row.families[family].value for family in families] for row in summary.rows])
    figure, axes = _figure(summary.rows, title, max(_WIDTH, _NAMES + _COLUMN * len(families)))
    lost = np.clip((right[:1] - right) / _LOSS, 0, 1)
    axes.imshow(lost, cmap="Oranges", vmin=0, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(right):
        colour = "white" if lost[i, j] > _DARK else "#222222"
        axes.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=9, color=colour)
    labels = [f"{family}\n({summary.asked[family]})" for family in families]
    level = max(map(len, families)) <= _LEVEL
    slope = {} if level else {"rotation": 30, "ha": "left"}
    axes.set_xticks(range(len(families)), labels, fontsize=8, **slope)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def seconds_figure(summary: Summary, title: str) -> Figure:
    """A bar for each variant: seconds a clip, from its frames to the answers to all its questions.

    Args:
        summary: of all variants, full tokens first.
        title: of the figure.
    """
    rows = summary.rows
    figure, axes = _figure(rows, title)
    seconds = np.array([[getattr(row, f"{part}_s") for part in PARTS] for row in rows])
    start = np.cumsum(seconds, axis=1) - seconds
    for part, name in enumerate(PARTS):
        axes.barh(range(len(rows)), seconds[:, part], left=start[:, part], color=COLOURS[part], label=name, height=0.7)
    for i, total in enumerate(seconds.sum(1)):
        axes.annotate(f"{total:.3g}", (total, i), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_xlabel(f"seconds a clip, about {summary.questions / summary.clips:.0f} questions each")
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.legend(ncols=len(PARTS), fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0, 1))
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure


def _figure(rows: Sequence[Row], title: str, width: float = _WIDTH) -> tuple[Figure, Any]:
    """A figure, and axes with a row for each variant, named at its left."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, _MARGIN + _ROW * max(len(rows), 2)), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    axes = figure.subplots()
    axes.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=9)
    return figure, axes
