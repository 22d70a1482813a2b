"""Attention from names to the cells they name, set in closed form before training.

A token that names a colour or a kind should attend to the cells that show it. Two ridge regressions map hidden states
onto codes with one dimension for each name: the code of a token is the name that it is, the code of a cell the names
of the shape that it shows. LoRA of the query and key matrices writes these codes into the rotary dimensions that turn
so slowly that distance does not matter. By gradients alone, the same takes hundreds of clips.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..evaluation.drawing import COLOURS, KINDS
from ..evaluation.scenes import Scene
from .warm_start import cell_contents

NAMES = (*COLOURS, *KINDS)


@dataclass(frozen=True)
class Naming:
    """Settings of the attention from names to cells.

    Args:
        first_seed: seed of the first still that the codes are fitted on.
        clips: number of stills.
        strength: what a match adds to the attention score.
        key: size of the cells' codes relative to the tokens'. It is small, as other heads use the same keys.
        ridge: penalty relative to the power of the hidden states.
        least: the least part of a cell that its shape covers, 0 to 1, for the cell to be used.
        shown_weight: weight in the fit of a token that names or shows something, relative to one that does not.
    """

    first_seed: int = 800_000
    clips: int = 60
    strength: float = 12.0
    key: float = 0.3
    ridge: float = 1e-2
    least: float = 0.3
    shown_weight: float = 10.0


def fit_codes(states: Tensor, codes: Tensor, weighty: Tensor, settings: Naming) -> Tensor:
    """The ridge regression, without a constant, from hidden states onto codes.

    Args:
        states: (n, D) floating, hidden states.
        codes: (n, names) bool.
        weighty: (n,) bool, the rows that count ``settings.shown_weight`` times.
        settings: the weight and the penalty.

    Returns:
        (names, D) float32.
    """
    x = states.double()
    counts = torch.where(weighty, settings.shown_weight, 1.0).to(x)[:, None]
    gram = x.T @ (counts * x)
    gram += settings.ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=x.dtype)
    return torch.linalg.solve(gram, (counts * x).T @ codes.double()).T.float()


def text_codes(pieces: list[str]) -> Tensor:
    """Which name each token of a text is: (tokens, names) bool.

    Args:
        pieces: the text of each token.
    """
    words = [piece.strip() for piece in pieces]
    return torch.tensor([[word == name for name in NAMES] for word in words])


def cell_codes(scene: Scene, side: int, least: float) -> tuple[Tensor, Tensor]:
    """The colour and the kind that each cell of a still shows, and which cells are plain.

    A cell is plain if no shape touches it, or if a shape covers ``least`` of it or more.

    Args:
        scene: a still.
        side: of the language grid, in cells.
        least: part of a cell, 0 to 1.

    Returns:
        (cells, names) bool and (cells,) bool.
    """
    covered, words = cell_contents(scene.shapes(0), scene.settings.size, side)
    codes = torch.tensor([[name in pair for name in NAMES] for pair in words])
    return codes, (covered == 0) | (covered >= least)


def slow_dimensions(head: int, dims: int, count: int) -> list[int]:
    """The rotary dimensions of a head that turn slowest with distance. They turn in pairs (i, i + dims / 2).

    Args:
        head: its index.
        dims: dimensions of a head.
        count: number of dimensions to return.

    Returns:
        Rows of the query or key matrix.
    """
    half = dims // 2
    pairs = -(-count // 2)
    if pairs > half:
        raise ValueError(f"{count} names in a head of {dims} dimensions")
    slow = range(half - pairs, half)
    return [head * dims + i for i in (*slow, *(half + i for i in slow))][:count]
