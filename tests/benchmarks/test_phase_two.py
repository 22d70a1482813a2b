"""What the diagnosis of phase II measures, on scenes and numbers whose answers are known."""

import math

import numpy as np
import pytest

from comfyui_aot.aot.evaluation.scenes import SceneSettings, make_scene
from comfyui_aot.tests.support.scripts import benchmark


@pytest.fixture(scope="module")
def phase_two():
    return benchmark("phase_two")


@pytest.mark.parametrize(
    ("score", "expected"), [([1, 2, 3, 4], 1.0), ([4, 3, 2, 1], 0.0), ([1, 1, 1, 1], 0.5), ([1, 3, 2, 4], 0.75)]
)
def test_auc_is_the_share_of_pairs_in_order(phase_two, score, expected):
    assert phase_two.auc(np.array(score), np.array([False, False, True, True])) == expected


def test_auc_of_one_kind_alone_is_nothing(phase_two):
    assert math.isnan(phase_two.auc(np.arange(3.0), np.zeros(3, bool)))


def test_a_cell_is_new_where_its_frame_shows_a_shape_that_the_keyframe_does_not(phase_two):
    new_somewhere = False
    for seed in range(40):
        scene = make_scene(seed, SceneSettings(frames=8))
        shown = phase_two.shown_in(scene, 14)
        assert not shown.new[::4].any()  # keyframes
        for frame, time in enumerate(scene.times):
            keyframe = scene.times[frame // 4 * 4]
            appeared = [actor for actor in scene.actors if actor.seen(time) and not actor.seen(keyframe)]
            assert appeared or not shown.new[frame].any()
            new_somewhere |= bool(shown.new[frame].any())
            flashes = any(actor.flashing and actor.seen(time) for actor in scene.actors)
            assert flashes or not shown.flashing[frame].any()
    assert new_somewhere
