"""A batch on Ray: what a worker does with a few videos, and rows out of the parts that workers have written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ..cluster.parts import Parts
from ..models.fingerprint import digest
from .questions import Asking
from .rows import Rows
from .runner import DECODERS, Result, line
from .sources import Clip
from .videos import Recipe
from .work import common_of, row_of

AT_ONCE = 2
"""Pieces of work that a worker has in hand, so that it decodes for one while it answers the other."""

Item = list[list[str]]
"""A video: for each of its questions id, place, preset and question."""


class BatchWork:
    """What a worker does: see :class:`~..cluster.pool.Work`. An item is a video with its questions.

    Args:
        recipe: how.
        settings: of the rows.
        results: see :func:`.runner.line`.
        notes: what the recipe has to say is added here.
    """

    def __init__(
        self,
        recipe: Recipe,
        settings: Mapping[str, Any],
        results: Callable[[Sequence[Sequence[Asking]]], Iterator[Result]],
        notes: list[str],
    ) -> None:
        self._results, self._notes = results, notes
        self._common = common_of(recipe, settings)
        self.about = {"settings": dict(settings), "model": recipe.model.name}

    def do(self, items: Sequence[Item]) -> list[dict[str, Any]]:
        """A row for every question about some videos. An error of a video is a row.

        Args:
            items: the videos.

        Raises:
            ServerLost: servers answer, and none is left.
        """
        return [{**self._common, **row_of(found)} for found in self._results([_askings(each) for each in items])]

    def give_up(self, item: Item, reason: str) -> list[dict[str, Any]]:
        """The rows of a video that cannot be done.

        Args:
            item: the video.
            reason: why, in a line.
        """
        return [{**self._common, **row_of(Result(each, None, error=reason))} for each in _askings(item)]

    def notes(self) -> list[str]:
        """Lines for the user since the last call."""
        lines = list(self._notes)
        del self._notes[: len(lines)]
        return lines


@contextmanager
def batch_work(
    recipe: Recipe, settings: Mapping[str, Any], notes: list[str], *, batch: int = 8, decoders: int = DECODERS
) -> Iterator[BatchWork]:
    """A worker's work, with a line that stays open.

    Args:
        recipe: how.
        settings: of the rows.
        notes: see :class:`BatchWork`.
        batch: videos that are answered together, at most.
        decoders: threads that decode ahead.
    """
    with line(recipe, batch=batch, decoders=decoders) as results:
        yield BatchWork(recipe, settings, results, notes)


def pieces_of(asked: Sequence[Sequence[Asking]], videos: int) -> list[list[Item]]:
    """What is asked as pieces of work.

    Args:
        asked: for each video its questions.
        videos: of a piece.
    """
    items = [[[each.clip.id, each.clip.place, each.preset, each.question] for each in askings] for askings in asked]
    return [items[start : start + videos] for start in range(0, len(items), videos)]


def take_in(rows: Rows, parts: Parts, *, again: bool = False) -> list[str]:
    """Add the rows of all parts that are there, each once.

    Args:
        rows: to add to.
        parts: of this run, and of one that was stopped.
        again: whether rows with an error are left out, so that they are asked again.

    Returns:
        The parts, which are not needed once the rows are safe.
    """
    names = parts.names()
    for name in names:
        for row in parts.read(name):
            if (row["id"], row["preset"], row["question"]) in rows or (again and row["error"] is not None):
                continue
            if row["settings"] == digest(rows.settings):
                rows.add(row)
    return names


def _askings(item: Item) -> list[Asking]:
    return [Asking(Clip(name, place, {}), preset, question) for name, place, preset, question in item]
