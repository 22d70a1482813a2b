"""Shapes: questions about made-up clips, whose answers are known and cannot be guessed.

Nine families, each one kind of question. Questions are drawn so that their words make every answer equally likely (see
:mod:`.scenes`): a model without the video can do no better than ``chance``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from ..errors import InputError
from ..video.frame_source import FrameSource
from .drawing import COLOURS, KINDS
from .questions import Question
from .scenes import DIRECTIONS, Actor, Scene, SceneSettings, make_scene

SPLITS = MappingProxyType({"train": 0, "dev": 1_000_000, "test": 2_000_000})
"""The first seed of each split; each has a million."""

VERSION = 1
"""To be raised with every change of a seed's clip or questions."""

NUMBERS = ("one", "two", "three")
FORMS = MappingProxyType(
    {
        **{str(number): word for number, word in enumerate(NUMBERS, 1)},
        "4": "four",
        "7": "seven",
        "8": "eight",
        "once": "one",
        "twice": "two",
        "thrice": "three",
        "color": "colour",
        "upwards": "up",
        "downwards": "down",
    }
)
"""Other words that count as an answer."""

_ASKING = 1
"""Sets the draw of the questions apart from that of the scene."""
_SIDE_MARGIN = 0.06
"""Least distance from the middle of a shape that is on one side, as a share of the frame."""
APART = 0.2
"""Least time between two events that have an order, as a share of the clip."""


class SceneQuestion(NamedTuple):
    """A question's words, its answer, and the actors that show it."""

    words: str
    answer: str
    about: tuple[Actor, ...]


@dataclass(frozen=True)
class Family:
    """One kind of question.

    Args:
        ask: returns all questions of this kind with an unambiguous answer in a scene.
        answers: the possible answers.
        chance: the share of right answers that a model without the video can reach.
    """

    ask: Callable[[Scene, np.random.Generator], list[SceneQuestion]]
    answers: tuple[str, ...]
    chance: float


def _colour(scene: Scene, rng: np.random.Generator) -> list[SceneQuestion]:
    return [
        SceneQuestion(f"What colour is the {actor.kind}?", actor.colour, (actor,)) for actor in _alone(scene.actors)
    ]


def _shape(scene: Scene, rng: np.random.Generator) -> list[SceneQuestion]:
    return [SceneQuestion(f"What shape is the {actor.colour} one?", actor.kind, (actor,)) for actor in scene.actors]


def _exist(scene: Scene, rng: np.random.Generator) -> list[SceneQuestion]:
    """Equally many shapes that are in the scene and that are not."""
    there = {(actor.colour, actor.kind): actor for actor in scene.actors}
    absent = [pair for colour in COLOURS for kind in KINDS if (pair := (colour, kind)) not in there]
    chosen = [absent[i] for i in rng.permutation(len(absent))[: len(there)]]
    pairs = [(pair, "yes", (actor,)) for pair, actor in there.items()] + [(pair, "no", ()) for pair in chosen]
    return [SceneQuestion(f"Is there {_a(colour)} {kind}?", answer, about) for (colour, kind), answer, about in pairs]


def _place(scene: Scene, rng: np.random.Generator) -> list[SceneQuestion]:
    questions = []
    for actor in scene.actors:
        places = scene.path(actor) / scene.settings.size - 0.5
        for axis, (low, high) in enumerate((("left", "right"), ("top", "bottom"))):
            if (np.abs(places[:, axis]) > _SIDE_MARGIN).all() and len(set(places[:, axis] > 0)) == 1:
                answer = high if places[0, axis] > 0 else low
                where = f"on the {low} or on the {high}" if axis == 0 else f"at the {low} or at the {high}"
                questions.append(SceneQuestion(f"Is the {actor.colour} {actor.kind} {where}?", answer, (actor,)))
    return questions


def _motion(scene: Scene, rng: np.random.Generator) -> list[SceneQuestion]:
    return [
        SceneQuestion(f"Which way does the {actor.colour} {actor.kind} move?", actor.direction, (actor,))
        for actor in scene.actors
        if actor.direction and len(scene.path(actor)) > 1
    ]


def _order(scene: Scene, rng: np.random.Generator) -> list[SceneQuestion]:
    """What comes or goes first, of two shapes that are named in either order."""
    questions = []
    lasting = [actor for actor in scene.actors if not actor.flashing]
    for i, one in enumerate(lasting):
        for other in lasting[i + 1 :]:
            pair = (one, other) if rng.random() < 0.5 else (other, one)
            named = "the {} one or the {} one".format(*(actor.colour for actor in pair))
            for verb, when in (("appears", lambda actor: actor.first), ("disappears", lambda actor: actor.last)):
                earlier, later = sorted(pair, key=when)
                if when(later) - when(earlier) >= APART:
                    questions.append(SceneQuestion(f"Which shape {verb} first, {named}?", earlier.colour, pair))
    return questions


def _count(scene: Scene, rng: np.random.Generator) -> list[SceneQuestion]:
    """How many shapes share the scene's common kind: one to three of them, equally often."""
    kinds = Counter(actor.kind for actor in scene.actors if not actor.flashing)
    if not kinds:
        return []
    kind, count = kinds.most_common(1)[0]
    if count == 1:
        kind = str(rng.choice(sorted(kinds)))
    counted = tuple(actor for actor in scene.actors if actor.kind == kind)
    return [SceneQuestion(f"How many {_plural(kind)} are there?", NUMBERS[count - 1], counted)]


def _flash(scene: Scene, rng: np.random.Generator) -> list[SceneQuestion]:
    words = "What colour was the shape that appeared briefly?"
    return [SceneQuestion(words, actor.colour, (actor,)) for actor in scene.actors if actor.flashing]


def _after_the_cut(scene: Scene, rng: np.random.Generator) -> list[SceneQuestion]:
    """The colour of a kind of shape that was there in another colour before the cut."""
    if len(scene.shots) == 1:
        return []
    cut = scene.shots[1][0]
    before = {actor.kind for actor in scene.actors if actor.first < cut}
    after = _alone([actor for actor in scene.actors if actor.first >= cut])
    return [
        SceneQuestion(f"What colour is the {a.kind} after the cut?", a.colour, (a,)) for a in after if a.kind in before
    ]


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "colour": Family(_colour, tuple(COLOURS), 1 / len(COLOURS)),
        "shape": Family(_shape, KINDS, 1 / len(KINDS)),
        "exist": Family(_exist, ("yes", "no"), 1 / 2),
        "place": Family(_place, ("left", "right", "top", "bottom"), 1 / 2),
        "motion": Family(_motion, tuple(DIRECTIONS), 1 / 4),
        "order": Family(_order, tuple(COLOURS), 1 / 2),
        "count": Family(_count, NUMBERS, 1 / 3),
        "flash": Family(_flash, tuple(COLOURS), 1 / len(COLOURS)),
        "after-the-cut": Family(_after_the_cut, tuple(COLOURS), 1 / len(COLOURS)),
    }
)


def ask(scene: Scene, *, each: int = 1, families: Mapping[str, Family] = FAMILIES) -> list[tuple[str, SceneQuestion]]:
    """Questions about a scene, each with its family's name; the scene's seed decides which.

    Args:
        scene: the clip.
        each: the most questions of a family.
        families: by name.
    """
    rng = np.random.default_rng((scene.seed, _ASKING))
    chosen = []
    for name, family in families.items():
        questions = family.ask(scene, rng)
        chosen += [(name, questions[i]) for i in rng.permutation(len(questions))[:each]]
    return chosen


@dataclass(frozen=True)
class ShapesSet:
    """Clips with consecutive seeds, and questions about them.

    Args:
        first_seed: of the first clip.
        clips: number of clips.
        settings: of their scenes.
        each: the most questions of a family about one clip.
    """

    first_seed: int
    clips: int
    settings: SceneSettings
    each: int = 1

    name = "shapes"
    version = VERSION
    families = FAMILIES
    made_by = SceneSettings
    max_new_tokens = 4

    @property
    def identity(self) -> Mapping[str, object]:
        """Seeds and settings; the questions follow from them."""
        return {**self.footage, "first_seed": self.first_seed, "clips": self.clips, "each": self.each}

    @property
    def footage(self) -> Mapping[str, object]:
        """The settings; a clip's name is its seed."""
        return {"set": self.name, "version": self.version, **asdict(self.settings)}

    @property
    def questions(self) -> Sequence[Question]:
        """In the order of the clips, a family's questions one after another."""
        return self._questions

    @cached_property
    def _questions(self) -> tuple[Question, ...]:
        made = []
        for clip in self._clips():
            numbers: Counter[str] = Counter()
            for family, question in ask(self.scene(clip), each=self.each, families=self.families):
                numbers[family] += 1
                name = f"{clip}-{family}-{numbers[family]}"
                made.append(Question(name, clip, family, question.words, question.answer))
        return tuple(made)

    def scene(self, clip: str, frames: int | None = None) -> Scene:
        """The scene of a clip, in ``frames`` frames; None takes the set's number."""
        settings = replace(self.settings, frames=frames) if frames else self.settings
        return self._made(int(clip), settings)

    def frames(self, clip: str, count: int) -> FrameSource:
        """The clip rendered in ``count`` frames; only a flash's length depends on how many."""
        return self.scene(clip, count).frames()

    def score(self, question: Question, answer: str) -> float:
        """1 if the first of the family's answers that occurs in an answer is the right one, else 0."""
        return float(first_answer(self.families[question.family], answer) == question.answer)

    def _made(self, seed: int, settings: SceneSettings) -> Scene:
        return make_scene(seed, settings)

    def _clips(self) -> Iterator[str]:
        return (str(self.first_seed + i) for i in range(self.clips))


def first_answer(family: Family, answer: str) -> str:
    """The first word in ``answer`` that could answer a question of ``family``; "" if there is none."""
    words = (FORMS.get(word, word) for word in re.findall(r"[a-z0-9]+", answer.lower()))
    return next((word for word in words if word in family.answers), "")


def shapes_set(
    split: str = "test",
    clips: int = 100,
    seed: int | None = None,
    frames: int = 16,
    each: int = 1,
    kind: type[ShapesSet] = ShapesSet,
) -> ShapesSet:
    """A set of clips of ``frames`` frames.

    Args:
        split: "train", "dev" or "test", each with seeds of its own, or "any".
        clips: number of clips.
        seed: of the first clip, counted from the split's first; with split "any" the seed itself. None means 0.
        frames: of each clip.
        each: the most questions of a family about one clip.
        kind: of set.

    Raises:
        InputError: an unknown split, no clips or questions, or a seed outside the split.
    """
    if clips < 1 or each < 1:
        raise InputError(f"A set of {clips} clips, each asked {each} of a family; ask for 1 or more of both.")
    start = seed or 0
    made = kind.made_by(frames=frames)
    if split == "any":
        return kind(start, clips, made, each)
    if split not in SPLITS:
        raise InputError(f"Shapes has no split {split!r}; there are {', '.join(SPLITS)}, and any.")
    room = SPLITS["dev"] - SPLITS["train"]
    if not 0 <= start <= room - clips:
        raise InputError(
            f"Seed {start} with {clips} clips; a split has seeds 0 to {room - 1}, take split 'any' for others."
        )
    return kind(SPLITS[split] + start, clips, made, each)


def _alone(actors: Sequence[Actor]) -> list[Actor]:
    """The actors whose kind is unique among them."""
    kinds = Counter(actor.kind for actor in actors)
    return [actor for actor in actors if kinds[actor.kind] == 1]


def _a(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def _plural(kind: str) -> str:
    return f"{kind}es" if kind.endswith("s") else f"{kind}s"
