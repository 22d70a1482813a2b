"""Pictures, figures and files of tokens that are on a device: the host gets what it would from tokens of its own."""

import dataclasses

import pytest
import torch

from comfyui_aot.aot.comparison.cache import digest_of
from comfyui_aot.aot.pictures import timeline, token_map
from comfyui_aot.aot.pictures.explorer import Transport, packed
from comfyui_aot.aot.pictures.inspector import inspect
from comfyui_aot.aot.pictures.outcomes import cell_outcomes, legend
from comfyui_aot.aot.pictures.timeline import explanation, keyframes, role_counts
from comfyui_aot.aot.pictures.transport_picture import transport_picture
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.aot.tokens.quality import absorption, figures
from comfyui_aot.aot.tokens.storage import load, save
from comfyui_aot.aot.video.frames import Frames
from comfyui_aot.tests.support.simulated_device import OnDevice, moved, simulated
from comfyui_aot.tests.support.stages import video

CHAINS = ("full", "aot:retention=0.5", "vidcom2:retention=0.3", "visionzip:retention=0.3", "evs:retention=0.5+cosine")
"""Of W in blocks, entry by entry, picked and scaled, with every role there is."""

REPLAYED = ("vidcom2:retention=0.3", "visionzip:retention=0.3", "evs:retention=0.5+cosine")
"""Those that the inspector and the timeline run again."""

LAYOUTS = (("bilinear", "one_token"), ("average", "grid"))

pytestmark = pytest.mark.filterwarnings("ignore:These tokens come without")


@pytest.fixture(params=LAYOUTS, ids="-".join, scope="module")
def full(request):
    pooling, newline = request.param
    return video(6, (8, 10), pooling=pooling, newline=newline, extras=True)


@pytest.fixture(params=CHAINS, scope="module")
def tokens(request, full):
    return parse(request.param)(full)


@pytest.fixture(scope="module")
def frames():
    pixels = torch.randint(0, 256, (6, 24, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Frames(pixels, torch.arange(6, dtype=torch.float64), "noise.mp4")


def both(work, *tokens):
    """What ``work`` makes of tokens on the host, and of the same on the device."""
    expected = work(*tokens)
    with simulated():
        result = work(*map(moved, tokens))
    return expected, result


def same(expected, result):
    """Compare numbers, strings, arrays and tensors, all on the host, part by part."""
    assert not isinstance(result, OnDevice)
    if isinstance(expected, torch.Tensor):
        torch.testing.assert_close(result, expected)
    elif dataclasses.is_dataclass(expected):
        same(vars(expected), vars(result))
    elif isinstance(expected, dict):
        assert result.keys() == expected.keys()
        for name, value in expected.items():
            same(value, result[name])
    elif isinstance(expected, (tuple, list)):
        assert len(result) == len(expected)
        for one, other in zip(expected, result, strict=True):
            same(one, other)
    elif hasattr(expected, "dtype"):
        torch.testing.assert_close(torch.from_numpy(result), torch.from_numpy(expected))
    else:
        assert result == (pytest.approx(expected) if isinstance(expected, float) else expected)


@pytest.mark.parametrize("measure", [absorption, cell_outcomes, figures, keyframes, role_counts, Transport.of])
def test_what_is_read_off_the_tokens(measure, tokens):
    same(*both(measure, tokens))


def test_the_figures_against_all_tokens(tokens, full):
    same(*both(figures, tokens, full))


def test_the_legend_and_the_explorers_package(tokens):
    same(*both(lambda tokens: legend(tokens, cell_outcomes(tokens).outcome), tokens))
    same(*both(lambda tokens: packed(tokens, Transport.of(tokens)), tokens))


def test_the_pictures(tokens, frames):
    same(*both(lambda tokens: token_map(tokens, frames, width=600), tokens))
    same(*both(lambda tokens: timeline(tokens, frames, width=600), tokens))
    same(*both(lambda tokens: transport_picture(tokens, frames, Transport.of(tokens)), tokens))
    same(*both(lambda tokens: inspect(tokens).markdown(), tokens))


@pytest.mark.parametrize("chain", REPLAYED)
def test_the_stages_that_run_again(chain, full):
    tokens = parse(chain)(full)
    same(*both(lambda tokens, full: inspect(tokens, full).markdown(), tokens, full))
    same(*both(lambda tokens, full: explanation(tokens, full, ()), tokens, full))


def test_a_video_that_is_partly_on_the_host(tokens, full):
    expected = figures(tokens, full)
    with simulated():
        same(expected, figures(moved(tokens), full))
        same(expected, figures(tokens, moved(full)))
        same(inspect(tokens, full).markdown(), inspect(moved(tokens), full).markdown())


def test_saved_tokens(tokens, tmp_path):
    save(tokens, tmp_path / "host")
    with simulated():
        save(moved(tokens), tmp_path / "device")
    same(load(tmp_path / "host"), load(tmp_path / "device"))


def test_the_digest_of_a_video(full):
    same(*both(digest_of, full))
