"""Where the tokens of a text should look: the shapes that each token names, and the cells that show them.

The loss of the answers does not teach a small LLM that a word of a question is to be looked up in the video. So
training has losses of attention. A token that names a shape should look at the cells that show it. The token that
answers should look at the tokens that name shapes, and at the cells that show the shapes of the question.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..evaluation.drawing import COLOURS, KINDS
from ..evaluation.scenes import Actor, Scene

_WORD = re.compile(r"[a-z]+")
_KIND_OF = {form: kind for kind in KINDS for form in (kind, f"{kind}s", f"{kind}es")}
_HAPPENING = ("briefly", "cut")
"""Words that name the shapes of a question by an event."""


@dataclass(frozen=True)
class Grounding:
    """The layers and heads whose attention is trained, the layers of the readouts, and the weights of the losses.

    Args:
        naming: layers in which a token that names shapes looks at the cells that show them.
        reading: layers in which a token that answers looks at the tokens of its question that name shapes; if some
            of them name the answer, at those only.
        answering: layers in which a token that answers looks at the cells that show the shapes of the question.
        heads: three heads of each of these layers. In the layers of naming the first looks at shapes in all frames,
            the second in the first third of them, the third in the last third.
        timed_after: number of layers after which :class:`.Clock` reads the time off video tokens.
        known_after: number of layers after which :class:`.Attributes` and :class:`.Colours` read tokens that name.
        answered_after: number of layers after which the answer is read early.
        pointing: weight of the attention's loss; the loss of the answers has weight 1.
        time: weight of the loss of :class:`.Clock`.
        knowledge: weight of the loss of :class:`.Attributes`.
        colours: weight of the loss of :class:`.Colours`.
        early: weight of the early readout's loss.
    """

    naming: tuple[int, ...] = (1, 3)
    reading: tuple[int, ...] = (5, 7)
    answering: tuple[int, ...] = (8,)
    heads: tuple[int, int, int] = (0, 3, 6)
    timed_after: int = 3
    known_after: int = 5
    answered_after: int = 10
    pointing: float = 0.5
    time: float = 0.5
    knowledge: float = 1.0
    colours: float = 0.3
    early: float = 0.3


@dataclass(frozen=True)
class Look:
    """A token that should look at shapes.

    Args:
        token: its place in its text, from 0.
        actors: the shapes. If there are none, the token names an absent shape and should look at the prompt's first
            token, which takes idle attention.
    """

    token: int
    actors: tuple[Actor, ...]


def mentions(text: str, offsets: Sequence[tuple[int, int]], scene: Scene, about: tuple[Actor, ...] = ()) -> list[Look]:
    """The tokens of a text that name shapes by colour, by kind or by an event; absent shapes too.

    A kind right after a colour names the shapes that have both.

    Args:
        text: about the scene.
        offsets: for each token the place of its first character, and of the first one after it.
        scene: the clip.
        about: the actors that "appeared briefly" and "after the cut" mean.
    """
    looks = []
    for end, actors in _named(text, scene, about):
        token = next(i for i, (first, last) in enumerate(offsets) if first < end <= last)
        looks.append(Look(token, actors))
    return looks


def names(scene: Scene, rng: np.random.Generator) -> str:
    """The names of all shapes of a scene in random order: colour, kind if it is unique, or both.

    Args:
        scene: the clip.
        rng: chooses the order and the names.
    """
    kinds = [actor.kind for actor in scene.actors]
    listed = []
    for i in rng.permutation(len(scene.actors)):
        actor = scene.actors[i]
        ways = [actor.colour, f"{actor.colour} {actor.kind}"] + [actor.kind] * (kinds.count(actor.kind) == 1)
        listed.append(ways[rng.integers(len(ways))])
    return ", ".join(listed)


def _named(text: str, scene: Scene, about: tuple[Actor, ...]) -> Iterator[tuple[int, tuple[Actor, ...]]]:
    """The end of each name in the text, and the actors that it names."""
    colour, colour_end = "", -1
    for word in _WORD.finditer(text):
        name = word[0]
        if name in COLOURS:
            colour, colour_end = name, word.end()
            yield word.end(), tuple(a for a in scene.actors if a.colour == name)
        elif name in _KIND_OF:
            of_colour = colour if word.start() == colour_end + 1 else ""
            alike = (a for a in scene.actors if a.kind == _KIND_OF[name] and of_colour in ("", a.colour))
            yield word.end(), tuple(alike)
        elif name in _HAPPENING:
            yield word.end(), about


SPANS = ("all", "first", "last")


def cells(scene: Scene, actors: Sequence[Actor], side: int, span: str = "all") -> Tensor:
    """The tokens of a video, ``side`` x ``side`` a frame, that show any of ``actors``.

    Args:
        scene: the clip.
        actors: shapes of the scene.
        side: of the language grid, in tokens.
        span: "all" frames that show an actor, the "first" third of them, or the "last".

    Returns:
        (frames * side * side,) bool.
    """
    size = scene.settings.size
    width = size / side
    marked = torch.zeros(scene.settings.frames, side, side, dtype=torch.bool)
    middles = (torch.arange(side) + 0.5) * width
    for actor in actors:
        frames = [frame for frame, time in enumerate(scene.times) if actor.seen(time)]
        third = -(-len(frames) // 3)
        for frame in {"all": frames, "first": frames[:third], "last": frames[len(frames) - third :]}[span]:
            x, y = scene.place(actor, scene.times[frame])
            away = torch.hypot(middles[None] - x, middles[:, None] - y)
            marked[frame] |= away < max(0.9 * actor.radius, 0.5 * width)
            marked[frame, min(side - 1, int(y / width)), min(side - 1, int(x / width))] = True
    return marked.flatten()
