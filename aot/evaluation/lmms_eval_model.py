"""This pack's models and reductions as a model of lmms-eval, for all of its video tasks.

lmms-eval (0.7) gets it through `lmms_eval_manifest`. With both installed:

    python -m lmms_eval --model aot --model_args pretrained=FOLDER,frames=32,stages=paper-onevision-10 --tasks mvbench

A chain with settings of its own holds commas, which end an argument; quote it: stages="intra:budget=126+inter".
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from tqdm import tqdm

from ..answering.answerer import ask
from ..answering.generation import Generation
from ..answering.reduced_for import reduced
from ..errors import InputError, UnreadableVideo
from ..models import EMBEDDED, load
from ..stages.chain import FULL, Chain, is_fixed, parse
from ..text import shown
from ..tokens.video_tokens import VideoTokens
from .published.frames import clip_frames


class AOT(lmms):
    """A video LLM that answers from reduced tokens.

    Args:
        pretrained: a model folder in Hugging Face's layout, or "embedded".
        frames: of each video, evenly spread over it.
        stages: "full", a preset, or a chain of stages; None means "aot" if there is a retention, else "full".
        retention: share of the tokens that the last stage keeps, for stages without a retention of their own.
        dtype: "auto", "float32", "bfloat16" or "float16".
        device: None takes the GPU of this process, or else the CPU.
        batch_size: 1; consecutive questions about one video share its encoding instead.
        others: only max_batch_size, which has no effect.

    Raises:
        InputError: an unknown argument, a batch, no frames, or stages and a retention that do not fit together.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str = EMBEDDED,
        frames: int = 32,
        stages: str | None = None,
        retention: float | None = None,
        dtype: str = "auto",
        device: str | None = None,
        batch_size: int | str = 1,
        **others: Any,
    ) -> None:
        super().__init__()
        if unknown := [name for name in others if name != "max_batch_size"]:
            raise InputError(
                f"Model aot takes no argument {unknown[0]!r}; give pretrained, frames, stages, retention, dtype or "
                "device."
            )
        if str(batch_size) != "1":
            raise InputError(f"Model aot answers one question at a time, not {batch_size}; leave batch_size at 1.")
        if frames < 1:
            raise InputError(f"Model aot takes 1 frame or more of a video, not {frames}; give frames=32, for instance.")
        self._pipeline = _pipeline(stages, retention)
        self._frames = frames
        self._device = torch.device(device or (Accelerator().device if torch.cuda.is_available() else "cpu"))
        self._model = load(pretrained, dtype=dtype, device=self._device)
        self._last: tuple[str, VideoTokens] | None = None
        self._unreadable: dict[str, str] = {}

    @property
    def device(self) -> torch.device:
        """The device that the model computes on."""
        return self._device

    @property
    def unreadable(self) -> Mapping[str, str]:
        """Why a video could not be read, by its path, of all that were asked about."""
        return MappingProxyType(self._unreadable)

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """Answer each request about its video, in order. Consecutive requests about one video share its tokens.

        A video that cannot be read is told on standard error, and the answers about it are empty.

        Args:
            requests: of tasks of type generate_until.

        Raises:
            InputError: a request's visuals are not one video, or its settings need several beams.
        """
        texts: list[str] = []
        lost: list[str] = []
        for request in tqdm(requests, desc="aot", disable=self.rank != 0):
            question, settings, visuals_of, doc, task, split = cast("tuple[Any, ...]", request.args)
            row = self.task_dict[task][split][doc]
            path = _path(visuals_of(row), task)
            generation = _generation(settings, task)
            tokens = self._tokens(path)
            if tokens is None:
                lost.append(path)
                texts.append("")
            else:
                chain = self._pipeline.after_encoding
                if chain.needs_question:
                    bare = row.get("question") if isinstance(row, Mapping) else None
                    tokens = reduced(self._model, tokens, chain, str(bare or question))
                text = ask(self._model, tokens, question, generation).text
                texts.append(_until(text, settings.get("until")))
        if lost:
            videos = "1 video" if len(set(lost)) == 1 else f"{len(set(lost))} videos"
            tqdm.write(
                f"aot: {len(lost)} of {len(texts)} answers are empty, because {videos} could not be read; the task "
                "counts them as it counts any empty answer.",
                file=sys.stderr,
            )
        return texts

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        """Refused: a model here reads one video and one question. Raises InputError."""
        raise InputError("Model aot answers one question about one video; choose tasks of type generate_until.")

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Refused: answers are generated. Raises InputError."""
        raise InputError(
            "Model aot generates answers and gives no likelihoods; choose tasks of type generate_until (egoschema in "
            "place of egoschema_mcppl, for instance)."
        )

    def _tokens(self, path: str) -> VideoTokens | None:
        """A video's tokens; None where it cannot be read, which is told once and not tried again.

        They are reduced, unless the stages ask, so that each question has tokens of its own.
        """
        if path in self._unreadable:
            return None
        if self._last is None or self._last[0] != path:
            self._last = None
            chain = self._pipeline.after_encoding
            try:
                frames = self._pipeline.on_frames(clip_frames(Path(path), self._frames), self._model.layout)
                encoded = self._model.encode(frames)
            except UnreadableVideo as error:
                self._unreadable[path] = str(error)
                tqdm.write(f"aot: {shown(path)} is left out: {error}", file=sys.stderr)
                return None
            self._last = (path, encoded if chain.needs_question else chain(encoded))
        return self._last[1]


def _path(visuals: Sequence[Any], task: str) -> str:
    """The one video that a question is about."""
    if len(visuals) != 1 or not isinstance(visuals[0], str | Path):
        kinds = ", ".join(sorted({type(visual).__name__ for visual in visuals})) or "nothing"
        raise InputError(
            f"Task {task} shows {len(visuals)} visuals ({kinds}) with a question; model aot reads the path of one "
            "video."
        )
    return str(visuals[0])


def _pipeline(stages: str | None, retention: float | None) -> Chain:
    spec = stages.strip("'\"") if stages else ("aot" if retention is not None else FULL)
    pipeline = parse(spec)
    if retention is None:
        return pipeline
    if is_fixed(spec):
        raise InputError(f"{spec} fixes what it keeps; leave out retention, or give stages that do not.")
    return pipeline.at_retention(retention)


def _generation(settings: Mapping[str, Any], task: str) -> Generation:
    """A task's settings; greedy unless it samples."""
    if settings.get("num_beams") not in (None, 1):
        raise InputError(f"Task {task} asks for {settings['num_beams']} beams; model aot generates with one.")
    sampling = settings.get("do_sample") or False
    return Generation(
        max_new_tokens=settings.get("max_new_tokens", Generation.max_new_tokens),
        temperature=float(settings.get("temperature") or 0) if sampling else 0.0,
        top_p=float(settings.get("top_p") or 1) if sampling else 1.0,
    )


def _until(text: str, stops: str | Sequence[str] | None) -> str:
    """The text up to the first of the strings that end it."""
    for stop in filter(None, [stops] if isinstance(stops, str) else stops or ()):
        text = text.split(stop, 1)[0]
    return text
