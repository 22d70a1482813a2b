"""A clip as a file shows what its frames show, at their times."""

from __future__ import annotations

import pytest

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.evaluation.clip_file import write_mp4
from comfyui_aot.aot.evaluation.scenes import SceneSettings, make_scene
from comfyui_aot.aot.video.sampling import Sampling
from comfyui_aot.aot.video.video_source import load_video


@pytest.mark.parametrize(("frames", "seconds"), [(16, 8.0), (5, 3.0)])
def test_a_clip_is_read_back_as_it_was_drawn(tmp_path, frames, seconds):
    drawn = make_scene(3, SceneSettings(frames=frames, seconds=seconds)).frames()
    write_mp4(drawn, tmp_path / "new" / "clip.mp4")
    read = load_video(tmp_path / "new" / "clip.mp4", Sampling(frames=frames))
    assert read.pixels.shape == drawn.pixels.shape
    assert read.timestamps.tolist() == pytest.approx(drawn.timestamps.tolist(), abs=1e-3)
    assert float((read.pixels.float() - drawn.pixels.float()).abs().mean()) < 6
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["clip.mp4"]


def test_a_folder_that_cannot_be_is_refused_in_a_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        write_mp4(make_scene(3, SceneSettings(frames=4)).frames(), tmp_path / "file" / "clip.mp4")
