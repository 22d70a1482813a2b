"""The language grid as most methods take it: a video's cells frame by frame, and the way back to tokens.

A method says which cells each token it keeps is made of, as a :class:`Merge`; :meth:`LanguageGrid.reduction` makes W
of it and puts newlines in where the layout has any.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional

from ...errors import InputError
from ...tokens.factors import Sparse
from ...tokens.layout import cells_on, language_places_on
from ...tokens.matmul import working_dtype
from ...tokens.video_tokens import Extra, Role, VideoTokens, weight_dtype
from ..base import Reduction
from .newlines import NewlineRule
from .ranking import tally, true_indices, true_places

EXTRAS = MappingProxyType(
    {
        Extra.LAST: "the attention at the last block",
        Extra.KEYS: "the last block's keys",
        Extra.HEAD: "the attention of the tower's own pooling head",
        Extra.GLOBAL: "the frame vectors of the tower's own pooling head",
        Extra.TOWER: "the attention at the block after which EarlyTom merges frames",
    }
)
"""What the tokens' extras are, in words."""


class SubstituteWarning(UserWarning):
    """A method was given something else in place of what its authors' encoder sees."""


@dataclass(frozen=True)
class LanguageGrid:
    """A video whose every cell is still a token, T frames of L cells.

    Args:
        tokens: on the language grid.
        token: (T, L) long, which of them each cell is, in raster order.
    """

    tokens: VideoTokens
    token: Tensor

    @classmethod
    def of(cls, title: str, tokens: VideoTokens) -> LanguageGrid:
        """The grid of tokens that nothing has reduced yet.

        Raises:
            InputError: something has.
        """
        layout, device = tokens.layout, tokens.features.device
        every = cells_on(layout, device)
        if tokens.is_full_grid:
            return cls(tokens, every)
        full = language_places_on(layout, device)
        if tokens.place.shape == full.shape and torch.equal(tokens.place, full):
            return cls(tokens, every)
        cells = (tokens.role != int(Role.NEWLINE)).nonzero()[:, 0]
        raster = layout.index(tokens.place[cells])
        every = torch.arange(tokens.tokens_encoded, device=device)
        if len(cells) != tokens.tokens_encoded or not torch.equal(raster, every):
            done = tokens.history[-1].name if tokens.history else "an earlier stage"
            raise InputError(
                f"{title} compares cells of the whole language grid, of which {done} has left {len(cells)} of "
                f"{tokens.tokens_encoded}; put it directly after Encode Video, other stages after it."
            )
        return cls(tokens, cells.reshape(layout.frames, layout.language_cells))

    @cached_property
    def features(self) -> Tensor:
        """(T, L, D) in the dtype W is computed in: float32 for half precision."""
        return self._of_cells(self.tokens.features)

    @property
    def cell(self) -> Tensor:
        """(T, L) long, the number of each cell as :meth:`Layout.index` gives it. Shared: not to be changed."""
        return cells_on(dataclasses.replace(self.tokens.layout, newline="none"), self.tokens.features.device)

    @cached_property
    def frame_means(self) -> Tensor:
        """(T, D) the mean of each frame's features."""
        return self.features.mean(1)

    @cached_property
    def depths(self) -> tuple[Tensor, ...]:
        """(T, L, D) each: the features, and those of every further level of the tower that the LLM is given."""
        return self.features, *map(self._of_cells, self.tokens.levels)

    def _of_cells(self, values: Tensor) -> Tensor:
        """(K, D) of tokens to (T, L, D) of cells, in the dtype W is computed in."""
        cells = self.token
        if cells.numel() < len(values):
            values = values.index_select(0, cells.flatten())
        return values.reshape(*cells.shape, -1).to(working_dtype(values.dtype))

    @property
    def deep(self) -> Tensor:
        """(T, L) attention received at AOT's deep layer, pooled like the features."""
        return self.pooled(self.tokens.deep)

    def attention(self, *names: str) -> Tensor:
        """(T, L) attention among the tokens' extras, pooled like the features: that of the first name that is there.

        Warns :class:`SubstituteWarning` where that is another than the first; the deep layer's where there is none.
        """
        name = next((name for name in names if name in self.tokens.extras), None)
        if name != names[0]:
            self._substitute(names[0], EXTRAS[name] if name else "the attention at AOT's deep layer")
        return self.pooled(self.tokens.extras[name] if name else self.tokens.deep)

    def vectors(self, name: str) -> Tensor:
        """(T, L, d) vectors among the tokens' extras, pooled like the features.

        Warns :class:`SubstituteWarning` where there are none; the features are used then.
        """
        extra = self.tokens.extras.get(name)
        if extra is None:
            self._substitute(name, "the features")
            return self.features
        return self.pooled(extra)

    def frame_vectors(self, name: str) -> Tensor:
        """(T, d) vectors of frames among the tokens' extras, in the dtype W is computed in.

        Warns :class:`SubstituteWarning` where there are none; the means of the frames' features are used then.
        """
        extra = self.tokens.extras.get(name)
        if extra is None:
            self._substitute(name, "the means of the frames' features")
            return self.frame_means
        return extra.to(self.features)

    def _substitute(self, name: str, other: str) -> None:
        message = f"These tokens come without {EXTRAS[name]}, which the method's authors use; taken instead: {other}."
        warnings.warn(message, SubstituteWarning, stacklevel=4)

    def pooled(self, values: Tensor) -> Tensor:
        """(T, N) or (T, N, d) on the encoder's grid to the language grid, in the dtype W is computed in."""
        values = values.to(self.features.device, self.features.dtype)
        if self.tokens.layout.pooling == "none":
            return values
        wide = values if values.ndim == 3 else values[:, :, None]
        return self.tokens.layout.pool(wide).reshape(len(values), -1, *values.shape[2:])

    def reduction(self, merge: Merge, newlines: NewlineRule = NewlineRule.ALL) -> Reduction:
        """The reduction that makes the tokens of ``merge``.

        Where the layout has newlines, they and the kept tokens are put in the order of their places.

        Args:
            merge: which cells each kept token is made of.
            newlines: which newlines stay where the layout has any.
        """
        tokens, layout = self.tokens, self.tokens.layout
        kept = len(merge.place)
        row, weight, role, scale = merge.row, merge.weight, merge.role, merge.scale
        token = self.token.flatten()
        col, at = token[merge.cell], token[merge.place]
        places = tokens.place[at]
        ends = newlines.ends(tokens, at)
        if len(ends):
            end = tokens.place[ends]
            order = newlines.order(layout, places if merge.read_at is None else layout.place(merge.read_at), end)
            col = torch.cat((col, ends))
            weight = torch.cat((weight, weight.new_ones(len(ends))))
            row = torch.cat((row, torch.arange(kept, len(order), device=row.device)))
            row, col = (row, col[order]) if merge.copies else (order.argsort()[row], col)
            role = torch.cat((role, role.new_full((len(ends),), int(Role.NEWLINE))))[order]
            places = torch.cat((places, end))[order]
            scale = None if scale is None else torch.cat((scale, scale.new_ones(len(ends))))[order]
        factor = Sparse(row, col, weight, len(places), len(tokens.place), merge.copies)
        return Reduction(factor, places, role, scale, kept)

    def rows(self, heads: Tensor, owner: Tensor, number: int | None = None) -> tuple[Tensor, Tensor]:
        """Kept tokens counted through the video, for methods that group each frame's cells.

        Args:
            heads: (T, S) long, the cells at which a frame's tokens are; -1 after those of a frame with fewer.
            owner: (T, L) long, which of its frame's heads each cell goes to.
            number: K, the heads of all frames; None looks it up, for which the host waits.

        Returns:
            place (K,), frame * L + cell of every kept token; row (T * L,), the kept token each cell goes to.
        """
        present = heads >= 0
        counts = present.sum(1)
        frame = torch.arange(len(heads), device=heads.device)[:, None]
        place = (heads + frame * owner.shape[1]).flatten()[
            true_places(present, int(counts.sum()) if number is None else number)
        ]
        return place, (owner + (counts.cumsum(0) - counts)[:, None]).flatten()

    def selection(self, place: Tensor, newlines: NewlineRule = NewlineRule.ALL) -> Reduction:
        """The reduction that keeps cells as they are.

        Args:
            place: (K,) long, the cells by :meth:`Layout.index`, in the order the LLM reads them.
            newlines: which newlines stay where the layout has any.
        """
        row = torch.arange(len(place), device=place.device)
        weight = torch.ones(len(place), dtype=weight_dtype(self.tokens.features), device=place.device)
        return self.reduction(Merge(place, row, place, weight, copies=True), newlines)

    def means(self, place: Tensor, row: Tensor, cell: Tensor, newlines: NewlineRule = NewlineRule.ALL) -> Reduction:
        """The reduction whose kept tokens are plain means of cells.

        Args:
            place: (K,) long, as in :class:`Merge`.
            row: (E,) long, as in :class:`Merge`.
            cell: (E,) long, as in :class:`Merge`.
            newlines: which newlines stay where the layout has any.
        """
        members = tally(row, len(place))
        return self.reduction(Merge(place, row, cell, (1 / members.to(self.features))[row]), newlines)

    def merged(
        self, chosen: Tensor, newlines: NewlineRule = NewlineRule.ALL, *, counts: Sequence[int] | None = None
    ) -> Reduction:
        """The reduction whose tokens are chosen cells, each the mean of itself and of the others most like it.

        Args:
            chosen: (T, L) bool, at least one cell a frame; every other cell of it joins the one of highest cosine.
            newlines: which newlines stay where the layout has any.
            counts: (T,) chosen cells of each frame; None looks them up, for which the host waits.
        """
        counts = chosen.sum(1).tolist() if counts is None else counts
        cell = torch.arange(chosen.numel(), device=chosen.device)
        frame = cell.reshape(chosen.shape)[:, :1]
        head = (nearest(unit(self.features), chosen, max(counts)) + frame).flatten()
        row = (chosen.flatten().cumsum(0) - 1)[head]
        return self.means(true_places(chosen, sum(counts)), row, cell, newlines)


@dataclass(frozen=True)
class Merge:
    """Kept tokens as weighted means of cells: token ``row[e]`` holds ``weight[e]`` of ``cell[e]``.

    Cells and places are numbers on the language grid as :meth:`Layout.index` gives them, 0 to T L - 1.

    Args:
        place: (K,) long, the cell at which each kept token is, in the order the LLM reads them.
        row: (E,) long, the kept token of each entry, 0 to K - 1.
        cell: (E,) long, the cell of each entry.
        weight: (E,) floating, the weight of each entry; those of a token sum to 1.
        scale: (K,) floating, what the method multiplies its means with; None where tokens are means.
        read_at: (K,) long, cells that order the kept tokens among newlines; None where their places do.
        copies: whether entry k is token k and a whole cell.
    """

    place: Tensor
    row: Tensor
    cell: Tensor
    weight: Tensor
    scale: Tensor | None = None
    read_at: Tensor | None = None
    copies: bool = False

    @property
    def role(self) -> Tensor:
        """(K,) uint8 of :class:`Role`: kept where a token is the cell at its place alone, merged otherwise."""
        if self.copies:
            return torch.full_like(self.place, int(Role.KEPT), dtype=torch.uint8)
        kept = len(self.place)
        others = torch.where(self.cell == self.place[self.row], kept, self.row)
        role = torch.full((kept + 1,), int(Role.KEPT), dtype=torch.uint8, device=others.device)
        return role.scatter_(0, others, int(Role.MERGED))[:kept]

    def beside(self, plain: Tensor) -> Merge:
        """This merge and cells that are kept as they are, in the order of their places.

        Args:
            plain: (A,) long, the cells; of two tokens at one place the plain one is first.
        """
        one = self.weight.new_ones(len(plain))
        place, old = torch.cat((plain, self.place)).sort(stable=True)
        new = old.argsort()
        return Merge(
            place,
            torch.cat((new[: len(plain)], new[len(plain) :][self.row])),
            torch.cat((plain, self.cell)),
            torch.cat((one, self.weight)),
            None if self.scale is None else torch.cat((one, self.scale))[old],
        )


def unit(vectors: Tensor) -> Tensor:
    """(..., d) to length 1; zeros stay zeros."""
    return functional.normalize(vectors, dim=-1, eps=torch.finfo(vectors.dtype).tiny)


def nearest(directions: Tensor, chosen: Tensor, most: int) -> Tensor:
    """The chosen vector of its row that each vector is most similar to; a chosen one is its own.

    Args:
        directions: (T, S, d) floating, of length 1.
        chosen: (T, S) bool.
        most: the most that are chosen in a row, or more.

    Returns:
        (T, S) long, its index in the row; of equal cosines the earlier.
    """
    first = true_indices(chosen, max(1, most))
    among = directions.gather(1, first[:, :, None].expand(-1, -1, directions.shape[2]))
    padding = ~chosen.gather(1, first)
    similarity = torch.bmm(directions, among.mT).masked_fill_(padding[:, None], -torch.inf)
    every = torch.arange(chosen.shape[1], device=chosen.device)
    return torch.where(chosen, every, first.gather(1, similarity.argmax(2)))
