"""What FastVID and FlashVID ask of a device: few operations and waits, whatever the number of frames and segments."""

import warnings
from itertools import cycle, islice

import pytest
import torch

from comfyui_aot.aot.benchmarks.operations import OperationCounter, count_operations
from comfyui_aot.aot.benchmarks.reduction import random_tokens
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.aot.stages.methods import fastvid, flashvid
from comfyui_aot.aot.tokens.video_tokens import Layout, VideoTokens
from comfyui_aot.tests.support.simulated_device import waits_of

FRAMES = (8, 32, 128)
STAGES = ("fastvid", "flashvid")
OPERATIONS = 250
OF_SCENES = {"fastvid": 250, "flashvid": 300}
"""Where segments, and what they leave of their frames, are so uneven that they take several batches."""
WAITS = {"fastvid": 2, "flashvid": 3}
"""For the check for NaN and the frames' cosines; for FlashVID also for the number of roots."""


@pytest.fixture(autouse=True)
def substitutes_are_expected():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def scenes(frames):
    """Tokens of scenes of 1, 2, 4, 8 and 16 frames in turn, on 14 x 14 cells that change a little within a scene."""
    generator = torch.Generator().manual_seed(0)
    lengths = list(islice(cycle((1, 2, 4, 8, 16)), frames))
    scene = torch.arange(frames).repeat_interleave(torch.tensor(lengths))[:frames]
    looks = torch.randn(frames, 196, 32, generator=generator) + 2 * torch.randn(frames, 1, 32, generator=generator)
    features = looks[scene] + 0.3 * torch.randn(frames, 196, 32, generator=generator)
    attention = torch.rand(frames, 196, generator=generator)
    seconds = torch.arange(frames, dtype=torch.float64)
    return VideoTokens.encoded(features, Layout(frames, (14, 14), "none"), attention, attention, seconds)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("suffix", [":retention=0.1", ""], ids=["exact", "released"])
def test_operations_are_as_many_for_8_frames_as_for_128(stage, suffix):
    counts = [count_operations(parse(stage + suffix), frames) for frames in FRAMES]
    assert len({counter.operations.total() for counter in counts}) == 1
    assert counts[0].operations.total() <= OPERATIONS


@pytest.mark.parametrize("frames", FRAMES)
@pytest.mark.parametrize("stage", STAGES)
def test_segments_of_many_lengths_ask_for_little_more(stage, frames):
    chain, tokens = parse(f"{stage}:retention=0.1"), scenes(frames)
    chain(tokens)
    with OperationCounter() as counter:
        chain(tokens)
    assert counter.operations.total() <= OF_SCENES[stage]


@pytest.mark.parametrize("make", [scenes, lambda frames: random_tokens(frames, 16)], ids=["scenes", "noise"])
@pytest.mark.parametrize("frames", FRAMES)
@pytest.mark.parametrize("suffix", [":retention=0.1", ""], ids=["exact", "released"])
@pytest.mark.parametrize("stage", STAGES)
def test_the_host_seldom_waits(stage, suffix, frames, make):
    assert waits_of(parse(stage + suffix), make(frames)).total() == WAITS[stage]


@pytest.mark.parametrize(("module", "stage"), [(fastvid, "fastvid"), (flashvid, "flashvid")], ids=STAGES)
def test_batches_that_memory_asks_for_change_nothing(module, stage, monkeypatch):
    chain, tokens = parse(f"{stage}:retention=0.2"), scenes(32)
    expected = chain(tokens)
    monkeypatch.setattr(module, "BATCH", 3 * 196**2)
    reduced = chain(tokens)
    assert torch.equal(reduced.place, expected.place)
    torch.testing.assert_close(reduced.features, expected.features)
