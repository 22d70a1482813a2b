"""Short clips of coloured shapes whose every event is known.

A scene is a pure function of its seed and settings. Events are in shares of the clip's length, so one seed tells one
story at any number of frames; only a flash is counted in frames, because it lasts one or two of them. Every random
choice treats colours, kinds of shape, sides and directions alike, so without the clip all answers are equally likely.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from ..errors import InputError
from ..video.frames import Clock, Frames
from .drawing import COLOURS, KINDS, RAY_REACH, Shape, background, paint

DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}

LEAST_VISIBLE = 0.28
"""The smallest share of the clip in which a shape that does not flash is visible."""

_PAN, _DRIFT = 0.12, 0.2
"""The farthest that the camera pans and a background moves, as shares of the frame's width."""
_ATTEMPTS = 400
_GAP = 4.0
_BORDER = 2.0


@dataclass(frozen=True)
class SceneSettings:
    """How a clip is made.

    Args:
        frames: number of frames; at least 4, or 1 for a :meth:`Scene.still`.
        seconds: the clip's length.
        size: height and width, in pixels.
        radius: smallest and largest radius of a shape's outer circle, in pixels.
        cut: probability that a clip has a hard cut.
        pan: probability that a clip has a panning camera.
        drift: probability that a shot's background moves on its own.
        flash: probability that a clip has a flash.
        moving: probability that a shape moves.
    """

    frames: int = 16
    seconds: float = 8.0
    size: int = 378
    radius: tuple[float, float] = (15.0, 28.0)
    cut: float = 0.5
    pan: float = 0.3
    drift: float = 0.5
    flash: float = 0.6
    moving: float = 0.5

    def __post_init__(self) -> None:
        smallest, largest = self.radius
        if self.frames < 1 or self.seconds <= 0 or self.size < 112 or not 4 <= smallest <= largest <= self.size / 6:
            raise InputError(
                f"A scene of {self.frames} frames in {self.seconds:g} s, {self.size} pixels wide, with shapes of "
                f"radius {smallest:g} to {largest:g}; take 4 frames or more, more than 0 s, 112 pixels or more, and "
                "radii from 4 to a sixth of the width."
            )


@dataclass(frozen=True)
class Actor:
    """A shape and its path.

    It is visible from ``first`` to ``last``, in shares of the clip's length. Its centre is then at ``start`` and
    ``end``, in pixels, before the camera pans. ``direction`` names its motion, "" if it does not move. One that comes
    several times has each of its ``visits`` as (first, last). ``digit`` names what it bears, "" if nothing, and
    ``touches`` is the colour of the shape that it touches, "" if it touches none.
    """

    colour: str
    kind: str
    radius: float
    angle: float
    first: float
    last: float
    start: tuple[float, float]
    end: tuple[float, float]
    direction: str = ""
    flashing: bool = False
    visits: tuple[tuple[float, float], ...] = ()
    digit: str = ""
    touches: str = ""

    def seen(self, time: float) -> bool:
        """Whether it is visible at a time."""
        return any(first <= time < last for first, last in self.visits or ((self.first, self.last),))

    def at(self, time: float) -> tuple[float, float]:
        """Its centre at a time, before the camera pans."""
        part = (time - self.first) / (self.last - self.first)
        (x, y), (to_x, to_y) = self.start, self.end
        return x + (to_x - x) * part, y + (to_y - y) * part


@dataclass(frozen=True)
class Scene:
    """A clip: ``shots`` are its parts between hard cuts as (first, last) shares, ``pan`` the camera's path in pixels.

    ``drift`` is how far each shot's background moves on its own, in pixels over the whole clip.
    """

    seed: int
    settings: SceneSettings
    shots: tuple[tuple[float, float], ...]
    actors: tuple[Actor, ...]
    pan: tuple[float, float]
    drift: tuple[tuple[float, float], ...]
    texture_seeds: tuple[int, ...] = field(repr=False)

    @property
    def times(self) -> tuple[float, ...]:
        """The middle of every frame, as a share of the clip's length."""
        return tuple((i + 0.5) / self.settings.frames for i in range(self.settings.frames))

    def shot(self, time: float) -> int:
        """The index of the shot at a time."""
        return next(i for i, (_, last) in enumerate(self.shots) if time < last)

    def place(self, actor: Actor, time: float) -> tuple[float, float]:
        """The actor's centre in the frame at a time, in pixels."""
        x, y = actor.at(time)
        return x + self.pan[0] * (time - 0.5), y + self.pan[1] * (time - 0.5)

    def path(self, actor: Actor) -> np.ndarray:
        """The actor's centre in each frame that shows it: (frames, 2) float64, in pixels."""
        return np.array([self.place(actor, time) for time in self.times if actor.seen(time)])

    def shapes(self, frame: int) -> tuple[Shape, ...]:
        """The shapes in a frame; only those that touch overlap, the later one above."""
        time = self.times[frame]
        return tuple(
            Shape(a.colour, a.kind, *self.place(a, time), a.radius, a.angle, a.flashing, a.digit)
            for a in self.actors
            if a.seen(time)
        )

    def still(self, frame: int) -> Scene:
        """One of its frames as a scene of its own, in which nothing moves, comes or goes."""
        time = self.times[frame]
        shot = self.shot(time)
        seen = tuple(
            replace(a, first=0.0, last=1.0, start=place, end=place, direction="", flashing=False, visits=())
            for a in self.actors
            if a.seen(time) and (place := self.place(a, time))
        )
        settings = replace(self.settings, frames=1)
        textures = self.texture_seeds[shot : shot + 1]
        return Scene(self.seed, settings, ((0.0, 1.0),), seen, (0.0, 0.0), ((0.0, 0.0),), textures)

    def pictures(self) -> Iterator[np.ndarray]:
        """Every frame in order, uint8 (size, size, 3) RGB."""
        size, reach = self.settings.size, _texture_reach(self.settings)
        texture, showing = np.empty(0), -1
        for frame, time in enumerate(self.times):
            shot = self.shot(time)
            if shot != showing:
                rng = np.random.default_rng(self.texture_seeds[shot])
                texture, showing = background(rng, size + 2 * reach, size + 2 * reach), shot
            x, y = (
                round(reach - (pan + drift) * (time - 0.5))
                for pan, drift in zip(self.pan, self.drift[shot], strict=True)
            )
            picture = texture[y : y + size, x : x + size].copy()
            for shape in self.shapes(frame):
                paint(picture, shape)
            yield np.clip(np.rint(picture), 0, 255).astype(np.uint8)

    def frames(self) -> Frames:
        """The clip as decoded frames, the first at 0 s."""
        settings = self.settings
        pixels = torch.from_numpy(np.stack(list(self.pictures())))
        seconds = torch.arange(settings.frames, dtype=torch.float64) * (settings.seconds / settings.frames)
        clock = Clock(settings.frames, settings.frames / settings.seconds, torch.arange(settings.frames))
        return Frames(pixels, seconds, f"shapes-{self.seed}", clock=clock)


def make_scene(seed: int, settings: SceneSettings | None = None) -> Scene:
    """The scene of a seed.

    Args:
        seed: decides all that the settings leave open.
        settings: None takes the defaults.

    Raises:
        InputError: fewer than 4 frames, or too little room in the frame for its shapes.
    """
    settings = settings or SceneSettings()
    if settings.frames < 4:
        raise InputError(f"A scene of {settings.frames} frames; take 4 frames or more.")
    rng = np.random.default_rng(seed)
    empty = _stage(rng, seed, settings)
    cast = list(_cast(rng, settings, empty.shots))
    # The cast is drawn before its places: a crowded cast, which needs more tries, stays as likely as any other.
    for attempt in range(_ATTEMPTS):
        actors = _find_rooms(np.random.default_rng((seed, attempt)), empty, cast)
        if actors is not None:
            return replace(empty, actors=tuple(actors[i] for i in rng.permutation(len(actors))))
    raise InputError(
        f"The shapes of scene {seed} find no room in {settings.size} pixels with radii up to "
        f"{settings.radius[1]:g}; take smaller shapes or larger frames."
    )


def _stage(rng: np.random.Generator, seed: int, settings: SceneSettings) -> Scene:
    """A scene without actors: its shots, camera and backgrounds."""
    size, shots = settings.size, ((0.0, 1.0),)
    if rng.random() < settings.cut:
        at = round(rng.uniform(0.4, 0.6) * settings.frames) / settings.frames
        shots = ((0.0, at), (at, 1.0))
    pan = tuple((rng.uniform(-_PAN, _PAN, 2) * size).tolist()) if rng.random() < settings.pan else (0.0, 0.0)
    drift = tuple(
        tuple((rng.uniform(-_DRIFT, _DRIFT, 2) * size).tolist()) if rng.random() < settings.drift else (0.0, 0.0)
        for _ in shots
    )
    return Scene(seed, settings, shots, (), pan, drift, tuple(rng.integers(1 << 40, size=len(shots)).tolist()))


def _cast(rng: np.random.Generator, settings: SceneSettings, shots: tuple[tuple[float, float], ...]) -> Iterator[Actor]:
    """The actors and their times, without places.

    All colours differ. One to three actors share a kind; if there are two of them or more and two shots, exactly one
    of them is in the second. All others differ in kind. Without a cut, at least one comes late.
    """
    colours, kinds = rng.permutation(list(COLOURS)).tolist(), rng.permutation(KINDS).tolist()
    alike, others = int(rng.integers(1, 4)), int(rng.integers(2, 4))
    kinds_of = [kinds[0]] * alike + kinds[1 : 1 + others]
    where = rng.integers(len(shots), size=len(kinds_of))
    if len(shots) > 1:
        where[:alike] = 0
        where[0] = 1 if alike > 1 else rng.integers(2)
        where[alike : alike + 2] = rng.permutation(2)
    late = len(kinds_of) - 1 if len(shots) == 1 else None
    for i, (colour, kind) in enumerate(zip(colours, kinds_of, strict=False)):
        first, last = _visit(rng, shots[int(where[i])], late=i == late)
        direction = str(rng.choice(list(DIRECTIONS))) if rng.random() < settings.moving else ""
        yield _actor(rng, settings, colour, kind, first, last, direction)
    if rng.random() < settings.flash:
        length = int(rng.integers(1, 3))
        shot = shots[rng.integers(len(shots))]
        begin, end = (round(share * settings.frames) for share in shot)
        start = int(rng.integers(begin, max(begin + 1, end - length + 1)))
        first, last = start / settings.frames, min(start + length, end) / settings.frames
        yield _actor(rng, settings, colours[-1], kinds[-1], first, last, "", flashing=True)


def _visit(rng: np.random.Generator, shot: tuple[float, float], *, late: bool) -> tuple[float, float]:
    """First and last time of an actor in its shot: it stays throughout, comes late or leaves early."""
    first, last = shot
    slack = last - first - LEAST_VISIBLE
    how = rng.random()
    if late:
        return first + rng.uniform(0.3, 1.0) * slack, last
    if how < 0.3:
        return first + rng.uniform(0.2, 1.0) * slack, last
    if how < 0.6:
        return first, last - rng.uniform(0.2, 1.0) * slack
    return first, last


def _actor(
    rng: np.random.Generator,
    settings: SceneSettings,
    colour: str,
    kind: str,
    first: float,
    last: float,
    direction: str,
    *,
    flashing: bool = False,
) -> Actor:
    radius, angle = float(rng.uniform(*settings.radius)), float(rng.uniform(-0.15, 0.15))
    return Actor(colour, kind, radius, angle, first, last, (0.0, 0.0), (0.0, 0.0), direction, flashing)


def _find_rooms(rng: np.random.Generator, scene: Scene, cast: list[Actor]) -> list[Actor] | None:
    """All actors with paths that keep clear of each other, or None."""
    placed: list[Actor] = []
    for actor in cast:
        with_path = find_room(rng, scene, actor, placed)
        if with_path is None:
            return None
        placed.append(with_path)
    return placed


def find_room(rng: np.random.Generator, scene: Scene, actor: Actor, others: list[Actor]) -> Actor | None:
    """The actor with a path that stays inside the frame and clear of the others' at every time, or None."""
    size = scene.settings.size
    reach = actor.radius * (RAY_REACH if actor.flashing else 1.0)
    for _ in range(60):
        start = rng.uniform(reach, size - reach, 2)
        end = start + np.array(DIRECTIONS.get(actor.direction, (0.0, 0.0))) * rng.uniform(0.3, 0.5) * size
        placed = replace(actor, start=tuple(start.tolist()), end=tuple(end.tolist()))
        if stays_inside(scene, placed, reach) and not any(meet(placed, other, reach) for other in others):
            return placed
    return None


def stays_inside(scene: Scene, actor: Actor, reach: float) -> bool:
    """Whether the actor, ``reach`` pixels around its centre, is inside the frame as long as it is visible."""
    ends = np.array([scene.place(actor, time) for time in (actor.first, actor.last)])
    border = reach + _BORDER
    return bool((ends >= border).all() and (ends <= scene.settings.size - border).all())


def meet(one: Actor, other: Actor, reach: float) -> bool:
    """Whether two actors, ``reach`` pixels around the first one's centre, come close to each other at any time."""
    first, last = max(one.first, other.first), min(one.last, other.last)
    if first >= last:
        return False
    clear = reach + other.radius * (RAY_REACH if other.flashing else 1.0) + _GAP
    times = np.linspace(first, last, 33)
    apart = np.array([np.subtract(one.at(time), other.at(time)) for time in times])
    return bool((np.hypot(*apart.T) < clear).any())


def _texture_reach(settings: SceneSettings) -> int:
    """Pixels a background needs beyond the frame on each side, for pan and drift."""
    return int(0.5 * (_PAN + _DRIFT) * settings.size) + 2
