"""Clips with what is lost first when tokens are few: digits on shapes, shapes that touch, flashes that come again.

Each is a clip of :mod:`.scenes` to which a draw of its own adds these, so that the same seed tells the same story in
both. Where something finds no room, it is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from .drawing import COLOURS, DIGITS, KINDS, Shape, coverage
from .scenes import Actor, Scene, SceneSettings, find_room, make_scene, meet, stays_inside

_ADDING = 2
"""Sets the draw of what is added apart from that of the scene."""
_CLOSER = np.linspace(1.0, 0.5, 11)
_OVERLAP = 0.08
"""The least area that two touching shapes have in common, in squares of the smaller radius."""
_THIRDS = 3
_TRIES = 40


@dataclass(frozen=True)
class HardSettings(SceneSettings):
    """How a hard clip is made; see :class:`.SceneSettings`.

    Args:
        radius: shapes are larger than elsewhere, so that a digit on them can be read.
        digit: probability that a shape bears a digit.
        touch: probability that one shape more touches a shape of the clip.
        again: whether what flashes may do so two or three times, in clips of 8 frames or more.
    """

    radius: tuple[float, float] = (18.0, 28.0)
    digit: float = 0.7
    touch: float = 0.8
    again: bool = True


def make_hard_scene(seed: int, settings: HardSettings | None = None) -> Scene:
    """The hard scene of a seed.

    Args:
        seed: decides all that the settings leave open.
        settings: None takes the defaults.

    Raises:
        InputError: as :func:`.make_scene` does.
    """
    settings = settings or HardSettings()
    scene = make_scene(seed, settings)
    rng = np.random.default_rng((seed, _ADDING))
    actors = list(scene.actors)
    if settings.again and settings.frames >= 8:
        actors = list(_flashing_again(rng, scene, actors))
    if rng.random() < settings.touch:
        actors = _with_touching(rng, scene, actors)
    return replace(scene, actors=tuple(_with_digit(rng, settings, actor) for actor in actors))


def _flashing_again(rng: np.random.Generator, scene: Scene, actors: list[Actor]) -> Iterator[Actor]:
    """The actors; what flashes does so in one, two or three thirds of the clip, each equally likely."""
    frames = scene.settings.frames
    for actor in actors:
        if not actor.flashing:
            yield actor
            continue
        visits = []
        for third in sorted(rng.permutation(_THIRDS)[: rng.integers(1, _THIRDS + 1)].tolist()):
            begin, end = (round(edge * frames / _THIRDS) for edge in (third, third + 1))
            length = int(rng.integers(1, 3)) if end - begin > 3 else 1
            start = int(rng.integers(begin + 1, end - length + 1))
            visits.append((start / frames, (start + length) / frames))
        others = [other for other in actors if other is not actor]
        longer = replace(actor, first=visits[0][0], last=visits[-1][1], visits=tuple(visits))
        yield find_room(rng, scene, longer, others) or actor


def _with_touching(rng: np.random.Generator, scene: Scene, actors: list[Actor]) -> list[Actor]:
    """The actors and a new one, of a colour and a kind that they have not, which touches one that does not move."""
    still = [actor for actor in actors if not actor.direction and not actor.flashing]
    colours = [colour for colour in COLOURS if all(actor.colour != colour for actor in actors)]
    kinds = [kind for kind in KINDS if all(actor.kind != kind for actor in actors)]
    if not (still and colours and kinds):
        return actors
    one = still[rng.integers(len(still))]
    others = [actor for actor in actors if actor is not one]
    for _ in range(_TRIES):
        radius, turn = float(rng.uniform(*scene.settings.radius)), rng.uniform(0, 2 * np.pi)
        new = replace(one, colour=str(rng.choice(colours)), kind=str(rng.choice(kinds)), radius=radius)
        for share in _CLOSER:
            away = share * (one.radius + radius)
            at = (one.start[0] + away * float(np.cos(turn)), one.start[1] + away * float(np.sin(turn)))
            new = replace(new, start=at, end=at)
            if _overlap(one, new):
                break
        if stays_inside(scene, new, radius) and not any(meet(new, other, radius) for other in others):
            touched = [replace(actor, touches=new.colour) if actor is one else actor for actor in actors]
            touched.insert(int(rng.integers(len(touched) + 1)), replace(new, touches=one.colour))
            return touched
    return actors


def _overlap(one: Actor, other: Actor) -> bool:
    """Whether two actors that do not move cover enough of the same place."""
    smaller = min(one.radius, other.radius)
    size = 2 * int(smaller) + 2
    corner = (np.add(one.start, other.start) - size) / 2
    covered = []
    for actor in (one, other):
        x, y = np.subtract(actor.start, corner).tolist()
        covered.append(coverage(Shape(actor.colour, actor.kind, x, y, actor.radius, actor.angle), size))
    return bool(np.minimum(*covered).sum() >= _OVERLAP * smaller**2)


def _with_digit(rng: np.random.Generator, settings: HardSettings, actor: Actor) -> Actor:
    """The actor with a digit, or without: where it touches another one, the digit might be covered."""
    chance, digit = rng.random(), str(rng.choice(list(DIGITS)))
    bears = chance < settings.digit and not actor.touches and not actor.flashing
    return replace(actor, digit=digit) if bears else actor
