"""A drawn clip that is read as a video file is: for a first run, before there is footage."""

from __future__ import annotations

from dataclasses import replace

from ..video.frames import Frames, resample
from ..video.sampling import Sampling
from ..video.sizes import resize
from .scenes import make_scene
from .shapes_set import SPLITS

NAME = "drawn clip"
"""In place of a file's name. It has no suffix, so it is none of the videos that are listed in a folder."""

NUMBER = SPLITS["test"]
"""Its number in Shapes. The embedded model was not trained on it."""

FPS = 24


def load_drawn_clip(sampling: Sampling | None = None, size: int | None = None, number: int = NUMBER) -> Frames:
    """The chosen frames of the clip: eight seconds of moving shapes at 24 frames a second.

    It is the clip that :func:`.shapes_set.shapes_set` draws in 16 frames. What happens, and when, is the same.

    Args:
        sampling: which frames; None takes 32 uniformly.
        size: of the shorter side in pixels; None leaves it at 378.
        number: of another clip in Shapes.

    Raises:
        InputError: the sampling or the size does not suit the clip.
    """
    story = make_scene(number)
    scene = replace(story, settings=replace(story.settings, frames=round(FPS * story.settings.seconds)))
    sampling = Sampling() if sampling is None else sampling
    chosen = resample(replace(scene.frames(), source=NAME), sampling)

    def more(count: int) -> Frames:
        return load_drawn_clip(Sampling(frames=count, start=sampling.start, end=sampling.end), size, number)

    return replace(chosen if size is None else resize(chosen, size), more=more)
