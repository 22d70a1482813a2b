"""The row-stochastic matrix W (kept x source) that every reduction is, as the product of its stages' factors.

Selecting, pooling, merging and transporting tokens are all the same thing: each kept token is a weighted
mean of source tokens. Entries are >= 0, rows sum to 1, and stages compose by multiplication.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import scipy.sparse
import torch
from torch import Tensor

from ..devices import widest
from ..errors import InputError
from .factors import Factor, Scale, Stacked


@dataclass(frozen=True)
class TokenMap:
    """A row-stochastic matrix W (kept x source), held as the product of its stages' factors.

    Nothing is multiplied out until :meth:`sparse` asks for it: applying the factors in turn is cheaper than
    applying their product, and exact.

    Args:
        source: number of columns of W.
        factors: of W, in the order that they are applied.
        exact: whether the features are what W makes of the source's. Not so where frames are mixed inside the tower:
            its later blocks then see the mixture, and W only says which frames went into it.
    """

    source: int
    factors: tuple[Factor, ...] = ()
    exact: bool = True

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
        return self.adjoint(torch.ones(self.kept, dtype=widest(self._device), device=self._device))

    def row_mass(self) -> Tensor:
        """Row sums of W, (kept,) float64: 1 for every stage that takes means, its scale where it states one."""
        return self.apply(torch.ones(self.source, dtype=widest(self._device), device=self._device))

    @property
    def means(self) -> TokenMap:
        """This map without the scales that some methods state beside it: every row a mean."""
        return replace(self, factors=tuple(factor for factor in self.factors if not _scales(factor)))

    def then(self, factor: Factor | TokenMap) -> TokenMap:
        """The map that applies this one and then ``factor``: the product ``factor @ self``."""
        more = factor.factors if isinstance(factor, TokenMap) else (factor,)
        if isinstance(factor, TokenMap) and factor.source != self.kept:
            raise InputError(
                f"A token map over {factor.source} tokens cannot follow one that gives {self.kept}; "
                "compose maps in the order their stages ran."
            )
        exact = self.exact and (factor.exact if isinstance(factor, TokenMap) else True)
        return TokenMap(self.source, self.factors + more, exact)

    def csr(self) -> scipy.sparse.csr_array:
        """W multiplied out as SciPy's compressed rows, (kept, source) float64, a row's columns in no order."""
        product = scipy.sparse.eye_array(self.source, format="csr")
        for factor in self.factors:
            row, col, value = (part.cpu().numpy() for part in factor.coordinates())
            matrix = scipy.sparse.csr_array((value.astype("float64"), (row, col)), shape=(factor.kept, factor.source))
            product = matrix @ product
        return product

    def sparse(self) -> Tensor:
        """W multiplied out, coalesced sparse COO (kept, source) float64 on the CPU, for display and export."""
        entries = self.csr().tocoo()
        index = torch.stack([torch.from_numpy(axis).long() for axis in entries.coords])
        return torch.sparse_coo_tensor(
            index, torch.from_numpy(entries.data), entries.shape, check_invariants=True
        ).coalesce()

    @staticmethod
    def concatenate(parts: Sequence[TokenMap]) -> TokenMap:
        """The map of several runs of frames side by side, each reduced by the same stages."""
        layers = zip(*(part.factors for part in parts), strict=True)
        factors = tuple(_stacked(layer) for layer in layers)
        return TokenMap(sum(part.source for part in parts), factors, all(part.exact for part in parts))

    @property
    def _device(self) -> torch.device:
        return self.factors[0].device if self.factors else torch.device("cpu")


def _scales(factor: Factor) -> bool:
    return isinstance(factor.parts[0] if isinstance(factor, Stacked) else factor, Scale)


def _stacked(factors: Sequence[Factor]) -> Stacked:
    """One flat stack of factors, some of which may be stacks themselves."""
    return Stacked(
        tuple(part for factor in factors for part in (factor.parts if isinstance(factor, Stacked) else (factor,)))
    )
