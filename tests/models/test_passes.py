"""How many frames go into a pass, what is told meanwhile, and what happens where memory ends."""

import threading

import pytest
import torch

from comfyui_aot.aot.models import load
from comfyui_aot.aot.models.passes import FRAMES_AT_ONCE, MOST_AT_ONCE, fitting, frames_a_pass, passes, whole_parts
from comfyui_aot.aot.models.progress import ignore_progress
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.aot.streaming import stream
from comfyui_aot.aot.video.sampling import Sampling
from comfyui_aot.aot.video.video_source import load_video, open_video
from comfyui_aot.tests.support.small_models import save
from comfyui_aot.tests.support.stock_inputs import random_frames

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that encodes")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, embedded_folder):
    folder = tmp_path_factory.mktemp("models") / "small"
    save(folder, "llava_onevision", embedded_folder)
    return folder


@pytest.fixture
def small(folder):
    return load(folder)


@pytest.mark.parametrize(
    ("free", "expected"), [(0, 4), (399, 4), (799, 4), (800, 8), (6_399, 32), (6_400, 64), (10**9, 64)]
)
def test_as_many_frames_as_fit_go_into_a_pass(free, expected):
    assert fitting(free, each=100) == expected


@pytest.mark.parametrize(("count", "expected"), [(0, 4), (3, 4), (4, 4), (7, 4), (8, 8), (33, 32)])
def test_passes_are_whole_parts(count, expected):
    assert whole_parts(count) == expected


def test_a_cpu_takes_four_frames_at_a_time(small):
    assert frames_a_pass(small.tower.config, (126, 126), 64, torch.float32, CPU) == FRAMES_AT_ONCE
    assert [part.layout.frames for part in small.encode_parts(random_frames(11))] == [4, 4, 3]


def test_a_pass_that_memory_has_no_room_for_is_made_in_halves_and_so_are_the_next(small):
    frames, made = random_frames(43), []
    expected = small.encode(frames)
    room(small, 10, made)
    parts = list(small.encode_parts(frames, frames_at_once=32))
    assert made == [32, 16, 8, 8, 8, 8, 8, 3]
    assert [part.layout.frames for part in parts] == [8, 8, 8, 8, 8, 3]
    for part, first in zip(parts, range(0, 43, 8), strict=True):
        alone = expected.cut(first, first + part.layout.frames)
        assert torch.equal(part.timestamps, alone.timestamps)
        torch.testing.assert_close(part.features, alone.features, atol=1e-4, rtol=1e-4)
    milliseconds = [part.history[0].milliseconds for part in parts]
    assert min(milliseconds) > 0


def test_passes_after_a_long_one_are_smaller_and_can_be_stopped_in_between(small, monkeypatch):
    frames, made, told = random_frames(37), [], []
    expected = small.encode(frames)
    room(small, 99, made)
    monkeypatch.setattr("comfyui_aot.aot.models.encoder.LONGEST_PASS", 0.0)
    found = small.encode(frames, frames_at_once=16, on_progress=lambda done, _total: told.append(done))
    assert made == [16, 8, 4, 4, 4, 1]
    assert [done for done, before in zip(told, [-1, *told], strict=False) if done != before] == [
        0,
        16,
        24,
        28,
        32,
        36,
        37,
    ]
    torch.testing.assert_close(found.features, expected.features, atol=1e-4, rtol=1e-4)


def test_memory_that_does_not_do_for_four_frames_is_an_error(small):
    made = []
    room(small, 3, made)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        small.encode(random_frames(16), frames_at_once=16)
    assert made == [16, 8, 4]


def room(small, most, made):
    """Note the frames of each pass, and let the tower have memory for ``most`` of them."""

    def refuse(_module, arguments):
        made.append(len(arguments[0]))
        if len(arguments[0]) > most:
            raise torch.cuda.OutOfMemoryError("out of memory")

    small.tower.register_forward_pre_hook(refuse)


def test_progress_is_told_as_frames_come_and_counts_frames_of_complete_passes(small):
    told = []
    small.encode(random_frames(19), on_progress=lambda *now: told.append(now), frames_at_once=8)
    assert told == [(0, 19), (0, 19), (8, 19), (8, 19), (16, 19), (19, 19)]


def test_work_that_is_stopped_leaves_no_thread_and_makes_no_further_pass(small):
    class Stopped(Exception):
        pass

    def stop(done, total):
        if done:
            raise Stopped

    made, before = [], set(threading.enumerate())
    room(small, 99, made)
    with pytest.raises(Stopped):
        small.encode(random_frames(40), on_progress=stop, frames_at_once=8)
    assert made == [8]
    assert set(threading.enumerate()) == before


@pytest.mark.parametrize(("device", "ahead"), [("cpu", 0), ("meta", 2)])
def test_pixels_for_a_tower_elsewhere_are_made_while_it_works(device, ahead):
    frames, prepared = random_frames(22), [threading.Event() for _ in range(6)]

    def prepare(part):
        prepared[round(float(part.timestamps[0])) // 2].set()  # two frames a second, four in a part
        return part.pixels.permute(0, 3, 1, 2).float()

    batches = passes(frames, prepare, torch.device(device), 8, ignore_progress)
    found = [next(batches)]
    assert all(event.wait(10) for event in prepared[: 2 + ahead])
    assert not prepared[2 + ahead].wait(0.05)
    found += batches
    assert [len(batch.values) for batch in found] == [8, 8, 6]
    assert all(batch.seconds > 0 for batch in found)
    assert torch.equal(torch.cat([batch.values for batch in found]), frames.pixels.permute(0, 3, 1, 2).float())


def test_one_part_needs_no_thread():
    def prepare(part):
        threads.append(threading.current_thread())
        return part.pixels.float()

    threads = []
    list(passes(random_frames(4), prepare, torch.device("meta"), 64, ignore_progress))
    assert threads == [threading.current_thread()]


def test_streams_of_larger_passes_give_the_same_tokens(small, bunny, monkeypatch):
    stages = parse("aot:retention=0.3,clip_length=3").stages
    expected = stream(small, open_video(bunny, Sampling(frames=13)), stages)
    encode_parts = small.encode_parts
    monkeypatch.setattr(
        small, "encode_parts", lambda frames, **options: encode_parts(frames, frames_at_once=8, **options)
    )
    found = stream(small, open_video(bunny, Sampling(frames=13)), stages)
    assert torch.equal(found.place, expected.place)
    torch.testing.assert_close(found.features, expected.features, atol=1e-4, rtol=1e-4)


@on_gpu
def test_a_gpu_takes_as_many_frames_as_it_has_memory_for(folder):
    small = load(folder, dtype="float32", device="cuda")
    count = frames_a_pass(small.tower.config, (126, 126), 64, torch.float32, torch.device("cuda"))
    assert count == MOST_AT_ONCE
    parts = list(small.encode_parts(random_frames(70)))
    assert [part.layout.frames for part in parts] == [64, 6]


@on_gpu
def test_a_gpu_reads_files_ahead_and_leaves_no_thread(folder, bunny):
    small, before = load(folder, dtype="float32", device="cuda"), set(threading.enumerate())
    sampling, chain = Sampling(frames=21), parse("aot:retention=0.3,clip_length=3")
    eager = chain(small.encode(load_video(bunny, sampling), frames_at_once=8))
    streamed = stream(small, open_video(bunny, sampling, backend="auto"), chain.stages)
    assert torch.equal(eager.place, streamed.place)
    torch.testing.assert_close(eager.features, streamed.features, atol=1e-3, rtol=1e-3)
    assert set(threading.enumerate()) == before
    parts = small.encode_parts(random_frames(40), frames_at_once=4)
    next(parts)
    parts.close()
    assert set(threading.enumerate()) == before
