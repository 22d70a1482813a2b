"""The presets' words, and a question's lines."""

import pytest

from comfyui_aot.aot.answering.presets import LETTER, NEED_QUESTION, OWN, PRESETS, apply_preset, split
from comfyui_aot.aot.errors import InputError

CHOICES = "What is it?\nA. a fox\nB. a rabbit"


def test_own_words_stay_as_they_are():
    assert apply_preset(OWN, "What does {times} or {question} mean?", [0.0]) == "What does {times} or {question} mean?"
    assert apply_preset(OWN, " What is it? ", [0.0]) == "What is it?"


@pytest.mark.parametrize("preset", [name for name in PRESETS if name not in NEED_QUESTION])
def test_a_preset_that_says_what_is_wanted_needs_no_question(preset):
    alone, asked = apply_preset(preset, "", [0.0, 1.5]), apply_preset(preset, "Mind the rabbit.", [0.0, 1.5])
    assert "{" not in alone
    assert asked.endswith("Mind the rabbit.")
    assert len(alone) > 20


@pytest.mark.parametrize("preset", NEED_QUESTION)
def test_the_others_need_one(preset):
    with pytest.raises(InputError, match="question is empty"):
        apply_preset(preset, " ", [0.0])


def test_multiple_choice_keeps_the_choices_and_asks_for_a_letter():
    assert apply_preset("multiple choice", CHOICES, [0.0]) == f"{CHOICES}\n{LETTER}"
    with pytest.raises(InputError, match="needs its choices"):
        apply_preset("multiple choice", "What is it?", [0.0])


def test_timestamps_say_when_the_frames_are():
    assert "0.0, 1.5, 3.0 seconds" in apply_preset("timestamps", "", [0.0, 1.5, 3.0])


def test_half_a_character_is_refused():
    with pytest.raises(InputError, match="question holds half a character"):
        apply_preset(OWN, "What \udcff is it?", [0.0])


def test_an_unknown_preset_is_refused_with_those_there_are():
    with pytest.raises(InputError, match="'poem'; give one of own words, describe"):
        apply_preset("poem", "Why?", [0.0])


def test_lines_are_questions_where_asked_for():
    assert split("One?\n\n  Two? \n", True) == ["One?", "Two?"]
    assert split("One?\nTwo?", False) == ["One?\nTwo?"]
    assert split("  ", True) == ["  "]
