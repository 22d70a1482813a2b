"""A video's tokens frame by frame, for stages that reduce what other stages have left."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ...devices import widened
from ...errors import InputError
from ...tokens.factors import Sparse, pad
from ...tokens.matmul import working_dtype
from ...tokens.video_tokens import Role, VideoTokens
from ..base import Budgeted, Part, Reduction
from ..budget import fill_levels, split_evenly
from .language_grid import nearest, unit
from .newlines import NewlineRule
from .ranking import top_k_mask


@dataclass(frozen=True)
class FrameTokens:
    """A video's tokens in T frames of S at most, newlines apart.

    Args:
        tokens: on the language grid, reduced or not.
        token: (T, S) long, the tokens of each frame, in the order the LLM reads them; -1 in padding.
    """

    tokens: VideoTokens
    token: Tensor

    @classmethod
    def of(cls, tokens: VideoTokens) -> FrameTokens:
        """The tokens by frame.

        Args:
            tokens: on the language grid, reduced or not.
        """
        cells = (tokens.role != int(Role.NEWLINE)).nonzero()[:, 0]
        frame = tokens.frame[cells]
        counts = tuple(torch.bincount(frame, minlength=tokens.layout.frames).tolist())
        by_frame = cells[frame.sort(stable=True).indices]
        return cls(tokens, pad(by_frame[:, None] + 1, counts, max(1, *counts))[:, :, 0] - 1)

    @cached_property
    def valid(self) -> Tensor:
        """(T, S) bool, False in padding."""
        return self.token >= 0

    @property
    def counts(self) -> tuple[int, ...]:
        """Tokens of each frame."""
        return tuple(self.valid.sum(1).tolist())

    def spread(self, values: Tensor, padding: float = 0) -> Tensor:
        """Values of tokens by frame.

        Args:
            values: (K, ...), one a token.
            padding: what a frame with fewer tokens has after them.

        Returns:
            (T, S, ...) in the dtype W is computed in, on the device of the values.
        """
        valid, token = self.valid.to(values.device), self.token.to(values.device)
        out = values.new_full((*token.shape, *values.shape[1:]), padding, dtype=working_dtype(values.dtype))
        out[valid] = values[token[valid]].to(out)
        return out

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
        they can; of a streamed video the others are not seen.

        Raises:
            InputError: the budget cannot be met.
        """
        layout, have = self.tokens.layout, self.counts
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
        return top_k_mask(scores.masked_fill(~self.valid.to(scores.device), -torch.inf), counts)

    def selection(self, chosen: Tensor) -> Reduction:
        """The reduction that keeps the chosen tokens (T, S), as and where they are, and the newlines of their rows."""
        kept = self._kept(chosen)
        index = kept.nonzero()[:, 0]
        return self._reduction(kept, torch.arange(len(index)), index, torch.ones(len(index)))

    def merged(self, chosen: Tensor) -> Reduction:
        """The reduction whose tokens are the chosen ones (T, S), each the mean of itself and of the others like it.

        Every other token of a frame joins the chosen one of highest cosine; a frame with tokens has one at least.
        """
        slot = nearest(unit(self.spread(self.tokens.features)), chosen).cpu()
        head = self.token.gather(1, slot)[self.valid]
        kept = self._kept(chosen)
        newline = (kept & (self.tokens.role == int(Role.NEWLINE))).nonzero()[:, 0]
        col = torch.cat((self.token[self.valid], newline))
        row = (kept.cumsum(0) - 1)[torch.cat((head, newline))]
        members = torch.bincount(row, minlength=int(kept.sum()))
        return self._reduction(kept, row, col, 1 / widened(members)[row], members)

    def _kept(self, chosen: Tensor) -> Tensor:
        """(K,) bool: the chosen tokens (T, S), and the newlines of rows that keep one."""
        tokens = self.tokens
        kept = torch.zeros(len(tokens.place), dtype=torch.bool)
        kept[self.token[chosen.cpu()]] = True
        return kept | NewlineRule.KEPT_ROWS.remaining(tokens, kept)

    def _reduction(
        self, kept: Tensor, row: Tensor, col: Tensor, weight: Tensor, members: Tensor | None = None
    ) -> Reduction:
        tokens, device = self.tokens, self.tokens.features.device
        role = tokens.role[kept]
        if members is not None:
            role = torch.where(members > 1, int(Role.MERGED), role).to(role)
        weight = weight.to(device, working_dtype(tokens.features.dtype))
        factor = Sparse(row.to(device), col.to(device), weight, int(kept.sum()), len(kept))
        return Reduction(factor, tokens.place[kept], role)
