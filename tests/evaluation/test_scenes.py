"""Scenes: everything they are said to show is in their frames, and nothing about them can be guessed."""

from __future__ import annotations

import dataclasses
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.evaluation.drawing import RAY_REACH, coverage
from comfyui_aot.aot.evaluation.scenes import DIRECTIONS, LEAST_VISIBLE, SceneSettings, make_scene

SEEDS = range(60)


def test_a_seed_always_gives_the_same_clip_and_another_seed_another():
    first, again, other = (make_scene(seed, SceneSettings(frames=4, size=196, radius=(10, 18))) for seed in (5, 5, 6))
    assert first == again != other
    assert (first.frames().pixels == again.frames().pixels).all()
    assert not (first.frames().pixels == other.frames().pixels).all()


def test_frames_are_rgb_bytes_evenly_spread_over_the_length_asked_for():
    frames = make_scene(3, SceneSettings(frames=5, seconds=10.0, size=224)).frames()
    assert frames.pixels.shape == (5, 224, 224, 3)
    assert frames.timestamps.tolist() == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("seed", range(6))
def test_what_a_scene_says_a_frame_shows_is_in_its_picture(seed):
    scene = make_scene(seed, SceneSettings(frames=6))
    bare = dataclasses.replace(scene, actors=())
    for frame, (picture, empty) in enumerate(zip(scene.pictures(), bare.pictures(), strict=True)):
        changed = (picture != empty).any(-1)
        shown = np.zeros(changed.shape)
        for shape in scene.shapes(frame):
            inside = coverage(shape, 378)
            shown = np.maximum(shown, inside)
            assert changed[inside == 1].mean() > 0.99
        if not any(shape.flashing for shape in scene.shapes(frame)):
            assert not changed[shown == 0].any()


@pytest.mark.parametrize("seed", SEEDS)
def test_shapes_stay_inside_the_frame_and_clear_of_each_other(seed):
    scene = make_scene(seed)
    for frame in range(scene.settings.frames):
        shapes = scene.shapes(frame)
        reach = [shape.radius * (RAY_REACH if shape.flashing else 1) for shape in shapes]
        for i, one in enumerate(shapes):
            assert reach[i] < min(one.x, one.y) and max(one.x, one.y) < 378 - reach[i]
            for j in range(i):
                assert np.hypot(one.x - shapes[j].x, one.y - shapes[j].y) > reach[i] + reach[j]


@pytest.mark.parametrize("seed", SEEDS)
def test_colours_differ_and_only_one_kind_is_shared(seed):
    actors = make_scene(seed).actors
    assert len({actor.colour for actor in actors}) == len(actors)
    shared = [count for count in Counter(actor.kind for actor in actors).values() if count > 1]
    assert len(shared) <= 1 and max(shared, default=1) <= 3


@pytest.mark.parametrize("frames", [8, 16, 32])
def test_a_flash_is_seen_in_one_or_two_frames_and_everything_else_for_longer(frames):
    lengths = Counter()
    for seed in SEEDS:
        scene = make_scene(seed, SceneSettings(frames=frames))
        for actor in scene.actors:
            seen = len(scene.path(actor))
            if actor.flashing:
                lengths[seen] += 1
            else:
                assert seen >= LEAST_VISIBLE * frames - 1
    assert set(lengths) == {1, 2}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_moving_shape_goes_its_way_and_a_still_one_only_with_the_camera(seed):
    scene = make_scene(seed, SceneSettings(frames=16))
    for actor in scene.actors:
        path = scene.path(actor)
        went = (path[-1] - path[0]) / 378
        if actor.direction:
            assert went @ DIRECTIONS[actor.direction] > 0.15
        else:
            assert np.abs(went).max() <= 0.12 + 1e-9


def test_nothing_is_seen_on_both_sides_of_a_cut_and_the_background_changes():
    cuts = 0
    for seed in range(20):
        scene = make_scene(seed, SceneSettings(frames=8))
        if len(scene.shots) == 1:
            continue
        cuts += 1
        at = round(scene.shots[0][1] * 8)
        before, after = ({s.colour for f in span for s in scene.shapes(f)} for span in (range(at), range(at, 8)))
        assert not before & after
        pictures = [picture.astype(float) for picture in dataclasses.replace(scene, actors=()).pictures()]
        steps = [np.abs(a - b).mean() for a, b in pairwise(pictures)]
        assert int(np.argmax(steps)) == at - 1
    assert cuts > 3


def test_a_seed_tells_the_same_story_in_any_number_of_frames():
    few, many = (make_scene(11, SceneSettings(frames=count)) for count in (8, 32))
    lasting = [[a for a in scene.actors if not a.flashing] for scene in (few, many)]
    assert [(a.colour, a.kind, a.direction) for a in lasting[0]] == [
        (a.colour, a.kind, a.direction) for a in lasting[1]
    ]


def test_events_come_as_often_as_the_settings_say():
    settings = SceneSettings(cut=0.8, pan=0.2, flash=0.4)
    scenes = [make_scene(seed, settings) for seed in range(400)]
    assert np.mean([len(scene.shots) == 2 for scene in scenes]) == pytest.approx(0.8, abs=0.06)
    assert np.mean([scene.pan != (0.0, 0.0) for scene in scenes]) == pytest.approx(0.2, abs=0.06)
    assert np.mean([any(a.flashing for a in scene.actors) for scene in scenes]) == pytest.approx(0.4, abs=0.08)


@pytest.mark.parametrize("seed", range(4))
def test_a_still_shows_what_its_frame_shows_and_nothing_happens_in_it(seed):
    scene = make_scene(seed, SceneSettings(frames=5, flash=1.0))
    for frame in range(5):
        still = scene.still(frame)
        plain = [dataclasses.replace(shape, flashing=False) for shape in scene.shapes(frame)]
        assert still.shapes(0) == tuple(plain)
        assert still.times == (0.5,)
        assert len(still.shots) == 1
        assert not any(actor.direction or actor.flashing for actor in still.actors)
        assert all(still.place(actor, time) == actor.start for actor in still.actors for time in (0.0, 1.0))
        assert still.frames().pixels.shape == (1, 378, 378, 3)


def test_settings_that_make_no_clip_are_refused_in_one_line():
    with pytest.raises(InputError, match="take 4 frames or more"):
        make_scene(1, SceneSettings(frames=3))
    with pytest.raises(InputError, match="take 4 frames or more"):
        SceneSettings(frames=0)
    with pytest.raises(InputError, match="a sixth of the width"):
        SceneSettings(radius=(15, 80))
    with pytest.raises(InputError, match="find no room"):
        make_scene(46, SceneSettings(size=196, radius=(28, 32)))
