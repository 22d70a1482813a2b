"""Video files with damage anywhere, and what is chosen of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from hypothesis import strategies as st

from comfyui_aot.aot.video.sampling import MODES, Sampling
from comfyui_aot.aot.video.video_source import load_video, open_video
from comfyui_aot.tests.hostile.values import NUMBERS, RAW, Damage, Kind, damaged, damages, pick, places
from comfyui_aot.tests.support.videos import write_at_25, write_audio, write_clip

CLIPS = ("h264.mp4", "mpeg4.avi", "vp9.webm", "h264.mkv", "mpeg2.ts", "still.gif", "mpeg1.mpg", "h264.mov")


@dataclass(frozen=True)
class Case:
    """A clip, what is done to its bytes, how its frames are chosen, and its name's end."""

    place: float
    damages: Sequence[Damage] = ()
    mode: str = "uniform"
    frames: int = 3
    fps: float = 1.0
    start: float = 0.0
    end: float | None = None
    text: bytes | None = None


SECONDS = tuple(float(number) for number in NUMBERS if number < 10**300 or number == float("inf"))
seconds = st.sampled_from(SECONDS) | st.floats(-2, 5)
counts = st.sampled_from((0, -1, 1, 2**31, 2**63, 2**64)) | st.integers(-3, 200)
cases = (
    st.builds(Case, places, damages)
    | st.builds(Case, places, damages, st.sampled_from(MODES))
    | st.builds(Case, places, st.just(()), st.sampled_from((*MODES, "?")), counts, seconds, seconds, seconds)
)
table = (
    *(Case(k / len(CLIPS)) for k in range(len(CLIPS))),
    *(Case(k / len(CLIPS), [Damage(n / 20, "cut")]) for k in range(len(CLIPS)) for n in range(20)),
    *(Case(k / len(CLIPS), text=text) for k in range(len(CLIPS)) for text in RAW[:13]),
    *(Case(0.1, (), mode, 3, number) for mode in MODES for number in SECONDS),
    *(Case(0.1, (), "uniform", 3, 1.0, number) for number in SECONDS),
    *(Case(0.1, (), "uniform", 3, 1.0, 0.0, number) for number in SECONDS),
)


def prepare(whole: Path) -> None:
    """A clip of each container."""
    for name in CLIPS:
        kind = Path(name).stem
        if kind == "still":
            write_at_25(whole / name, "gif", "rgb8")
        elif kind in ("mpeg1", "mpeg2"):
            write_at_25(whole / name, f"{kind}video")
        else:
            write_clip(whole / name, 10, {"h264": "libx264", "vp9": "libvpx-vp9"}.get(kind, kind))
    write_audio(whole / "sound.mp4")


def run(case: Case, whole: Path, folder: Path) -> None:
    """Decode it at once, and part by part."""
    source = pick(sorted(whole.iterdir()), case.place)
    path = folder / source.name
    path.write_bytes(damaged(source.read_bytes(), case.damages) if case.text is None else case.text)
    sampling = Sampling(case.mode, frames=case.frames, fps=case.fps, start=case.start, end=case.end)
    frames = load_video(path, sampling)
    assert frames.pixels.dtype == torch.uint8 and frames.count > 0
    assert bool(torch.isfinite(frames.timestamps).all())
    streamed = list(open_video(path, sampling).parts(4))
    assert sum(each.count for each in streamed) == frames.count


KIND = Kind("videos", table, cases, prepare, run)
