"""What a text about a scene speaks of, token by token, and where in the video that is to be seen.

A small LLM takes long to find out by itself that a word of a question is to be looked up in the video; the loss on
answers says nothing of how. So training also says where to look: a token that names a shape at the cells that show
it, and the token that answers at the tokens that name, and at the cells that show what is asked about.
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
"""Words that end the naming of what the question is about."""


@dataclass(frozen=True)
class Grounding:
    """Which heads are told where to look, in which layers, and what is read off the hidden states.

    Args:
        naming: layers in which a token that names shapes looks at the cells that show them.
        reading: layers in which a token that answers looks at the tokens of its question that name shapes, at those
            that name the answer where there are such.
        answering: layers in which a token that answers looks at the cells that show what is asked about.
        heads: three of each of these layers. In those of naming the first looks at shapes in all frames, the second
            where they are first seen, the third where they are last seen.
        timed_after: after so many layers a video token knows when it is; see :class:`.Clock`.
        known_after: after so many layers a token that names one shape knows all about it; see :mod:`.attributes`.
        answered_after: after so many layers the answer is there.
        pointing, time, knowledge, colours, early: how much each counts beside the answers.
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
    """A token that should look somewhere: its place in its text, and the actors it should see.

    Without any, what it names is not there: it should look at the prompt's first token, where attention that has
    nothing to do goes.
    """

    token: int
    actors: tuple[Actor, ...]


def mentions(text: str, offsets: Sequence[tuple[int, int]], scene: Scene, about: tuple[Actor, ...] = ()) -> list[Look]:
    """The tokens of a text that name shapes, there or not: by colour, by kind, or by what happened.

    A kind right after a colour names the shapes that have both.

    Args:
        text: about the scene.
        offsets: first and last character of every token.
        scene: with its actors.
        about: the actors that "appeared briefly" and "after the cut" mean.
    """
    looks = []
    for end, actors in _named(text, scene, about):
        token = next(i for i, (first, last) in enumerate(offsets) if first < end <= last)
        looks.append(Look(token, actors))
    return looks


def names(scene: Scene, rng: np.random.Generator) -> str:
    """A list of all that a scene shows, in any order, each by its colour, its kind where no other has it, or both."""
    kinds = [actor.kind for actor in scene.actors]
    listed = []
    for i in rng.permutation(len(scene.actors)):
        actor = scene.actors[i]
        ways = [actor.colour, f"{actor.colour} {actor.kind}"] + [actor.kind] * (kinds.count(actor.kind) == 1)
        listed.append(ways[rng.integers(len(ways))])
    return ", ".join(listed)


def _named(text: str, scene: Scene, about: tuple[Actor, ...]) -> Iterator[tuple[int, tuple[Actor, ...]]]:
    """Where a name ends in the text, and whom it names."""
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
        actors: of the scene.
        side: of a frame, in tokens.
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
