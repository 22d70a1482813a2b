"""The row-stochastic matrix W (kept x source) that every reduction is, in blocks that multiply fast.

Selecting, pooling, merging and transporting tokens are all the same thing: each kept token is a weighted
mean of source tokens. Entries are >= 0, rows sum to 1, and stages compose by multiplication.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import scipy.sparse
import torch
from torch import Tensor

from .errors import InputError
from .products import mix


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

    def _multiply(self, weights: Tensor, x: Tensor, taken: tuple[int, ...], given: tuple[int, ...]) -> Tensor:
        if x.shape[0] != sum(taken):
            raise InputError(
                f"The token map takes {sum(taken)} rows and was given {x.shape[0]}; "
                "apply it to a tensor aligned with the tokens it was made for."
            )
        flat = x.flatten(1) if x.ndim > 1 else x[:, None]
        flat = flat if flat.is_floating_point() else flat.float()
        out = mix(weights.to(x.device), pad(flat, taken, weights.shape[2]))
        return unpad(out, given).reshape(sum(given), *x.shape[1:])

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

    def __post_init__(self) -> None:
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
        copied = index < self.source
        out = merged.new_empty(self.kept, *x.shape[1:])
        out[copied] = x.index_select(0, index[copied]).to(out)
        out[~copied] = merged.index_select(0, index[~copied] - self.source)
        return out

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
class Stacked:
    """Factors of runs of frames side by side, block-diagonal; what a streamed video leaves, without a copy of it.

    Args:
        parts: of the same kind, in order.
    """

    parts: tuple[Blocks, ...] | tuple[Picked, ...]

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

    def joined(self) -> Blocks | Picked:
        """The same as one factor of the parts' kind."""
        return type(self.parts[0]).concatenate(self.parts)


Factor = Blocks | Picked | Stacked


@dataclass(frozen=True)
class TokenMap:
    """A row-stochastic matrix W (kept x source), held as the product of its stages' factors.

    Nothing is multiplied out until :meth:`sparse` asks for it: applying the factors in turn is cheaper than
    applying their product, and exact.
    """

    source: int
    factors: tuple[Factor, ...] = ()

    def __post_init__(self) -> None:
        rows = self.source
        for factor in self.factors:
            if factor.source != rows:
                raise InputError(
                    f"A token map over {factor.source} tokens cannot follow one that gives {rows}; "
                    "compose maps in the order their stages ran."
                )
            rows = factor.kept

    @property
    def kept(self) -> int:
        """Number of rows of W."""
        return self.factors[-1].kept if self.factors else self.source

    def apply(self, x: Tensor) -> Tensor:
        """``W @ x`` for any tensor aligned with the source, (source, ...) to (kept, ...)."""
        if x.shape[0] != self.source:
            raise InputError(
                f"The token map has {self.source} source tokens and was given {x.shape[0]} rows; "
                "apply it to a tensor aligned with the encoder's tokens."
            )
        for factor in self.factors:
            x = factor.apply(x)
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        """``W.T @ y``: (kept, ...) to (source, ...). Of a one-hot column: the weights of that kept token."""
        if y.shape[0] != self.kept:
            raise InputError(
                f"The token map has {self.kept} kept tokens and was given {y.shape[0]} rows; "
                "give one row for each kept token."
            )
        for factor in reversed(self.factors):
            y = factor.adjoint(y)
        return y

    def column_mass(self) -> Tensor:
        """How much of each source token survives: the column sums of W, (source,) float64."""
        return self.adjoint(torch.ones(self.kept, dtype=torch.float64, device=self._device))

    def row_mass(self) -> Tensor:
        """Row sums of W, (kept,) float64: 1 for every stage that takes means."""
        return self.apply(torch.ones(self.source, dtype=torch.float64, device=self._device))

    def then(self, factor: Factor | TokenMap) -> TokenMap:
        """The map that applies this one and then ``factor``: the product ``factor @ self``."""
        more = factor.factors if isinstance(factor, TokenMap) else (factor,)
        if isinstance(factor, TokenMap) and factor.source != self.kept:
            raise InputError(
                f"A token map over {factor.source} tokens cannot follow one that gives {self.kept}; "
                "compose maps in the order their stages ran."
            )
        return TokenMap(self.source, self.factors + more)

    def sparse(self) -> Tensor:
        """W multiplied out, coalesced sparse COO (kept, source) float64 on the CPU, for display and export."""
        product = scipy.sparse.eye_array(self.source, format="csr")
        for factor in self.factors:
            row, col, value = (part.cpu().numpy() for part in factor.coordinates())
            matrix = scipy.sparse.csr_array((value.astype("float64"), (row, col)), shape=(factor.kept, factor.source))
            product = matrix @ product
        entries = product.tocoo()
        index = torch.stack([torch.from_numpy(axis).long() for axis in entries.coords])
        return torch.sparse_coo_tensor(
            index, torch.from_numpy(entries.data), entries.shape, check_invariants=True
        ).coalesce()

    @staticmethod
    def concatenate(parts: Sequence[TokenMap]) -> TokenMap:
        """The map of several runs of frames side by side, each reduced by the same stages."""
        layers = zip(*(part.factors for part in parts), strict=True)
        return TokenMap(sum(part.source for part in parts), tuple(_stacked(layer) for layer in layers))

    @property
    def _device(self) -> torch.device:
        return self.factors[0].device if self.factors else torch.device("cpu")


def _stacked(factors: Sequence[Factor]) -> Stacked:
    """One flat stack of factors, some of which may be stacks themselves."""
    return Stacked(
        tuple(part for factor in factors for part in (factor.parts if isinstance(factor, Stacked) else (factor,)))
    )


def pad(x: Tensor, counts: tuple[int, ...], size: int) -> Tensor:
    """(sum(counts), D) to (B, size, D): ragged groups of rows side by side, zeros behind the short ones."""
    if all(count == size for count in counts):
        return x.reshape(len(counts), size, x.shape[-1])
    valid = _valid(counts, size, x.device)
    out = x.new_zeros(len(counts), size, x.shape[-1])
    out[valid] = x
    return out


def unpad(x: Tensor, counts: tuple[int, ...]) -> Tensor:
    """(B, R, D) to (sum(counts), D): the first ``counts[b]`` rows of each group, one after another."""
    if all(count == x.shape[1] for count in counts):
        return x.reshape(-1, x.shape[-1])
    return x[_valid(counts, x.shape[1], x.device)]


def _valid(counts: tuple[int, ...], size: int, device: torch.device) -> Tensor:
    return torch.arange(size, device=device) < torch.tensor(counts, device=device)[:, None]


def _starts(counts: tuple[int, ...]) -> Tensor:
    lengths = torch.tensor(counts)
    return lengths.cumsum(0) - lengths
