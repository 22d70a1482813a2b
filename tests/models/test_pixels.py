"""Pixels: the way of a GPU, tried on a CPU, and on a GPU where one is; whole levels in step with a CPU's."""

import hashlib

import numpy as np
import pytest
import torch
from torch.nn import functional

from comfyui_aot.aot.models import load
from comfyui_aot.aot.models.lmms_lab import HALF, LlavaOnevisionOriginal
from comfyui_aot.aot.models.pixels import normalise, resize, resize_in_float, resize_with_pil, upload
from comfyui_aot.aot.video.frames import Frames
from comfyui_aot.aot.video.sampling import Sampling
from comfyui_aot.aot.video.video_source import load_video
from comfyui_aot.tests.support.small_models import save

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


LLAVAS_OWN = {
    (2, 61, 83, 126): ("80ff9cf3e4ff3676", [-1.0, -0.1764705777168274, 0.9529411792755127, 0.545098066329956]),
    (3, 272, 640, 384): (
        "da492b6bdd2a4b12",
        [-0.6705882549285889, 0.41960787773132324, -0.13725489377975464, -0.2549019455909729],
    ),
    (1, 720, 1280, 384): (
        "68f488bb0ce86b24",
        [-0.11372548341751099, -0.16862744092941284, -0.04313725233078003, -0.05098038911819458],
    ),
    (2, 384, 384, 384): ("08c1acde90cb8889", [-1.0, 0.07450985908508301, -0.2862744927406311, 0.5215686559677124]),
    (1, 1080, 607, 384): (
        "78016bca8d5b2aa1",
        [-0.38823527097702026, -0.003921568393707275, 0.019607901573181152, 0.15294122695922852],
    ),
}
"""Frames, height, width and side: of ``SigLipImageProcessor`` (github.com/LLaVA-VL/LLaVA-NeXT at df17966,
llava/model/multimodal_encoder/siglip_encoder.py, with Pillow 13.0) on :func:`drawn` frames, the SHA-256 of its levels
and every fifth part's first pixel value."""


def drawn(count, height, width):
    """Frames (count, height, width, 3) uint8 by a formula."""
    t, y, x, c = np.meshgrid(*map(np.arange, (count, height, width, 3)), indexing="ij")
    return torch.from_numpy(((37 * y + 101 * x + 53 * c + 17 * t + (x * y) // 7 % 91) % 256).astype(np.uint8))


@pytest.mark.parametrize("case", LLAVAS_OWN, ids=str)
def test_pixel_values_of_lmms_lab_are_those_of_llavas_own_code(case, tmp_path, embedded_folder, record_property):
    count, height, width, side = case
    digest, values = LLAVAS_OWN[case]
    levels = resize_with_pil(drawn(count, height, width), (side, side))
    assert hashlib.sha256(levels.contiguous().numpy().tobytes()).hexdigest()[:16] == digest
    found = normalise(levels, HALF, HALF).flatten()
    some = found[:: found.numel() // 5][:4]
    record_property("pixels apart", f"{float((some - torch.tensor(values)).abs().max()):.0e}")
    torch.testing.assert_close(some, torch.tensor(values), atol=1e-6, rtol=0)
    assert not torch.equal(levels, resize(drawn(count, height, width), (side, side))) or side == height == width
    if side == 126:  # that of the small models, along the whole road
        save(tmp_path / "model", LlavaOnevisionOriginal.family, embedded_folder)
        frames = Frames(drawn(count, height, width), torch.arange(count).double(), "drawn")
        assert torch.equal(load(tmp_path / "model").preprocess(frames).flatten(), found)


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
