"""What is to be known of a shape, read off the token that names it while training lasts.

An answer teaches one thing about one shape, through many layers. A linear layer that has to tell everything about a
shape from the token that names it teaches nine, and the answer is then one step away. It is not part of the model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..evaluation.drawing import COLOURS, KINDS
from ..evaluation.scenes import DIRECTIONS, Actor, Scene

_PARTS = 4
_UNIT = 64
_SIZES = {
    "colour": len(COLOURS),
    "kind": len(KINDS),
    "first across": _PARTS,
    "first down": _PARTS,
    "last across": _PARTS,
    "last down": _PARTS,
    "direction": len(DIRECTIONS) + 1,
    "comes": _PARTS,
    "goes": _PARTS,
}
ATTRIBUTES = tuple(_SIZES)


def attributes(scene: Scene, actor: Actor) -> tuple[int, ...]:
    """The class of each of ``ATTRIBUTES``: places in quarters of the frame, times in quarters of the clip."""
    path = scene.path(actor) / scene.settings.size
    times = actor.first, actor.last - 1e-6
    places, moments = (np.clip(_PARTS * np.asarray(v), 0, _PARTS - 1).astype(int) for v in (path[[0, -1]], times))
    return (
        list(COLOURS).index(actor.colour),
        KINDS.index(actor.kind),
        *places.flatten().tolist(),
        ["", *DIRECTIONS].index(actor.direction),
        *moments.tolist(),
    )


class Attributes(nn.Module):
    """A linear readout of all attributes from hidden states (n, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.readout = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, sum(_SIZES.values())))

    def forward(self, states: Tensor, classes: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """The mean cross-entropy, and how often each attribute is right.

        Args:
            states: (n, width), n of 1 or more.
            classes: for each of them, see :func:`attributes`.
        """
        targets = torch.tensor(classes, device=states.device).T
        scores = self.readout(states).split(list(_SIZES.values()), dim=1)
        losses = [functional.cross_entropy(score, target) for score, target in zip(scores, targets, strict=True)]
        right = [(score.argmax(1) == target).float().mean() for score, target in zip(scores, targets, strict=True)]
        return torch.stack(losses).mean(), torch.stack(right)


class Colours(nn.Module):
    """A linear readout, from hidden states (n, width), of the colours that the shapes named have.

    Of one, of several, of none: what is to be counted, and what is not there, has to be known as a set.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.readout = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, len(COLOURS)))

    def forward(self, states: Tensor, named: Sequence[Sequence[Actor]]) -> Tensor:
        """The cross-entropy of all colours, in nats a token; ``named`` are the shapes that each token names."""
        has = [[any(actor.colour == colour for actor in actors) for colour in COLOURS] for actors in named]
        target = torch.tensor(has, dtype=states.dtype, device=states.device)
        return functional.binary_cross_entropy_with_logits(self.readout(states), target, reduction="sum") / len(states)


class Clock(nn.Module):
    """A linear readout of the time of video tokens from hidden states (n, width).

    The LLM knows of time only by how far apart tokens are. What it learns to tell is the binary logarithm of their
    place in the prompt.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.readout = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 1))

    def forward(self, states: Tensor) -> Tensor:
        """The mean error on tokens that stand one behind another, small ones squared."""
        place = torch.arange(len(states), device=states.device)
        return functional.smooth_l1_loss(self.readout(states)[:, 0], (1 + place / _UNIT).log2())
