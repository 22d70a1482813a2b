"""Pictures of shapes: what they are said to show is what they show."""

from __future__ import annotations

import numpy as np
import pytest

from comfyui_aot.aot.evaluation.shapes import COLOURS, KINDS, Shape, coverage, draw_still


def test_a_seed_always_gives_the_same_picture():
    first, again, other = draw_still(5), draw_still(5), draw_still(6)
    assert np.array_equal(first.image, again.image)
    assert first.shapes == again.shapes
    assert not np.array_equal(first.image, other.image)


def test_a_picture_is_uint8_rgb_of_the_size_asked_for():
    image = draw_still(0, size=224).image
    assert image.shape == (224, 224, 3)
    assert image.dtype == np.uint8


def test_the_number_and_size_of_shapes_stay_in_their_ranges():
    for seed in range(20):
        placed = draw_still(seed, shapes=(2, 3), radius=(20, 30)).shapes
        assert 2 <= len(placed) <= 3
        assert all(20 <= shape.radius <= 30 for shape in placed)


def test_shapes_do_not_overlap_and_stay_inside():
    for seed in range(20):
        covered = np.sum([coverage(shape) for shape in draw_still(seed).shapes], axis=0)
        assert covered.max() <= 1
        assert covered[[0, -1]].max() == covered[:, [0, -1]].max() == 0


def test_the_inside_of_a_shape_has_its_colour():
    for seed in range(10):
        still = draw_still(seed)
        for shape in still.shapes:
            inside = still.image[coverage(shape) == 1].astype(float)
            distance = {name: np.linalg.norm(inside.mean(0) - rgb) for name, rgb in COLOURS.items()}
            assert min(distance, key=distance.get) == shape.colour


@pytest.mark.parametrize(
    ("kind", "area"),
    [
        ("circle", np.pi),
        ("square", 2.0),
        ("diamond", 2 * 0.7),
        ("triangle", 3 * np.sqrt(3) / 4),
        ("star", 10 * 0.5 * 0.42 * np.sin(np.pi / 5)),
        ("cross", 4 * 0.64 * 0.63 + 0.64**2),
    ],
)
def test_a_shape_covers_the_area_of_its_outline(kind, area):
    covered = coverage(Shape("red", kind, 189.3, 180.6, 90.0, angle=0.1)).sum() / 90**2
    assert covered == pytest.approx(area, rel=2e-3)


def test_every_colour_and_kind_occurs():
    shapes = [shape for seed in range(60) for shape in draw_still(seed, size=378).shapes]
    assert {shape.colour for shape in shapes} == set(COLOURS)
    assert {shape.kind for shape in shapes} == set(KINDS)
