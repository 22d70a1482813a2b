"""What became of every cell of the language grid, and the areas that tokens absorbed.

Everything is read off the token map W, the tokens' places and their roles, so it works for any stage.
"""

from __future__ import annotations

from enum import IntFlag
from typing import NamedTuple

import torch
from torch import Tensor

from ..tokens.quality import LEAST_MASS, absorption
from ..tokens.video_tokens import Role, VideoTokens
from .roles import ROLE_STYLES


class Outcome(IntFlag):
    """What became of a cell: a flag for the role of each token at its place, or how it went where there is none.

    ABSORBED: at least half of what is left of the cell is in tokens of its own frame. ELSEWHERE: more than half of it
    is in tokens of other frames. DROPPED: the cell is in no token at all.
    """

    ABSORBED = 0
    KEPT = 1 << int(Role.KEPT)
    KEYFRAME = 1 << int(Role.KEYFRAME)
    DISTINCT = 1 << int(Role.DISTINCT)
    UPDATED = 1 << int(Role.MERGED)
    ELSEWHERE = 1 << 5
    DROPPED = 1 << 6


SURVIVES = Outcome.KEPT | Outcome.KEYFRAME | Outcome.DISTINCT | Outcome.UPDATED
"""Cells with a token at their place."""


class LegendEntry(NamedTuple):
    """A line of the legend.

    Args:
        outcome: as it is drawn.
        name: of the outcome.
        count: tokens of a role, or cells of another outcome.
        meaning: in a few words.
    """

    outcome: Outcome
    name: str
    count: int
    meaning: str


class CellOutcomes(NamedTuple):
    """Every cell of a video's language grid.

    Args:
        outcome: (T, h, w) uint8 of :class:`Outcome` flags.
        area: (T, h, w) long, the cell, counted through the video, whose token the cell's area belongs to; -1 in no
            area. An area is a token's own cell and those it absorbed in its frame, one at least.
    """

    outcome: Tensor
    area: Tensor


def cell_outcomes(tokens: VideoTokens) -> CellOutcomes:
    """The outcome of every cell, and the areas that merged tokens absorbed.

    Args:
        tokens: of T frames, of any stage.
    """
    outcome = _roles_at_cells(tokens)
    area = torch.full(outcome.shape, -1)
    gone = outcome == 0
    if not bool(gone.any()):
        return CellOutcomes(outcome, area)
    absorbed = absorption(tokens)
    dropped = absorbed.mass < LEAST_MASS
    outcome[gone & ~dropped & (absorbed.here < 0.5)] = int(Outcome.ELSEWHERE)
    outcome[gone & dropped] = int(Outcome.DROPPED)
    owner = tokens.place.cpu()[absorbed.owner.clamp(min=0)]
    joined = (outcome == int(Outcome.ABSORBED)) & (owner[..., 2] < outcome.shape[2])  # further right are newlines
    area[joined] = tokens.layout.index(owner[joined])
    own = torch.arange(area.numel()).reshape(area.shape)
    return CellOutcomes(outcome, torch.where(torch.isin(own, area), own, area))


def legend(tokens: VideoTokens, outcome: Tensor) -> tuple[LegendEntry, ...]:
    """The lines of a token map's legend: every role that tokens have, then absorbed, to another frame and dropped.

    Args:
        tokens: of T frames, of any stage.
        outcome: (T, h, w) uint8 of :class:`Outcome` flags, of the same tokens.
    """
    roles = tokens.role.cpu() if tokens.pooled else torch.full((tokens.tokens_encoded,), int(Role.KEPT))
    count = torch.bincount(roles.long(), minlength=len(Role)).tolist()
    repeats = bool((outcome == int(Outcome.KEYFRAME | Outcome.UPDATED)).any())
    entries = []
    for role in (Role.KEPT, Role.KEYFRAME, Role.MERGED, Role.DISTINCT):
        drawn, style = Outcome(1 << int(role)), ROLE_STYLES[role]
        meaning = style.meaning
        if role is Role.MERGED and repeats:
            drawn, meaning = drawn | Outcome.KEYFRAME, "the keyframe cell again, merged"
        if count[role]:
            entries.append(LegendEntry(drawn, style.name, count[role], meaning))
    for drawn, name, meaning in (
        (Outcome.ABSORBED, "absorbed", "merged in its frame"),
        (Outcome.ELSEWHERE, "to another frame", "merged, mostly, into its tokens"),
        (Outcome.DROPPED, "dropped", "in no token at all"),
    ):
        cells = int((outcome == int(drawn)).sum())
        if cells or drawn is Outcome.ABSORBED:
            entries.append(LegendEntry(drawn, name, cells, meaning))
    return tuple(entries)


def _roles_at_cells(tokens: VideoTokens) -> Tensor:
    """(T, h, w) uint8: a flag for the role of each token at each cell, 0 where there is none."""
    layout = tokens.layout
    roles = torch.zeros(layout.frames, *layout.language_grid, dtype=torch.uint8)
    if not tokens.pooled:
        return roles.fill_(int(Outcome.KEPT))
    place, role = tokens.place.cpu(), tokens.role.cpu()
    for each in Role:
        if each is not Role.NEWLINE:
            t, y, x = place[role == int(each)].unbind(1)
            roles[t, y, x] |= 1 << int(each)
    return roles
