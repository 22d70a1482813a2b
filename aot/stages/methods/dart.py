"""DART before the LLM: of the whole video, the tokens least like a few pivots, some of them words of the question.

Pivots are the tokens and the words of largest entries. They take turns, and each takes the tokens least like it that
are still free. As released the method acts inside the LLM, after its second layer; this is its form on embeddings,
as servers ship it: features and input embeddings stand for states and keys. :func:`pivots_of`, :func:`turns_of` and
:func:`taken` are the released rule on any states and keys.

Source: DART (EMNLP 2025); before the LLM as TensorRT Edge-LLM documents it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...devices import counts_on, to_device
from ...tokens.video_tokens import Layout, VideoTokens
from ..base import Budgeted, Part, Reduction
from ..budget import split_evenly
from ..options import KEEP_TOKENS, NO_RELEVANCE, OPTIONAL_RETENTION, RELEVANCE, Setting
from ..toolkit.language_grid import LanguageGrid, unit
from ..toolkit.newlines import NewlineRule
from ..toolkit.ranking import top_k, top_k_mask, true_places


@dataclass(frozen=True)
class DART(Budgeted):
    """Keep the tokens that are least like a few pivots, which are tokens of the video and words of the question."""

    name = "dart"
    title = "DART"
    node_id = "AOTDART"
    asks = True
    fixes_budget = ("reduction",)
    source = "DART, EMNLP 2025, its form on embeddings"

    retention: float = OPTIONAL_RETENTION.field()
    keep_tokens: int = KEEP_TOKENS.field()
    relevance: str = RELEVANCE.field()
    reduction: float = Setting(
        0.778,
        "Share of the video's language grid to drop; every pivot takes the same whole number of tokens. Not used where "
        "a retention is given.",
        low=0,
        high=0.999,
        step=0.001,
        advanced=True,
    ).field()
    image_pivots: int = Setting(
        4, "Pivots among the video's tokens; they are kept.", low=1, high=64, advanced=True
    ).field()
    text_pivots: int = Setting(
        4,
        "Pivots among the words of the question, or all of its words where it has fewer.",
        low=1,
        high=64,
        advanced=True,
    ).field()

    @property
    def needs_question(self) -> bool:
        """Whether words are among the pivots."""
        return self.relevance != NO_RELEVANCE

    def build(self, tokens: VideoTokens, part: Part) -> Reduction:
        """Kept cells in order of time, then raster."""
        grid = LanguageGrid.of(self.title, tokens)
        cells = grid.features.flatten(0, 1)
        words = cells[:0]
        if self.needs_question and tokens.question is not None:
            words = tokens.question.words.to(cells)
        states, length = torch.cat((cells, words)), len(cells)
        image, text = min(self.image_pivots, length), min(self.text_pivots, len(words))
        if part.budgets is not None:
            return self._with_budgets(grid, states, part.budgets, image, text)
        total = self.total(tokens.layout)
        if not total:
            total = min(length, image + (image + text) * int(length * (1 - self.reduction) / (image + text)))
        image = min(image, total)
        each = split_evenly(total - image, image + text)
        first = pivots_of(states[None], 0, length, image)
        second = pivots_of(states[None], length, len(states), text)
        keep = taken(states, 0, length, first, turns_of(first, second), each)
        return grid.selection(true_places(keep, total), NewlineRule.KEPT_ROWS)

    def _with_budgets(
        self, grid: LanguageGrid, states: Tensor, budgets: tuple[int, ...], image: int, text: int
    ) -> Reduction:
        """Every frame's budget, spent by the video's pivots: each takes its part of it in turn.

        A pivot is kept where its frame has room; of a frame with more pivots than room, the largest.
        """
        frames, cells = grid.token.shape
        device, length = states.device, frames * cells
        first = pivots_of(states[None], 0, length, image)
        turns = turns_of(first, pivots_of(states[None], length, len(states), text))
        falling = torch.arange(image, 0, -1, device=device)
        rank = torch.zeros(length, dtype=torch.long, device=device).index_copy_(0, first, falling)
        rank = rank.reshape(frames, cells)
        budget = counts_on(budgets, device)
        keep = top_k_mask(rank, (rank > 0).sum(1).minimum(budget))
        left = budget - keep.sum(1)
        directions = unit(states)
        unlike = -(directions[:length] @ directions[turns].T).reshape(frames, cells, -1)
        for turn in range(len(turns)):
            each = (turn + 1) * left // len(turns) - turn * left // len(turns)
            keep = keep | top_k_mask(unlike[:, :, turn].masked_fill(keep, -torch.inf), each)
        return grid.selection(true_places(keep, sum(budgets)), NewlineRule.KEPT_ROWS)

    def frame_limits(self, layout: Layout, timestamps: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """From nothing at all to every cell."""
        return (0,) * layout.frames, (layout.language_cells,) * layout.frames

    def total(self, layout: Layout) -> int:
        """Tokens to keep of the video; 0 where the share to drop decides.

        Raises:
            InputError: a budget is above what there is.
        """
        return self.budget_of(layout, 1, layout.frames * layout.language_cells) if self.has_budget else 0


def pivots_of(keys: Tensor, first: int, last: int, count: int) -> Tensor:
    """The positions from ``first`` up to ``last`` whose keys have the largest sums of absolute values.

    Args:
        keys: (H, S, h) floating.
        first: of the positions to choose from.
        last: the first position after them.
        count: how many to choose.

    Returns:
        (count,) long, the largest first.
    """
    return top_k(keys[:, first:last].abs().sum((0, 2)), count) + first


def turns_of(image: Tensor, text: Tensor) -> Tensor:
    """Pivots in the order of their turns, which the released code leaves to how CPython walks a set of numbers.

    Args:
        image: (p,) long, positions of pivots in the video.
        text: (q,) long, positions of pivots after it.

    Returns:
        (p + q,) long.
    """
    return to_device(list(set(torch.cat((image, text)).tolist())), image.device)


def taken(states: Tensor, start: int, length: int, kept: Tensor, turns: Tensor, each: Sequence[int]) -> Tensor:
    """Which of a video's tokens are kept: its pivots, and what the pivots take in turn.

    Args:
        states: (S, D) floating, of the whole sequence.
        start: position of the video's first token.
        length: of the video, in tokens.
        kept: (p,) long, positions of the pivots in the video.
        turns: (q,) long, positions of all pivots, in the order of their turns.
        each: how many tokens each takes.

    Returns:
        (length,) bool.
    """
    directions = unit(states)
    unlike = -(directions[start : start + length] @ directions[turns].T)
    keep = torch.zeros(length, dtype=torch.bool, device=states.device).index_fill_(0, kept - start, True)
    for column, count in zip(unlike.T, each, strict=True):
        keep = keep | top_k_mask(column.masked_fill(keep, -torch.inf)[None], count)[0]
    return keep
