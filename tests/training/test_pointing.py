"""Where a text's tokens should look: at the cells that show what they name."""

from __future__ import annotations

import re

import numpy as np
import pytest

from comfyui_aot.aot.evaluation.scenes import Actor, Scene, SceneSettings
from comfyui_aot.aot.training.pointing import SPANS, cells, mentions, names


@pytest.fixture
def scene() -> Scene:
    def actor(colour: str, kind: str, first: float, x: float, y: float) -> Actor:
        return Actor(colour, kind, 16.0, 0.0, first, 1.0, (x, y), (x, y))

    actors = (
        actor("red", "circle", 0.0, 42, 42),
        actor("blue", "circle", 0.5, 150, 150),
        actor("green", "cross", 0.0, 42, 150),
    )
    settings = SceneSettings(frames=4, size=196, radius=(13, 22))
    return Scene(1, settings, ((0.0, 1.0),), actors, (0.0, 0.0), ((0.0, 0.0),), (1,))


def named(text: str, scene: Scene) -> list[tuple[str, set[str]]]:
    """The words that name something and the colours of what they name, words being tokens."""
    words = list(re.finditer(r"\s?\S+", text))
    looks = mentions(text, [word.span() for word in words], scene)
    return [(words[look.token][0].strip(), {a.colour for a in look.actors}) for look in looks]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("What colour is the cross?", [("cross?", {"green"})]),
        ("How many circles are there?", [("circles", {"red", "blue"})]),
        ("Is there a red circle?", [("red", {"red"}), ("circle?", {"red"})]),
        ("Is there a red cross?", [("red", {"red"}), ("cross?", set())]),
        ("the red one or the blue one", [("red", {"red"}), ("blue", {"blue"})]),
        ("Is there a white star?", [("white", set()), ("star?", set())]),
    ],
)
def test_colours_and_kinds_name_what_has_them_and_both_together_what_has_both(scene, text, found):
    assert named(text, scene) == found


def test_a_word_of_several_tokens_looks_with_its_last(scene):
    (look,) = mentions("a cross", [(0, 1), (1, 4), (4, 7)], scene)
    assert look.token == 2


def test_the_cells_of_a_shape_are_those_it_covers_in_the_frames_that_show_it(scene):
    shown = cells(scene, scene.actors[1:2], side=7).reshape(4, 7, 7)
    assert not shown[:2].any()
    assert [tuple(place) for place in shown[2].nonzero().tolist()] == [(5, 5)]
    assert (shown[3] == shown[2]).all()


def test_a_shape_is_first_and_last_seen_in_a_third_of_its_frames(scene):
    spans = {span: cells(scene, scene.actors[:1], 7, span).reshape(4, 49).any(1).tolist() for span in SPANS}
    assert spans == {"all": [True] * 4, "first": [True, True, False, False], "last": [False, False, True, True]}


def test_the_cells_of_several_are_those_of_each(scene):
    together = cells(scene, scene.actors, side=7)
    assert (together == cells(scene, scene.actors[:1], 7) | cells(scene, scene.actors[1:], 7)).all()


@pytest.mark.parametrize("text", ["the shape that appeared briefly?", "the circle after the cut?"])
def test_what_happened_names_whom_the_question_is_about(scene, text):
    words = list(re.finditer(r"\s?\S+", text))
    *_, look = mentions(text, [word.span() for word in words], scene, scene.actors[1:2])
    assert words[look.token][0].strip("? ") in ("briefly", "cut")
    assert look.actors == scene.actors[1:2]


def test_a_list_names_every_shape_once_and_by_kind_only_where_that_is_plain(scene):
    lists = {names(scene, np.random.default_rng(seed)) for seed in range(60)}
    for text in lists:
        found = named(text.replace(",", " ,"), scene)
        assert set().union(*(colours for _, colours in found)) == {"red", "blue", "green"}
        assert "circle" not in text.split(", ")
    assert any("cross" in text.split(", ") for text in lists)
    assert len({text.split(", ")[0] for text in lists}) > 3
