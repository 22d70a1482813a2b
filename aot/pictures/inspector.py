"""The stage inspector: a video's history as a table, with what each stage kept of the features."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..stages import stages
from ..stages.replay import replay
from ..tokens.quality import figures
from ..tokens.video_tokens import StageRecord, VideoTokens
from .canvas import ORANGE
from .table import markdown, table

HEAD = ("stage", "in", "out", "kept", "time", "effective rank", "error", "frames a token", "settings")

NOTES = (
    "Effective rank: directions the kept features spread over, exp of the entropy of their normalised singular values.",
    "Error: ||X - X'|| / ||X||, every cell rebuilt from the tokens it went to, a dropped one from the nearest token.",
    "Frames a token: how many frames a kept token is a mean of, on average. Settings: those that are not the default.",
)

WITHOUT = "The full tokens are not given: only what is left can be measured, and no error."


@dataclass(frozen=True)
class Line:
    """A stage and what it left.

    Args:
        record: of the history.
        rank: effective rank of the tokens it left; None where that is not known.
        error: relative reconstruction error of the full features from them; None where that is not known.
        frames: how many frames a token is a mean of, on average; None where that is not known.
    """

    record: StageRecord
    rank: float | None = None
    error: float | None = None
    frames: float | None = None

    def cells(self, full: int) -> tuple[str, ...]:
        """As a row of the table.

        Args:
            full: tokens of the whole language grid.
        """
        record = self.record
        return (
            record.name,
            str(record.tokens_in),
            str(record.tokens_out),
            f"{record.tokens_out / full:.1%}",
            _duration(record.milliseconds),
            _number(self.rank, ".1f"),
            _number(self.error, ".3f"),
            _number(self.frames, ".2f"),
            settings_told(record),
        )


@dataclass(frozen=True)
class Inspection:
    """A video's history, line by line.

    Args:
        model: that encoded it.
        tokens_kept, tokens_full: of the language grid.
        lines: a line a stage, the encoder's first.
        complete: whether the full tokens were given.
    """

    model: str
    tokens_kept: int
    tokens_full: int
    lines: tuple[Line, ...]
    complete: bool

    @property
    def title(self) -> str:
        """How many tokens are left of how many, and the model's name."""
        told = f"{self.tokens_kept} of {self.tokens_full} tokens ({self.tokens_kept / self.tokens_full:.1%})"
        return f"{told}, {self.model}" if self.model else told

    @property
    def notes(self) -> tuple[str, ...]:
        """What the columns mean, and what is missing."""
        return NOTES if self.complete else (*NOTES, WITHOUT)

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """The table's cells."""
        return [line.cells(self.tokens_full) for line in self.lines]

    def picture(self, width: int | None = None) -> Tensor:
        """(1, H, W, 3) float32, 0 to 1: the table, the last stage standing out.

        Args:
            width: of the picture in pixels; None lets the text decide.

        Raises:
            InputError: a width the columns have no room in.
        """
        marks = {len(self.lines) - 1: ORANGE} if len(self.lines) > 1 else {}
        return table(HEAD, self.rows, title=self.title, notes=self.notes, marks=marks, width=width)

    def markdown(self) -> str:
        """The same as Markdown."""
        return "\n\n".join((f"**{self.title}**", markdown(HEAD, self.rows), *self.notes)) + "\n"


def inspect(tokens: VideoTokens, full: VideoTokens | None = None) -> Inspection:
    """A video's history with the figures of what each stage kept.

    Args:
        tokens: of any stage.
        full: what the encoder gave, before any stage: the stages run again on it, and every line gets its figures.
            None measures the tokens given only, and no error.

    Raises:
        InputError: the full tokens are reduced, of another video, or not those that ``tokens`` were made of.
    """
    if full is None:
        *earlier, last = tokens.history or (StageRecord("tokens", {}, tokens.tokens_full, tokens.tokens_kept, 0.0),)
        lines = (*(Line(record) for record in earlier), _measured(last, tokens, None))
    else:
        encoder = [_measured(record, full, full) for record in full.history]
        lines = (*encoder, *(_measured(step.record, step.reduced, full) for step in replay(full, tokens)))
    return Inspection(tokens.model, tokens.tokens_kept, tokens.tokens_full, lines, full is not None)


def settings_told(record: StageRecord) -> str:
    """The settings of a stage that are not the default; all of them where the stage is not one of those here."""
    kind = stages().get(record.name)
    default = {item.name: item.default for item in dataclasses.fields(kind)} if kind else {}
    told = _written({name: value for name, value in record.settings.items() if default.get(name, ...) != value})
    return told or ("as by default" if record.settings else "")


def _measured(record: StageRecord, tokens: VideoTokens, full: VideoTokens | None) -> Line:
    found = figures(tokens, full)
    return Line(record, found.rank, found.error, found.frames)


def _written(settings: Mapping[str, Any]) -> str:
    """As on the command line, with room to break lines."""
    return ", ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in settings.items()
    )


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _duration(milliseconds: float) -> str:
    return f"{milliseconds / 1e3:.2f} s" if milliseconds >= 1000 else f"{milliseconds:.0f} ms"
