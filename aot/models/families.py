"""The families of video LLMs, one line each, and loading a model of any of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch

from ..errors import InputError
from ..files import PART, read_json
from .base import VideoLLM
from .embedded.assemble import EMBEDDED, ensure
from .internvl import InternVL
from .llava_onevision import LlavaOnevision
from .llava_video import LlavaVideo
from .lmms_lab import LlavaOnevisionOriginal
from .progress import Progress, ignore_progress
from .qwen2_5_vl import Qwen2_5VL
from .qwen3_vl import Qwen3VL
from .weights import QUANTIZATIONS, require_room, weight_bytes

FAMILIES: tuple[type[VideoLLM], ...] = (
    LlavaOnevision,
    LlavaOnevisionOriginal,
    LlavaVideo,
    Qwen2_5VL,
    Qwen3VL,
    InternVL,
)
"""Each is in a file of its own."""

DTYPES = ("auto", "float32", "bfloat16", "float16")
ATTENTIONS = ("sdpa", "eager", "flash_attention_2")


def load(
    model: str | Path = EMBEDDED,
    *,
    name: str | None = None,
    dtype: str = "auto",
    device: torch.device | str = "cpu",
    compute_device: torch.device | str | None = None,
    attention: str = "sdpa",
    quantization: str = "none",
    room: Callable[[torch.device], int] | None = None,
    on_progress: Progress = ignore_progress,
) -> VideoLLM:
    """Load a video LLM.

    Args:
        model: "embedded", or a folder in Hugging Face's layout.
        name: the model's name in results and errors; None takes the folder's.
        dtype: one of ``DTYPES``; "auto" is bfloat16 for a model that computes on CUDA, else float32.
        device: where to put it.
        compute_device: where it will compute, if it is moved there later; None means ``device``.
        attention: the LLM's attention implementation, one of ``ATTENTIONS``.
        quantization: one of ``QUANTIZATIONS``; "8-bit" and "4-bit" need bitsandbytes.
        room: takes a device and returns the bytes it has for weights; None takes what is free now.
        on_progress: called with (done, total) while the embedded model is being assembled, the first time only.

    Raises:
        InputError: no such folder, a family that is not supported, too little memory for the weights, or a setting
            that is not allowed or not installed.
    """
    settings = (
        ("dtype", dtype, DTYPES),
        ("attention", attention, ATTENTIONS),
        ("quantization", quantization, QUANTIZATIONS),
    )
    for setting, value, allowed in settings:
        if value not in allowed:
            raise InputError(f"{setting} is {value!r}; give one of {', '.join(allowed)}.")
    folder = ensure(on_progress=on_progress) if model == EMBEDDED else Path(model)
    name = name or (EMBEDDED if model == EMBEDDED else folder.name)
    family = family_of(folder, name)
    computes = torch.device(device if compute_device is None else compute_device)
    chosen = getattr(torch, ("bfloat16" if computes.type == "cuda" else "float32") if dtype == "auto" else dtype)
    need = weight_bytes(folder, chosen, quantization)
    for each in dict.fromkeys((torch.device(device), computes)):
        require_room(need, name, each, room(each) if room is not None else None)
    return family.load(
        folder, name=name, dtype=chosen, device=torch.device(device), attention=attention, quantization=quantization
    )


def family_of(folder: Path, name: str | None = None) -> type[VideoLLM]:
    """The adapter for the model in a folder, by its config.json.

    Args:
        folder: in Hugging Face's layout.
        name: the model's name in an error; None takes the folder's.

    Raises:
        InputError: no folder, no readable config.json in it, or a family that is not supported.
    """
    try:
        config = read_json(folder / "config.json", "The model's config", keys=("model_type",))
    except InputError as error:
        raise InputError(
            f"No model in {folder}: a readable config.json with a model_type is missing; give a "
            f"folder in Hugging Face's layout, or {EMBEDDED!r}."
        ) from error
    for adapter in FAMILIES:
        if adapter.matches(config):
            return adapter
    known = ", ".join(adapter.family for adapter in FAMILIES)
    raise InputError(
        f"{name or folder.name} is of family {config['model_type']!r}; load one of {known}, or {EMBEDDED!r}, which "
        "needs no weights."
    )


def families_in(root: Path) -> dict[str, Path]:
    """Folders under ``root``, links followed, that hold a model of a supported family, by their path relative to it."""
    models: dict[str, Path] = {}
    visited: set[str] = set()
    for place, folders, files in os.walk(root, followlinks=True):
        folder, real = Path(place), os.path.realpath(place)
        # A link may lead back to its own folder. An unfinished download is no model yet.
        folders[:] = [] if real in visited else sorted(name for name in folders if not name.endswith(PART))
        visited.add(real)
        if folder == root or "config.json" not in files:
            continue
        try:
            family_of(folder)
        except InputError:
            continue
        models[folder.relative_to(root).as_posix()] = folder
    return dict(sorted(models.items()))
