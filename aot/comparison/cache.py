"""A comparison's figures on disk, so that a run that was stopped goes on where it was.

A cell, a chain at a retention, is written as soon as it is measured. It is kept under all that decides its figures:
the model and where it runs, the tokens, the question, how answers are generated, and the stages' settings.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, cast, get_args, get_origin, get_type_hints

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..answering.answer import Answer
from ..answering.fidelity import Fidelity, Reference
from ..answering.generation import Generation
from ..errors import InputError
from ..files import alone, make_folder, read_json, whole_file, write_json
from ..models.base import VideoLLM
from ..models.file_time import DURATION, SAMPLED_FPS, TIMES, encoder_settings
from ..models.fingerprint import digest, fingerprint
from ..tokens.video_tokens import VideoTokens
from .compare import Measured
from .variants import Variant

if TYPE_CHECKING:
    from ..models.relevance_model import RelevanceModel

VERSION = 1
"""Of the files; those of another version are not read."""

_PATIENCE = 600.0
"""Seconds to wait for another process that measures the same cells."""

ABOUT = "about.json"
"""The file that says what the cells of a folder have in common."""


def open_cache(
    model: VideoLLM,
    tokens: VideoTokens,
    question: str,
    generation: Generation,
    folder: Path,
    relevance_model: RelevanceModel | None = None,
) -> FolderCache:
    """The cells of one model, encoding and question.

    Args:
        model: whose LLM answers.
        tokens: fresh from the encoder.
        question: about the video.
        generation: how answers are generated.
        folder: of all sweeps; this one has a folder of its own in it.
        relevance_model: that looks at the video for stages that need one.
    """
    about = {
        "version": VERSION,
        "model": model.name,
        "weights": fingerprint(model),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
        "attention": model.attention,
        "tokens": digest_of(tokens),
        "question": question,
        "generation": dataclasses.asdict(generation),
    }
    settings = encoder_settings(tokens)
    if clock := {key: settings[key] for key in (DURATION, TIMES, SAMPLED_FPS) if key in settings}:
        about["clock"] = clock  # some models are told of it, or place the video by it
    if relevance_model is not None:
        about["relevance_model"] = relevance_model.fingerprint
    if model.device.type == "cuda":  # elsewhere there is one way to decode
        about["decoding"] = model.decoding
    return FolderCache(folder / digest(about), about)


def digest_of(tokens: VideoTokens) -> str:
    """Sixteen hexadecimal digits that stand for tokens fresh from an encoder: every bit of every tensor.

    A question that travels with them counts too.
    """
    hashed = hashlib.sha256(json.dumps(tokens.layout.to_dict(), sort_keys=True).encode())
    if tokens.inner:
        hashed.update(json.dumps([each.to_dict() for each in tokens.inner], sort_keys=True).encode())
    extras = [tokens.extras[name] for name in sorted(tokens.extras)]
    for tensor in (tokens.features, tokens.shallow, tokens.deep, tokens.timestamps, *tokens.levels, *extras):
        _add(hashed, "", tensor)
    if tokens.question is not None:
        hashed.update(tokens.question.text.encode())
        for name, tensor in tokens.question.tensors.items():
            _add(hashed, name, tensor)
    return hashed.hexdigest()[:16]


def _add(hashed: Any, name: str, tensor: Tensor) -> None:
    hashed.update(f"{name}{tuple(tensor.shape)}".encode())
    hashed.update(cast(Any, tensor.detach().cpu().contiguous().view(torch.uint8).numpy()))


class FolderCache:
    """Cells in a folder, a JSON file each. Beside the cell of full tokens are the distributions of its answer.

    Args:
        folder: of these cells; made with the first one.
        about: what they have in common, JSON-ready.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self.folder, self._about = folder, about

    def alone(self, on_wait: Callable[[], None] = lambda: None) -> AbstractContextManager[None]:
        """A block that measures these cells, while no other process does.

        Args:
            on_wait: called while another process measures them, many times a second; may raise to stop.

        Raises:
            InputError: the folder cannot be written, or the other process takes too long.
        """
        return alone(self.folder, wait=_PATIENCE, on_wait=on_wait)

    def get(self, variant: Variant, against: Variant) -> Measured | None:
        """The figures of a variant against another; None if there are none, or their file is damaged.

        Args:
            variant: measured before, perhaps.
            against: the variant whose answer counts as the full one.
        """
        path = self.path(variant, against)
        try:
            cell = read_json(path, "Cell", keys=("answer", "fidelity"))
            values, fidelity = dict(cell["answer"]), Fidelity(**cell["fidelity"])
            ids = tuple(values.pop("ids"))
            tensors = load_file(path.with_suffix(".safetensors")) if variant == against else {}
            values |= {"stages": tuple(values["stages"]), "turns": ()}
            values |= {"layer_tokens": tuple(values.get("layer_tokens", ()))}
            answer = Answer(**values, ids=ids, first=tensors.get("first"))
            reference = Reference(ids, tensors["log_probabilities"]) if tensors else None
            _require_sound(answer, fidelity, reference)
        except (InputError, OSError, ValueError, KeyError, TypeError, SafetensorError):
            return None
        return Measured(answer, fidelity, reference)

    def put(self, variant: Variant, against: Variant, measured: Measured) -> None:
        """Write figures, completely or not at all.

        Args:
            variant: that was measured.
            against: the variant whose answer counts as the full one.
            measured: the figures.

        Raises:
            InputError: the folder cannot be written.
        """
        make_folder(self.folder)
        path = self.path(variant, against)
        if not (self.folder / ABOUT).exists():
            write_json(self.folder / ABOUT, self._about)
        answer = dataclasses.asdict(dataclasses.replace(measured.answer, first=None, seen=()))
        for tensors_of in ("first", "seen"):
            answer.pop(tensors_of)
        if measured.reference is not None and measured.answer.first is not None:
            tensors = {"log_probabilities": measured.reference.log_probabilities, "first": measured.answer.first}
            with whole_file(path.with_suffix(".safetensors")) as temporary:
                save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, temporary)
        write_json(path, {"answer": answer, "fidelity": dataclasses.asdict(measured.fidelity)})

    def path(self, variant: Variant, against: Variant) -> Path:
        """The file of a variant against another.

        Args:
            variant: whose figures it holds.
            against: the variant whose answer counts as the full one.
        """
        readable = re.sub(r"[^A-Za-z0-9.]+", "-", variant.name)[:60].strip("-.")
        return self.folder / f"{readable}-{digest([_settings(variant), _settings(against)])}.json"


def _require_sound(answer: Answer, fidelity: Fidelity, reference: Reference | None) -> None:
    """Refuse figures that nothing can be worked out from. Raises ValueError."""
    if not all(
        _fits(getattr(record, name), hint) for record in (answer, fidelity) for name, hint in _hints(type(record))
    ):
        raise ValueError("a figure is of another kind")
    if not all(isinstance(each, str) for each in answer.stages) or not all(type(each) is int for each in answer.ids):
        raise ValueError("stages or tokens are of another kind")
    if reference is not None:
        log_probabilities = reference.log_probabilities
        rows = log_probabilities.shape[:-1]
        if tuple(rows) != (len(reference.ids),) or bool(torch.isnan(log_probabilities).any()):
            raise ValueError("its distributions are not those of its answer")


@cache
def _hints(kind: type) -> tuple[tuple[str, Any], ...]:
    return tuple(get_type_hints(kind).items())


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value read from JSON is of a field's type, which may be one of several."""
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    plain = tuple(get_origin(each) or each for each in kinds)
    if isinstance(value, bool):
        return bool in plain
    return isinstance(value, plain) or (isinstance(value, int) and float in plain)


def _settings(variant: Variant) -> list[Any]:
    chosen = [["frames", variant.frames]] if variant.frames else []
    return [] if variant.chain is None else [[stage.name, stage.settings()] for stage in variant.chain.stages] + chosen
