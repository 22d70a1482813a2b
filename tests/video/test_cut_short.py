"""A file that lacks its end is told as such, whatever its container, and what is left of it can be read."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest
from PIL import Image

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.video.index import read_index
from comfyui_aot.aot.video.sampling import Sampling
from comfyui_aot.aot.video.video_source import load_video, open_video
from comfyui_aot.tests.support.numbered import barcode, numbers_of, write_numbered


def noisy(number):
    """A barcode with noise, so that the frames fill most of the file."""
    noise = np.random.default_rng(number).integers(0, 90, (64, 160, 1), np.uint8)
    return barcode(number) // 2 + noise


KINDS = [
    ("a.mkv", "libx264", {}),
    ("a.webm", "libvpx-vp9", {"reordered": 0}),
    ("a.avi", "mpeg4", {}),
    ("a.avi", "libx264", {}),
    ("a.flv", "libx264", {}),
    ("a.wmv", "wmv2", {"reordered": 0}),
    ("a.mxf", "mpeg2video", {}),
    ("a.ivf", "libvpx-vp9", {"reordered": 0}),
    ("a.gif", "gif", {"pixels": "rgb8", "reordered": 0}),
    ("a.apng", "apng", {"pixels": "rgb24", "reordered": 0}),
    ("a.ts", "libx264", {}),
    ("a.mts", "mpeg2video", {}),
]


def cut(path, share):
    """The path, after its file lost its end: not where a frame or a packet of 188 bytes ends."""
    content = path.read_bytes()
    size = int(len(content) * share)
    while size % 188 in (0, 187) or size % 192 in (0, 191):
        size += 1
    path.write_bytes(content[:size])
    return path


@pytest.mark.parametrize(("name", "codec", "settings"), KINDS)
@pytest.mark.parametrize("share", [0.4, 0.8])
def test_a_cut_file_is_refused_and_its_rest_is_read(tmp_path, name, codec, settings, share):
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV cannot write {codec}")
    path = cut(write_numbered(tmp_path / name, codec, draw=noisy, **settings), share)
    for read in (load_video, open_video):
        with pytest.raises(InputError) as caught:
            read(path, Sampling("every"))
        line = str(caught.value)
        assert (
            f"{name} is cut short" in line and "copy or download it again, or set end to" in line and "\n" not in line
        )
    index = read_index(path)
    assert 0 < index.duration < 60 / 25
    rest = load_video(path, Sampling("every", end=index.duration))
    assert rest.count == index.count >= 2
    assert numbers_of(rest.pixels) == (rest.timestamps * 25).round().int().tolist()


@pytest.mark.parametrize(("name", "codec", "settings"), KINDS)
def test_a_whole_file_is_not_taken_for_cut(tmp_path, name, codec, settings):
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV cannot write {codec}")
    path = write_numbered(tmp_path / name, codec, draw=noisy, **settings)
    assert not read_index(path).cut_short
    assert load_video(path, Sampling("every")).count == 60


def test_a_matroska_file_whose_sound_lasts_longer_is_not_cut_short(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 160, "yuv420p"
        sound = file.add_stream("aac", rate=16000)
        for number in range(20):
            frame = av.VideoFrame.from_ndarray(barcode(number), "rgb24")
            frame.pts = number
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
        for i in range(80):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            silence.sample_rate, silence.pts = 16000, 1024 * i
            file.mux(sound.encode(silence))
        file.mux(sound.encode())
    assert numbers_of(load_video(path, Sampling("every")).pixels) == list(range(20))


@pytest.mark.parametrize("share", [0.2, 0.7, 0.99])
def test_a_cut_webp_is_refused(tmp_path, share):
    content = io.BytesIO()
    first, *rest = (Image.fromarray(noisy(number)) for number in range(12))
    first.save(content, "WEBP", save_all=True, append_images=rest, duration=40)
    path = tmp_path / "a.webp"
    path.write_bytes(content.getvalue()[: int(len(content.getvalue()) * share)])
    with pytest.raises(InputError) as caught:
        load_video(path, Sampling("every"))
    assert "a.webp" in str(caught.value) and "cut short" in str(caught.value)
