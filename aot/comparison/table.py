"""A comparison's rows as a table: for a terminal, in Markdown, CSV and as a picture, with the same figures in each."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..answering.answer import Answer
from ..pictures.canvas import GREEN, SKY_BLUE
from ..pictures.table import table
from ..tables import aligned, markdown
from ..tables import as_csv as csv_of
from .compare import Row, closest, fastest, no_closer
from .variants import no_better

LONGEST = 60
"""Letters of an answer in a terminal's table."""


@dataclass(frozen=True)
class Column:
    """A column.

    Args:
        head: its name.
        cell: gives a row's cell.
        note: what the column means, if its name does not say it.
        is_drawn: whether a picture, which is narrow, has room for it.
    """

    head: str
    cell: Callable[[Row], str]
    note: str = ""
    is_drawn: bool = True


COLUMNS = (
    Column("stages", lambda row: row.name),
    Column("tokens", lambda row: _tokens(row.answer)),
    Column("retention", lambda row: f"{row.answer.retention:.1%}", is_drawn=False),
    Column("file", lambda row: _seconds(row.answer.file_s), "opening it and decoding the frames"),
    Column("encode", lambda row: f"{row.answer.encode_s:.2f} s"),
    Column("reduce", lambda row: f"{row.answer.reduce_s:.2f} s"),
    Column("prefill", lambda row: f"{row.answer.prefill_s:.2f} s", "reading the prompt, to the first token"),
    Column("first token", lambda row: f"{row.answer.first_token_s:.2f} s", "file, encode, reduce and prefill"),
    Column("speed-up", lambda row: f"{row.first_token_speedup:.1f} x", "of the first token, against full tokens"),
    Column("of prefill", lambda row: f"{row.speedup:.1f} x", "speed-up of prefill alone", is_drawn=False),
    Column("decode", lambda row: f"{row.answer.decode_s:.2f} s", "from the first token to the last"),
    Column(
        "TFLOPs",
        lambda row: f"{row.answer.prefill_flops / 1e12:.3g}",
        "estimate for prefilling the visual tokens",
        is_drawn=False,
    ),
    Column("KV", lambda row: f"{row.answer.kv_cache_bytes / 2**20:.1f} MiB", "keys and values of prompt and answer"),
    Column("same", lambda row: "yes" if row.fidelity.same else "no", "the text is the full answer's"),
    Column(
        "alike", lambda row: _share(row.fidelity.alike), "share of the tokens, from the first on, that are the same"
    ),
    Column(
        "KL first",
        lambda row: _nats(row.fidelity.kl_first),
        "how far the first token's distribution is from that of full tokens, in nats",
    ),
)
INNER = Column(
    "mean",
    lambda row: f"{row.answer.retention:.1%}",
    "retention on average over the LLM's layers, as TFLOPs and KV are; tokens: before the LLM, and in its last layer",
)
"""Left out if no stage acts inside the LLM."""

MODEL_COLUMNS = (
    Column("KL", lambda row: _nats(row.fidelity.kl), "mean of the same over all tokens of the full answer"),
    Column("log-prob", lambda row: _sum_of_nats(row.fidelity.log_probability), "of the full answer, in nats"),
    Column("top-1", lambda row: _share(row.fidelity.top1), "share of its tokens at which both have the same favourite"),
)
"""Figures that need the model's distributions; left out if no row has them."""

RIGHT = Column("right", lambda row: "yes" if row.right else "no", "the right answer occurs in the answer")
"""Left out if the right answer is not known."""

QUESTION = Column("question", lambda row: row.answer.question)
MODEL = Column("model", lambda row: row.answer.model)
ANSWER = Column("answer", lambda row: row.answer.text or "(empty)")


def columns(rows: Sequence[Row]) -> tuple[Column, ...]:
    """The columns that apply to these rows."""
    chosen = list(COLUMNS)
    if any(row.answer.layer_tokens for row in rows):
        chosen.insert(2, INNER)
        chosen = [each for each in chosen if each.head != "retention"]
    if any(row.fidelity.kl is not None for row in rows):
        chosen += MODEL_COLUMNS
    if all(row.truth is not None for row in rows):
        chosen.append(RIGHT)
    for each in (QUESTION, MODEL):
        if len({each.cell(row) for row in rows}) > 1:
            chosen.append(each)
    return (*chosen, ANSWER)


def terminal(rows: Sequence[Row]) -> str:
    """Aligned columns with shortened answers, and below them the fastest row and the one closest to full."""
    chosen = columns(rows)
    cells = [[textwrap.shorten(each.cell(row), LONGEST, placeholder="...") for each in chosen] for row in rows]
    return "\n".join((aligned([each.head for each in chosen], cells), *verdicts(rows)))


def as_markdown(rows: Sequence[Row]) -> str:
    """A Markdown table: the question above, the fastest and the closest row marked, the columns explained below."""
    chosen = columns(rows)
    head, cells = _marked(rows, chosen)
    question = "" if _several(rows) else f"**{_one_line(rows[0].answer.question)}**\n\n"
    return f"{question}{markdown(head, cells)}\n\n" + "\n\n".join((*verdicts(rows), notes(chosen))) + "\n"


def as_csv(rows: Sequence[Row]) -> str:
    """A line a row: figures as measured, shares from 0 to 1; empty if something is not known."""
    left_out = ("turns", "stages", "answer", "layer_tokens")
    lines = []
    for row in rows:
        values = {name: value for name, value in row.to_dict().items() if name not in left_out}
        lines.append({"stages": row.name, "question": row.answer.question, "answer": row.answer.text, **values})
    return csv_of(lines)


def picture(rows: Sequence[Row], refused: Sequence[str] = ()) -> Tensor:
    """The table, drawn without a few columns; the fastest row and the reduced one closest to full are marked.

    Args:
        rows: at least one.
        refused: what was left out and why, written below.

    Returns:
        (1, H, W, 3) float32, 0 to 1.
    """
    chosen = [each for each in columns(rows) if each.is_drawn]
    head, cells = _marked(rows, chosen)
    marks = {}
    for group in groups(rows):
        near = closest(group)
        if near is not None:
            marks[_index(rows, near)] = GREEN
        marks.setdefault(_index(rows, fastest(group)), SKY_BLUE)
    title = "" if _several(rows) else _one_line(rows[0].answer.question)
    return table(
        head,
        cells,
        title=title,
        notes=(*verdicts(rows), *(f"Left out: {reason}" for reason in refused), notes(chosen)),
        marks=marks,
    )


def verdicts(rows: Sequence[Row]) -> list[str]:
    """The fastest row and the one closest to full, for each question and model; what is no better than controls."""
    lines = []
    for group in groups(rows):
        quick, near = fastest(group), closest(group)
        line = f"Fastest: {quick.name} ({quick.answer.first_token_s:.2f} s to the first token)."
        if near is not None:
            line += f" Closest to full: {near.name}{_how_close(near)}."
        lines.append(f"{_one_line(group[0].answer.question)} {line}" if _several(rows) else line)
        lines += no_better([row.name for row in no_closer(group)])
    return lines


def with_refusals(markdown: str, refused: Sequence[str]) -> str:
    """A table in Markdown, and below it what was left out and why."""
    return "\n".join((markdown.rstrip("\n"), *(f"\nLeft out: {reason}" for reason in refused), ""))


def notes(chosen: Sequence[Column]) -> str:
    """What the columns mean, in one line."""
    return "; ".join(f"{each.head}: {each.note}" for each in chosen if each.note) + "."


def groups(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of each question and model, in their order."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.answer.model, row.answer.question), []).append(row)
    return list(groups.values())


def _marked(rows: Sequence[Row], chosen: Sequence[Column]) -> tuple[list[str], list[list[str]]]:
    """Head and cells; a marked row's name is followed by its mark."""
    cells = [[each.cell(row) for each in chosen] for row in rows]
    for group in groups(rows):
        for row, why in ((fastest(group), "fastest"), (closest(group), "closest to full")):
            if row is not None:
                cells[_index(rows, row)][0] += f"\n{why}"
    return [each.head for each in chosen], cells


def _index(rows: Sequence[Row], row: Row) -> int:
    return next(i for i, each in enumerate(rows) if each is row)


def _several(rows: Sequence[Row]) -> bool:
    return len({row.answer.question for row in rows}) > 1


def _one_line(text: str) -> str:
    return textwrap.shorten(text, 160, placeholder="...")


def _how_close(row: Row) -> str:
    if row.fidelity.kl is not None:
        return f" (KL {_nats(row.fidelity.kl)})"
    return "" if row.fidelity.kl_first is None else f" (KL of the first token {_nats(row.fidelity.kl_first)})"


def _tokens(answer: Answer) -> str:
    last = f", {answer.layer_tokens[-1]}" if answer.layer_tokens else ""
    return f"{answer.tokens_kept}/{answer.tokens_full}{last}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _sum_of_nats(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _nats(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
