"""What `qwen-vl-utils` 0.0.14 made of some files: recorded with decord2 3.4.0 and torchvision 0.28.0, for the CPU.

Each is ``fetch_video({"video": path, "video_start": ..., "video_end": ...}, image_patch_size=14 or 16,
return_video_sample_fps=True, return_video_metadata=True)`` of ``qwen_vl_utils.vision_process``; a window from 0 without
an end had neither of the two keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Read:
    """A file as the package reads it.

    Args:
        indices: of the frames.
        window: frames that they were chosen among.
        fps: frames a second of the file.
        sampled_fps: frames a second that were taken.
        sizes: by pixels of a patch, (h, w) of a frame.
        means: by pixels of a patch, of red, green and blue, 0 to 255.
        spots: by pixels of a patch, the colours in row 17, column 29 of the second frame and in row 100, column 60 of
            the last.
    """

    indices: list[int]
    window: int
    fps: float
    sampled_fps: float
    sizes: dict[int, tuple[int, int]]
    means: dict[int, tuple[float, ...]]
    spots: dict[int, tuple[tuple[int, ...], tuple[int, ...]]]


NTSC = 30000 / 1001
WHOLE, PART = (0.0, None), (1.0, 3.5)
"""Windows, in seconds."""

READ: dict[str, dict[tuple[float, float | None], Read]] = {
    "bunny": {
        WHOLE: Read(
            [0, 15, 29, 44, 58, 73, 87, 102, 116, 131], 132, 25.0, 1.893939393939394,
            {14: (560, 1008), 16: (640, 1152)},
            {14: (113.3536, 124.6156, 89.304), 16: (113.3534, 124.6154, 89.3038)},
            {14: ((82, 82, 13), (109, 88, 86)), 16: ((158, 159, 80), (99, 98, 44))},
        ),
        PART: Read(
            [25, 46, 66, 87], 63, 25.0, 1.5873015873015872,
            {14: (560, 1008), 16: (640, 1152)},
            {14: (114.092, 125.033, 90.5253), 16: (114.0917, 125.0328, 90.5253)},
            {14: ((112, 117, 25), (121, 100, 96)), 16: ((132, 138, 41), (95, 99, 36))},
        ),
    },
    "bikes": {
        WHOLE: Read(
            [0, 13, 26, 39, 52, 66, 79, 92, 105, 118, 131, 144, 157, 170, 183, 197, 210, 223, 236, 249], 250, 25.0, 2.0,
            {14: (280, 644), 16: (256, 640)},
            {14: (103.9706, 100.6796, 95.8576), 16: (103.9707, 100.6796, 95.8583)},
            {14: ((120, 108, 98), (34, 36, 36)), 16: ((119, 107, 97), (34, 36, 36))},
        ),
        PART: Read(
            [25, 46, 66, 87], 63, 25.0, 1.5873015873015872,
            {14: (280, 644), 16: (256, 640)},
            {14: (103.0157, 99.8209, 95.8317), 16: (103.0143, 99.82, 95.8311)},
            {14: ((35, 40, 39), (77, 90, 100)), 16: ((35, 40, 39), (78, 90, 98))},
        ),
    },
    "carphone": {
        WHOLE: Read(
            [0, 17, 34, 51, 68, 85, 102, 119], 120, NTSC, 1.9980019980019978,
            {14: (308, 364), 16: (352, 416)},
            {14: (99.6729, 103.271, 99.3065), 16: (99.674, 103.272, 99.3079)},
            {14: ((125, 121, 102), (27, 32, 33)), 16: ((125, 121, 102), (75, 77, 67))},
        ),
        PART: Read(
            [30, 55, 79, 104], 75, NTSC, 1.5984015984015985,
            {14: (308, 364), 16: (352, 416)},
            {14: (100.2711, 103.92, 100.4454), 16: (100.2718, 103.9216, 100.4465)},
            {14: ((125, 121, 104), (34, 37, 37)), 16: ((126, 122, 103), (70, 72, 69))},
        ),
    },
}  # fmt: skip


def published_settings(family: str) -> dict[str, Any]:
    """The limits of pixels in the published checkpoints' files: of a frame, and of a video for Qwen3-VL."""
    if "3" in family:
        return {"size": {"shortest_edge": 4096, "longest_edge": 25165824}}
    return {"size": {"shortest_edge": 3136, "longest_edge": 12845056}}
