"""What is to be known of a shape, and how it is read off hidden states."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from comfyui_aot.aot.evaluation.drawing import COLOURS, KINDS
from comfyui_aot.aot.evaluation.scenes import Actor, Scene, SceneSettings
from comfyui_aot.aot.training.attributes import ATTRIBUTES, Attributes, Clock, Colours, attributes


def told(**changes: object) -> dict[str, int]:
    """The attributes of a shape that stands at the left all through, with some changes."""
    usual = {"colour": "red", "kind": "star", "radius": 16.0, "angle": 0.0, "first": 0.0, "last": 1.0}
    actor = Actor(**{**usual, "start": (40.0, 100.0), "end": (40.0, 100.0), **changes})
    scene = Scene(1, SceneSettings(), ((0.0, 1.0),), (actor,), (0.0, 0.0), ((0.0, 0.0),), (1,))
    return dict(zip(ATTRIBUTES, attributes(scene, actor), strict=True))


def test_a_shape_is_known_by_colour_kind_places_direction_and_times():
    assert told() == {
        "colour": list(COLOURS).index("red"),
        "kind": KINDS.index("star"),
        "first across": 0,
        "first down": 1,
        "last across": 0,
        "last down": 1,
        "direction": 0,
        "comes": 0,
        "goes": 3,
    }


@pytest.mark.parametrize(
    ("changes", "name", "value"),
    [
        ({"start": (300.0, 100.0)}, "first across", 3),
        ({"start": (40.0, 350.0)}, "first down", 3),
        ({"end": (200.0, 100.0)}, "last across", 2),
        ({"end": (40.0, 10.0)}, "last down", 0),
        ({"direction": "right"}, "direction", 2),
        ({"first": 0.3}, "comes", 1),
        ({"last": 0.5}, "goes", 1),
    ],
)
def test_each_attribute_says_what_it_is_named_for(changes, name, value):
    before, after = told(), told(**changes)
    assert after[name] == value != before[name]


def test_the_loss_is_the_mean_cross_entropy_of_all_attributes():
    readout, states = Attributes(12), torch.randn(2, 12)
    classes = [[0, 1, 1, 0, 2, 3, 4, 0, 3], [3, 2, 0, 2, 1, 0, 0, 1, 2]]
    with torch.no_grad():
        loss, right = readout(states, classes)
        scores = readout.readout(states).split([len(COLOURS), len(KINDS), 4, 4, 4, 4, 5, 4, 4], 1)
        expected = [
            functional.cross_entropy(score, target)
            for score, target in zip(scores, torch.tensor(classes).T, strict=True)
        ]
    assert float(loss) == pytest.approx(float(torch.stack(expected).mean()), abs=1e-6)
    hits = torch.stack([score.argmax(1) for score in scores], 1) == torch.tensor(classes)
    assert torch.equal(right, hits.float().mean(0))


def test_colours_are_read_each_by_itself_of_several_shapes_and_of_none():
    def actor(colour: str) -> Actor:
        return Actor(colour, "star", 16.0, 0.0, 0.0, 1.0, (40.0, 100.0), (40.0, 100.0))

    readout, states, names = Colours(12), torch.randn(3, 12), list(COLOURS)
    with torch.no_grad():
        loss = readout(states, [[actor(names[1]), actor(names[4])], [actor(names[0])], []])
        there = readout.readout(states).sigmoid()
    target = torch.zeros(3, len(COLOURS))
    target[0, [1, 4]] = target[1, 0] = 1.0
    likelihood = torch.where(target.bool(), there, 1 - there)
    assert float(loss) == pytest.approx(float(-likelihood.log().sum(1).mean()), rel=1e-5)


def test_a_clock_is_right_where_it_tells_the_logarithm_of_the_place():
    clock = Clock(4)
    with torch.no_grad():
        clock.readout[1].weight.zero_()
        clock.readout[1].bias.fill_(1.0)
    places = (1 + torch.arange(200) / 64).log2()
    expected = functional.smooth_l1_loss(torch.ones(200), places)
    with torch.no_grad():
        assert float(clock(torch.randn(200, 4))) == pytest.approx(float(expected))
