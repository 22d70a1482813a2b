"""AKS: frames that a score calls good, from all over the video. The score is another model's, of frame and question.

Source: Adaptive Keyframe Sampling for Long Video Understanding (CVPR 2025, arXiv 2502.21271).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, NamedTuple

import numpy as np
import torch

from ....errors import InputError
from ....video.choice import Choice
from ....video.frame_source import FrameSource
from ...before_tokens import WHOLE_TOKENS, FrameChooser, LayoutOf
from ...options import Setting

LARGEST_SCORES = 64 * 2**20
"""Bytes that are read of a file of scores."""


class Segment(NamedTuple):
    """A part of the video that is halved no further.

    Args:
        first: candidate of it.
        stop: the candidate after its last.
        depth: how often the video was halved.
    """

    first: int
    stop: int
    depth: int


@dataclass(frozen=True)
class FramesForQuestion(FrameChooser):
    """Keep the frames with the highest scores of every part of the video; scores come from a file or another stage."""

    name = "aks"
    title = "Frames for the Question"
    node_id = "AOTFramesForQuestion"
    source = "AKS (CVPR 2025)"
    asks = True
    files: ClassVar[tuple[str, ...]] = ("scores",)
    presets: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"aks-released": "aks:frames=64,fill=false", "aks-released-32": "aks:frames=32,fill=false"}
    )

    keep_tokens: int = WHOLE_TOKENS.field(advanced=True)
    scores: str = Setting(
        "",
        "A file with a number for every frame that is given, in order: a JSON list, or text. Another model made them, "
        "of frame and question. Empty takes those of a stage before.",
    ).field()
    threshold: float = Setting(
        0.8,
        "t1: a part is halved no further where the mean of its highest scores is this much above its mean, of scores "
        "from 0 to 1.",
        low=-1,
        high=1,
        step=0.05,
        advanced=True,
    ).field()
    spread: float = Setting(
        -100.0, "t2: and their deviation is above this. Below 0 it has no effect.", low=-100, high=1, advanced=True
    ).field()
    depth: int = Setting(5, "How often a part is halved at most.", low=0, high=16, advanced=True).field()
    every: int = Setting(1, "Only every n-th frame can be chosen.", low=1, high=4096, advanced=True).field()
    fill: bool = Setting(
        True,
        "Meet the number of frames: halve no further than every part has one, and give what is left to the highest "
        "scores. Off: as released, which leaves none of 16 at depth 5.",
        advanced=True,
    ).field()

    def choose(self, frames: FrameSource, layout: LayoutOf | None) -> FrameSource:
        """The frames with the highest scores of every part.

        Args:
            frames: decoded, or a file still to be decoded.
            layout: of the model that will encode them; None where no model is known.
        """
        number = self.number(frames, layout)
        chosen, _ = self.chosen(self._scores(frames), number)
        if not len(chosen):
            raise InputError(
                f"{self.title}: {number} frames shared by {2**self.depth} parts leave none, as released; give "
                f"{2**self.depth} or more frames, a lower depth, or fill."
            )
        return frames.pick(torch.from_numpy(chosen))

    def _scores(self, frames: FrameSource) -> np.ndarray:
        scores = Choice.of(frames).scores
        values = read_scores(Path(self.scores)) if self.scores else None if scores is None else scores.numpy()
        if values is None:
            raise InputError(
                f"{self.title} needs a score of every frame, and there are none; give scores=FILE with {frames.count} "
                "numbers, or a stage before it that scores frames."
            )
        if len(values) != frames.count:
            raise InputError(
                f"{self.title}: {len(values)} scores of {frames.count} frames; give one for every frame that is given."
            )
        return values

    def chosen(self, scores: np.ndarray, number: int) -> tuple[np.ndarray, list[Segment]]:
        """Which candidates are kept, and the parts that they are of.

        Args:
            scores: (T,) float64.
            number: frames to keep.

        Returns:
            (n,) int64, increasing; the parts in the order in which halving ended, none where there are too few frames
            to choose.
        """
        candidates = np.arange(len(scores) // self.every) * self.every
        if len(candidates) < number:
            return candidates, []
        values = np.asarray(scores, np.float64)[candidates]
        reach = values.max() - values.min()
        values = (values - values.min()) / (reach or 1.0)
        depth = min(self.depth, int(math.log2(number))) if self.fill else self.depth
        parts = self._parts(values, number, depth)
        best = [part.first + highest(values[part.first : part.stop], number // 2**part.depth) for part in parts]
        taken = np.concatenate(best).astype(np.int64)
        if self.fill and len(taken) < number:
            others = np.setdiff1d(np.arange(len(values)), taken)
            taken = np.concatenate((taken, others[highest(values[others], number - len(taken))]))
        return np.sort(candidates[taken]), parts

    def _parts(self, values: np.ndarray, number: int, depth: int) -> list[Segment]:
        """Halve until a part stands out or the depth is reached, level by level."""
        done: list[Segment] = []
        level = [Segment(0, len(values), 0)]
        while level:
            ends = [each.depth >= depth or self._stands_out(values[each.first : each.stop], number) for each in level]
            done += [each for each, end in zip(level, ends, strict=True) if end]
            level = list(chain.from_iterable(_halves(each) for each, end in zip(level, ends, strict=True) if not end))
        return done

    def _stands_out(self, values: np.ndarray, number: int) -> bool:
        if not len(values):
            return False
        above = values[highest(values, number)].mean() - values.mean()
        return bool(above > self.threshold and values.std() > self.spread)


def highest(values: np.ndarray, count: int) -> np.ndarray:
    """Indices of the highest values, the earlier of equal ones first.

    Args:
        values: (T,) floating.
        count: of them; all where there are fewer.
    """
    return np.argsort(-values, kind="stable")[:count]


def read_scores(path: Path) -> np.ndarray:
    """The numbers in a file, (T,) float64: a JSON list, or numbers separated by anything else.

    Args:
        path: of the file.

    Raises:
        InputError: there is no such file, it holds something else than finite numbers, or it is larger than
            ``LARGEST_SCORES``.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_SCORES + 1)
        text = content.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError(
            f"Scores cannot be read from {path.name or 'no file'}; give a text file of numbers."
        ) from error
    if len(content) > LARGEST_SCORES:
        raise InputError(f"{path.name} is larger than {LARGEST_SCORES >> 20} MiB; give a number for every frame.")
    try:
        values = np.array([float(part) for part in re.split(r"[\s,;\[\]]+", text) if part], np.float64)
    except ValueError as error:
        raise InputError(f"{path.name} holds something that is no number; give a number for every frame.") from error
    if not len(values) or not np.isfinite(values).all():
        raise InputError(f"{path.name} holds no scores, or some that are not finite; give a number for every frame.")
    return values


def _halves(part: Segment) -> tuple[Segment, Segment]:
    middle = part.first + (part.stop - part.first) // 2
    return Segment(part.first, middle, part.depth + 1), Segment(middle, part.stop, part.depth + 1)
