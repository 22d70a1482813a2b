"""What became of every cell of the language grid, and the areas that tokens absorbed: read off W, places and roles.

No stage keeps books for this, so it is the same for any, whoever wrote it.
"""

from __future__ import annotations

from enum import IntFlag
from typing import NamedTuple

import torch
from torch import Tensor

from ..tokens.quality import LEAST_MASS, absorption
from ..tokens.video_tokens import Role, VideoTokens


class Fate(IntFlag):
    """What became of a cell: a flag for each role of the tokens at its place, or how it went where there is none.

    Of what survives of an ABSORBED cell at least half is in tokens of its own frame, of an ELSEWHERE cell more than
    half in those of other frames; a DROPPED cell is in no token at all.
    """

    ABSORBED = 0
    KEPT = 1 << int(Role.KEPT)
    KEYFRAME = 1 << int(Role.KEYFRAME)
    DISTINCT = 1 << int(Role.DISTINCT)
    UPDATED = 1 << int(Role.MERGED)
    ELSEWHERE = 1 << 5
    DROPPED = 1 << 6


SURVIVES = Fate.KEPT | Fate.KEYFRAME | Fate.DISTINCT | Fate.UPDATED
"""Cells with a token at their place."""


class LegendEntry(NamedTuple):
    """A line of the legend: a fate as it is drawn, its name, how many there are, what it means."""

    fate: Fate
    name: str
    count: int
    meaning: str


class Cells(NamedTuple):
    """Every cell of a video's language grid.

    Args:
        fate: (T, h, w) uint8 of :class:`Fate` flags.
        area: (T, h, w) long, the cell, counted through the video, whose token the cell's area belongs to; -1 in no
            area. An area is a token's own cell and those it absorbed in its frame, one at least.
    """

    fate: Tensor
    area: Tensor


def cells_of(tokens: VideoTokens) -> Cells:
    """The fate of every cell, and the areas that merged tokens absorbed."""
    fate = _at_places(tokens)
    area = torch.full(fate.shape, -1)
    gone = fate == 0
    if not bool(gone.any()):
        return Cells(fate, area)
    went = absorption(tokens)
    dropped = went.mass < LEAST_MASS
    fate[gone & ~dropped & (went.here < 0.5)] = int(Fate.ELSEWHERE)
    fate[gone & dropped] = int(Fate.DROPPED)
    height, width = fate.shape[1:]
    t, y, x = tokens.place.cpu()[went.owner.clamp(min=0)].unbind(-1)
    joined = (fate == int(Fate.ABSORBED)) & (x < width)
    area[joined] = ((t * height + y) * width + x)[joined]
    own = torch.arange(area.numel()).reshape(area.shape)
    return Cells(fate, torch.where(torch.isin(own, area), own, area))


def fates(tokens: VideoTokens) -> Tensor:
    """(T, h, w) uint8 of :class:`Fate` flags: what became of every cell of the language grid."""
    return cells_of(tokens).fate


def legend(tokens: VideoTokens) -> tuple[LegendEntry, ...]:
    """What a token map's legend says: tokens of every role there is, cells absorbed, and where there are any, those
    absorbed by another frame and those dropped."""
    return entries(tokens, fates(tokens))


def entries(tokens: VideoTokens, fate: Tensor) -> tuple[LegendEntry, ...]:
    """The legend of tokens whose fates are known."""
    roles = tokens.role.cpu() if tokens.pooled else torch.full((tokens.tokens_full,), int(Role.KEPT))
    count = torch.bincount(roles.long(), minlength=len(Role)).tolist()
    repeats = bool((fate == int(Fate.KEYFRAME | Fate.UPDATED)).any())
    updated = Fate.KEYFRAME | Fate.UPDATED if repeats else Fate.UPDATED
    again = "the keyframe cell again, merged" if repeats else "a mean of several cells"
    survivors = (
        LegendEntry(Fate.KEPT, "kept", count[Role.KEPT], "stays a token"),
        LegendEntry(Fate.KEYFRAME, "keyframe", count[Role.KEYFRAME], "the clip's anchor, as it was"),
        LegendEntry(updated, "updated", count[Role.MERGED], again),
        LegendEntry(Fate.DISTINCT, "distinct", count[Role.DISTINCT], "new in its frame"),
    )
    gone = (
        LegendEntry(Fate.ELSEWHERE, "to another frame", 0, "merged, mostly, into its tokens"),
        LegendEntry(Fate.DROPPED, "dropped", 0, "in no token at all"),
    )
    here = int((fate == int(Fate.ABSORBED)).sum())
    return (
        *(entry for entry in survivors if entry.count),
        LegendEntry(Fate.ABSORBED, "absorbed", here, "merged in its frame"),
        *(
            entry._replace(count=int((fate == int(entry.fate)).sum()))
            for entry in gone
            if (fate == int(entry.fate)).any()
        ),
    )


def _at_places(tokens: VideoTokens) -> Tensor:
    """(T, h, w) uint8: the roles of the tokens that stand at each cell."""
    layout = tokens.layout
    found = torch.zeros(layout.frames, *layout.language_grid, dtype=torch.uint8)
    if not tokens.pooled:
        return found.fill_(int(Fate.KEPT))
    place, role = tokens.place.cpu(), tokens.role.cpu()
    for each in Role:
        if each is not Role.NEWLINE:
            t, y, x = place[role == int(each)].unbind(1)
            found[t, y, x] |= 1 << int(each)
    return found
