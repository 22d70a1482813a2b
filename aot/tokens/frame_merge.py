"""Whole frames merged inside a vision tower: fewer frames go on, each a weighted mean of some that came in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..devices import to_device
from .factors import Sparse
from .matmul import working_dtype


@dataclass(frozen=True, eq=False)
class FrameMerge:
    """T frames as T' weighted means of them. A frame is in one mean at most, and is lost where it is in none.

    Args:
        place: (T',) int64, the frame at which each mean is: of those it is made of, the one with the largest weight.
        into: (T,) int64, the mean that each frame is in; -1 for none.
        weight: (T,) float64, of each frame in its mean; 0 for none.
    """

    place: npt.NDArray[np.int64]
    into: npt.NDArray[np.int64]
    weight: npt.NDArray[np.float64]

    @classmethod
    def of(cls, rows: Sequence[Mapping[int, float]], frames: int) -> FrameMerge:
        """The merge with these means.

        Args:
            rows: the weights of each mean's frames, by frame; those of a mean sum to 1.
            frames: T.
        """
        into, weight = np.full(frames, -1), np.zeros(frames)
        for row, members in enumerate(rows):
            for frame, share in members.items():
                if share > 0:
                    into[frame], weight[frame] = row, share
        place = np.array([max(members, key=lambda frame: (members[frame], -frame)) for members in rows], np.int64)
        return cls(place, into, weight)

    @classmethod
    def none(cls, frames: int) -> FrameMerge:
        """All frames as they are."""
        return cls(np.arange(frames), np.arange(frames), np.ones(frames))

    @property
    def frames(self) -> int:
        """T, frames that came in."""
        return len(self.into)

    @property
    def left(self) -> int:
        """T', frames that go on."""
        return len(self.place)

    @property
    def mixes(self) -> bool:
        """Whether a mean is of several frames: later blocks then see what no frame shows."""
        return bool((self.weight[self.into >= 0] != 1).any())

    def then(self, later: FrameMerge) -> FrameMerge:
        """This merge and then another one of the frames it leaves.

        Args:
            later: of T' frames.
        """
        here = self.into >= 0
        into = np.where(here, later.into[self.into], -1)
        weight = np.where(into >= 0, self.weight * later.weight[self.into], 0.0)
        return FrameMerge(self.place[later.place], into, weight)

    def apply(self, values: Tensor) -> Tensor:
        """The means of (T, ...) values, (T', ...). A frame that stays as it is, is copied bit by bit.

        Args:
            values: floating.
        """
        device = values.device
        out = values.index_select(0, to_device(self.place, device))
        if not self.mixes:
            return out
        members = ((self.weight > 0) & (self.weight < 1)).nonzero()[0]
        rows, row = np.unique(self.into[members], return_inverse=True)
        matrix = np.zeros((len(rows), len(members)))
        matrix[row, np.arange(len(members))] = self.weight[members]
        dtype = working_dtype(values.dtype)
        mixed = values.index_select(0, to_device(members, device)).flatten(1).to(dtype)
        mixed = torch.from_numpy(matrix).to(dtype).to(device) @ mixed
        return out.index_copy_(0, to_device(rows, device), mixed.to(out).reshape(-1, *out.shape[1:]))

    def spread(self, values: Tensor) -> Tensor:
        """(T', ...) values of the frames left to all (T, ...): each frame's are those of the mean it is in, or 0.

        W carries them back as they were, since the weights of a mean sum to 1.

        Args:
            values: floating.
        """
        device = values.device
        kept = (self.into >= 0).nonzero()[0]
        out = values.new_zeros(self.frames, *values.shape[1:])
        taken = values.index_select(0, to_device(self.into[kept], device))
        return out.index_copy_(0, to_device(kept, device), taken)

    def factor(self, rows: int, dtype: torch.dtype, device: torch.device) -> Sparse:
        """W of the merge over tokens, (T' rows, T rows).

        Args:
            rows: tokens of a frame.
            dtype: of its weights.
            device: of the result.
        """
        kept = (self.into >= 0).nonzero()[0]
        kept = kept[np.argsort(self.into[kept], kind="stable")]
        cell = np.arange(rows)
        row, col = ((each[:, None] * rows + cell).ravel() for each in (self.into[kept], kept))
        weight = torch.from_numpy(self.weight[kept].repeat(rows)).to(dtype)
        copies = not self.mixes
        return Sparse(
            to_device(row, device),
            to_device(col, device),
            weight.to(device),
            self.left * rows,
            self.frames * rows,
            copies,
        )


class TowerStep(Protocol):
    """What merges frames inside a tower; stages of the tower are such steps."""

    @property
    def name(self) -> str:
        """The stage's."""
        ...

    @property
    def title(self) -> str:
        """The stage's, for messages."""
        ...

    def settings(self) -> dict[str, Any]:
        """The value of every setting by name."""
        ...

    def blocks(self, used: int) -> Sequence[int]:
        """Indices of the blocks after which it merges, rising.

        Args:
            used: blocks of the tower whose output reaches the LLM.
        """
        ...

    def merge(self, states: Tensor) -> FrameMerge:
        """How to merge the frames that have come so far.

        Args:
            states: (T, P, D) floating, what a block gives of their patches.
        """
        ...

    def notes(self, states: Tensor) -> Mapping[str, Tensor]:
        """What stages after the tower are to know of the frames left, by the names of the tokens' extras.

        Args:
            states: (T', P, D) floating, after the last merge.

        Returns:
            (T', ...) floating each.
        """
        ...
