"""The stage inspector: a table of the stages that ran, with how much of the features each one kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..stages import every_stage
from ..stages.replay import replay
from ..tables import markdown
from ..tokens.quality import figures
from ..tokens.video_tokens import StageRecord, VideoTokens
from .canvas import ORANGE
from .table import table

HEAD = ("stage", "in", "out", "kept", "time", "effective rank", "error", "frames a token", "settings")

NOTES = (
    "Effective rank: directions the kept features spread over, exp of the entropy of their normalised singular values.",
    "Error: ||X - X'|| / ||X||, every cell rebuilt from the tokens it went to, a dropped one from the nearest token.",
    "Frames a token: how many frames a kept token is a mean of, on average. Settings: those that are not the default.",
)

ATTRIBUTION = (
    "Frames were mixed, or made smaller, before their tokens: W says what a token stands for, and is not exact for its "
    "features."
)
WITHOUT = "The full tokens are not given: only what is left can be measured, and no error."


@dataclass(frozen=True)
class Line:
    """A stage and what it left.

    Args:
        record: of the history.
        rank: effective rank of the tokens it left; None where it was not measured.
        error: relative reconstruction error of the full features from them; None where it was not measured.
        frames: how many frames a token is a mean of, on average; None where it was not measured.
    """

    record: StageRecord
    rank: float | None = None
    error: float | None = None
    frames: float | None = None

    def row(self, full: int) -> tuple[str, ...]:
        """The line as a row of the table.

        Args:
            full: tokens of the video's language grid before any stage.
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
            changed_settings(record),
        )


@dataclass(frozen=True)
class Inspection:
    """A video's history, line by line.

    Args:
        model: that encoded it.
        tokens_kept: of the language grid.
        tokens_full: of the language grid.
        lines: one for each stage, the encoder's first.
        complete: whether every stage was measured.
        exact: whether the features are what W makes of the encoder's.
    """

    model: str
    tokens_kept: int
    tokens_full: int
    lines: tuple[Line, ...]
    complete: bool
    exact: bool = True

    @property
    def title(self) -> str:
        """Tokens kept, tokens before, and the model's name."""
        title = f"{self.tokens_kept} of {self.tokens_full} tokens ({self.tokens_kept / self.tokens_full:.1%})"
        return f"{title}, {self.model}" if self.model else title

    @property
    def notes(self) -> tuple[str, ...]:
        """What the columns mean, and what was not measured."""
        notes = NOTES if self.complete else (*NOTES, WITHOUT)
        return notes if self.exact else (*notes, ATTRIBUTION)

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """The table's cells."""
        return [line.row(self.tokens_full) for line in self.lines]

    def picture(self, width: int | None = None) -> Tensor:
        """(1, H, W, 3) float32, 0 to 1: the table, with the last stage marked.

        Args:
            width: of the picture in pixels; None fits the text.

        Raises:
            InputError: the columns have no room in this width.
        """
        marks = {len(self.lines) - 1: ORANGE} if len(self.lines) > 1 else {}
        return table(HEAD, self.rows, title=self.title, notes=self.notes, marks=marks, width=width)

    def markdown(self) -> str:
        """The same table as Markdown."""
        return "\n\n".join((f"**{self.title}**", markdown(HEAD, self.rows), *self.notes)) + "\n"


def inspect(tokens: VideoTokens, full: VideoTokens | None = None) -> Inspection:
    """The stages that ran on a video, with the figures of what each one kept.

    Args:
        tokens: of any stage.
        full: the encoder's tokens, before any stage. The stages run on them again, and every line gets its figures.
            None measures ``tokens`` only, and no error.

    Raises:
        InputError: ``full`` is reduced, of another video, or not what ``tokens`` were made of.
    """
    if full is None:
        *earlier, last = tokens.history or (StageRecord("tokens", {}, tokens.tokens_full, tokens.tokens_kept, 0.0),)
        lines = (*(Line(record) for record in earlier), _measured(last, tokens, None))
    else:
        encoder = [_measured(record, full, full) for record in full.history]
        lines = (*encoder, *(_measured(step.record, step.reduced, full) for step in replay(full, tokens)))
    return Inspection(tokens.model, tokens.tokens_kept, tokens.tokens_full, lines, full is not None, tokens.is_exact)


def changed_settings(record: StageRecord) -> str:
    """The settings of a stage that are not the default; all of them where the stage is unknown here, but for lists.

    Args:
        record: of the stage.
    """
    kind = every_stage().get(record.name)
    default = {item.name: item.default for item in dataclasses.fields(kind)} if kind else {}
    known = {name: value for name, value in record.settings.items() if not isinstance(value, (list, tuple))}
    text = _assignments({name: value for name, value in known.items() if default.get(name, ...) != value})
    return text or ("as by default" if record.settings else "")


def _measured(record: StageRecord, tokens: VideoTokens, full: VideoTokens | None) -> Line:
    measured = figures(tokens, full)
    return Line(record, measured.rank, measured.error, measured.frames)


def _assignments(settings: Mapping[str, Any]) -> str:
    """Settings as on the command line, with room to break lines."""
    return ", ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in settings.items()
    )


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _duration(milliseconds: float) -> str:
    return f"{milliseconds / 1e3:.2f} s" if milliseconds >= 1000 else f"{milliseconds:.0f} ms"
