"""Accuracy over retention: a line for each chain of stages with its intervals as a band, full tokens as a level.

From left to right fewer tokens are kept, so that lines are apart on the right, next to their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..comparison.variants import BLIND
from ..stages.chain import FULL
from .statistics import Estimate
from .summary import Row, Summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195")
"""Distinct for colour-blind readers: Okabe and Ito's, and a violet."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LEVELS = MappingProxyType({FULL: ("#222222", "-"), BLIND: ("#777777", "--"), "majority": ("#777777", ":")})
"""Colour and line of the levels, which do not depend on retention."""

_TICKS = (100, 75, 50, 35, 25, 20, 15, 10, 7, 5, 3, 2, 1, 0.5, 0.2, 0.1)
_TEXT_POINTS = 9
_LINE_POINTS = 13
"""From one name to the next below it, at least."""

_LEADER = MappingProxyType({"arrowstyle": "-", "linewidth": 0.6, "alpha": 0.6, "shrinkB": 4, "relpos": (0, 0.5)})
"""The thin line from a name to where its curve ends."""


@dataclass(frozen=True)
class _Name:
    """A name in the right margin, and the place in the curve (retention, accuracy) it belongs to."""

    text: str
    colour: str
    x: float
    y: float


def curve_figure(summary: Summary, title: str) -> Figure:
    """The curve. It has no lines if no question has a truth or nothing is reduced.

    Args:
        summary: of all variants.
        title: of the figure.
    """
    from matplotlib.figure import Figure

    chains = _chains(summary)
    kept = [100 * row.retention for rows in chains.values() for row in rows] or [5.0, 100.0]
    left, right = 1.15 * max(kept), min(kept) / 1.15
    figure = Figure(figsize=(9, max(4.8, (len(chains) + 4) * 1.6 * _LINE_POINTS / 72)), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.set_xlim(left, right)
    names = [*_draw_levels(axes, summary, right), *_draw_chains(axes, chains)]
    ticks = [tick for tick in _TICKS if right <= tick <= left]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("visual tokens kept (%), fewer to the right")
    axes.set_ylabel("accuracy (%)")
    axes.set_title(f"{title}: {summary.questions} questions", loc="left", fontsize=11)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.draw_without_rendering()
    _write_names(axes, names)
    return figure


def _chains(summary: Summary) -> dict[str, list[Row]]:
    """The rows of every chain with an accuracy, most tokens first."""
    chains: dict[str, list[Row]] = {}
    for row in summary.rows:
        if row.chain not in LEVELS and row.accuracy is not None:
            chains.setdefault(row.chain, []).append(row)
    return {chain: sorted(rows, key=lambda row: -row.retention) for chain, rows in chains.items()}


def _draw_levels(axes: Any, summary: Summary, right: float) -> list[_Name]:
    levels: dict[str, Estimate] = {
        row.name: row.accuracy for row in summary.rows if row.name in LEVELS and row.accuracy
    }
    if summary.majority_overall is not None:
        levels["majority"] = Estimate(*[summary.majority_overall] * 3)
    for name, level in levels.items():
        colour, line = LEVELS[name]
        axes.axhline(100 * level.value, color=colour, linestyle=line, linewidth=1.4, zorder=1)
        axes.axhspan(100 * level.low, 100 * level.high, color=colour, alpha=0.08, linewidth=0, zorder=0)
    return [_Name(name, LEVELS[name][0], right, 100 * level.value) for name, level in levels.items()]


def _draw_chains(axes: Any, chains: dict[str, list[Row]]) -> list[_Name]:
    names = []
    for i, (chain, rows) in enumerate(chains.items()):
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[(i + i // len(COLOURS)) % len(MARKERS)]
        line = ("-", "--", "-.")[i // len(COLOURS) % 3]
        x = [100 * row.retention for row in rows]
        value, low, high = ([100 * getattr(row.accuracy, end) for row in rows] for end in ("value", "low", "high"))
        axes.plot(x, value, color=colour, marker=marker, linestyle=line, markersize=5.5, linewidth=1.8, zorder=3)
        if len(rows) > 1:
            axes.fill_between(x, low, high, color=colour, alpha=min(0.12, 0.4 / len(chains)), linewidth=0, zorder=2)
        else:
            axes.vlines(x, low, high, color=colour, linewidth=1.2, zorder=2)
        names.append(_Name(chain, colour, x[-1], value[-1]))
    return names


def _write_names(axes: Any, names: Sequence[_Name]) -> None:
    """The names in the right margin, as high as their lines end but never on one another."""
    low, high = axes.get_ylim()
    gap = (high - low) * _LINE_POINTS / (axes.get_window_extent().height / axes.figure.dpi * 72)
    names = sorted(names, key=lambda name: name.y)
    for name, y in zip(names, spread([name.y for name in names], gap, low, high), strict=True):
        axes.annotate(
            name.text,
            xy=(name.x, name.y),
            xytext=(1.03, y),
            textcoords=axes.get_yaxis_transform(),
            color=name.colour,
            fontsize=_TEXT_POINTS,
            verticalalignment="center",
            annotation_clip=False,
            arrowprops={"color": name.colour, **_LEADER},
        )


def spread(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move places apart. Neighbours that would overlap are centred on their mean.

    Args:
        values: the places, ascending.
        gap: the least distance between two of the result.
        low: the least place, if all have room above it.
        high: the greatest place.

    Returns:
        As many places, ascending, near ``values``.
    """
    groups: list[list[float]] = []
    for value in values:
        groups.append([value])
        while len(groups) > 1 and _start(groups[-1], gap, low, high) < _end(groups[-2], gap, low, high) + gap:
            groups[-2:] = [groups[-2] + groups[-1]]
    return [_start(group, gap, low, high) + gap * i for group in groups for i in range(len(group))]


def _start(group: Sequence[float], gap: float, low: float, high: float) -> float:
    reach = gap * (len(group) - 1)
    middle = sum(group) / len(group)
    return max(low, min(middle - reach / 2, high - reach))


def _end(group: Sequence[float], gap: float, low: float, high: float) -> float:
    return _start(group, gap, low, high) + gap * (len(group) - 1)
