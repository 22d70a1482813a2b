"""Pixels: the way of a GPU, tried on a CPU, and on a GPU where one is; whole levels in step with a CPU's."""

import pytest
import torch
from torch.nn import functional

from comfyui_aot.aot.models.pixels import normalise, resize, resize_in_float, upload
from comfyui_aot.aot.video.frames import Sampling, load_video

SIZES = [(27, 31), (378, 378), (720, 1281)]
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that resizes")


@pytest.fixture(scope="module")
def pixels(bunny):
    """A real frame, and noise, whose edges overshoot."""
    noise = torch.randint(0, 256, (1, 720, 1280, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return torch.cat((load_video(bunny, Sampling(frames=1)).pixels, noise))


def exact(pixels, size):
    """In float64."""
    return functional.interpolate(pixels.permute(0, 3, 1, 2).double(), size=size, mode="bicubic", antialias=True)


def assert_rounded(levels, values):
    """Values to whole levels, 0 to 255; float32 decides a few halves otherwise."""
    difference = (levels.cpu() - values.round().clamp(0, 255)).abs()
    assert float(difference.max()) <= 1
    assert float((difference > 0).double().mean()) < 1e-3


def assert_in_step(levels, uint8):
    """The CPU rounds between width and height as well, which moves a value in seven by one level."""
    difference = (levels.cpu() - uint8.float()).abs()
    assert float((difference > 0).double().mean()) < 0.2
    assert float((difference > 1).double().mean()) < 1e-4


@pytest.mark.parametrize("size", SIZES)
def test_resizing_in_float_rounds_to_whole_levels_in_step_with_the_cpu(pixels, size):
    found = resize_in_float(pixels.permute(0, 3, 1, 2), size)
    assert found.dtype == torch.float32
    assert_rounded(found, exact(pixels, size))
    assert_in_step(found, resize(pixels, size))


def test_frames_of_the_size_that_is_asked_for_stay_as_they_are(pixels):
    assert torch.equal(resize(pixels, (720, 1280)), pixels.permute(0, 3, 1, 2))


def test_a_cpu_gets_the_pixels_themselves(pixels):
    assert upload(pixels, torch.device("cpu")) is pixels


@on_gpu
@pytest.mark.parametrize("size", SIZES)
def test_a_gpu_gets_the_pixel_values_of_a_cpu_but_for_rounding(pixels, size):
    uploaded = upload(pixels, torch.device("cuda"))
    assert torch.equal(uploaded.cpu(), pixels)
    resized = resize(uploaded, size)
    assert_rounded(resized, exact(pixels, size))
    assert_in_step(resized, resize(pixels, size))
    values = normalise(resized, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    assert values.device.type == "cuda" and values.dtype == torch.float32
    torch.testing.assert_close(values.cpu(), normalise(resized.cpu(), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)))
