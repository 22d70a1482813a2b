"""Each stage is held to what it asks of a device: operations and waits, the same for short videos and for long ones."""

import warnings

import pytest

from comfyui_aot.aot.benchmarks.operations import count_operations
from comfyui_aot.aot.stages import stages
from comfyui_aot.aot.stages.chain import parse

FRAMES = (8, 32, 128)
LIMITS = {"aot": (300, 6), "intra": (150, 4), "holitom": (400, 6), "prunevid": (400, 6)}
OTHERS = (250, 3)
"""(operations, waits) at most."""


@pytest.mark.parametrize("frames", FRAMES)
@pytest.mark.parametrize("name", stages())
def test_a_stage_on_an_exact_budget_is_held_to_its_count(name, frames):
    chain = parse(f"{name}:retention=0.5" if name == "dycoke" else f"{name}:retention=0.1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        counter = count_operations(chain, frames, 16)
    operations, waits = LIMITS.get(name, OTHERS)
    assert counter.operations.total() <= operations
    assert counter.waits.total() <= waits


@pytest.mark.parametrize("frames", FRAMES)
@pytest.mark.parametrize("chain", ["intra", "paper", "vidcom2", "visionzip", "evs", "dycoke"])
def test_as_released_a_stage_may_wait_once_more(chain, frames):
    counter = count_operations(parse(chain), frames, 16)
    operations, waits = LIMITS.get(chain, LIMITS["aot"] if chain == "paper" else OTHERS)
    assert counter.operations.total() <= operations
    assert counter.waits.total() <= waits + 1


def test_a_chain_of_twice_the_frames_asks_for_nothing_more():
    few, many = (count_operations(parse("aot:retention=0.25"), frames, 16) for frames in (16, 64))
    assert few.operations == many.operations
    assert few.waits == many.waits
