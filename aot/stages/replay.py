"""Running a video's stages again from its history, for what reduced tokens no longer tell."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import torch

from ..errors import InputError
from ..tokens.quality import require_full, steps_inside
from ..tokens.video_tokens import ENCODE, StageRecord, VideoTokens
from . import Stage, every_stage


class Step(NamedTuple):
    """A stage that ran again.

    Args:
        stage: the stage itself.
        record: its line in the history, of when it first ran.
        src: the tokens it reduced.
        reduced: the tokens it made.
    """

    stage: Stage
    record: StageRecord
    src: VideoTokens
    reduced: VideoTokens


def replay(full: VideoTokens, tokens: VideoTokens) -> Iterator[Step]:
    """Every stage in the history of some tokens, run again on the encoder's.

    Args:
        full: the encoder's tokens, before any stage after it; stages inside the tower ran on both. A question is taken
            from the others where they have none.
        tokens: what the stages made of them.

    Raises:
        InputError: ``full`` is reduced or of another video, the history names a stage that is not here, or the
            stages make other tokens of it now.
    """
    require_full(full, tokens)
    inside = {name for name, _ in steps_inside(full)}
    now = full if full.question is not None else dataclasses.replace(full, question=tokens.question)
    names = [record.name for record in tokens.history]
    for record in tokens.history[names.index(ENCODE) + 1 if ENCODE in names else 0 :]:
        if record.name in inside:
            continue
        stage = _stage(record)
        src, now = now, stage(now)
        yield Step(stage, record, src, now)
    again, before = (
        (each.place.cpu(), each.role.cpu()) for each in (now.to_language_grid(), tokens.to_language_grid())
    )
    if not all(map(torch.equal, again, before)):
        raise InputError(
            "The stages make other tokens of the full ones than those given; give the tokens they were made of, or "
            "leave the full ones away."
        )


def _stage(record: StageRecord) -> Stage:
    kind = every_stage().get(record.name)
    known = {item.name for item in dataclasses.fields(kind)} if kind else set()
    if kind is None or not issubclass(kind, Stage) or not known.issuperset(record.settings):
        raise InputError(
            f"The history's stage {record.name!r} cannot be run again with the settings recorded; leave the full "
            "tokens away."
        )
    return kind(**record.settings)
