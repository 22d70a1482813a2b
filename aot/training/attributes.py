"""Linear readouts of hidden states: extra losses of the training, and no part of the model.

An answer teaches one attribute of one shape, through many layers. A linear layer on the token that names a shape
teaches all nine attributes of it, and the answer is then one step away.
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
    """The class of each of ``ATTRIBUTES``, from 0: places in quarters of the frame, times in quarters of the clip.

    Args:
        scene: the clip.
        actor: one of its shapes.
    """
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
    """A linear readout of all attributes from hidden states.

    Args:
        width: of the hidden states.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.readout = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, sum(_SIZES.values())))

    def forward(self, states: Tensor, classes: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """The mean cross-entropy, and the share of right readouts of each attribute.

        Args:
            states: (n, width) floating, n of 1 or more.
            classes: of each state, as :func:`attributes` returns them.

        Returns:
            () floating, in nats, and (attributes,) float32, 0 to 1.
        """
        targets = torch.tensor(classes, device=states.device).T
        scores = self.readout(states).split(list(_SIZES.values()), dim=1)
        losses = [functional.cross_entropy(score, target) for score, target in zip(scores, targets, strict=True)]
        right = [(score.argmax(1) == target).float().mean() for score, target in zip(scores, targets, strict=True)]
        return torch.stack(losses).mean(), torch.stack(right)


class Colours(nn.Module):
    """A linear readout, from hidden states, of the colours of all shapes that a token names.

    A token may name one shape, several or none. A question that counts, or asks whether a shape exists, needs the
    whole set.

    Args:
        width: of the hidden states.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.readout = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, len(COLOURS)))

    def forward(self, states: Tensor, named: Sequence[Sequence[Actor]]) -> Tensor:
        """The binary cross-entropy, summed over colours: () floating, in nats a token.

        Args:
            states: (n, width) floating.
            named: the shapes that each token names.
        """
        has = [[any(actor.colour == colour for actor in actors) for colour in COLOURS] for actors in named]
        target = torch.tensor(has, dtype=states.dtype, device=states.device)
        return functional.binary_cross_entropy_with_logits(self.readout(states), target, reduction="sum") / len(states)


class Clock(nn.Module):
    """A linear readout of the time of video tokens from hidden states.

    The LLM sees time only as the distance between tokens. The target is log2(1 + place / 64), where place is the
    token's number in the video.

    Args:
        width: of the hidden states.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.readout = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 1))

    def forward(self, states: Tensor) -> Tensor:
        """The mean smooth L1 error, () floating.

        Args:
            states: (n, width) floating, of all tokens of a video in order.
        """
        place = torch.arange(len(states), device=states.device)
        return functional.smooth_l1_loss(self.readout(states)[:, 0], (1 + place / _UNIT).log2())
