"""What tokens kept of a video, in figures: read off W and the features, for any stage.

The figures are over the language grid. Where pooling came first, W over that grid is W without its first factor;
where a stage worked on the encoder's grid, each encoder cell counts to the language cell that reads most of it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import scipy.sparse
import torch
from torch import Tensor
from torch.nn import functional

from ..devices import widened, widest
from ..errors import InputError
from .factors import Blocks, Factor, Sparse, Stacked
from .layout import Layout, pool_and_newlines
from .token_map import TokenMap
from .video_tokens import ENCODE, STEPS, Role, VideoTokens, weight_dtype

LEAST_MASS = 1e-6
"""A cell of which all tokens together hold less than this, in tokens' worth, counts as dropped."""

COMPARED = 4096
"""Cells that are compared with every kept token at one time."""


@dataclass(frozen=True)
class Figures:
    """What tokens kept of a video; newlines are no tokens here.

    Args:
        tokens: of the language grid, for the LLM to read.
        cells: share of the language grid's cells that are in some token.
        spread: share of the cells that the mass kept is spread over, as if evenly: the exponential of its entropy.
        rank: the tokens' effective rank.
        error: of rebuilding the grid from them, :func:`reconstruction_error`; None where the full tokens are not known.
        frames: frames that a token speaks for, in the mean; None where there is no token.
    """

    tokens: int
    cells: float
    spread: float
    rank: float
    error: float | None
    frames: float | None


def figures(tokens: VideoTokens, full: VideoTokens | None = None) -> Figures:
    """All figures of a video's tokens.

    Args:
        tokens: what the stages made.
        full: the encoder's tokens, before any stage; None gives no error.

    Raises:
        InputError: ``full`` is reduced, or of another video.
    """
    tokens = _on_the_grid_of(full, tokens).to_language_grid()
    frames = frames_spoken_for(tokens)[tokens.role.cpu() != int(Role.NEWLINE)]
    mass = mass_kept(tokens)
    return Figures(
        tokens.tokens_kept,
        float(widened(mass >= LEAST_MASS).mean()),
        float(torch.special.entr(mass / mass.sum()).sum().exp()) / mass.numel(),
        kept_rank(tokens),
        None if full is None else reconstruction_error(full, tokens),
        float(frames.mean()) if len(frames) else None,
    )


@dataclass(frozen=True)
class Absorption:
    """Where every cell of the language grid went.

    Args:
        owner: (T, h, w) long, the token of the cell's own frame that holds most of it; -1 where none does.
        here: (T, h, w) float64, how much of what survives of a cell is in tokens of its own frame.
        largest: (T, h, w) float64, how much of what survives of a cell is in the token that holds most of it.
        mass: (T, h, w) float64, how much of a cell survives in all tokens together, in tokens' worth. Where it is
            under LEAST_MASS the cell was dropped: it has no owner, and its shares are 0.
    """

    owner: Tensor
    here: Tensor
    largest: Tensor
    mass: Tensor


def absorption(tokens: VideoTokens) -> Absorption:
    """Who absorbed every cell; of equal shares the token read first has it."""
    weights = language_weights(tokens).tocoo()
    token, cell = weights.coords
    frame = tokens.to_language_grid().frame.cpu().numpy()
    own = frame[token] == cell // tokens.layout.language_cells
    cells = tokens.tokens_encoded
    mass = np.bincount(cell, weights.data, minlength=cells)
    kept = mass >= LEAST_MASS
    divisor = np.where(kept, mass, np.inf)
    here = np.bincount(cell[own], weights.data[own], minlength=cells) / divisor
    largest, _ = _largest(token, cell, weights.data, cells)
    _, owner = _largest(token[own], cell[own], weights.data[own], cells)
    owner = np.where(kept, owner, -1)
    shape = tokens.layout.frames, *tokens.layout.language_grid
    return Absorption(*(torch.from_numpy(each).reshape(shape) for each in (owner, here, largest / divisor, mass)))


def _largest(token: np.ndarray, cell: np.ndarray, weight: np.ndarray, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest weight of every cell and the first token that has it; 0 and -1 where it has no entry.

    Args:
        token: (E,) long, of each entry, in any order.
        cell: (E,) long, of each entry.
        weight: (E,) floating, of each entry.
        cells: number of cells.
    """
    most, first = np.zeros(cells), np.full(cells, -1)
    np.maximum.at(most, cell, weight)
    best = (weight == most[cell]) & (weight > 0)
    at = np.lexsort((-token[best], cell[best]))
    first[cell[best][at]] = token[best][at]
    return most, first


def language_weights(tokens: VideoTokens) -> scipy.sparse.csr_array:
    """W over the language grid, (K, T h w) float64: every token as a mean of cells.

    Columns of newlines are left out, so the row of a newline is zero where it absorbed no cell.
    """
    tokens = tokens.to_language_grid()
    layout = tokens.layout
    after = _after_pooling(tokens)
    matrix = (after or tokens.map.means).csr()
    cell = _cell_of_language_source(layout) if after else _cell_of_source(layout)
    every = (torch.arange(layout.frames)[:, None] * layout.language_cells + cell).masked_fill(cell < 0, -1).flatten()
    source = (every >= 0).nonzero()[:, 0].numpy()
    carry = scipy.sparse.csr_array(
        (np.ones(len(source)), (source, every[source].numpy())), shape=(len(every), tokens.tokens_encoded)
    )
    return cast(scipy.sparse.csr_array, matrix @ carry).tocsr()


def mass_kept(tokens: VideoTokens) -> Tensor:
    """(T, h, w) float64: how much of every language-grid cell survives, in kept tokens' worth."""
    pooled = tokens.to_language_grid()
    ones = torch.ones(pooled.map.kept, 1, dtype=widest(pooled.features.device), device=pooled.features.device)
    return _carried_back(pooled, ones)[:, 0].cpu().reshape(tokens.layout.frames, *tokens.layout.language_grid)


def frames_spoken_for(tokens: VideoTokens) -> Tensor:
    """(K,) float64: how many frames each token is a mean of, as the exponential of the entropy of their weights.

    1 for a token made of one frame, 4 for one that is an equal mean of four; 0 for a newline that holds no cell.
    """
    weights = language_weights(tokens)
    frames = np.repeat(np.arange(tokens.layout.frames), tokens.layout.language_cells)
    of_frame = scipy.sparse.csr_array(
        (np.ones(len(frames)), (np.arange(len(frames)), frames)), shape=(len(frames), tokens.layout.frames)
    )
    shares = torch.from_numpy(cast(scipy.sparse.csr_array, weights @ of_frame).toarray())
    total = shares.sum(1, keepdim=True)
    shares = shares / total.clamp(min=LEAST_MASS)
    return torch.special.entr(shares).sum(1).exp() * (total[:, 0] > 0)


def effective_rank(features: Tensor) -> float:
    """How many directions features spread over: the exponential of the entropy of their normalised singular values.

    1 where all are multiples of one vector, the smaller side where all directions are equally strong, 0 where every
    feature is zero. Source: Roy and Vetterli, "The effective rank", EUSIPCO 2007; singular values by the Gram matrix
    of the smaller side, in float64 on the CPU.

    Args:
        features: (K, D) floating.
    """
    x = features.detach().cpu().double()
    gram = x @ x.mT if x.shape[0] <= x.shape[1] else x.mT @ x
    values = torch.linalg.eigvalsh(gram)
    values = values.where(values > values.amax().clamp(min=0) * 1e-14, torch.zeros_like(values)).sqrt()
    total = float(values.sum())
    return math.exp(float(torch.special.entr(values / total).sum())) if total > 0 else 0.0


def kept_rank(tokens: VideoTokens) -> float:
    """The effective rank of the tokens that the LLM will read, without newlines."""
    tokens = tokens.to_language_grid()
    return effective_rank(tokens.features[tokens.role != int(Role.NEWLINE)])


def reconstruction_error(full: VideoTokens, tokens: VideoTokens) -> float:
    """How far the kept tokens are from all that the encoder saw: ``||X - X'||_F / ||X||_F``.

    X are the features on the language grid, one row a cell, without newlines. X' rebuilds each cell as the mean of
    the tokens it went to, each weighing as much as W gives it of the cell; a dropped cell is rebuilt as the kept
    token of the highest cosine. 0 where nothing was reduced.

    Args:
        full: the encoder's tokens, before any stage.
        tokens: what the stages made of them.

    Raises:
        InputError: ``full`` is reduced, or of another video.
    """
    tokens = _on_the_grid_of(full, tokens)
    require_full(full, tokens)
    full, tokens = full.to_language_grid(), tokens.to_language_grid()
    dtype = weight_dtype(full.features)
    cells = full.features[full.role != int(Role.NEWLINE)].to(dtype)
    kept = tokens.features.to(cells)
    at = full.layout.index(full.place[full.role != int(Role.NEWLINE)])  # those of frames that the tower left
    mass = mass_kept(tokens).flatten().to(cells)[at]
    rebuilt = _carried_back(tokens, kept)[at] / mass.clamp(min=LEAST_MASS)[:, None]
    dropped = mass < LEAST_MASS
    if bool(dropped.any()):
        candidates = kept[(tokens.role != int(Role.NEWLINE)).to(kept.device)]
        rebuilt[dropped] = _nearest(cells[dropped], candidates)
    length = float(torch.linalg.vector_norm(cells, dtype=widest(cells.device)))
    apart = float(torch.linalg.vector_norm(cells - rebuilt, dtype=widest(cells.device)))
    return apart / length if length else 0.0


def _on_the_grid_of(full: VideoTokens | None, tokens: VideoTokens) -> VideoTokens:
    """The tokens over all frames of ``full`` where theirs were chosen among those, else as they are.

    Raises:
        InputError: W only says what they stand for there.
    """
    given = tokens.given
    if full is None or given is None or full.layout == tokens.layout:
        return tokens
    if not given.exact:
        raise InputError(
            "The full tokens are of other frames, or larger ones, and these are no means of them; give the tokens of "
            "Encode Video that the stages were given."
        )
    return tokens.over_given()


def require_full(full: VideoTokens, tokens: VideoTokens) -> None:
    """Raise an InputError where ``full`` is not what ``tokens`` were made of, as it left the encoder."""
    reduced = full.tokens_kept < full.tokens_encoded or full.map.kept < full.tokens_encoded
    if reduced and full.frames_left is None:
        raise InputError(
            f"The full tokens are {full.tokens_kept} of {full.tokens_encoded}; give those of Encode Video, before any "
            "stage."
        )
    if steps_inside(full) != steps_inside(tokens):
        raise InputError(
            "The full tokens were not encoded with the same stages inside the tower as the reduced ones; give the "
            "tokens that the stages after it were given."
        )
    same = full.layout == tokens.layout and full.features.shape[1] == tokens.features.shape[1]
    if not same or not torch.equal(full.timestamps, tokens.timestamps) or not _same_attention(full, tokens):
        raise InputError(
            f"The full tokens are of another video than the reduced ones: {full.layout.frames} frames of "
            f"{full.layout.language_cells} tokens, {tokens.layout.frames} frames of {tokens.layout.language_cells}; "
            "give the tokens that the stages were given."
        )


def _same_attention(full: VideoTokens, tokens: VideoTokens) -> bool:
    """Whether both were encoded from one video; of frames that were not chosen the tokens have none."""
    here, there = full.deep.cpu(), tokens.deep.cpu()
    return bool(((here == there) | (there == 0).all(1, keepdim=True)).all())


def steps_inside(tokens: VideoTokens) -> Sequence[Sequence[Any]]:
    """The name and the settings of everything that ran inside the tower, as the encoder's record has them."""
    return next((record.settings.get(STEPS, ()) for record in tokens.history if record.name == ENCODE), ())


def _after_pooling(tokens: VideoTokens) -> TokenMap | None:
    """The map from the language grid and its newlines to the tokens; None where the first stage did not pool."""
    factors, layout = tokens.map.means.factors, tokens.layout
    before: list[Sparse] = []
    for place, factor in enumerate(factors):
        frames = factor.source // layout.sources
        if _pools(factor, dataclasses.replace(layout, frames=frames)):
            # Means of whole frames that are pooled after it are the same means of pooled frames.
            rows = factor.kept // frames
            merged = tuple(_over_rows(each, rows) for each in before)
            return TokenMap(layout.frames * rows, (*merged, *factors[place + 1 :]))
        whole = _over_frames(factor, layout.sources)
        if whole is None:
            return None
        before.append(whole)
    return None


def _over_frames(factor: Factor, sources: int) -> Sparse | None:
    """A factor as one over frames, where its rows are means of whole frames; None where they are not.

    Args:
        factor: over source tokens.
        sources: of a frame.
    """
    if not isinstance(factor, Sparse) or factor.kept % sources or factor.source % sources:
        return None
    row, col, weight = factor.coordinates()
    first = row % sources == 0
    if bool((row % sources != col % sources).any()) or int(first.sum()) * sources != len(row):
        return None
    sizes = factor.kept // sources, factor.source // sources
    return Sparse(row[first] // sources, col[first] // sources, weight[first], *sizes)


def _over_rows(factor: Sparse, rows: int) -> Sparse:
    """A factor over frames as one over their tokens.

    Args:
        factor: over frames.
        rows: tokens of a frame.
    """
    cell = torch.arange(rows, device=factor.device)
    row, col = ((each[:, None] * rows + cell).flatten() for each in (factor.row, factor.col))
    weight = factor.weight.repeat_interleave(rows)
    return Sparse(row, col, weight, factor.kept * rows, factor.source * rows)


def _pools(factor: Factor, layout: Layout) -> bool:
    """Whether a factor is the pooling of every frame, and nothing else."""
    blocks = factor.joined() if isinstance(factor, Stacked) else factor
    if not isinstance(blocks, Blocks) or blocks.cols != (layout.sources,) * layout.frames or len(blocks.weights) > 1:
        return False
    pooling = pool_and_newlines(layout)
    weights = blocks.weights[0].cpu().double()
    return weights.shape == pooling.shape and torch.allclose(weights, pooling, rtol=0, atol=1e-6)


def _cell_of_language_source(layout: Layout) -> Tensor:
    """(L + newlines,) long: the cell that each pooled token of a frame is; -1 for a newline."""
    places = functional.pad(layout.language_places(), (1, 0))  # of the first frame
    return layout.index(places).masked_fill(places[:, 2] == layout.language_grid[1], -1)


def _cell_of_source(layout: Layout) -> Tensor:
    """(cells + newlines,) long: the language cell that reads most of each encoder cell; -1 for a newline.

    A cell that none reads, in the last odd row or column, goes to the cell at its place.
    """
    pooling = layout.pooling_matrix()
    (height, width), (rows, columns) = layout.grid, layout.language_grid
    y, x = torch.arange(height) * rows // height, torch.arange(width) * columns // width
    nearest = layout.index(torch.cartesian_prod(torch.zeros(1, dtype=torch.long), y, x))
    cell = torch.where(pooling.sum(0) > 0, pooling.argmax(0), nearest)
    return torch.cat((cell, cell.new_full((layout.newlines,), -1)))


def _carried_back(tokens: VideoTokens, values: Tensor) -> Tensor:
    """``W.T @ values`` over the language grid: (K, D) of the tokens to (T h w, D) of the cells."""
    layout = tokens.layout
    after = _after_pooling(tokens)
    back = (after or tokens.map.means).adjoint(values)
    back = back.reshape(layout.frames, -1, values.shape[1])
    cell = (_cell_of_language_source(layout) if after else _cell_of_source(layout)).to(values.device)
    out = back.new_zeros(layout.frames, layout.language_cells, values.shape[1])
    return out.index_add_(1, cell[cell >= 0], back[:, cell >= 0]).flatten(0, 1)


def _nearest(cells: Tensor, kept: Tensor) -> Tensor:
    """(n, D): for each of the cells, (n, D), the kept token, (K, D), of the highest cosine."""
    directions = functional.normalize(kept, dim=1)
    return torch.cat([kept[(part @ directions.mT).argmax(1)] for part in cells.split(COMPARED)])
