"""The language grid as most methods take it: a video's cells frame by frame, and the way back to tokens.

A method says which cells each token it keeps is made of; where a layout ends grid rows with newlines, they are
woven in here.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional

from ...errors import InputError
from ...tokens.factors import Sparse
from ...tokens.matmul import working_dtype
from ...tokens.video_tokens import Extra, Role, VideoTokens
from ..base import Reduction
from .ranking import true_indices

NEWLINES = ("all", "held", "after")

EXTRAS = MappingProxyType(
    {
        Extra.LAST: "the attention at the last block",
        Extra.KEYS: "the last block's keys",
        Extra.HEAD: "the attention of the tower's own pooling head",
        Extra.GLOBAL: "the frame vectors of the tower's own pooling head",
    }
)
"""What the tokens' extras are, in words."""


class SubstituteWarning(UserWarning):
    """A method was given something else in place of what its authors' encoder sees."""


@dataclass(frozen=True)
class Grid:
    """A video whose every cell is still a token, T frames of L cells.

    Args:
        tokens: on the language grid.
        token: (T, L) long, which of them each cell is, in raster order.
    """

    tokens: VideoTokens
    token: Tensor

    @classmethod
    def of(cls, title: str, tokens: VideoTokens) -> Grid:
        """The grid of tokens that nothing has reduced yet.

        Raises:
            InputError: something has.
        """
        layout = tokens.layout
        cells = (tokens.role != int(Role.NEWLINE)).nonzero()[:, 0]
        raster = layout.index(tokens.place[cells])
        if len(cells) != tokens.tokens_full or not torch.equal(raster, torch.arange(tokens.tokens_full)):
            done = tokens.history[-1].name if tokens.history else "an earlier stage"
            raise InputError(
                f"{title} compares cells of the whole language grid, of which {done} has left {len(cells)} of "
                f"{tokens.tokens_full}; put it directly behind Encode Video, other stages behind it."
            )
        return cls(tokens, cells.reshape(layout.frames, layout.language_cells))

    @cached_property
    def features(self) -> Tensor:
        """(T, L, D) in the dtype W is computed in: float32 for half precision."""
        return self._of_cells(self.tokens.features)

    @cached_property
    def depths(self) -> tuple[Tensor, ...]:
        """(T, L, D) each: the features, and those of every further level of the tower that the LLM is given."""
        return self.features, *map(self._of_cells, self.tokens.levels)

    def _of_cells(self, values: Tensor) -> Tensor:
        """(K, D) of tokens to (T, L, D) of cells, in the dtype W is computed in."""
        cells = self.token.to(values.device)
        return values[cells.flatten()].reshape(*cells.shape, -1).to(working_dtype(values.dtype))

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

        Warns :class:`SubstituteWarning` where there are none; the features stand in.
        """
        extra = self.tokens.extras.get(name)
        if extra is None:
            self._substitute(name, "the features")
            return self.features
        return self.pooled(extra)

    def frame_vectors(self, name: str) -> Tensor:
        """(T, d) vectors of frames among the tokens' extras, in the dtype W is computed in.

        Warns :class:`SubstituteWarning` where there are none; the means of the frames' features stand in.
        """
        extra = self.tokens.extras.get(name)
        if extra is None:
            self._substitute(name, "the means of the frames' features")
            return self.features.mean(1)
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

    def reduction(
        self,
        place: Tensor,
        row: Tensor,
        cell: Tensor,
        weight: Tensor,
        role: Tensor,
        *,
        scale: Tensor | None = None,
        newlines: str = "all",
        stand: Tensor | None = None,
    ) -> Reduction:
        """The reduction whose kept token ``row[e]`` holds ``weight[e]`` of ``cell[e]``.

        Args:
            place: (K,) long, frame * L + cell where each kept token stands, in the order the LLM reads them.
            row, cell, weight: (E,) each; cells count from 0 to T * L - 1.
            role: (K,) uint8.
            scale: (K,), what the method multiplies its means with; None where it emits means.
            newlines: which grid rows' newlines stay where the layout has any: "all", or those "held" by a row that
                keeps a token; "after" keeps all, as one run behind their frame's tokens. The kept tokens are then put
                in order of their places.
            stand: (K,) like place, what they are ordered by among newlines instead, for a method that orders them so.
        """
        kept, cells = len(place), self.tokens.layout.language_cells
        width = self.tokens.layout.language_grid[1]
        place, row, cell, weight, role = (each.cpu() for each in (place, row, cell, weight, role))
        places = self.tokens.layout.place(place)
        col = self.token.flatten()[cell]
        ends = (self.tokens.role == int(Role.NEWLINE)).nonzero()[:, 0]
        if len(ends):
            end = self.tokens.place[ends]
            if newlines == "held":
                line = torch.tensor([self.tokens.layout.language_grid[0], 1])
                held = torch.isin((end[:, :2] * line).sum(1), (places[:, :2] * line).sum(1))
                ends, end = ends[held], end[held]
            stands = places if stand is None else self.tokens.layout.place(stand.cpu())
            rows_down = self.tokens.layout.language_grid[0] if newlines == "after" else 0
            stands = torch.cat((stands, end + torch.tensor([0, rows_down, 0])))
            places = torch.cat((places, end))
            order = (stands * torch.tensor([2 * cells * (width + 1), width + 1, 1])).sum(1).sort(stable=True).indices
            new = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order)))
            row = new[torch.cat((row, torch.arange(kept, len(order))))]
            col = torch.cat((col, ends))
            weight = torch.cat((weight, weight.new_ones(len(ends))))
            role = torch.cat((role, role.new_full((len(ends),), int(Role.NEWLINE))))[order]
            places = places[order]
            scale = None if scale is None else torch.cat((scale.cpu(), scale.new_ones(len(ends), device="cpu")))[order]
        device = self.tokens.features.device
        factor = Sparse(row.to(device), col.to(device), weight.to(device), len(places), len(self.tokens.place))
        return Reduction(factor, places, role, scale)

    def rows(self, heads: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
        """Kept tokens counted through the video, for methods that group each frame's cells.

        Args:
            heads: (T, S) long, the cells that a frame's tokens stand for, -1 behind those of frames with fewer.
            owner: (T, L) long, which of its frame's heads each cell goes to.

        Returns:
            place (K,), frame * L + cell of every kept token; row (T * L,), the kept token each cell goes to.
        """
        present = heads >= 0
        first = present.sum(1).cumsum(0) - present.sum(1)
        frame = torch.arange(len(heads), device=heads.device)[:, None]
        return (heads + frame * owner.shape[1])[present], (owner + first[:, None]).flatten()

    def selection(self, place: Tensor, *, newlines: str = "all") -> Reduction:
        """The reduction that keeps cells as they are: (K,) long, frame * L + cell, in the order the LLM reads them."""
        role = torch.full((len(place),), int(Role.KEPT), dtype=torch.uint8)
        row = torch.arange(len(place))
        return self.reduction(place, row, place, self.features.new_ones(len(place)), role, newlines=newlines)

    def means(self, place: Tensor, row: Tensor, cell: Tensor, *, newlines: str = "all") -> Reduction:
        """The reduction whose kept tokens are plain means of the cells named for them; see :meth:`reduction`."""
        row = row.to(self.features.device)
        members = torch.bincount(row, minlength=len(place))
        role = torch.where(members.cpu() == 1, int(Role.KEPT), int(Role.MERGED)).to(torch.uint8)
        return self.reduction(place, row, cell, (1 / members.to(self.features))[row], role, newlines=newlines)

    def merged(self, chosen: Tensor, *, newlines: str = "all") -> Reduction:
        """The reduction whose tokens are the chosen cells, each the mean of itself and of the others most like it.

        Args:
            chosen: (T, L) bool, at least one cell a frame; every other cell of it joins the one of highest cosine.
        """
        cell = torch.arange(chosen.numel(), device=chosen.device)
        frame = cell.reshape(chosen.shape)[:, :1]
        head = (nearest(unit(self.features), chosen) + frame).flatten()
        row = (chosen.flatten().cumsum(0) - 1)[head]
        return self.means(cell[chosen.flatten()], row, cell, newlines=newlines)

    def beside(
        self, plain: Tensor, place: Tensor, row: Tensor, cell: Tensor, weight: Tensor, *, scale: Tensor | None = None
    ) -> Reduction:
        """The reduction that keeps some cells as they are and merges others, in order of place.

        Args:
            plain: (A,) long, frame * L + cell of every cell kept as it is; of two tokens at one place it is the first.
            place: (K,) long, where each merged token stands.
            row, cell, weight: (E,) each; the merged token ``row[e]`` holds ``weight[e]`` of ``cell[e]``.
            scale: (K,), what the merged tokens are multiplied with; None where they are means.
        """
        size = torch.cat((torch.ones_like(plain), torch.bincount(row, minlength=len(place))))
        role = torch.where(size > 1, int(Role.MERGED), int(Role.KEPT)).to(torch.uint8)
        one = weight.new_ones(len(plain))
        place, old = torch.cat((plain, place)).sort(stable=True)
        new = old.argsort()
        return self.reduction(
            place,
            torch.cat((new[: len(plain)], new[len(plain) :][row])),
            torch.cat((plain, cell)),
            torch.cat((one, weight)),
            role[old],
            scale=None if scale is None else torch.cat((one, scale))[old],
        )


def unit(vectors: Tensor) -> Tensor:
    """(..., d) to length 1; zeros stay zeros."""
    return functional.normalize(vectors, dim=-1, eps=torch.finfo(vectors.dtype).tiny)


def nearest(directions: Tensor, chosen: Tensor) -> Tensor:
    """Which chosen vector of its row each vector is most like; a chosen one is its own.

    Args:
        directions: (T, S, d), of length 1; chosen: (T, S) bool.

    Returns:
        (T, S) long, where in the row it stands; of equally like ones the earlier.
    """
    counts = chosen.sum(1)
    most = max(1, int(counts.max()))
    first = true_indices(chosen, most)
    among = directions.gather(1, first[:, :, None].expand(-1, -1, directions.shape[2]))
    padding = torch.arange(most, device=counts.device) >= counts[:, None]
    alike = torch.bmm(directions, among.mT).masked_fill_(padding[:, None], -torch.inf)
    return torch.where(chosen, torch.arange(chosen.shape[1], device=counts.device), first.gather(1, alike.argmax(2)))
