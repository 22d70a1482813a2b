"""An evaluation on Ray: what a worker does with a clip, and records out of the parts that workers have written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..cluster.parts import Parts
from ..comparison.variants import Variant
from ..errors import UnreadableVideo
from ..models.base import VideoLLM
from .encodings import Encodings
from .questions import QuestionSet
from .records import Records, line_of, record_of
from .runner import asker

Item = list[Any]
"""A clip's name, and the names of the variants that are asked about it."""

_RECORD, _CLIP, _REASON = "record", "clip", "reason"


class EvaluationWork:
    """What a worker does: see :class:`~..cluster.pool.Work`. An item is a clip with variants.

    Args:
        model: encodes and answers.
        questions: the set.
        variants: of the run.
        encodings: the clips' tokens.
        settings: of the records.
    """

    def __init__(
        self,
        model: VideoLLM,
        questions: QuestionSet,
        variants: Sequence[Variant],
        encodings: Encodings,
        settings: Mapping[str, Any],
    ) -> None:
        self._made = model, questions, encodings
        self._ask = None
        self._variants = {variant.name: variant for variant in variants}
        inputs = {variant.name: encodings.inputs_of(variant) for variant in variants}
        self.about = {"settings": dict(settings), "inputs": inputs}

    def do(self, items: Sequence[Item]) -> list[dict[str, Any]]:
        """The records of some clips, one after another.

        Args:
            items: the clips.

        Raises:
            InputError: a clip cannot be encoded or answered.
        """
        ask = self._ask = self._ask or asker(*self._made)
        rows = []
        for clip, names in items:
            try:
                rows += [_row(line_of(each)) for each in ask(clip, [self._variants[name] for name in names])]
            except UnreadableVideo as error:
                rows.append(_row("", clip, str(error)))
        return rows

    def give_up(self, item: Item, reason: str) -> list[dict[str, Any]]:
        """The row of a clip that cannot be done.

        Args:
            item: the clip.
            reason: why, in a line.
        """
        return [_row("", item[0], reason)]

    def notes(self) -> list[str]:
        """None."""
        return []


def take_in(records: Records, parts: Parts) -> list[str]:
    """Add the records of all parts that are there, each once.

    Args:
        records: to add to.
        parts: of this run, and of one that was stopped.

    Returns:
        The parts, which are not needed once the records are safe.
    """
    names = parts.names()
    for name in names:
        for row in parts.read(name):
            if row[_CLIP]:
                records.leave_out(row[_CLIP], row[_REASON])
                continue
            record = record_of(f"{row[_RECORD]}\n".encode())
            if record is not None and (record.clip, record.variant, record.inputs) not in records:
                records.add(record)
    return names


def _row(record: str, clip: str = "", reason: str = "") -> dict[str, str]:
    return {_RECORD: record, _CLIP: clip, _REASON: reason}
