"""Frames of a file, their times and its length, as the makers' own code takes them and tells the model of them.

Recorded from that code: ``load_video`` of LLaVA-Video's model card (github.com/LLaVA-VL/LLaVA-NeXT,
docs/LLaVA_Video_1003.md) with 6 frames and ``force_sample``, and ``get_index`` of InternVL's (github.com/OpenGVLab/
InternVL, README.md) with 8 segments, each on these files through decord2 3.4.0.
"""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from comfyui_aot.aot.cli.main import main
from comfyui_aot.aot.models import load
from comfyui_aot.aot.models.internvl import InternVL
from comfyui_aot.aot.models.llava_video import LlavaVideo
from comfyui_aot.aot.streaming import stream
from comfyui_aot.aot.tokens.storage import load as load_tokens
from comfyui_aot.aot.tokens.storage import save as save_tokens
from comfyui_aot.aot.video.frames import Frames, resample
from comfyui_aot.aot.video.sampling import Sampling
from comfyui_aot.aot.video.video_source import load_video, open_video
from comfyui_aot.tests.support.small_models import save

INTERNVL = {
    "bunny": [8, 24, 41, 57, 74, 90, 106, 123],
    "bikes": [15, 46, 77, 108, 139, 171, 202, 233],
    "carphone": [7, 22, 37, 52, 67, 81, 96, 111],
    "uneven": [0, 1, 2, 3, 4, 4, 5, 6],
}
LLAVA_VIDEO = {
    "bunny": ([0, 26, 52, 78, 104, 131], "0.00s,1.04s,2.08s,3.12s,4.16s,5.24s", "5.28"),
    "bikes": ([0, 49, 99, 149, 199, 249], "0.00s,1.96s,3.96s,5.96s,7.96s,9.96s", "10.00"),
    "carphone": ([0, 23, 47, 71, 95, 119], "0.00s,0.77s,1.57s,2.37s,3.17s,3.97s", "4.00"),
    "uneven": ([0, 1, 2, 4, 5, 7], "0.00s,0.21s,0.42s,0.85s,1.06s,1.49s", "1.70"),
}
"""Indices, times and length. Where frames are unevenly apart, the makers' times are not those that players show."""


@pytest.fixture(params=list(INTERNVL))
def file(request, make_clip):
    """A name among the recorded ones, and its file."""
    if request.param == "uneven":
        return request.param, make_clip("uneven.mp4", milliseconds=(0, 40, 100, 500, 540, 1500, 1600, 2000))
    return request.param, request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def llava_video(tmp_path_factory, embedded_folder):
    folder = tmp_path_factory.mktemp("models") / "llava-video"
    save(folder, LlavaVideo.family, embedded_folder)
    return load(folder)


def told(times, length):
    return (
        f"The video lasts for {length} seconds, and {times.count('s')} frames are uniformly sampled from it. These "
        f"frames are located at {times}.Please answer the following questions related to this video.\nWhy?"
    )


def test_internvl_takes_the_makers_frames(file):
    name, path = file
    video = open_video(path, Sampling(makers=InternVL.sampling))
    assert video.chosen.tolist() == sorted(set(INTERNVL[name]))


def test_llava_video_takes_64_frames_as_the_makers_do(file):
    _, path = file
    video = open_video(path, Sampling(makers=LlavaVideo.sampling))
    evenly = open_video(path, Sampling(frames=min(64, video.index.count)))
    assert torch.equal(video.chosen, evenly.chosen)


def test_a_window_is_taken_for_the_video(bunny):
    window = open_video(bunny, Sampling(start=1.0, end=2.0, makers=InternVL.sampling))
    assert window.chosen.tolist() == [25 + each for each in InternVL.sampling(26, 25.0, 1.04)]


def test_frames_in_memory_are_chosen_as_those_of_a_file(bikes):
    makers = Sampling(makers=InternVL.sampling)
    everything = load_video(bikes, Sampling("every"), size=32)
    assert torch.equal(resample(everything, makers).pixels, load_video(bikes, makers, size=32).pixels)


def test_llava_video_is_told_the_length_and_times_that_its_makers_tell(file, llava_video):
    name, path = file
    indices, times, length = LLAVA_VIDEO[name]
    frames = load_video(path, Sampling(frames=6))
    assert frames.clock is not None and frames.clock.numbers.tolist() == indices
    assert llava_video.video_question(llava_video.encode(frames), "Why?") == told(times, length)


def test_the_length_travels_with_streams_saved_tokens_and_choices(llava_video, bunny, tmp_path):
    _, times, length = LLAVA_VIDEO["bunny"]
    source = open_video(bunny, Sampling(frames=6))
    tokens = stream(llava_video, source, ())
    assert llava_video.video_question(tokens, "Why?") == told(times, length)
    save_tokens(tokens, tmp_path / "tokens.safetensors")
    again = load_tokens(tmp_path / "tokens.safetensors")
    assert llava_video.video_question(again, "Why?") == told(times, length)
    every = resample(load_video(bunny, Sampling("every")), Sampling(frames=6))
    assert llava_video.video_question(llava_video.encode(every), "Why?") == told(times, length)


def test_images_with_a_rate_are_a_whole_video_and_others_end_with_their_last(llava_video):
    images = torch.rand(4, 20, 30, 3)
    tokens = llava_video.encode(Frames.from_images(images, 8.0))
    assert llava_video.video_question(tokens, "Why?") == told("0.00s,0.12s,0.25s,0.38s", "0.50")
    tokens = llava_video.encode(Frames.from_images(images, timestamps=torch.tensor([1.0, 2.0, 4.0, 8.5])))
    assert llava_video.video_question(tokens, "Why?") == told("1.00s,2.00s,4.00s,8.50s", "8.50")


def test_tokens_that_were_saved_before_end_with_their_last_frame(llava_video, bunny):
    tokens = llava_video.encode(load_video(bunny, Sampling(frames=6)))
    (record,) = tokens.history
    earlier = {key: value for key, value in record.settings.items() if key not in ("duration", "times")}
    tokens = dataclasses.replace(tokens, history=(dataclasses.replace(record, settings=earlier),))
    assert llava_video.video_question(tokens, "Why?") == told(LLAVA_VIDEO["bunny"][1], "5.24")


def test_a_command_without_frames_takes_the_makers(bunny, tmp_path, embedded_folder, capsys):
    save(tmp_path / "model", InternVL.family, embedded_folder)
    asked = ["answer", str(bunny), "Why?", "--model", str(tmp_path / "model"), "--max-new-tokens", "2", "--json"]
    tokens_a_frame = 16
    for options, frames in (([], 8), (["--frames", "5"], 5)):
        assert main([*asked, *options]) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["tokens_full"] == frames * tokens_a_frame
