"""Curves over retention, a panel for each measure, in the same colours as the other pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from .canvas import (
    BACKGROUND,
    GREEN,
    ORANGE,
    PURPLE,
    QUIET_TEXT,
    RAISED,
    RULE,
    SKY_BLUE,
    TEXT,
    VERMILION,
    YELLOW,
    as_image,
    text_lines,
)

COLOURS = (SKY_BLUE, ORANGE, GREEN, PURPLE, YELLOW, VERMILION)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":")

_TICKS = (100, 70, 50, 35, 25, 20, 15, 10, 7, 5, 3, 2, 1, 0.5, 0.2, 0.1)
_DPI = 110
_LEGEND_COLUMNS = 4


@dataclass(frozen=True)
class Line:
    """One line.

    Args:
        name: for the legend.
        points: each (retention in per cent, value), in any order.
    """

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Panel:
    """One measure.

    Args:
        label: name of its values.
        lines: the same in all panels of a picture.
        level: value of the full tokens.
        limits: of the axis; None fits the values.
    """

    label: str
    lines: tuple[Line, ...]
    level: float
    limits: tuple[float, float] | None = None


def curves(panels: Sequence[Panel], *, title: str, level: str, notes: Sequence[str] = ()) -> Tensor:
    """Panels side by side over one legend; fewer tokens are kept to the right, on a logarithmic scale.

    Lines differ in marker and, beyond six, in dashes as well as in colour.

    Args:
        panels: one or more, with the same lines.
        title: a line above them.
        level: name of the line that every panel's ``level`` is drawn as.
        notes: what the picture lacks and why, a line each below it.

    Returns:
        (1, H, W, 3) float32, 0 to 1: an image as ComfyUI passes them.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [line.name for line in panels[0].lines]
    legend_lines = -(-(len(names) + 1) // _LEGEND_COLUMNS)
    figure = Figure(figsize=(5 * len(panels), 4.4 + 0.25 * legend_lines), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.set_facecolor(_colour(BACKGROUND))
    retentions = [x for panel in panels for line in panel.lines for x, _ in line.points] or [100.0]
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _dress(axes, panel.label, 1.15 * max(*retentions, 100.0), min(retentions) / 1.15)
        axes.axhline(panel.level, color=_colour(TEXT), linewidth=1.2, linestyle="-", label=level, zorder=1)
        for i, line in enumerate(panel.lines):
            _draw(axes, line, i)
        if panel.limits is not None:
            axes.set_ylim(*panel.limits)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles,
        [_plain(label) for label in labels],
        loc="outside lower left",
        ncols=_LEGEND_COLUMNS,
        frameon=False,
        labelcolor=_colour(TEXT),
        fontsize=10,
    )
    figure.suptitle(_plain(_shortened(title)), x=0.01, ha="left", fontsize=13, color=_colour(TEXT))
    with io.BytesIO() as file:
        figure.savefig(file, format="png", facecolor=figure.get_facecolor())
        file.seek(0)
        return as_image(_with_notes(Image.open(file).convert("RGB"), notes))


def _with_notes(picture: Image.Image, notes: Sequence[str]) -> Image.Image:
    if not notes:
        return picture
    below = text_lines([(f"Left out: {note}", 15, QUIET_TEXT) for note in notes], picture.width)
    canvas = Image.new("RGB", (picture.width, picture.height + below.height), BACKGROUND)
    canvas.paste(picture, (0, 0))
    canvas.paste(below, (0, picture.height))
    return canvas


def _dress(axes: Any, label: str, left: float, right: float) -> None:
    """Scale, ticks, names and colours of one panel's axes."""
    axes.set_facecolor(_colour(RAISED))
    axes.set_xscale("log")
    axes.set_xlim(left, right)
    ticks = [tick for tick in _TICKS if right <= tick <= left]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("visual tokens kept (%), fewer to the right", color=_colour(QUIET_TEXT))
    axes.set_title(label, loc="left", fontsize=11, color=_colour(TEXT))
    axes.tick_params(colors=_colour(QUIET_TEXT), which="both")
    axes.grid(color=_colour(RULE), linewidth=0.7)
    for spine in axes.spines.values():
        spine.set_color(_colour(RULE))


def _draw(axes: Any, line: Line, number: int) -> None:
    points = sorted(line.points, reverse=True)
    axes.plot(
        [x for x, _ in points],
        [y for _, y in points],
        color=_colour(COLOURS[number % len(COLOURS)]),
        marker=MARKERS[(number + number // len(COLOURS)) % len(MARKERS)],
        linestyle=DASHES[number // len(COLOURS) % len(DASHES)],
        markersize=7,
        linewidth=2,
        label=line.name,
        zorder=3,
    )


def _colour(levels: tuple[int, int, int]) -> tuple[float, float, float]:
    red, green, blue = levels
    return red / 255, green / 255, blue / 255


def _plain(text: str) -> str:
    """The text with dollar signs escaped, so that matplotlib reads no formula."""
    return text.replace("$", r"\$")


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 110 else f"{text[:107]}..."
