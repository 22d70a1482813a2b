"""From the names that tokens carry to the stages that act inside the LLM."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from ..errors import InputError
from ..tokens.video_tokens import Inside, VideoTokens
from . import InnerStage, every_stage


def carried(tokens: VideoTokens) -> tuple[InnerStage, ...]:
    """The stages that act inside the LLM when it reads these tokens.

    Args:
        tokens: of any stage.

    Raises:
        InputError: one is not known here, or not with its settings.
    """
    return tuple(map(_stage, tokens.inner))


def between_layers(tokens: VideoTokens) -> tuple[InnerStage, ...]:
    """Those of the carried stages that act between the LLM's layers.

    Args:
        tokens: of any stage.

    Raises:
        InputError: as :func:`carried`.
    """
    return tuple(stage for stage in carried(tokens) if not stage.keeps_positions)


def keeps_positions(tokens: VideoTokens) -> bool:
    """Whether the LLM shall read these tokens at the positions that they have in the full video.

    Args:
        tokens: of any stage.

    Raises:
        InputError: as :func:`carried`.
    """
    return any(stage.keeps_positions for stage in carried(tokens))


def _stage(inside: Inside) -> InnerStage:
    every_stage()  # their classes are known once their files are read
    kind = next((kind for kind in _kinds(InnerStage) if getattr(kind, "name", None) == inside.name), None)
    known = {item.name for item in dataclasses.fields(kind)} if kind else set()
    if kind is None or not known.issuperset(inside.settings):
        raise InputError(
            f"These tokens come with the stage {inside.name!r} inside the LLM, which is not known here with its "
            "settings; reduce the video again with this version."
        )
    return kind(**inside.settings)


def _kinds(kind: type[InnerStage]) -> Iterator[type[InnerStage]]:
    for each in kind.__subclasses__():
        yield each
        yield from _kinds(each)
