"""What is noted beside a video's tokens: what each token is, what else the encoder saw, and which stages ran."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Any, ClassVar

from ..devices import Elapsed

ENCODE = "encode"
"""The encoder's name in a video's history; all the others are stages."""


STEPS = "steps"
"""The name of what happened to frames inside the tower, among its record's settings; absent where nothing did."""


class Role(IntEnum):
    """What a token is, for counting and for pictures."""

    KEPT = 0
    KEYFRAME = 1
    DISTINCT = 2
    MERGED = 3
    NEWLINE = 4


class Extra:
    """What an encoder may see beside features and AOT's two importances; methods that need one say what else will do.

    LAST: (T, N) float32 attention received at the last block that reaches the LLM.
    KEYS: (T, N, d) that block's keys, mean over heads.
    HEAD: (T, N) float32 what the tower's own pooling head attends to; GLOBAL: (T, G) what it then says of a frame.
    PIXELS: (T, N) float32 mean difference of a cell's pixels, 0 to 1, from those of the frame before; 0 in the first.
    TOWER: (T, N) float32 attention received at the last block after which frames were merged inside the tower.
    RUNS: (T,) float32 the number, from 1, of the run of alike frames that each is in there; 0 for a frame that is lost.
    """

    LAST: ClassVar[str] = "last"
    KEYS: ClassVar[str] = "keys"
    HEAD: ClassVar[str] = "head"
    GLOBAL: ClassVar[str] = "global"
    PIXELS: ClassVar[str] = "pixels"
    TOWER: ClassVar[str] = "tower"
    RUNS: ClassVar[str] = "runs"


@dataclass(frozen=True)
class StageRecord:
    """One line of a video's history: what ran, with which settings, on how many tokens, for how long.

    Args:
        name: the stage's.
        settings: by name.
        tokens_in: language-grid tokens before it, newlines not counted.
        tokens_out: and after it.
        elapsed: milliseconds; of work that a device may still be at, found out when they are read.
    """

    name: str
    settings: Mapping[str, Any]
    tokens_in: int
    tokens_out: int
    elapsed: float | Elapsed

    @property
    def milliseconds(self) -> float:
        """How long it took."""
        return float(self.elapsed)

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", MappingProxyType(dict(self.settings)))

    @classmethod
    def sum(cls, records: Sequence[StageRecord]) -> StageRecord:
        """The record of one stage that ran part by part."""
        first = records[0]
        tokens_in, tokens_out, elapsed = (
            sum(getattr(record, name) for record in records) for name in ("tokens_in", "tokens_out", "milliseconds")
        )
        return dataclasses.replace(first, tokens_in=tokens_in, tokens_out=tokens_out, elapsed=elapsed)

    def share(self, part: float) -> StageRecord:
        """What a part of the frames had of it."""
        tokens = {name: round(part * getattr(self, name)) for name in ("tokens_in", "tokens_out")}
        return dataclasses.replace(self, elapsed=part * self.milliseconds, **tokens)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON-ready types."""
        names = ("name", "settings", "tokens_in", "tokens_out", "milliseconds")
        return {**{name: getattr(self, name) for name in names}, "settings": dict(self.settings)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StageRecord:
        """The way back from :meth:`to_dict`.

        Args:
            values: what that returned.
        """
        return cls(**{"elapsed" if name == "milliseconds" else name: value for name, value in values.items()})


@dataclass(frozen=True)
class Inside:
    """A stage that acts inside the LLM when it reads the tokens, as they carry it there.

    Args:
        name: the stage's.
        settings: by name.
    """

    name: str
    settings: Mapping[str, Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", MappingProxyType(dict(self.settings)))

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON-ready types."""
        return {"name": self.name, "settings": dict(self.settings)}
