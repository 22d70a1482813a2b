"""Time and peak memory of streaming a video, by its length."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from ..files import scratch_folder
from ..memory import PeakMemory
from ..models import VideoLLM
from ..stages.chain import Chain
from ..streaming import stream
from ..video.sampling import Sampling
from ..video.video_source import open_video
from .clip import write_clip
from .growth import exponent

SIDE = 378
"""Pixels of a frame's side: the embedded tower's own."""


def bench_stream(pipeline: Chain, lengths: Sequence[int], model: VideoLLM) -> dict[str, Any]:
    """Decode, encode and reduce videos of several lengths, shortest first, after a short one that is not measured.

    Args:
        pipeline: the stages.
        lengths: numbers of frames.
        model: encodes, where it is.

    Returns:
        ``rows``, each with ``frames``, ``seconds``, ``peak_bytes`` (of the device, on the CPU of the process, the model
        included), ``peak_ratio`` (to the shortest), ``tokens_kept``, ``tokens_full``; ``exponent`` of seconds in
        frames.
    """
    rows: list[dict[str, Any]] = []
    with scratch_folder() as folder:
        clip = folder / "clip.mp4"
        write_clip(clip, max(lengths), SIDE, SIDE)
        stream(model, open_video(clip, Sampling(frames=min(8, max(lengths)))), pipeline.on_tokens)
        for frames in sorted(lengths):
            source = open_video(clip, Sampling(frames=frames))
            start = time.perf_counter()
            with PeakMemory(model.device) as memory:
                tokens = stream(model, pipeline.on_frames(source, model.layout), pipeline.on_tokens)
            seconds = time.perf_counter() - start
            rows.append(
                {
                    "frames": frames,
                    "seconds": seconds,
                    "peak_bytes": memory.bytes,
                    "peak_ratio": memory.bytes / (rows[0]["peak_bytes"] if rows else memory.bytes),
                    "tokens_kept": tokens.tokens_kept,
                    "tokens_full": tokens.tokens_full,
                }
            )
            del tokens
    slope = exponent([row["frames"] for row in rows], [row["seconds"] for row in rows]) if len(rows) > 1 else 1.0
    return {"stages": pipeline.name, "model": model.name, "rows": rows, "exponent": slope}
