"""Shapes and backgrounds: what is drawn is what it is said to be."""

from __future__ import annotations

import numpy as np
import pytest

from comfyui_aot.aot.evaluation.drawing import COLOURS, KINDS, RAY_REACH, Shape, background, coverage, paint


def painted(shape: Shape, size: int = 120) -> np.ndarray:
    picture = np.full((size, size, 3), 100.0, np.float32)
    paint(picture, shape)
    return picture


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("colour", COLOURS)
def test_a_shape_has_its_colour_inside_and_leaves_the_rest_alone(colour, kind):
    shape = Shape(colour, kind, 50.2, 61.7, 24.0, angle=0.1)
    picture, covered = painted(shape), coverage(shape, 120)
    assert np.allclose(picture[covered == 1], COLOURS[colour])
    assert (picture[covered == 0] == 100).all()


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
    covered = coverage(Shape("red", kind, 189.3, 180.6, 90.0, angle=0.1), 378).sum() / 90**2
    assert covered == pytest.approx(area, rel=2e-3)


def test_a_shape_partly_outside_is_cut_off_at_the_edge():
    whole, half = (coverage(Shape("red", "circle", x, 60.0, 20.0), 120).sum() for x in (60.0, 0.0))
    assert half == pytest.approx(whole / 2, rel=0.01)


def test_a_flashing_shape_has_bright_rays_outside_its_outline_and_within_their_reach():
    shape = Shape("red", "circle", 60.0, 60.0, 20.0, flashing=True)
    y, x = np.mgrid[:120, :120] + 0.5
    away = np.hypot(x - 60, y - 60)
    changed = (painted(shape) != 100).any(-1) & (away > 21)
    assert painted(shape)[changed].mean() > 180
    assert 0.05 < changed[(away > 24) & (away < 33)].mean() < 0.5
    assert away[changed].max() < 20 * RAY_REACH + 1


@pytest.mark.parametrize("seed", range(8))
def test_no_background_has_a_colour_that_has_a_name(seed):
    picture = background(np.random.default_rng(seed), 90, 140)
    assert picture.shape == (90, 140, 3)
    named = np.array(list(COLOURS.values()), np.float32)
    assert np.linalg.norm(picture[:, :, None] - named, axis=-1).min() > 35


def test_a_background_is_textured_from_the_largest_to_the_smallest_scale():
    picture = background(np.random.default_rng(0), 378, 378)[..., 0]
    assert np.abs(np.diff(picture, axis=1)).mean() > 0.5
    quarters = [picture[y : y + 189, x : x + 189].mean() for y in (0, 189) for x in (0, 189)]
    assert np.ptp(quarters) > 5
