"""Hard Shapes: questions that fewer tokens should hurt, about the clips of :mod:`.hard_scenes`.

Five families: a small digit on a shape, two shapes that touch, which of three came second, how many times a shape
appeared for a moment, and what changed between the first frame and the last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations, pairwise
from types import MappingProxyType

import numpy as np

from .drawing import COLOURS, DIGITS
from .hard_scenes import HardSettings, make_hard_scene
from .scenes import Actor, Scene
from .shapes_set import APART, NUMBERS, Family, SceneQuestion, ShapesSet

VERSION = 1
"""To be raised with every change of a seed's clip or questions."""


def _digit(scene: Scene, rng: np.random.Generator) -> list[SceneQuestion]:
    return [
        SceneQuestion(f"Which number is on the {actor.colour} {actor.kind}?", actor.digit, (actor,))
        for actor in scene.actors
        if actor.digit
    ]


def _touch(scene: Scene, rng: np.random.Generator) -> list[SceneQuestion]:
    by_colour = {actor.colour: actor for actor in scene.actors}
    return [
        SceneQuestion(
            f"What colour is the shape that touches the {actor.colour} one?",
            actor.touches,
            (actor, by_colour[actor.touches]),
        )
        for actor in scene.actors
        if actor.touches
    ]


def _second(scene: Scene, rng: np.random.Generator) -> list[SceneQuestion]:
    """Which of three shapes, named in any order, came second."""
    questions = []
    lasting = [actor for actor in scene.actors if not actor.flashing]
    for three in combinations(lasting, 3):
        in_order = sorted(three, key=lambda actor: actor.first)
        if all(later.first - earlier.first >= APART for earlier, later in pairwise(in_order)):
            named = [three[i] for i in rng.permutation(3)]
            colours = "the {} one, the {} one or the {} one".format(*(actor.colour for actor in named))
            questions.append(SceneQuestion(f"Which came second, {colours}?", in_order[1].colour, tuple(named)))
    return questions


def _times(scene: Scene, rng: np.random.Generator) -> list[SceneQuestion]:
    """How many times a shape appeared for a moment: one to three times, equally often."""
    words = "How many times did a shape appear briefly?"
    return [SceneQuestion(words, NUMBERS[len(a.visits) - 1], (a,)) for a in scene.actors if a.visits]


def _changed(scene: Scene, rng: np.random.Generator) -> list[SceneQuestion]:
    """The only shape that has gone between the first frame and the last, and the only one that is new."""

    def only(where: int, other: int) -> list[Actor]:
        found = [a for a in scene.actors if a.seen(scene.times[where]) and not a.seen(scene.times[other])]
        return found if len(found) == 1 else []

    gone = [SceneQuestion("Which shape has gone at the end?", a.colour, (a,)) for a in only(0, -1)]
    return gone + [SceneQuestion("Which shape is new at the end?", a.colour, (a,)) for a in only(-1, 0)]


HARD_FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "digit": Family(_digit, tuple(DIGITS), 1 / len(DIGITS)),
        "touch": Family(_touch, tuple(COLOURS), 1 / (len(COLOURS) - 1)),
        "second": Family(_second, tuple(COLOURS), 1 / 3),
        "times": Family(_times, NUMBERS, 1 / 3),
        "changed": Family(_changed, tuple(COLOURS), 1 / len(COLOURS)),
    }
)


@dataclass(frozen=True)
class HardShapesSet(ShapesSet):
    """As :class:`.ShapesSet`, with hard clips and questions."""

    settings: HardSettings

    name = "hard-shapes"
    version = VERSION
    families = HARD_FAMILIES
    made_by = HardSettings

    def _made(self, seed: int, settings: HardSettings) -> Scene:
        return make_hard_scene(seed, settings)
