"""How a name finds what it names before anything has been learnt: attention set in closed form.

A token that names a colour or a kind should attend to the cells that show it. Both sides are read off hidden states
by ridge regression onto one code, a place for every name: of a token the name it is, of a cell the names of what it
shows. LoRA of the query and key matrices then writes these codes where the heads compare them, in the rotary
dimensions that turn so slowly that distance does not matter. Left to gradients, the same takes hundreds of clips.
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
    """How the attention of naming is set.

    Args:
        first_seed, clips: of the stills that the codes are read from.
        strength: what a match adds to a score of attention.
        key: how large the codes of cells are beside those of tokens; small, as other heads read the same keys.
        ridge: penalty relative to the power of the hidden states.
        least: the part of a cell that a shape covers where the cell shows it.
        shown_weight: how much a token that names or shows something counts beside one that does not.
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
        settings: weight and penalty.

    Returns:
        (names, D) float32.
    """
    x = states.double()
    counts = torch.where(weighty, settings.shown_weight, 1.0).to(x)[:, None]
    gram = x.T @ (counts * x)
    gram += settings.ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=x.dtype)
    return torch.linalg.solve(gram, (counts * x).T @ codes.double()).T.float()


def text_codes(pieces: list[str]) -> Tensor:
    """(tokens, names): the name that each token of a text is."""
    words = [piece.strip() for piece in pieces]
    return torch.tensor([[word == name for name in NAMES] for word in words])


def cell_codes(scene: Scene, side: int, least: float) -> tuple[Tensor, Tensor]:
    """(cells, names): the two names of what each cell of a still shows, and (cells,) which of them are plain.

    Plain is a cell without a shape, and one that a shape covers to ``least`` or more.
    """
    covered, words = cell_contents(scene.shapes(0), scene.settings.size, side)
    codes = torch.tensor([[name in pair for name in NAMES] for pair in words])
    return codes, (covered == 0) | (covered >= least)


def slow_dimensions(head: int, dims: int, count: int) -> list[int]:
    """``count`` of the dimensions of a head that turn slowest with distance; they turn in pairs (i, i + dims / 2)."""
    half = dims // 2
    pairs = -(-count // 2)
    if pairs > half:
        raise ValueError(f"{count} names in a head of {dims} dimensions")
    slow = range(half - pairs, half)
    return [head * dims + i for i in (*slow, *(half + i for i in slow))][:count]
