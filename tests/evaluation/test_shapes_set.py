"""Shapes: right answers, that cannot be guessed from the words of a question."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.evaluation.questions import Question
from comfyui_aot.aot.evaluation.scenes import Actor, Scene, SceneSettings, make_scene
from comfyui_aot.aot.evaluation.shapes_set import FAMILIES, SPLITS, ask, first_answer, shapes_set
from comfyui_aot.tests.support.guessing import answers_by_words

CLIPS = 2000


@pytest.fixture(scope="module")
def asked() -> list[tuple[str, str, str]]:
    """One question of each family about each of many clips: family, words, answer."""
    return [(family, *asked[:2]) for seed in range(CLIPS) for family, asked in ask(make_scene(seed))]


def actor(colour: str, kind: str, first: float, last: float, *, start=(100, 100), end=(100, 100), **more) -> Actor:
    return Actor(colour, kind, 20.0, 0.0, first, last, start, end, **more)


@pytest.fixture
def told() -> dict[str, set[tuple[str, str]]]:
    """All that can be asked about a scene we know: two shots, a flash, a shape that moves."""
    scene = Scene(
        seed=1,
        settings=SceneSettings(frames=16),
        shots=((0.0, 0.5), (0.5, 1.0)),
        actors=(
            actor("red", "circle", 0.0, 0.5),
            actor("blue", "star", 0.1, 0.5, start=(300, 100), end=(300, 270), direction="down"),
            actor("green", "circle", 0.5, 1.0, start=(300, 300), end=(300, 300)),
            actor("white", "cross", 0.75, 0.8125, start=(189, 60), end=(189, 60), flashing=True),
        ),
        pan=(0.0, 0.0),
        drift=((0.0, 0.0), (0.0, 0.0)),
        texture_seeds=(1, 2),
    )
    rng = np.random.default_rng(0)
    return {name: {asked[:2] for asked in family.ask(scene, rng)} for name, family in FAMILIES.items()}


def test_a_colour_is_asked_of_kinds_there_is_one_of(told):
    assert told["colour"] == {("What colour is the star?", "blue"), ("What colour is the cross?", "white")}


def test_a_shape_is_asked_of_every_colour(told):
    expected = {"red": "circle", "blue": "star", "green": "circle", "white": "cross"}
    assert told["shape"] == {(f"What shape is the {colour} one?", kind) for colour, kind in expected.items()}


def test_as_many_things_are_asked_for_that_are_there_as_that_are_not(told):
    there = {words for words, answer in told["exist"] if answer == "yes"}
    absent = {words for words, answer in told["exist"] if answer == "no"}
    names = ("a red circle", "a blue star", "a green circle", "a white cross")
    assert there == {f"Is there {name}?" for name in names}
    assert len(absent) == 4 and not absent & there


def test_a_place_is_asked_of_what_stays_on_one_side(told):
    assert told["place"] == {
        ("Is the red circle on the left or on the right?", "left"),
        ("Is the red circle at the top or at the bottom?", "top"),
        ("Is the blue star on the left or on the right?", "right"),
        ("Is the green circle on the left or on the right?", "right"),
        ("Is the green circle at the top or at the bottom?", "bottom"),
        ("Is the white cross at the top or at the bottom?", "top"),
    }


def test_motion_is_asked_of_what_moves(told):
    assert told["motion"] == {("Which way does the blue star move?", "down")}


def test_order_is_asked_of_events_far_enough_apart_and_never_of_a_flash(told):
    answers = {
        (words.split()[2], frozenset({"red", "blue", "green"} & set(words.split())), a) for words, a in told["order"]
    }
    assert answers == {
        (verb, frozenset({early, "green"}), early) for verb in ("appears", "disappears") for early in ("red", "blue")
    }


def test_the_shared_kind_is_counted_over_the_whole_clip(told):
    assert told["count"] == {("How many circles are there?", "two")}


def test_the_flash_is_asked_for_by_its_being_brief(told):
    assert told["flash"] == {("What colour was the shape that appeared briefly?", "white")}


def test_after_the_cut_is_asked_of_a_kind_that_was_there_before(told):
    assert told["after-the-cut"] == {("What colour is the circle after the cut?", "green")}


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"order"}))
def test_whatever_the_words_every_answer_is_equally_frequent(asked, family):
    """So the best guess from the words alone is right as often as chance, up to what so few clips can tell."""
    by_words = answers_by_words(asked, family, _pattern)
    total = sum(sum(counts.values()) for counts in by_words.values())
    assert total > CLIPS / 4
    for counts in by_words.values():
        asked_so, share = sum(counts.values()), FAMILIES[family].chance
        spread = (share * (1 - share) / asked_so) ** 0.5
        assert all(abs(count / asked_so - share) < 4.2 * spread + 1e-9 for count in counts.values())


def _pattern(family: str, words: str) -> str:
    """The words themselves, less the colours and kinds where there are too many to see each often enough."""
    if family in ("exist", "motion"):
        return words.split()[0]
    if family == "place":
        return words.partition(" on the ")[1] or " at the "
    return words


def test_of_two_shapes_the_first_named_is_right_as_often_as_the_second(asked):
    orders = [(words, answer) for family, words, answer in asked if family == "order"]
    first = np.mean([words.split("the ")[1].startswith(answer) for words, answer in orders])
    assert first == pytest.approx(0.5, abs=0.05)


def test_every_answer_is_one_of_its_familys(asked):
    assert all(answer in FAMILIES[family].answers for family, _, answer in asked)


@pytest.mark.parametrize(
    ("family", "said", "found"),
    [
        ("colour", "Red.", "red"),
        ("colour", "It is the colour blue, not red", "blue"),
        ("count", "2", "two"),
        ("motion", "It moves upwards.", "up"),
        ("exist", "Nothing is there", ""),
        ("exist", "No, there is none", "no"),
        ("shape", "", ""),
    ],
)
def test_an_answer_is_found_in_whatever_words(family, said, found):
    assert first_answer(FAMILIES[family], said) == found


def test_an_answer_is_right_where_its_first_word_of_the_family_is_the_truth():
    questions = shapes_set(clips=1)
    question = Question("1", "1", "colour", "What colour is the star?", "red")
    assert [questions.score(question, said) for said in ("red", "blue or red", "", "RED!")] == [1, 0, 0, 1]


def test_a_set_asks_at_most_one_question_of_a_family_a_clip_and_its_ids_are_unique():
    questions = shapes_set(clips=30).questions
    assert len({question.id for question in questions}) == len(questions)
    assert max(Counter((q.clip, q.family) for q in questions).values()) == 1
    assert len({q.clip for q in questions}) == 30


def test_more_questions_of_a_family_are_asked_where_a_clip_has_them_and_the_first_stay():
    few, many = (shapes_set(clips=8, each=each).questions for each in (1, 3))
    assert set(few) < set(many)
    assert len({question.id for question in many}) == len(many) > 2 * len(few)
    counted = Counter((question.clip, question.family) for question in many)
    assert max(counted.values()) == 3
    assert {counted[clip, "flash"] for clip in {question.clip for question in many}} <= {0, 1}


def test_the_same_clip_shows_and_asks_the_same_in_more_frames():
    few, many = (shapes_set(clips=20, frames=frames) for frames in (8, 32))
    assert many.frames(many.questions[0].clip, 32).count == 32
    common = {q.id for q in few.questions} & {q.id for q in many.questions}
    assert len(common) > 0.95 * len(few.questions)


def test_splits_share_no_clip():
    clips = [{question.clip for question in shapes_set(split, clips=5).questions} for split in SPLITS]
    assert len(set.union(*clips)) == 15
    assert clips == [{str(first + i) for i in range(5)} for first in SPLITS.values()]


def test_any_seed_can_be_asked_for():
    assert shapes_set("any", clips=1, seed=77).questions[0].clip == "77"


def test_equal_sets_have_equal_identities_and_others_do_not():
    assert shapes_set(clips=3).identity == shapes_set(clips=3).identity
    assert shapes_set(clips=3).identity != shapes_set(clips=3, frames=8).identity
    assert shapes_set(clips=3).identity != shapes_set(clips=3, each=2).identity


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        ({"split": "exam"}, "train, dev, test"),
        ({"clips": 0}, "ask for 1 or more"),
        ({"each": 0}, "ask for 1 or more"),
        ({"seed": 1_000_000}, "take split 'any'"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_in_one_line(arguments, remedy):
    with pytest.raises(InputError, match=remedy):
        shapes_set(**arguments)
