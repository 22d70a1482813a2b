"""A set's clips as a model encodes them, each encoded once and kept on disk.

Every stage starts from the same tokens, so a stage or a retention that is added later needs no new encoding. A file's
name is a digest of all that decides its content, so that tokens of another model, set or number of frames are never
read.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..answering.reduced_for import read_beside
from ..comparison.starts import Starts
from ..comparison.variants import Variant
from ..errors import InputError
from ..files import alone, make_folder
from ..models.base import VideoLLM
from ..models.fingerprint import digest
from ..models.progress import Progress, ignore_progress
from ..tokens import storage
from ..tokens.video_tokens import VideoTokens
from .questions import QuestionSet

if TYPE_CHECKING:
    from ..models.relevance_model import RelevanceModel

_PATIENCE = 600.0
"""Seconds to wait for another process that encodes the same clip."""


class Encodings:
    """Encodes a set's clips, or reads what was encoded before.

    Args:
        model: encodes.
        questions: the set.
        frames: of each clip.
        folder: keeps the tokens, bit for bit; None keeps nothing.
        weights: the model's :func:`fingerprint`.
        relevance_model: that looks at clips for stages that need one.

    Raises:
        InputError: the folder cannot be made.
    """

    def __init__(
        self,
        model: VideoLLM,
        questions: QuestionSet,
        frames: int,
        folder: Path | None,
        *,
        weights: str,
        relevance_model: RelevanceModel | None = None,
    ) -> None:
        self._relevance_model = relevance_model
        self._model, self._questions, self._frames, self.folder = model, questions, frames, folder
        self._identity = {
            "footage": dict(questions.footage),
            "frames": frames,
            "model": weights,
            "dtype": str(model.dtype),
            "device": model.device.type,
        }
        if folder is not None:
            make_folder(folder)

    def of(self, clip: str, *, on_progress: Progress = ignore_progress) -> VideoTokens:
        """A clip's tokens, nothing reduced, on the model's device; their history has the seconds of the encoding.

        Raises:
            InputError: the clip cannot be read, its tokens cannot be written, or another process is too long at it.
        """
        path = self._path(clip)
        if path is None:
            return self._encode(clip, on_progress)
        if (tokens := self._read(path)) is None:
            with alone(path, wait=_PATIENCE):
                if (tokens := self._read(path)) is None:
                    tokens = self._encode(clip, on_progress)
                    storage.save(tokens, path)
        return tokens

    def starts(self, clip: str, variants: Sequence[Variant]) -> Starts:
        """What each variant starts from: a clip's tokens, or others for variants that choose among its frames.

        Only the tokens of all frames are kept on disk.

        Args:
            clip: its name.
            variants: that will be asked for.

        Raises:
            InputError: as :meth:`of`.
        """
        looks = any(
            each.chain and (each.chain.before_tokens or each.reinvest > 1 or each.chain.needs_relevance_model)
            for each in variants
        )
        frames = self._questions.frames(clip, self._frames) if looks else None
        more = partial(self._questions.frames, clip)
        return Starts(self._model, self.of(clip), frames, more=more, relevance_model=self._relevance_model)

    def inputs_of(self, variant: Variant) -> str:
        """A digest of what a variant's chain reads beside the clip: files that it names, and the relevance model.

        Args:
            variant: of the run.

        Returns:
            "" where it reads nothing.

        Raises:
            InputError: a file cannot be read.
        """
        return "" if variant.chain is None else read_beside(variant.chain, self._relevance_model)

    def _encode(self, clip: str, on_progress: Progress) -> VideoTokens:
        return self._model.encode(self._questions.frames(clip, self._frames), on_progress=on_progress)

    def _read(self, path: Path) -> VideoTokens | None:
        """The tokens in a file; None where there is none, or a damaged one."""
        try:
            return _to(storage.load(path), self._model.device) if path.exists() else None
        except InputError:
            return None

    def require_room(self, clips: Sequence[str]) -> None:
        """Refuse clips whose encodings the disk cannot take, before any work is done."""
        if self.folder is None:
            return
        missing = [clip for clip in clips if (path := self._path(clip)) is None or not path.exists()]
        if not missing:
            return
        try:
            layout = self._model.layout(self._questions.frames(missing[0], self._frames))
        except InputError:
            return  # a clip that cannot be read is reported at its turn
        one = layout.frames * layout.sources * self._model.language.hidden * self._model.dtype.itemsize
        free = shutil.disk_usage(self.folder).free
        if len(missing) * one > free:
            raise InputError(
                f"The encodings of {len(missing)} clips take about {len(missing) * one / 2**30:.1f} GiB and "
                f"{free / 2**30:.1f} GiB are free in {self.folder}; give --cache FOLDER on another disk, or --no-cache "
                "to keep none."
            )

    def size(self, clips: Sequence[str]) -> int:
        """Bytes that the clips' encodings take on disk."""
        paths = filter(None, map(self._path, clips))
        return sum(path.stat().st_size for path in paths if path.exists())

    def _path(self, clip: str) -> Path | None:
        if self.folder is None:
            return None
        name = digest({**self._identity, "clip": clip})
        return self.folder / f"{name}.safetensors"


def _to(tokens: VideoTokens, device: torch.device) -> VideoTokens:
    """The tokens where an encoder would have left them: with the model, but for the times, which stay on the CPU."""
    names = ("features", "place", "role", "shallow", "deep")
    return dataclasses.replace(
        tokens,
        levels=tuple(level.to(device) for level in tokens.levels),
        extras={name: extra.to(device) for name, extra in tokens.extras.items()},
        **{name: getattr(tokens, name).to(device) for name in names},
    )
