"""Cutting a video into clips: runs of frames that one keyframe speaks for."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import InputError

CUTS = ("fixed", "dynamic", "times", "one")


def fixed_clips(frames: int, length: int) -> tuple[int, ...]:
    """Clip lengths of ``frames`` frames in clips of ``length``, the last one short where they do not divide.

    Raises:
        InputError: the length is below 1.
    """
    if length < 1:
        raise InputError(f"A clip of {length} frames is impossible; give a clip length of 1 or more.")
    number, rest = divmod(frames, length)
    return (length,) * number + ((rest,) if rest else ())


def dynamic_clips(frame_features: Tensor, similarity: float = 0.8, lowest: int = 7) -> tuple[int, ...]:
    """Clip lengths, cut where consecutive frames differ.

    A clip begins at every frame whose cosine with the frame before is under ``similarity``, and at the ``lowest``
    frames of least cosine. The host waits once, for all cosines together. Source: AOT's segmentation, after FastVID
    (NeurIPS 2025).

    Args:
        frame_features: (T, D) floating, one vector a frame.
        similarity: cosine under which a clip begins.
        lowest: lowest cosines at which a clip begins too, whatever they are.
    """
    directions = functional.normalize(frame_features, dim=-1, eps=1e-8)
    cosines = (directions[:-1] * directions[1:]).sum(-1).cpu().numpy()
    begins = cosines < similarity
    begins[cosines.argsort(kind="stable")[:lowest]] = True
    return _lengths((begins.nonzero()[0] + 1).tolist(), len(frame_features))


def clips_at(times: Sequence[float], timestamps: Tensor) -> tuple[int, ...]:
    """Clip lengths where a clip begins at the first frame at or after each of ``times``.

    Args:
        times: seconds, in any order; those before the second frame or after the last cut nothing.
        timestamps: (T,) seconds, increasing.
    """
    seconds = torch.tensor(sorted(times), dtype=torch.float64)
    begins = torch.searchsorted(timestamps.double(), seconds).unique().tolist()
    return _lengths([begin for begin in begins if 0 < begin < len(timestamps)], len(timestamps))


def parse_times(text: str) -> tuple[float, ...]:
    """Seconds from a list separated by spaces, commas, semicolons or slashes.

    Raises:
        InputError: something in it is no time.
    """
    parts = [part for part in re.split(r"[\s,;/]+", text) if part]
    try:
        times = tuple(float(part) for part in parts)
    except ValueError:
        times = (math.nan,)
    if not all(math.isfinite(time) and time >= 0 for time in times):
        raise InputError(f"Cut times {text!r} are not seconds from 0 on; write them as 1.5 3 7.25.")
    return times


def _lengths(begins: list[int], frames: int) -> tuple[int, ...]:
    edges = [0, *begins, frames]
    return tuple(end - begin for begin, end in pairwise(edges))
