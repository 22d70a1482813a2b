"""An evaluation's summary as tables (Markdown, CSV), as JSON and as figures, each written completely or not
at all."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..comparison.variants import ANOTHER, CONTROLS, UNASKED
from ..comparison.variants import no_better as no_better_than_controls
from ..files import whole_file
from ..tables import as_csv
from ..tables import markdown as markdown_table
from .curve import curve_figure
from .figures import families_figure, seconds_figure
from .records import UNREADABLE
from .statistics import CONFIDENCE, DRAWS, SEED, Estimate
from .summary import Difference, Row, Summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TABLE, CSV, JSON = "table.md", "table.csv", "results.json"
CURVE, FAMILIES, SECONDS = "curve.png", "families.png", "seconds.png"
"""The files' names. Where no question has a truth there are no families."""

_NOTES = f"""\
Accuracies in per cent, differences in points, with {CONFIDENCE:.0%} intervals: overall and differences from {DRAWS:,} \
draws of whole clips (seed {SEED}), families after Wilson. p: McNemar's exact test. families' mean: every family \
counts the same. agreement: share of the answers that full tokens give, word for word. Seconds are means over clips: \
encode and reduce as they say, prefill up to the end of the video, which all questions share, questions for reading \
and answering all of a clip's questions together. speed-up: of encode, reduce and prefill together, against full \
tokens; of prefill: of that alone. where they fail, where one is right: accuracies on the questions that full tokens \
get right and none of the controls at the same retention does, and on those that one does, as VTC-Bench groups them by \
smaller frames. \
readings: how often the video is read, anew for each question where a stage asks or acts inside the LLM, once more \
with an assistant; seconds of reduce and prefill are sums over them. Where stages act inside the LLM, tokens and \
retention are means over its layers. majority: always the family's most frequent answer.
"""


def write_report(summary: Summary, about: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Write the files to ``folder``.

    Args:
        summary: of the evaluation.
        about: what was evaluated: ``set``, ``model``, ``frames``, ``dtype``, ``device``, ``command``, ``date``, and
            anything else for the JSON.
        folder: to write to.

    Returns:
        What the JSON holds: ``about``'s entries and the summary's.

    Raises:
        InputError: the folder cannot be written.
    """
    result = {**about, **dataclasses.asdict(summary)}
    with whole_file(folder / TABLE) as path:
        path.write_text(markdown(summary, about), encoding="utf-8")
    with whole_file(folder / CSV) as path:
        path.write_text(as_csv([_flat(row, summary) for row in summary.rows]), encoding="utf-8", newline="")
    with whole_file(folder / JSON) as path:
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for name, figure in _figures(summary, about).items():
        with whole_file(folder / name) as path:
            figure.savefig(path, format="png", dpi=130)
    return result


def _figures(summary: Summary, about: Mapping[str, Any]) -> dict[str, Figure]:
    """The figures by the names of their files."""
    title = f"{about['set']}, {about['model']}, {about['frames']} frames"
    cost = f"{title}: what answers cost, {about['dtype']} on {about['device']}"
    figures = {CURVE: curve_figure(summary, title), SECONDS: seconds_figure(summary, cost)}
    if FAMILIES in written(summary):
        right = f"{title}: per cent right (of questions), the darker the more is lost"
        figures[FAMILIES] = families_figure(summary, right)
    return figures


def written(summary: Summary) -> tuple[str, ...]:
    """The names of the files of a summary's report."""
    return TABLE, CSV, JSON, CURVE, SECONDS, *([FAMILIES] if summary.asked else [])


def markdown(summary: Summary, about: Mapping[str, Any]) -> str:
    """Two tables, all variants and their families, under what was evaluated and how."""
    heading = (
        f"# {about['set']}: {summary.questions} questions about {summary.clips} clips\n\n"
        f"{about['model']}, {about['frames']} frames, {about['dtype']} on {about['device']}, {about['date']}\n\n"
        f"    {about['command']}\n"
    )
    if summary.unreadable:
        heading += f"\n{left_out(summary)}\n"
    tables = [markdown_table(*overview(summary), padded=True) + "\n"]
    if summary.asked:
        tables.append(markdown_table(*families(summary), padded=True) + "\n")
    if summary.groups:
        tables.append(markdown_table(*difficulty(summary), padded=True) + "\n")
    if said := no_better(summary):
        tables.insert(1, "\n\n".join(said) + "\n")
    return "\n".join((heading, *tables, _NOTES))


def left_out(summary: Summary) -> str:
    """How many clips could not be read, the first of them, and how to have them tried again.

    Args:
        summary: with such clips.
    """
    line = not_read(summary.clips, summary.unreadable)
    return f"{line} Delete {UNREADABLE} in the results' folder to try them again."


def not_read(clips: int, unreadable: Mapping[str, str]) -> str:
    """One line that says how many clips could not be read, and the first of them.

    Args:
        clips: number of those that could be read.
        unreadable: why each of the others could not be, by its name; at least one.
    """
    count, (clip, reason) = len(unreadable), next(iter(unreadable.items()))
    return f"{count} of {clips + count} clips could not be read and are left out; the first is {clip}: {reason}."


def no_better(summary: Summary) -> list[str]:
    """Lines that say which variants are no better than their controls; none where all are.

    Fewer or smaller frames at the same retention are controls of every variant; the same chain asked about something
    else, and without relevance, those of one that asks. By accuracy; by agreement with full tokens where no truth is
    known.

    Args:
        summary: of the evaluation.
    """
    controls: dict[str, float] = {}
    for row in summary.rows:
        if row.chain in CONTROLS and row.name != row.chain:
            retention = row.name.removeprefix(row.chain)
            controls[retention] = max(_merit(row), controls.get(retention, 0.0))
    worse = [
        row.name
        for row in summary.rows
        if row.chain not in CONTROLS and _merit(row) <= controls.get(row.name.removeprefix(row.chain), -1.0)
    ]
    return [
        *no_better_than_controls(worse),
        *_no_better_than_its(summary, ANOTHER, "the same asked about something else"),
        *_no_better_than_its(summary, UNASKED, "the same without relevance"),
    ]


def _no_better_than_its(summary: Summary, control: str, words: str) -> list[str]:
    """A line that names the variants that ask and are no better than this control of theirs, if any is."""
    merits = {row.name: _merit(row) for row in summary.rows}
    beside = {row.name: f"{row.chain}{control}{row.name.removeprefix(row.chain)}" for row in summary.rows}
    worse = [name for name, other in beside.items() if other in merits and merits[name] <= merits[other]]
    return [f"No better than {words}: {', '.join(worse)}."] if worse else []


def _merit(row: Row) -> float:
    return row.agreement if row.accuracy is None else row.accuracy.value


def overview(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """Head and lines of the table of all variants."""
    head = ["variant", "tokens", "retention", "accuracy", "families' mean"]
    head += [f"against {name}" for name in summary.references]
    head += ["agreement", "encode", "reduce", "prefill", "questions", "speed-up", "of prefill"]
    anew = any(row.readings > 1 for row in summary.rows)
    head += ["readings"] if anew else []
    lines = [
        [
            row.name,
            f"{row.tokens:.0f}",
            f"{row.retention:.1%}",
            _percent(row.accuracy),
            _percent(row.family_mean),
            *(_difference(row, name) for name in summary.references),
            f"{row.agreement:.1%}",
            *(f"{seconds:.2f} s" for seconds in (row.encode_s, row.reduce_s, row.prefill_s, row.questions_s)),
            f"{row.speedup:.1f} x",
            f"{row.prefill_speedup:.1f} x",
            *([f"{row.readings:.1f}"] if anew else []),
        ]
        for row in summary.rows
    ]
    if summary.majority_overall is not None:
        mean = sum(summary.majority.values()) / len(summary.majority)
        shares = [f"{100 * summary.majority_overall:.1f}", f"{100 * mean:.1f}"]
        lines.append(["majority", "", "", *shares, *[""] * (len(head) - 5)])
    return head, lines


def families(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """Head and lines of the table of accuracies by family."""
    names = list(summary.asked)
    lines = [[row.name, *(_percent(row.families[name]) for name in names)] for row in summary.rows]
    lines.append(["majority", *(f"{100 * summary.majority[name]:.1f}" for name in names)])
    lines.append(["questions", *(str(summary.asked[name]) for name in names)])
    return ["variant", *names], lines


def difficulty(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """Head and lines of the table of accuracies where fewer and smaller frames fail, and where they do not."""
    head = ["variant", "beside", "where they fail", "questions", "where one is right", "questions"]
    lines = [
        [
            each.name,
            ", ".join(each.controls),
            "none" if each.hard is None else _percent(each.hard),
            str(each.hard_questions),
            "none" if each.easy is None else _percent(each.easy),
            str(each.easy_questions),
        ]
        for each in summary.groups
    ]
    return head, lines


def _percent(estimate: Estimate | None) -> str:
    if estimate is None:
        return "no truth"
    return f"{100 * estimate.value:.1f} ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"


def _difference(row: Row, against: str) -> str:
    difference = _against(row, against)
    if difference is None:
        return ""
    value, low, high = (100 * part for part in dataclasses.astuple(difference.accuracy))
    p = "< 0.001" if difference.p < 0.001 else f"{difference.p:.3f}"
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f}), p {p}"


def _against(row: Row, name: str) -> Difference | None:
    return next((each for each in row.differences if each.against == name), None)


def _flat(row: Row, summary: Summary) -> dict[str, Any]:
    plain = {name: getattr(row, name) for name in ("name", "chain", "tokens", "retention")}
    estimates = {"accuracy": row.accuracy, "family_mean": row.family_mean}
    estimates |= {f"family {name}": row.families[name] for name in summary.asked}
    estimates |= {f"against {each.against}": each.accuracy for each in row.differences}
    for name, estimate in estimates.items():
        if estimate is not None:
            plain |= {name: estimate.value, f"{name} low": estimate.low, f"{name} high": estimate.high}
    plain |= {f"against {each.against} p": each.p for each in row.differences}
    costs = ("agreement", "encode_s", "reduce_s", "prefill_s", "questions_s", "prefill_speedup", "speedup", "readings")
    return plain | {name: getattr(row, name) for name in costs}
