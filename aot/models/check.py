"""Whether a model would be loaded, and as what: the steps of loading, taken with the headers of its files alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ..video.frames import Frames
from .base import VideoLLM
from .dry_run import require_runs
from .families import family_of, fastest_attention, open_single, require_prompt
from .single_file import SingleFile
from .weights import BITS, weight_bytes

CLIP_SIZE = (1080, 1920)
"""(H, W) of the clip that sizes are told for, in pixels."""

CLIP_FRAMES, CLIP_FPS = 16, 2


@dataclass(frozen=True)
class Look:
    """How a model takes the frames of a clip.

    Args:
        size: (h, w) that each is resized to, in pixels.
        tokens_a_frame: visual tokens; less than 1 where frames share one.
    """

    size: tuple[int, int]
    tokens_a_frame: float


@dataclass(frozen=True)
class Checked:
    """What is known of a model that would be loaded.

    Args:
        name: its name.
        family: that it is loaded as.
        parameters: how many numbers its weights have.
        memory: bytes of its weights, by dtype or quantization.
        clip: how it takes 16 frames of 1080p, two a second.
        tile: how it takes frames of its own tile, the smallest that it knows.
        colours: mean and deviation of its pixels, each of red, green and blue in 0 to 1.
        sources: where each setting is from, by the setting's name.
        notes: what else is done with it.
    """

    name: str
    family: str
    parameters: int
    memory: Mapping[str, int]
    clip: Look
    tile: Look
    colours: tuple[tuple[float, ...], tuple[float, ...]]
    sources: Mapping[str, str]
    notes: tuple[str, ...] = ()


def check(folder: Path, tokenizer: Path | None = None) -> Checked:
    """Take every step of loading but reading the weights.

    Args:
        folder: of the model, or a single file.
        tokenizer: a folder with the tokenizer of a single file; see :func:`.families.load`.

    Raises:
        InputError: it would not be loaded. The line is that of loading.
    """
    if single := open_single(folder, None, tokenizer):
        return _checked_file(single)
    family = family_of(folder)
    name = folder.name
    memory = {each: weight_bytes(folder, name, getattr(torch, each)) for each in ("float32", "bfloat16", "float16")}
    if family.quantizes:
        memory |= {bits: weight_bytes(folder, name, torch.bfloat16, bits) for bits in BITS}
    attention = fastest_attention(family)
    model = family.load(folder, name=name, dtype=torch.bfloat16, attention=attention, weights=False)
    require_prompt(model)
    require_runs(model, weights=False)
    return _described(model, memory, family.sources(folder))


def _checked_file(single: SingleFile) -> Checked:
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    memory = {str(each).removeprefix("torch."): single.weight_bytes(each, keep_fp8=False) for each in dtypes}
    if (kept := single.weight_bytes(torch.bfloat16, keep_fp8=True)) != memory["bfloat16"]:
        memory["8-bit floats on CUDA"] = kept
    attention = fastest_attention(single.family.adapter)
    place = torch.device("cpu")
    model = single.load(dtype=torch.bfloat16, device=place, attention=attention, keep_fp8=False, weights=False)
    require_prompt(model)
    require_runs(model, weights=False)
    return _described(model, memory, single.sources())


def _described(model: VideoLLM, memory: Mapping[str, int], sources: Mapping[str, str]) -> Checked:
    pixels = torch.empty(CLIP_FRAMES, *CLIP_SIZE, 3, dtype=torch.uint8)
    clip = Frames(pixels, torch.arange(CLIP_FRAMES, dtype=torch.float64) / CLIP_FPS, "clip")
    size = model.frame_size(clip)
    return Checked(
        name=model.name,
        family=model.family,
        parameters=sum(each.numel() for each in model.hf_model.parameters()),
        memory=memory,
        clip=_look(model, size),
        tile=_look(model, model.tile or size),
        colours=(model._mean, model._std),
        sources=sources,
        notes=model.notes,
    )


def _look(model: VideoLLM, size: tuple[int, int]) -> Look:
    layout = model.layout_of(CLIP_FRAMES, size)
    return Look(size, layout.frames * layout.language_cells / CLIP_FRAMES)
