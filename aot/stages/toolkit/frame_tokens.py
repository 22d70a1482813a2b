"""A video's tokens frame by frame, for stages that reduce what other stages have left."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ...devices import widened
from ...errors import InputError
from ...tokens.factors import Sparse, pad, slots
from ...tokens.layout import cells_on
from ...tokens.matmul import working_dtype
from ...tokens.video_tokens import Role, VideoTokens, weight_dtype
from ..base import Budgeted, Part, Reduction
from ..budget import fill_levels, split_evenly
from .language_grid import nearest, unit
from .newlines import NewlineRule
from .ranking import tally, top_k_mask, true_places


@dataclass(frozen=True)
class FrameTokens:
    """A video's tokens in T frames of S at most, newlines apart.

    Args:
        tokens: on the language grid, reduced or not.
        token: (T, S) long, the tokens of each frame, in the order the LLM reads them; -1 in padding.
        counts: (T,) tokens of each frame.
    """

    tokens: VideoTokens
    token: Tensor
    counts: tuple[int, ...]

    @classmethod
    def of(cls, tokens: VideoTokens) -> FrameTokens:
        """The tokens by frame.

        Args:
            tokens: on the language grid, reduced or not.
        """
        layout, device = tokens.layout, tokens.features.device
        if tokens.is_full_grid:
            return cls(tokens, cells_on(layout, device), (layout.language_cells,) * layout.frames)
        if not layout.newlines and tokens.counts is not None:
            counts, by_frame = tokens.counts, torch.arange(len(tokens.place), device=device)
        else:
            cells = (tokens.role != int(Role.NEWLINE)).nonzero()[:, 0]
            frame = tokens.frame[cells]
            counts = tuple(torch.bincount(frame, minlength=layout.frames).tolist())
            by_frame = cells[frame.sort(stable=True).indices]
        return cls(tokens, pad(by_frame[:, None] + 1, counts, max(1, *counts))[:, :, 0] - 1, counts)

    @cached_property
    def valid(self) -> Tensor:
        """(T, S) bool, False in padding."""
        return self.token >= 0

    @property
    def places(self) -> Tensor:
        """(tokens,) long, where the tokens lie in the flattened (T, S)."""
        return slots(self.counts, self.token.shape[1], self.token.device)

    def spread(self, values: Tensor, padding: float = 0) -> Tensor:
        """Values of tokens by frame.

        Args:
            values: (K, ...), one a token.
            padding: what a frame with fewer tokens has after them.

        Returns:
            (T, S, ...) in the dtype W is computed in.
        """
        token = self.token
        by_frame = values.index_select(0, token.flatten().clamp(min=0)).to(working_dtype(values.dtype))
        by_frame = by_frame.reshape(*token.shape, *values.shape[1:])
        if token.numel() == sum(self.counts):
            return by_frame
        return torch.where(self.valid.reshape(*token.shape, *[1] * (values.ndim - 1)), by_frame, padding)

    def total(self, stage: Budgeted, part: Part) -> int:
        """The tokens of the whole video that the stage is to keep, at least one of each frame that has any.

        Raises:
            InputError: the budget is under that, or above what there is.
        """
        video = dataclasses.replace(self.tokens.layout, frames=part.frames)
        least = sum(count > 0 for count in self.counts)
        return stage.budget_of(video, least, sum(self.counts))

    def shares(self, stage: Budgeted, part: Part) -> tuple[int, ...]:
        """Tokens to keep of every frame so that the whole video's budget is met.

        Frames get the same number, or one more. Where some hold too few for that the others give more, as evenly as
        they can; of a streamed video the others are not seen. A part that says what each frame gets is followed.

        Raises:
            InputError: the budget cannot be met.
        """
        layout, have = self.tokens.layout, self.counts
        if part.budgets is not None:
            return part.budgets
        if part.frames > layout.frames:
            even = stage.shares(layout, part)
            short = next((t for t, (share, most) in enumerate(zip(even, have, strict=True)) if share > most), None)
            if short is not None:
                raise InputError(
                    f"{stage.title}: frame {part.first + short + 1} of the streamed video has {have[short]} tokens "
                    f"left of the {even[short]} it is to keep, and other frames cannot keep more; lower the budget, or "
                    "switch streaming off."
                )
            return even
        total = self.total(stage, part)
        even = split_evenly(total, layout.frames)
        fits = all(share <= most for share, most in zip(even, have, strict=True))
        return even if fits else fill_levels(have, total)

    def top_k(self, scores: Tensor, counts: tuple[int, ...]) -> Tensor:
        """(T, S) to bool: the ``counts[t]`` highest scores of each frame; of equal ones, the earlier."""
        return top_k_mask(scores.masked_fill(~self.valid, -torch.inf), counts)

    def selection(self, chosen: Tensor, number: int) -> Reduction:
        """The reduction that keeps the chosen tokens, as and where they are, and the newlines of their rows.

        Args:
            chosen: (T, S) bool.
            number: how many are chosen.
        """
        index, kept = self._kept(chosen, number)
        row = torch.arange(len(index), device=index.device)
        weight = torch.ones(len(index), dtype=weight_dtype(self.tokens.features), device=index.device)
        factor = Sparse(row, index, weight, len(index), len(kept), copies=True)
        return Reduction(factor, self.tokens.place[index], self.tokens.role[index], kept=number)

    def merged(self, chosen: Tensor, counts: Sequence[int]) -> Reduction:
        """The reduction whose tokens are the chosen ones, each the mean of itself and of the others like it.

        Every other token of a frame joins the chosen one of highest cosine; a frame with tokens has one at least.

        Args:
            chosen: (T, S) bool.
            counts: (T,) how many are chosen of each frame.
        """
        tokens = self.tokens
        slot = nearest(unit(self.spread(tokens.features)), chosen, max(counts))
        token = self.token.flatten()[self.places]
        head = self.token.gather(1, slot).flatten()[self.places]
        index, kept = self._kept(chosen, sum(counts))
        new = kept.cumsum(0) - 1
        row, col = new[head], token
        if tokens.layout.newlines:
            ends = tokens.role[index] == int(Role.NEWLINE)
            newline = index[true_places(ends, len(index) - sum(counts))]
            row, col = torch.cat((row, new[newline])), torch.cat((col, newline))
        members = tally(row, len(index))
        weight = (1 / widened(members)[row]).to(weight_dtype(tokens.features))
        role = torch.where(members > 1, int(Role.MERGED), tokens.role[index]).to(torch.uint8)
        return Reduction(Sparse(row, col, weight, len(index), len(kept)), tokens.place[index], role, kept=sum(counts))

    def _kept(self, chosen: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """The chosen tokens (T, S) and the newlines of rows that keep one: their numbers, and (K,) bool."""
        tokens = self.tokens
        every = len(tokens.place)
        kept = torch.zeros(every + 1, dtype=torch.bool, device=chosen.device)
        kept = kept.scatter(0, torch.where(chosen, self.token, every).flatten(), True)[:every]
        if not tokens.layout.newlines:
            return true_places(kept, number), kept
        kept = kept | NewlineRule.KEPT_ROWS.remaining(tokens, kept)
        return kept.nonzero()[:, 0], kept
