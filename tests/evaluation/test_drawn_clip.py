"""The drawn clip is read as a file is: by sampling, start, end and size."""

import pytest
import torch

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.evaluation.drawn_clip import NUMBER, load_drawn_clip
from comfyui_aot.aot.evaluation.scenes import make_scene
from comfyui_aot.aot.video.sampling import Sampling
from comfyui_aot.aot.video.sizes import resize


def test_uniform_frames_reach_from_the_first_to_the_last():
    frames = load_drawn_clip(Sampling(frames=16))
    assert tuple(frames.pixels.shape) == (16, 378, 378, 3)
    assert frames.source == "drawn clip"
    assert frames.timestamps[0] == 0
    assert frames.timestamps[-1].item() == pytest.approx(8 - 1 / 24)


def test_it_tells_the_same_story_as_the_clip_of_its_number():
    story = make_scene(NUMBER)
    frames = load_drawn_clip(Sampling("every", every=12, start=0.25))
    # Both have a frame 0.25 s after every half second: the middle of each of the story's 16 frames.
    drawn = torch.stack([torch.from_numpy(each) for each in story.pictures()])
    assert frames.count == 16
    # Half a frame of 24 a second apart: shapes move by a pixel at most, so only their edges differ.
    different = (frames.pixels.int() - drawn.int()).abs().amax(-1) > 40
    assert different.float().mean() < 0.02


def test_start_and_end_choose_a_window():
    frames = load_drawn_clip(Sampling("fps", fps=2.0, start=2.0, end=4.0))
    torch.testing.assert_close(frames.timestamps, torch.tensor([2.0, 2.5, 3.0, 3.5, 4.0], dtype=torch.float64))


def test_more_frames_than_it_has_are_refused_with_the_number():
    with pytest.raises(InputError, match="at most 192"):
        load_drawn_clip(Sampling(frames=193))


def test_size_scales_it():
    whole, small = load_drawn_clip(Sampling(frames=2)), load_drawn_clip(Sampling(frames=2), 126)
    assert tuple(small.pixels.shape) == (2, 126, 126, 3)
    # A third of the side: each pixel is about the mean of nine.
    means = whole.pixels.float().unfold(1, 3, 3).unfold(2, 3, 3).mean((-1, -2))
    assert (small.pixels.float() - means).abs().mean() < 2


def test_a_size_that_does_not_fit_in_memory_is_refused():
    frames = load_drawn_clip(Sampling(frames=2))
    with pytest.raises(InputError, match="2 frames of 1000x1000 from drawn clip need 6 MB and 5 MB are free"):
        resize(frames, 1000, free_bytes=5_000_000)
