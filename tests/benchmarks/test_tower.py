"""What the benchmark of towers reports follows from what it ran; how fast that was is nobody's test."""

from __future__ import annotations

import time

import pytest
import torch

from comfyui_aot.aot.benchmarks.tower import bench_tower, clock_of
from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.models import load
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.tests.support.small_models import save
from comfyui_aot.tests.support.stock_inputs import random_frames

FRAMES = 10


@pytest.fixture(scope="module", params=["llava_onevision", "qwen2_5_vl"])
def small(request, tmp_path_factory, embedded_folder):
    folder = tmp_path_factory.mktemp("models") / "small"
    save(folder, request.param, embedded_folder)
    return load(folder)


def test_rows_through_the_blocks_are_counted_beside_the_time(small):
    chains = [parse(spec) for spec in ("earlytom:similarity=0,layers=0+uniform:retention=0.2", "fewer:frames=4")]
    full, merged, fewer = bench_tower(small, random_frames(FRAMES), chains, repeats=1)
    assert full["ratio"] == full["share"] == 1 and full["frames_left"] == full["frames"]
    assert merged["frames_left"] < full["frames"] and fewer["frames_left"] * FRAMES == 4 * full["frames"]
    assert fewer["share"] == pytest.approx(0.4)
    used = small.blocks.used
    after_the_first = merged["frames_left"] / full["frames"]
    assert merged["share"] == pytest.approx((1 + (used - 1) * after_the_first) / used)
    assert merged["ratio"] == merged["seconds"] / full["seconds"]
    assert not any(module._forward_pre_hooks for module in small.blocks.modules)


def test_a_chain_after_the_tower_saves_nothing_of_it(small):
    with pytest.raises(InputError, match="does nothing before there are tokens"):
        bench_tower(small, random_frames(2), [parse("aot")])


def test_on_the_cpu_time_is_that_of_the_process():
    assert clock_of(torch.device("cpu")) is time.process_time
    assert clock_of(torch.device("cuda")) is time.perf_counter
