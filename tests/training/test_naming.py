"""Naming in closed form: names attend to what they name before a gradient has been taken."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from comfyui_aot.aot.evaluation.scenes import SceneSettings, make_scene
from comfyui_aot.aot.evaluation.shapes_set import SceneQuestion
from comfyui_aot.aot.training.learner import Learner
from comfyui_aot.aot.training.naming import NAMES, Naming, cell_codes, fit_codes, slow_dimensions, text_codes
from comfyui_aot.aot.training.pointing import Grounding, names
from comfyui_aot.aot.training.warm_start import WarmStart

SMALL = SceneSettings(frames=4, size=196, radius=(13.0, 22.0))
GROUNDING = Grounding(naming=(1,))


def stills(first: int, count: int):
    scenes = [make_scene(seed, SMALL) for seed in range(first, first + count)]
    return [scene.still(next(frame for frame in range(4) if scene.shapes(frame))) for scene in scenes]


def listed(scenes):
    return [names(scene, np.random.default_rng(scene.seed)) for scene in scenes]


def pointing(learner: Learner) -> float:
    """Over stills that nothing was set with."""
    scenes = stills(3_000_000, 6)
    with torch.no_grad():
        questions = [[SceneQuestion(text, "", ())] for text in listed(scenes)]
        losses = [learner(s, q, GROUNDING, layers=2).pointing for s, q in zip(scenes, questions, strict=True)]
    return float(torch.stack(losses).mean())


@pytest.fixture(scope="module")
def named() -> tuple[Learner, float]:
    """A learner whose names are set and nothing else, and its loss before that."""
    learner = Learner()
    learner.warm_start(WarmStart(frames=24))
    before = pointing(learner)
    scenes = stills(800_000, 24)
    learner.set_naming(scenes, listed(scenes), GROUNDING, Naming())
    return learner, before


def test_names_find_what_they_name_in_stills_never_seen(named):
    learner, before = named
    assert pointing(learner) < before - 2


def test_only_the_heads_that_name_are_set(named):
    lora = named[0].weights({}).lora
    changed = {name for name, (_, up) in lora.items() if bool(up.any())}
    assert changed == {"layers.1.self_attn.q_proj", "layers.1.self_attn.k_proj"}
    rows = lora["layers.1.self_attn.q_proj"][1].any(1).nonzero().flatten() // 64
    assert set(rows.tolist()) == set(GROUNDING.heads)


def test_codes_are_read_back_where_states_hold_them():
    generator = torch.Generator().manual_seed(0)
    codes = torch.rand(400, len(NAMES), generator=generator) < 0.1
    states = codes.float() @ torch.randn(len(NAMES), 40, generator=generator)
    states += 0.05 * torch.randn(400, 40, generator=generator)
    fitted = fit_codes(states, codes, codes.any(1), Naming(ridge=1e-4))
    assert float((states @ fitted.T - codes.float()).abs().mean()) < 0.05


def test_a_text_is_coded_where_it_names():
    codes = text_codes(["a", " red", " circle", ",", " cross"])
    assert [[NAMES[i] for i in row.nonzero().flatten()] for row in codes] == [[], ["red"], ["circle"], [], ["cross"]]


def test_cells_are_coded_by_both_names_of_what_they_show():
    (scene,) = stills(5, 1)
    only = dataclasses.replace(scene, actors=scene.actors[:1])
    codes, plain = cell_codes(only, 7, 0.3)
    actor = only.actors[0]
    shown = {NAMES[i] for i in codes[plain].any(0).nonzero().flatten()}
    assert shown == {actor.colour, actor.kind}
    assert int(codes.any(1).sum()) >= int(codes[plain].any(1).sum()) >= 1
    assert not plain[codes.any(1)].all() or int(codes.any(1).sum()) == int(codes[plain].any(1).sum())


@pytest.mark.parametrize(("head", "count", "expected"), [(0, 2, [31, 63]), (2, 4, [158, 159, 190, 191]), (1, 1, [95])])
def test_the_slowest_dimensions_of_a_head_turn_in_pairs(head, count, expected):
    assert slow_dimensions(head, 64, count) == expected


def test_more_names_than_a_head_has_dimensions_are_refused():
    with pytest.raises(ValueError, match="66 names in a head of 64"):
        slow_dimensions(0, 64, 66)
