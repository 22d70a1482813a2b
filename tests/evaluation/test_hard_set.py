"""Hard Shapes: what its clips add is in their frames, and its answers are right and cannot be guessed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.evaluation import open_set
from comfyui_aot.aot.evaluation.drawing import COLOURS, DIGITS, Shape, coverage
from comfyui_aot.aot.evaluation.hard_scenes import HardSettings, make_hard_scene
from comfyui_aot.aot.evaluation.hard_set import HARD_FAMILIES, HardShapesSet
from comfyui_aot.aot.evaluation.questions import Question
from comfyui_aot.aot.evaluation.scenes import Actor, Scene, SceneSettings, make_scene
from comfyui_aot.aot.evaluation.shapes_set import ask, first_answer, shapes_set
from comfyui_aot.tests.support.guessing import answers_by_words

CLIPS = 1500


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [make_hard_scene(seed) for seed in range(CLIPS)]


@pytest.fixture(scope="module")
def asked(scenes) -> list[tuple[str, str, str]]:
    """One question of each family about each of many clips: family, words, answer."""
    return [(family, *asked[:2]) for scene in scenes for family, asked in ask(scene, families=HARD_FAMILIES)]


def actor(colour: str, kind: str, first: float, last: float, **more) -> Actor:
    return Actor(colour, kind, 20.0, 0.0, first, last, (100, 100), (100, 100), **more)


@pytest.fixture
def told() -> dict[str, set[tuple[str, str]]]:
    """All that can be asked about a scene we know: three come one by one, two touch, one flashes twice."""
    scene = Scene(
        seed=1,
        settings=HardSettings(frames=16),
        shots=((0.0, 1.0),),
        actors=(
            actor("blue", "star", 0.25, 1.0, digit="seven"),
            actor("red", "circle", 0.0, 0.75, touches="black"),
            actor("black", "square", 0.0, 0.75, touches="red"),
            actor("green", "diamond", 0.5, 0.9, digit="four"),
            actor("white", "cross", 0.125, 0.75, flashing=True, visits=((0.125, 0.1875), (0.6875, 0.75))),
        ),
        pan=(0.0, 0.0),
        drift=((0.0, 0.0),),
        texture_seeds=(1,),
    )
    rng = np.random.default_rng(0)
    return {name: {asked[:2] for asked in family.ask(scene, rng)} for name, family in HARD_FAMILIES.items()}


def test_a_digit_is_asked_of_what_bears_one(told):
    assert told["digit"] == {
        ("Which number is on the blue star?", "seven"),
        ("Which number is on the green diamond?", "four"),
    }


def test_of_two_that_touch_each_is_asked_for_the_other(told):
    words = "What colour is the shape that touches the {} one?"
    assert told["touch"] == {(words.format("red"), "black"), (words.format("black"), "red")}


def test_the_second_is_asked_of_three_that_came_far_enough_apart(told):
    answers = {(frozenset(COLOURS.keys() & set(_words(words))), answer) for words, answer in told["second"]}
    assert answers == {(frozenset({"blue", early, "green"}), "blue") for early in ("red", "black")}


def test_flashes_are_counted(told):
    assert told["times"] == {("How many times did a shape appear briefly?", "two")}


def test_what_is_new_at_the_end_is_asked_where_it_is_one_shape_and_what_has_gone_too(told):
    assert told["changed"] == {("Which shape is new at the end?", "blue")}


def test_nothing_else_has_gone_or_is_new_where_it_is_asked(scenes):
    for scene in scenes[:400]:
        first, last = ({shape.colour for shape in scene.shapes(frame)} for frame in (0, -1))
        for family, (words, answer, _) in ask(scene, each=9, families=HARD_FAMILIES):
            if family == "changed":
                assert {answer} == (first - last if "gone" in words else last - first)


@pytest.mark.parametrize("family", sorted(HARD_FAMILIES.keys() - {"second"}))
def test_whatever_the_words_every_answer_is_equally_frequent(asked, family):
    """So the best guess from the words alone is right as often as chance, up to what so few clips can tell."""
    by_words = answers_by_words(asked, family, _pattern)
    assert sum(counts.total() for counts in by_words.values()) > CLIPS / 4
    for words, counts in by_words.items():
        possible = set(HARD_FAMILIES[family].answers) - (set(words.split()) if family == "touch" else set())
        share = 1 / len(possible)
        spread = (share * (1 - share) / counts.total()) ** 0.5
        assert counts.keys() <= possible and share <= HARD_FAMILIES[family].chance + 1e-9
        assert all(abs(counts[word] / counts.total() - share) < 4.2 * spread for word in possible), (words, counts)


def _pattern(family: str, words: str) -> str:
    """The words themselves, less the colours and kinds where there are too many to see each often enough."""
    return words.split(" on ")[0] if family == "digit" else words


def test_of_three_shapes_each_place_among_the_named_is_right_equally_often(asked):
    places = Counter(
        [word for word in _words(words) if word in COLOURS].index(answer)
        for family, words, answer in asked
        if family == "second"
    )
    assert min(places.values()) / places.total() == pytest.approx(1 / 3, abs=0.05)
    assert set(places) == {0, 1, 2}


def _words(text: str) -> list[str]:
    return text.replace(",", "").split()


def test_shapes_that_touch_overlap_in_every_frame_that_shows_them_and_no_others_do(scenes):
    touching = 0
    for scene in scenes[:120]:
        for frame in range(0, scene.settings.frames, 5):
            shown = [a for a in scene.actors if a.seen(scene.times[frame])]
            covered = dict(zip([a.colour for a in shown], map(_covered, scene.shapes(frame)), strict=True))
            for i, one in enumerate(shown):
                for other in shown[:i]:
                    common = np.minimum(covered[one.colour], covered[other.colour]).sum()
                    assert (common > 10) == (one.touches == other.colour) == (other.touches == one.colour)
                    touching += common > 10
    assert touching > 100


def _covered(shape: Shape) -> np.ndarray:
    return coverage(shape, 378)


@pytest.mark.parametrize("digit", DIGITS)
def test_a_digit_is_in_the_picture_and_unlike_the_others(digit):
    settings = HardSettings(digit=1.0, touch=0.0, frames=4)
    scene = next(s for s in (make_hard_scene(seed, settings) for seed in range(99)) if _bears(s, digit))
    bearer = next(a for a in scene.actors if a.digit == digit)
    pictures = {name: next(_only(scene, replace(bearer, digit=name)).pictures()) for name in ("", *DIGITS)}
    for other in pictures.keys() - {digit}:
        assert (pictures[digit] != pictures[other]).any(-1).sum() > 12


def _bears(scene: Scene, digit: str) -> bool:
    return any(actor.digit == digit for actor in scene.actors)


def _only(scene: Scene, shown: Actor) -> Scene:
    return replace(scene, actors=(replace(shown, first=0.0, last=1.0),))


def test_a_shape_that_appears_briefly_is_seen_in_as_many_runs_of_frames_as_are_asked_for(scenes):
    counted = Counter()
    for scene in scenes[:300]:
        for actor in scene.actors:
            if actor.visits:
                seen = [actor.seen(time) for time in scene.times]
                runs = sum(now and not before for before, now in zip([False, *seen], seen, strict=False))
                assert runs == len(actor.visits) and sum(seen) <= 2 * runs
                counted[runs] += 1
    assert set(counted) == {1, 2, 3}


@pytest.mark.parametrize("seed", range(20))
def test_a_seed_tells_the_story_that_it_tells_in_shapes(seed):
    nothing = HardSettings(digit=0.0, touch=0.0, again=False)
    plain = make_scene(seed, SceneSettings(radius=nothing.radius))
    assert make_hard_scene(seed, nothing).actors == plain.actors
    told = {(actor.colour, actor.kind, actor.direction) for actor in make_hard_scene(seed).actors}
    assert told >= {(actor.colour, actor.kind, actor.direction) for actor in plain.actors}


@pytest.mark.parametrize(
    ("family", "said", "found"),
    [("digit", "It is a 7.", "seven"), ("times", "Twice", "two"), ("times", "3 times", "three"), ("touch", "6", "")],
)
def test_an_answer_is_found_in_whatever_words(family, said, found):
    assert first_answer(HARD_FAMILIES[family], said) == found


def test_the_set_is_opened_by_its_name_and_is_not_shapes():
    questions = open_set("hard-shapes", split="dev", limit=4, each=2, frames=8)
    assert questions.name == "hard-shapes"
    assert questions.identity == shapes_set("dev", 4, frames=8, each=2, kind=HardShapesSet).identity
    assert questions.footage != shapes_set("dev", 4, frames=8).footage
    assert {question.family for question in questions.questions} <= HARD_FAMILIES.keys()
    assert {question.clip for question in questions.questions} <= {str(1_000_000 + i) for i in range(4)}
    assert questions.frames("1000000", 6).count == 6
    question = Question("1", "1000000", "times", "How many times did a shape appear briefly?", "two")
    assert [questions.score(question, said) for said in ("2", "Two times.", "three", "")] == [1, 1, 0, 0]


def test_what_cannot_be_asked_for_is_refused_in_one_line(tmp_path):
    with pytest.raises(InputError, match="hard-shapes is drawn, not read; leave out --data"):
        open_set("hard-shapes", folder=tmp_path)
    with pytest.raises(InputError, match="train, dev, test, and any"):
        shapes_set("exam", kind=HardShapesSet)
