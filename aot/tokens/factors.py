"""The factors W is made of: matrices over a video's tokens, each in the form that multiplies fastest.

Entries are >= 0 and rows sum to 1 in all of them but :class:`Scale`, which states what a method adds beyond a mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, cast

import numpy as np
import scipy.sparse
import torch
from torch import Tensor
from torch.nn import functional

from ..errors import InputError
from .matmul import mix, working_dtype

WIDENED = 2**23
"""Entries of half-precision tokens that a :class:`Sparse` factor widens at one time on the CPU."""

GATHERING = ("cpu", "cuda")
"""Types of devices that add up rows by number in one operation, always in the same order."""


@dataclass(frozen=True)
class Blocks:
    """A block-diagonal row-stochastic matrix: dense inside a block, a block per frame or per clip.

    Block b maps the next ``cols[b]`` source tokens to the next ``rows[b]`` kept tokens, so both orders are
    the concatenation of the blocks' own. Ragged blocks are padded with zeros.

    Args:
        weights: (B, R, C) floating, or (1, R, C) when every block is the same.
        rows: valid rows of each block, at most R.
        cols: valid columns of each block, at most C.
    """

    weights: Tensor
    rows: tuple[int, ...]
    cols: tuple[int, ...]

    def __post_init__(self) -> None:
        batch, most_rows, most_cols = self.weights.shape
        fits = (
            len(self.rows) == len(self.cols) > 0
            and batch in (1, len(self.rows))
            and min(self.rows) >= 0
            and max(self.rows) <= most_rows
            and min(self.cols) > 0
            and max(self.cols) <= most_cols
        )
        if not fits:
            raise InputError(
                f"Blocks of {len(self.rows)} row counts and {len(self.cols)} column counts do not fit weights of "
                f"shape {tuple(self.weights.shape)}; give one count per block, none above the block's size."
            )

    def require_valid(self) -> None:
        """Refuse weights beyond a block's rows and columns: those of a file; a stage's own are right.

        Raises:
            InputError: there are.
        """
        counts = (self.rows, self.cols)
        rows, cols = (
            torch.arange(n) < torch.tensor(of)[:, None] for n, of in zip(self.weights.shape[1:], counts, strict=True)
        )
        if bool(self.weights.expand(len(self.rows), -1, -1)[~(rows[:, :, None] & cols[:, None])].any()):
            raise InputError("Blocks must be zero beyond their rows and columns.")

    @property
    def kept(self) -> int:
        """Number of rows over all blocks."""
        return sum(self.rows)

    @property
    def source(self) -> int:
        """Number of columns over all blocks."""
        return sum(self.cols)

    def apply(self, x: Tensor) -> Tensor:
        """``W @ x``: x (source, ...) to (kept, ...), in x's dtype (float32 for integers and booleans)."""
        return self._multiply(self.weights, x, self.cols, self.rows)

    def adjoint(self, y: Tensor) -> Tensor:
        """``W.T @ y``: y (kept, ...) to (source, ...); of ones, the column mass."""
        return self._multiply(self.weights.mT, y, self.rows, self.cols)

    def _multiply(self, weights: Tensor, x: Tensor, cols: tuple[int, ...], rows: tuple[int, ...]) -> Tensor:
        if x.shape[0] != sum(cols):
            raise InputError(
                f"The token map takes {sum(cols)} rows and was given {x.shape[0]}; "
                "apply it to a tensor aligned with the tokens it was made for."
            )
        flat = x.flatten(1) if x.ndim > 1 else x[:, None]
        flat = flat if flat.is_floating_point() else flat.float()
        out = mix(weights.to(x.device), pad(flat, cols, weights.shape[2]))
        return unpad(out, rows).reshape(sum(rows), *x.shape[1:])

    def coordinates(self) -> tuple[Tensor, Tensor, Tensor]:
        """Row, column and value of every non-zero entry, as three (nnz,) tensors."""
        weights = self.weights.expand(len(self.rows), -1, -1)
        block, row, col = weights.nonzero(as_tuple=True)
        first_row = _starts(self.rows).to(block.device)
        first_col = _starts(self.cols).to(block.device)
        return first_row[block] + row, first_col[block] + col, weights[block, row, col]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.weights.device

    @staticmethod
    def concatenate(parts: Sequence[Blocks]) -> Blocks:
        """The blocks of all parts, one after another."""
        rows = tuple(count for part in parts for count in part.rows)
        cols = tuple(count for part in parts for count in part.cols)
        first = parts[0].weights
        if len(first) == 1 and all(torch.equal(part.weights, first) for part in parts):
            return Blocks(first, rows, cols)
        sizes = [max(part.weights.shape[axis] for part in parts) for axis in (1, 2)]
        weights = first.new_zeros(len(rows), *sizes)
        start = 0
        for part in parts:
            here = slice(start, start + len(part.rows))
            weights[here, : part.weights.shape[1], : part.weights.shape[2]] = part.weights
            start = here.stop
        return Blocks(weights, rows, cols)


@dataclass(frozen=True)
class Picked:
    """Rows picked from the source tokens and from merged ones: ``W = [I; M][index]``.

    What is only kept is copied and not multiplied, bit by bit, and takes no dense row.

    Args:
        index: (K,) long: below ``merged.source`` a source token, from there on a row of ``merged``.
        merged: the merged tokens M, over the same source.
    """

    index: Tensor
    merged: Blocks

    def require_valid(self) -> None:
        """Refuse numbers of rows that there are not: those of a file; a stage's own are right.

        Raises:
            InputError: there are.
        """
        rows = self.merged.source + self.merged.kept
        if self.index.ndim != 1 or bool(((self.index < 0) | (self.index >= rows)).any()):
            raise InputError(f"Picked rows must be a list of numbers from 0 to {rows - 1}.")

    @property
    def kept(self) -> int:
        """Number of rows."""
        return len(self.index)

    @property
    def source(self) -> int:
        """Number of columns."""
        return self.merged.source

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.merged.device

    def apply(self, x: Tensor) -> Tensor:
        """``W @ x``: x (source, ...) to (kept, ...), in x's dtype (float32 for integers and booleans)."""
        merged = self.merged.apply(x)
        index = self.index.to(x.device)
        own = x.index_select(0, index.clamp(max=self.source - 1)).to(merged)
        if not len(merged):
            return own
        made = merged.index_select(0, (index - self.source).clamp(min=0))
        return torch.where((index < self.source).reshape(-1, *[1] * (x.ndim - 1)), own, made)

    def adjoint(self, y: Tensor) -> Tensor:
        """``W.T @ y``: y (kept, ...) to (source, ...)."""
        if y.shape[0] != self.kept:
            raise InputError(f"The token map keeps {self.kept} tokens and was given {y.shape[0]} rows; give one each.")
        y = y if y.is_floating_point() else y.float()
        index = self.index.to(y.device)
        copied = index < self.source
        merged = y.new_zeros(self.merged.kept, *y.shape[1:]).index_add_(0, index[~copied] - self.source, y[~copied])
        return self.merged.adjoint(merged).index_add_(0, index[copied], y[copied])

    def coordinates(self) -> tuple[Tensor, Tensor, Tensor]:
        """Row, column and value of every non-zero entry, as three (nnz,) tensors."""
        row, col, value = (part.cpu().numpy() for part in self.merged.coordinates())
        merged = scipy.sparse.csr_array((value, (row, col)), shape=(self.merged.kept, self.source))
        every = scipy.sparse.vstack((scipy.sparse.eye_array(self.source), merged), format="csr")
        every = cast(scipy.sparse.csr_array, every)
        picked = every[self.index.cpu().numpy()].tocoo()
        row, col = (torch.from_numpy(axis).long() for axis in picked.coords)
        return row, col, torch.from_numpy(picked.data)

    @staticmethod
    def concatenate(parts: Sequence[Picked]) -> Picked:
        """The rows of all parts, one after another."""
        source = sum(part.source for part in parts)
        tokens = merged = 0
        index = []
        for part in parts:
            copied = part.index < part.source
            index.append(torch.where(copied, part.index + tokens, part.index - part.source + source + merged))
            tokens, merged = tokens + part.source, merged + part.merged.kept
        return Picked(torch.cat(index), Blocks.concatenate([part.merged for part in parts]))


@dataclass(frozen=True)
class Sparse:
    """A matrix entry by entry, for means whose members lie anywhere in the video.

    Args:
        row: (E,) long, in any order; an entry named twice counts twice.
        col: (E,) long, in the same order.
        weight: (E,) floating.
        kept: number of rows.
        source: number of columns.
        copies: whether entry k is row k and a whole token, so that rows are copied bit by bit; None where that has to
            be looked up.
    """

    row: Tensor
    col: Tensor
    weight: Tensor
    kept: int
    source: int
    copies: bool | None = None

    def __post_init__(self) -> None:
        if not len(self.row) == len(self.col) == len(self.weight):
            raise InputError(f"Entries of a {self.kept} x {self.source} matrix need a row, a column and a weight each.")

    def require_valid(self) -> None:
        """Refuse numbers of rows or columns that there are not: those of a file; a stage's own are right.

        Raises:
            InputError: there are.
        """
        for name, index, below in (("row", self.row, self.kept), ("column", self.col, self.source)):
            if index.ndim != 1 or self.weight.ndim != 1 or bool(((index < 0) | (index >= below)).any()):
                raise InputError(f"Entries of a {self.kept} x {self.source} matrix need a {name} below {below}.")

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.weight.device

    @classmethod
    def sums(cls, row: Tensor, kept: int, like: Tensor) -> Sparse:
        """The matrix that adds up rows, on CUDA too always in the same order.

        Args:
            row: (E,) long, the sum that each goes to.
            kept: number of sums.
            like: of the dtype of what is to be added up.
        """
        every = torch.arange(len(row), device=row.device)
        return cls(row, every, like.new_ones(len(row)), kept, len(row), copies=False)

    @cached_property
    def selects(self) -> bool:
        """Whether every row is one source token as it is, so that it can be copied bit by bit."""
        if self.copies is not None:
            return self.copies
        rows = torch.arange(self.kept, device=self.device)
        return len(self.row) == self.kept and bool((self.row == rows).all() and (self.weight == 1).all())

    def apply(self, x: Tensor) -> Tensor:
        """``W @ x``: x (source, ...) to (kept, ...), in x's dtype (float32 for integers and booleans)."""
        if x.shape[0] == self.source and self.selects:
            return (
                x.index_select(0, self.col.to(x.device)) if x.is_floating_point() else x[self.col.to(x.device)].float()
            )
        return self._multiply(x, self.col, self.row, self.source, self.kept)

    def adjoint(self, y: Tensor) -> Tensor:
        """``W.T @ y``: y (kept, ...) to (source, ...)."""
        return self._multiply(y, self.row, self.col, self.kept, self.source)

    def _multiply(self, x: Tensor, col: Tensor, row: Tensor, rows: int, out_rows: int) -> Tensor:
        if x.shape[0] != rows:
            raise InputError(
                f"The token map takes {rows} rows and was given {x.shape[0]}; "
                "apply it to a tensor aligned with the tokens it was made for."
            )
        dtype = x.dtype if x.is_floating_point() else torch.float32
        exact = working_dtype(dtype)
        flat = x.reshape(rows, math.prod(x.shape[1:]))
        col, row, weight = (each.to(x.device) for each in (col, row, self.weight))
        parts = (flat,) if exact == dtype or x.is_cuda else flat.split(max(1, WIDENED // max(1, rows)), 1)
        sums = [_sums(part.to(exact), col, row, weight.to(exact), out_rows).to(dtype) for part in parts]
        return (sums[0] if len(sums) == 1 else torch.cat(sums, 1)).reshape(out_rows, *x.shape[1:])

    def coordinates(self) -> tuple[Tensor, Tensor, Tensor]:
        """Row, column and value of every entry, as three (nnz,) tensors."""
        return self.row, self.col, self.weight

    @staticmethod
    def concatenate(parts: Sequence[Sparse]) -> Sparse:
        """The matrices side by side, block-diagonal."""
        kept = source = 0
        rows, cols = [], []
        for part in parts:
            rows.append(part.row + kept)
            cols.append(part.col + source)
            kept, source = kept + part.kept, source + part.source
        copies = True if all(part.copies for part in parts) else None
        weight = torch.cat([part.weight for part in parts])
        return Sparse(torch.cat(rows), torch.cat(cols), weight, kept, source, copies)


@dataclass(frozen=True)
class Scale:
    """Rows multiplied: what a method makes of the means that W gives, stated beside W.

    Args:
        by: (K,) floating, 1 where a token is a mean.
    """

    by: Tensor

    @property
    def kept(self) -> int:
        """Number of rows."""
        return len(self.by)

    @property
    def source(self) -> int:
        """Number of columns."""
        return len(self.by)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.by.device

    def apply(self, x: Tensor) -> Tensor:
        """x (K, ...) with every row multiplied, in x's dtype (float32 for integers and booleans)."""
        dtype = x.dtype if x.is_floating_point() else torch.float32
        exact = working_dtype(dtype)
        by = self.by.to(x.device, exact).reshape(-1, *[1] * (x.ndim - 1))
        return (x.to(exact) * by).to(dtype)

    def adjoint(self, y: Tensor) -> Tensor:
        """The same: the matrix is diagonal."""
        return self.apply(y)

    def coordinates(self) -> tuple[Tensor, Tensor, Tensor]:
        """Row, column and value of every entry, as three (nnz,) tensors."""
        index = torch.arange(self.kept)
        return index, index, self.by

    @staticmethod
    def concatenate(parts: Sequence[Scale]) -> Scale:
        """The rows of all parts, one after another."""
        return Scale(torch.cat([part.by for part in parts]))


@dataclass(frozen=True)
class Stacked:
    """Factors of runs of frames side by side, block-diagonal; what a streamed video leaves, without a copy of it.

    Args:
        parts: of the same kind, in order.
    """

    parts: tuple[Blocks | Picked | Sparse | Scale, ...]

    @property
    def kept(self) -> int:
        """Number of rows."""
        return sum(part.kept for part in self.parts)

    @property
    def source(self) -> int:
        """Number of columns."""
        return sum(part.source for part in self.parts)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.parts[0].device

    def apply(self, x: Tensor) -> Tensor:
        """``W @ x``: x (source, ...) to (kept, ...), in x's dtype (float32 for integers and booleans)."""
        runs = x.split([part.source for part in self.parts])
        return torch.cat([part.apply(run) for part, run in zip(self.parts, runs, strict=True)])

    def adjoint(self, y: Tensor) -> Tensor:
        """``W.T @ y``: y (kept, ...) to (source, ...)."""
        runs = y.split([part.kept for part in self.parts])
        return torch.cat([part.adjoint(run) for part, run in zip(self.parts, runs, strict=True)])

    def coordinates(self) -> tuple[Tensor, Tensor, Tensor]:
        """Row, column and value of every non-zero entry, as three (nnz,) tensors."""
        return self.joined().coordinates()

    def joined(self) -> Blocks | Picked | Sparse | Scale:
        """The same as one factor of the parts' kind."""
        return cast(Any, type(self.parts[0])).concatenate(self.parts)


Factor = Blocks | Picked | Sparse | Scale | Stacked


def pad(x: Tensor, counts: tuple[int, ...], size: int) -> Tensor:
    """(sum(counts), D) to (B, size, D): ragged groups of rows side by side, zeros after the short ones."""
    if all(count == size for count in counts):
        return x.reshape(len(counts), size, x.shape[-1])
    out = x.new_zeros(len(counts) * size, x.shape[-1])
    return out.index_copy_(0, slots(counts, size, x.device), x).reshape(len(counts), size, -1)


def unpad(x: Tensor, counts: tuple[int, ...]) -> Tensor:
    """(B, R, D) to (sum(counts), D): the first ``counts[b]`` rows of each group, one after another."""
    if all(count == x.shape[1] for count in counts):
        return x.reshape(-1, x.shape[-1])
    return x.flatten(0, 1).index_select(0, slots(counts, x.shape[1], x.device))


@lru_cache(maxsize=64)
def slots(counts: tuple[int, ...], size: int, device: torch.device) -> Tensor:
    """Where rows of ragged groups lie among groups of one size.

    Args:
        counts: rows of each group.
        size: rows of a padded group, at least as many.
        device: where the result is wanted.

    Returns:
        (sum(counts),) long, group times ``size`` and number in the group. Shared: not to be changed.
    """
    group = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(len(group)) - np.repeat(np.cumsum(counts) - counts, counts)
    return torch.from_numpy(group * size + within).to(device)


def _sums(x: Tensor, col: Tensor, row: Tensor, weight: Tensor, rows: int) -> Tensor:
    """(rows, D): row ``row[e]`` adds up ``weight[e]`` of row ``col[e]`` of x, in the order of the entries."""
    if not len(col):
        return x.new_zeros(rows, x.shape[1])
    if x.device.type not in GATHERING:
        return x.new_zeros(rows, x.shape[1]).index_add_(0, row, x[col] * weight[:, None])
    row, order = row.sort(stable=True)
    starts = torch.searchsorted(row, torch.arange(rows, device=x.device))
    return functional.embedding_bag(col[order], x, starts, mode="sum", per_sample_weights=weight[order])


def _starts(counts: tuple[int, ...]) -> Tensor:
    lengths = torch.tensor(counts)
    return lengths.cumsum(0) - lengths
