"""Clips: every frame in exactly one, cut where asked."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.stages.clips import clips_at, dynamic_clips, fixed_clips, parse_times

SECONDS = torch.arange(8, dtype=torch.float64) / 2


@given(frames=st.integers(1, 100), length=st.integers(1, 20))
def test_fixed_clips_cover_the_video_and_only_the_last_is_short(frames, length):
    lengths = fixed_clips(frames, length)
    assert sum(lengths) == frames
    assert set(lengths[:-1]) <= {length}
    assert 1 <= lengths[-1] <= length


def test_a_clip_begins_at_the_first_frame_at_or_after_a_cut_time():
    assert clips_at((1.0, 2.1), SECONDS) == (2, 3, 3)


def test_cut_times_outside_the_video_cut_nothing():
    assert clips_at((0.0, 99.0), SECONDS) == (8,)


def test_the_same_cut_twice_is_one_cut():
    assert clips_at((1.2, 1.3, 1.2), SECONDS) == (3, 5)


@pytest.mark.parametrize("text", ["1.5 3 7.25", "1.5,3,7.25", "1.5; 3; 7.25", " 1.5/3/7.25 "])
def test_cut_times_are_read_however_they_are_separated(text):
    assert parse_times(text) == (1.5, 3, 7.25)


@pytest.mark.parametrize("text", ["soon", "1 -2", "nan", "inf", "1:30"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(InputError, match="not seconds from 0 on; write them as"):
        parse_times(text)


def test_dynamic_clips_are_cut_where_frames_differ():
    scenes = torch.eye(3)[[0, 0, 0, 1, 1, 2, 2]] + 0.01
    assert dynamic_clips(scenes, 0.8, 0) == (3, 2, 2)


def test_dynamic_clips_are_cut_at_the_lowest_too():
    angles = torch.tensor([0.0, 0.1, 0.2, 0.5, 0.6])
    frames = torch.stack((angles.cos(), angles.sin()), 1)
    assert dynamic_clips(frames, -1, 1) == (3, 2)
    assert dynamic_clips(frames, -1, 99) == (1,) * 5


def test_one_frame_is_one_dynamic_clip():
    assert dynamic_clips(torch.ones(1, 4)) == (1,)
