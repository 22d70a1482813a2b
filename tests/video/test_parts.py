"""Decoding part by part: the frames `load_video` gives, in the memory of one part."""

import gc
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
import torch

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.memory import PeakMemory, in_use
from comfyui_aot.aot.video.frames import Frames
from comfyui_aot.aot.video.sampling import Sampling
from comfyui_aot.aot.video.sizes import estimate_bytes
from comfyui_aot.aot.video.video_source import load_video, open_video

EVERY = Sampling("every")


def joined(parts):
    """Parts put together again."""
    parts = list(parts)
    pixels = torch.cat([part.pixels for part in parts])
    return Frames(pixels, torch.cat([part.timestamps for part in parts]), parts[0].source)


def assert_same(left, right):
    assert torch.equal(left.pixels, right.pixels)
    assert torch.equal(left.timestamps, right.timestamps)
    assert left.source == right.source


def refusal(call):
    """The one line that `call` is refused with."""
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def is_open(path):
    gc.collect()
    return any(Path(file.path) == path for file in psutil.Process().open_files())


def write_moving(path, frames, side=(96, 64), codec="libx264", keyint=1000, order=None):
    """Frame i has brightness 2 * i (modulo 256); a keyframe every `keyint`; `order`: the frames' times, in tenths."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height = side
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size = keyint
        for i in range(frames):
            image = np.full((side[1], side[0], 3), 2 * (i if order is None else order[i]) % 256, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 10)
            for packet in stream.encode(frame):
                if order is not None:
                    packet.pts, packet.dts = order[i], i - frames
                container.mux(packet)
        container.mux(stream.encode())
    return path


@pytest.fixture
def damaged(tmp_path):
    """Sixty frames, three keyframes, nothing but zeros from the second keyframe on."""
    path = write_moving(tmp_path / "damaged.mp4", 60, keyint=20)
    with av.open(str(path)) as container:
        second = [packet.pos for packet in container.demux(video=0) if packet.size and packet.is_keyframe][1]
    content = bytearray(path.read_bytes())
    end = content.index(b"moov") - 4
    content[second:end] = bytes(end - second)
    path.write_bytes(content)
    return path


# The same frames


@pytest.mark.parametrize(
    ("clip", "backend", "side"), [("bikes", "decord", None), ("bikes", "pyav", 48), ("carphone", "pyav", None)]
)
@pytest.mark.parametrize("size", [1, 7, 40, 1000])
def test_parts_of_any_size_are_what_is_loaded_at_once(clip, backend, side, size, request):
    path, sampling = request.getfixturevalue(clip), Sampling(frames=40, start=0.5)
    whole = load_video(path, sampling, side, backend)
    assert_same(joined(open_video(path, sampling, side, backend).parts(size)), whole)


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "libx264"),
        ("a.mp4", "libsvtav1"),
        ("a.mp4", "libx265"),
        ("a.webm", "libvpx-vp9"),
        ("a.mkv", "libx264"),
        ("a.avi", "mpeg4"),
        ("a.ts", "libx264"),
        ("a.mov", "mjpeg"),
    ],
)
def test_other_codecs_and_containers_come_in_parts_too(tmp_path, name, codec):
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV cannot write {codec}")
    path = write_moving(tmp_path / name, 50, codec=codec, keyint=12)
    for sampling in (EVERY, Sampling("every", every=3, start=1.5), Sampling(frames=4)):
        assert_same(joined(open_video(path, sampling).parts(4)), load_video(path, sampling))
    brightness = joined(open_video(path, EVERY).parts(4)).pixels.float().mean(dim=(1, 2, 3))
    assert torch.allclose(brightness, 2 * torch.arange(50.0), atol=4)


def test_frames_shown_out_of_the_order_of_their_times_are_put_right(tmp_path):
    order = [0, 1, 4, 2, 3, 5, 7, 6, 8, 9]
    path = write_moving(tmp_path / "jumbled.mp4", 10, codec="mjpeg", order=order)
    frames = joined(open_video(path, EVERY, backend="pyav").parts(3))
    assert torch.allclose(frames.pixels.float().mean(dim=(1, 2, 3)), 2 * torch.arange(10.0), atol=2)


def test_the_last_part_holds_what_is_left(carphone):
    parts = list(open_video(carphone, Sampling(frames=10), 32, backend="auto").parts(4))
    assert [part.count for part in parts] == [4, 4, 2]


def test_a_source_says_before_decoding_what_its_parts_will_hold(bikes):
    video = open_video(bikes, Sampling(frames=5, start=1), size=(40, 60))
    frames = joined(video.parts(2))
    assert (video.count, video.height, video.width, video.source) == (5, 40, 60, "bikes.mp4")
    assert frames.pixels.shape == (5, 40, 60, 3)
    assert torch.equal(video.timestamps, frames.timestamps)


def test_parts_can_be_asked_for_again_and_begin_anew(carphone):
    video = open_video(carphone, Sampling(frames=6), 32)
    first = video.parts(4)
    next(first)
    assert_same(joined(video.parts(4)), joined(video.parts(6)))
    assert next(first).count == 2


def test_a_part_stays_as_it_is_when_the_next_is_decoded(carphone):
    parts = open_video(carphone, Sampling(frames=6), 32).parts(3)
    first = next(parts)
    before = first.pixels.clone()
    next(parts)
    assert torch.equal(first.pixels, before)


def test_frames_in_memory_come_in_the_same_parts_without_a_copy(carphone):
    whole = load_video(carphone, Sampling(frames=10), 32)
    parts = list(whole.parts(4))
    for part, decoded in zip(
        parts, open_video(carphone, Sampling(frames=10), 32, backend="auto").parts(4), strict=True
    ):
        assert_same(part, decoded)
    assert parts[1].pixels.data_ptr() == whole.pixels[4:].data_ptr()


@pytest.mark.parametrize("size", [0, -1])
def test_parts_of_no_frames_are_refused_at_once(carphone, size):
    video = open_video(carphone, Sampling(frames=2), 32)
    for source in (video, load_video(carphone, Sampling(frames=2), 32)):
        assert f"parts of {size} frames" in refusal(lambda source=source: source.parts(size))


# Failing and closing


@pytest.mark.parametrize("backend", ["decord", "pyav"])
def test_closing_the_parts_closes_the_file(tmp_path, backend):
    path = write_moving(tmp_path / "a.mp4", 50)
    parts = open_video(path, EVERY, backend=backend).parts(4)
    next(parts)
    assert is_open(path)
    parts.close()
    assert not is_open(path)


@pytest.mark.parametrize("backend", ["decord", "pyav"])
def test_all_parts_taken_leave_no_file_open(tmp_path, backend):
    path = write_moving(tmp_path / "a.mp4", 10)
    parts = open_video(path, EVERY, backend=backend).parts(5)
    assert (next(parts).count, next(parts).count, next(parts, None)) == (5, 5, None)
    assert not is_open(path)


@pytest.mark.parametrize("backend", ["auto", "pyav"])
def test_damage_in_a_later_part_is_refused_there_as_it_is_when_loaded_at_once(damaged, backend):
    before = load_video(damaged, Sampling("every", end=1.5), backend=backend)
    parts = open_video(damaged, EVERY, backend=backend).parts(8)
    assert_same(joined([next(parts), next(parts)]), before)
    line = refusal(lambda: list(parts))
    assert "damaged.mp4 is damaged" in line and "of the 60 frames asked for, the first at " in line
    assert line == refusal(lambda: load_video(damaged, EVERY, backend=backend))


def test_damage_is_refused_by_decord_alone_with_the_remedy(damaged):
    # decord's threads read ahead, so in which part the damage comes up is not the same at every run.
    parts = open_video(damaged, EVERY, backend="decord").parts(8)
    assert "use backend auto or pyav" in refusal(lambda: list(parts))


def test_a_file_cut_short_is_refused_when_opened(streamable):
    streamable.write_bytes(streamable.read_bytes()[: streamable.stat().st_size // 2])
    assert refusal(lambda: open_video(streamable)) == refusal(lambda: load_video(streamable))


# Memory


def test_parts_fit_where_the_whole_does_not(bikes):
    free = 32 * 640 * 272 * 3 // 2 + estimate_bytes(4, 272, 640)
    assert "at most 4 frames, a smaller size" in refusal(lambda: load_video(bikes, EVERY, free_bytes=free))
    video = open_video(bikes, EVERY, free_bytes=free)
    assert sum(part.count for part in video.parts(4)) == 250
    assert "at most 4 frames at a time" in refusal(lambda: video.parts(5))


def test_with_pyav_memory_does_not_grow_with_the_number_of_frames(tmp_path):
    path = write_moving(tmp_path / "long.mp4", 300, side=(640, 352))
    list(open_video(path, Sampling(frames=100), backend="pyav").parts(4))  # what the decoder keeps
    before = in_use("cpu")
    with PeakMemory("cpu") as peak:
        for _ in open_video(path, EVERY, backend="pyav").parts(4):
            pass
    assert peak.bytes - before < estimate_bytes(300, 352, 640) / 2
