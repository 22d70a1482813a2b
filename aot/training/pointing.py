"""What a text about a scene speaks of, token by token, and where in the video that is to be seen.

A small LLM takes long to find out by itself that a word of a question is to be looked up in the video; the loss on
answers says nothing of how. So training also says where to look: a token that names a shape should attend to the
cells that show it, and so should the token that answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..evaluation.drawing import COLOURS, KINDS
from ..evaluation.scenes import Actor, Scene

_WORD = re.compile(r"[a-z]+")
_KIND_OF = {form: kind for kind in KINDS for form in (kind, f"{kind}s", f"{kind}es")}


@dataclass(frozen=True)
class Grounding:
    """Which heads are told where to look, in which layers, and how much that counts beside the answers."""

    naming: tuple[int, ...] = (3, 6, 9)
    answering: tuple[int, ...] = (12, 15, 18)
    heads: tuple[int, ...] = (0, 3, 6)
    weight: float = 0.3


@dataclass(frozen=True)
class Look:
    """A token that should look somewhere: its place in its text, and the actors it should see."""

    token: int
    actors: tuple[Actor, ...]


def mentions(text: str, offsets: Sequence[tuple[int, int]], scene: Scene) -> list[Look]:
    """The tokens of a text that name colours and kinds of shapes that the scene has.

    A kind right behind a colour names what has both.

    Args:
        offsets: first and last character of every token.
    """
    looks = []
    for end, actors in _named(text, scene):
        if actors:
            token = next(i for i, (first, last) in enumerate(offsets) if first < end <= last)
            looks.append(Look(token, actors))
    return looks


def _named(text: str, scene: Scene) -> Iterator[tuple[int, tuple[Actor, ...]]]:
    """Where a colour or a kind ends in the text, and whom it names."""
    colour, behind = "", -1
    for word in _WORD.finditer(text):
        name = word[0]
        if name in COLOURS:
            colour, behind = name, word.end()
            yield word.end(), tuple(a for a in scene.actors if a.colour == name)
        elif name in _KIND_OF:
            wanted = colour if word.start() == behind + 1 else ""
            alike = (a for a in scene.actors if a.kind == _KIND_OF[name] and wanted in ("", a.colour))
            yield word.end(), tuple(alike)


def cells(scene: Scene, actors: Sequence[Actor], side: int) -> Tensor:
    """The tokens of a video, ``side`` x ``side`` a frame, that show any of ``actors``: (frames * side * side,) bool."""
    size = scene.settings.size
    width = size / side
    shown = torch.zeros(scene.settings.frames, side, side, dtype=torch.bool)
    middles = (torch.arange(side) + 0.5) * width
    for frame, time in enumerate(scene.times):
        for actor in actors:
            if actor.first <= time < actor.last:
                x, y = scene.place(actor, time)
                away = torch.hypot(middles[None] - x, middles[:, None] - y)
                shown[frame] |= away < max(0.9 * actor.radius, 0.5 * width)
                shown[frame, min(side - 1, int(y / width)), min(side - 1, int(x / width))] = True
    return shown.flatten()
