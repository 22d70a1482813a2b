"""What is no video file, or opens other files, is refused in one line that says what it is and what to do."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.video.container import FORMATS
from comfyui_aot.aot.video.sampling import Sampling
from comfyui_aot.aot.video.video_source import load_video, open_video
from comfyui_aot.tests.support.numbered import barcode, numbers_of, write_numbered


def refusal(path, *words):
    """The one line that a path is refused with, at once and in parts; it names each of `words`."""
    lines = set()
    for read in (load_video, open_video):
        with pytest.raises(InputError) as caught:
            read(path, Sampling("every"))
        lines.add(str(caught.value))
    (line,) = lines
    assert "\n" not in line
    for word in words:
        assert word in line
    return line


@pytest.mark.parametrize(
    "url", ["https://example.org/a.mp4", "http://127.0.0.1:9/a.mp4", "rtsp://camera/1", "file:///a.mp4"]
)
def test_a_url_is_refused_with_what_to_do(url):
    refusal(url, url, "is a URL", "download the video")
    refusal(Path(url), "is a URL", "download the video")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    refusal(tmp_path / "pipe.mp4", "pipe.mp4 is a pipe", "write it to a file")


def test_a_device_is_refused():
    refusal("/dev/zero", "zero is a pipe or a device")


def test_a_folder_of_pictures_is_refused_with_what_to_do(tmp_path):
    for number in range(3):
        Image.fromarray(barcode(number)).save(tmp_path / f"{number}.png")
    refusal(tmp_path, "is a folder of 3 pictures", "make a video file of them")


OTHER_FILES = {
    "playlist": "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:2.4,\n{secret}\n#EXT-X-ENDLIST\n",
    "concatenation": "ffconcat version 1.0\nfile '{secret}'\n",
    "session": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT2S" profiles="urn:mpeg:dash:profile:isoff-main:2011"><Period><AdaptationSet '
    'mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{secret}</BaseURL></Representation>'
    "</AdaptationSet></Period></MPD>",
}


@pytest.mark.parametrize("kind", OTHER_FILES)
@pytest.mark.parametrize("ending", [".mp4", ".m3u8", ".ffconcat", ".sdp", ".mpd", ".mkv"])
def test_a_file_that_opens_others_is_refused_whatever_its_name(tmp_path, kind, ending):
    secret = write_numbered(tmp_path / "secret.ts")
    path = tmp_path / f"list{ending}"
    path.write_text(OTHER_FILES[kind].format(secret=secret.name))
    refusal(path, path.name, "cannot be read as a video")


@pytest.mark.parametrize("name", ["%03d.png", "*.png", "0%02d.jpg"])
def test_a_name_that_is_a_pattern_opens_no_other_file(tmp_path, name):
    for number in range(3):
        Image.fromarray(barcode(number)).save(tmp_path / f"{number:03d}{Path(name).suffix}")
    refusal(tmp_path / name, "there is no file")
    Image.fromarray(barcode(9)).save(tmp_path / "own.png")
    os.rename(tmp_path / "own.png", tmp_path / name)
    refusal(tmp_path / name, "cannot be read as a video")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.txt", b"no video\n" * 200),
        ("table.csv", b"a,b\n1,2\n" * 200),
        ("page.html", b"<html><body>no video</body></html>" * 50),
        ("archive.zip", b"PK\x03\x04" + bytes(range(256)) * 8),
        ("noise.mp4", np.random.default_rng(0).integers(0, 256, 5000, np.uint8).tobytes()),
        ("subtitles.srt", b"1\n00:00:00,000 --> 00:00:01,000\nno video\n\n" * 20),
        ("words.vtt", b"WEBVTT\n\n00:00.000 --> 00:01.000\nno video\n\n" * 20),
        ("drawing.svg", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>' * 20),
    ],
)
def test_other_files_are_refused_with_what_can_be_read(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    refusal(tmp_path / name, f"{name} cannot be read as a video", "convert it to mp4, mkv, webm, mov or avi")


def test_a_video_is_read_whatever_its_ending(tmp_path):
    for ending in (".txt", ".avi", "", ".m3u8"):
        path = tmp_path / f"a{ending}"
        path.write_bytes(write_numbered(tmp_path / "whole.mp4").read_bytes())
        assert numbers_of(load_video(path, Sampling("every", every=10)).pixels) == [0, 10, 20, 30, 40, 50]


def test_no_format_that_is_read_opens_other_files():
    opening = {
        "hls",
        "concat",
        "dash",
        "image2",
        "sdp",
        "rtsp",
        "rtp",
        "imf",
        "avisynth",
        "lavfi",
        "vapoursynth",
        "tee",
    }
    assert not opening & set(FORMATS.split(","))
