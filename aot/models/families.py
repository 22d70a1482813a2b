"""The families of video LLMs, one line each, and loading a model of any of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from ..files import read_json
from ..text import shown
from ..video.sampling import MakersChoice
from .base import VideoLLM
from .chat_template import TemplateLimit
from .dry_run import require_runs
from .embedded.assemble import EMBEDDED, ensure
from .folder import in_one_line, sampling_settings
from .found import config_of, folders_in
from .gemma4 import Gemma4
from .glm4v import Glm41V, Glm46V
from .internvl import InternVL
from .llava_onevision import LlavaOnevision
from .llava_video import LlavaVideo
from .lmms_lab import LlavaOnevisionOriginal
from .minicpmv import MiniCPMV
from .molmo2 import Molmo2
from .progress import Progress, ignore_progress
from .qwen2_5_vl import Qwen2_5VL
from .qwen2_vl import Qwen2VL
from .qwen3_5 import Qwen35, Qwen35Moe
from .qwen3_vl import Qwen3VL
from .qwen3_vl_moe import Qwen3VLMoe
from .single_file import SUFFIX, SingleFile, family_of_file, is_single_file, recognised
from .smolvlm import SmolVLM
from .versions import warn_if_untried
from .video_llama_3 import VideoLlama3
from .weights import QUANTIZATIONS, require_room, weight_bytes

FAMILIES: tuple[type[VideoLLM], ...] = (
    LlavaOnevision,
    LlavaOnevisionOriginal,
    LlavaVideo,
    Qwen2_5VL,
    Qwen3VL,
    InternVL,
    SmolVLM,
    Glm41V,
    Glm46V,
    Qwen35,
    Qwen35Moe,
    VideoLlama3,
    Gemma4,
    Molmo2,
    Qwen2VL,
    Qwen3VLMoe,
    MiniCPMV,
)
"""Each is in a file of its own."""

DTYPES = ("auto", "float32", "bfloat16", "float16")
ATTENTIONS = ("sdpa", "eager", "flash_attention_2", "auto")
DECODINGS = ("auto", "eager", "graph")


def load(
    model: str | Path = EMBEDDED,
    *,
    name: str | None = None,
    dtype: str = "auto",
    device: torch.device | str = "cpu",
    compute_device: torch.device | str | None = None,
    attention: str = "auto",
    quantization: str = "none",
    decoding: str = "auto",
    room: Callable[[torch.device], int] | None = None,
    on_progress: Progress = ignore_progress,
    tokenizer: str | Path | None = None,
) -> VideoLLM:
    """Load a video LLM.

    Args:
        model: "embedded", a folder in Hugging Face's layout, or a single file, as ComfyUI's text encoders are.
        name: the model's name in results and errors; None takes the folder's.
        dtype: one of ``DTYPES``; "auto" is bfloat16 for a model that computes on CUDA, else float32.
        device: where to put it.
        compute_device: where it will compute, if it is moved there later; None means ``device``.
        attention: the LLM's attention implementation, one of ``ATTENTIONS``; "auto" is PyTorch's fused one, sdpa, where
            the family has it.
        quantization: one of ``QUANTIZATIONS``; "8-bit" and "4-bit" need bitsandbytes.
        decoding: one of ``DECODINGS``; "auto" replays a CUDA graph of one step where that can be done and pays.
        room: takes a device and returns the bytes it has for weights; None takes what is free now.
        on_progress: called with (done, total) while the embedded model is being assembled, the first time only.
        tokenizer: for a single file: a folder with a tokenizer, and perhaps a config.json, a chat template and settings
            of the processor. None looks beside the file, then in the ComfyUI that the file is in.

    Raises:
        InputError: no such folder, a family that is not supported, too little memory for the weights, or a setting
            that is not allowed or not installed.
    """
    settings = (
        ("dtype", dtype, DTYPES),
        ("attention", attention, ATTENTIONS),
        ("quantization", quantization, QUANTIZATIONS),
        ("decoding", decoding, DECODINGS),
    )
    for setting, value, allowed in settings:
        if value not in allowed:
            raise InputError(f"{setting} is {value!r}; give one of {', '.join(allowed)}.")
    warn_if_untried()
    folder = ensure(on_progress=on_progress) if model == EMBEDDED else Path(model)
    single = open_single(folder, name, tokenizer)
    name = single.name if single else name or (EMBEDDED if model == EMBEDDED else folder.name)
    family = single.family.adapter if single else family_of(folder, name)
    if single and quantization != "none":
        raise InputError(
            f"{name} is a single file, which is not quantized when it is loaded; choose quantization none."
        )
    computes = torch.device(device if compute_device is None else compute_device)
    if decoding == "graph" and computes.type != "cuda":
        raise InputError(f"decoding graph needs CUDA and {name} computes on {computes}; choose auto or eager.")
    if decoding == "graph" and quantization == "8-bit":
        raise InputError(f"decoding graph cannot capture the 8-bit layers of {name}; choose auto, or 4-bit or none.")
    attention = fastest_attention(family) if attention == "auto" else attention
    chosen = getattr(torch, ("bfloat16" if computes.type == "cuda" else "float32") if dtype == "auto" else dtype)
    keep_fp8 = computes.type == "cuda"
    need = single.weight_bytes(chosen, keep_fp8) if single else weight_bytes(folder, name, chosen, quantization)
    for each in dict.fromkeys((torch.device(device), computes)):
        require_room(need, name, each, room(each) if room is not None else None)
    placed: Any = {"dtype": chosen, "device": torch.device(device), "attention": attention}
    if single:
        loaded = single.load(**placed, keep_fp8=keep_fp8)
    else:
        loaded = family.load(folder, name=name, quantization=quantization, **placed)
    require_prompt(loaded)
    require_runs(loaded)
    if decoding == "graph" and not loaded.takes_masks:
        raise InputError(
            f"decoding graph needs attention that takes a mask, and that of {name} ({loaded.attention}) does not; "
            "choose decoding auto, or attention sdpa."
        )
    # 8-bit layers look for outliers, which waits for the host.
    can_replay = computes.type == "cuda" and loaded.takes_masks and quantization != "8-bit"
    loaded.decoding = decoding if can_replay else "eager"
    return loaded


def open_single(path: Path, name: str | None = None, tokenizer: str | Path | None = None) -> SingleFile | None:
    """A model in a single file; None for a folder.

    Args:
        path: of the file or the folder.
        name: the model's name in results and errors; None takes the file's.
        tokenizer: a folder with its tokenizer; see :func:`load`.

    Raises:
        InputError: the file cannot be loaded, or a tokenizer is given for a folder.
    """
    if is_single_file(path):
        return SingleFile.open(path, name or path.stem, None if tokenizer is None else Path(tokenizer))
    if tokenizer is not None:
        raise InputError(f"A tokenizer is given for {path}, which has its own; leave it out, or give a single file.")
    return None


def require_prompt(model: VideoLLM) -> None:
    """Refuse a model whose chat template no question about a video can be written with.

    Args:
        model: loaded, with or without its weights.

    Raises:
        InputError: its template cannot be used.
    """
    try:
        model.prompt("?")
    except TemplateLimit:
        raise
    except InputError as error:
        reason = error if error.__cause__ is None else error.__cause__
        raise InputError(
            f"The chat template of {model.name} has no place for a question about a video ({in_one_line(reason)}); "
            "copy or download its chat_template.json or chat_template.jinja into its folder."
        ) from error


def fastest_attention(family: type[VideoLLM]) -> str:
    """The attention that "auto" means: sdpa where the stock class has it, else eager.

    FlashAttention is installed beside sdpa, which has the same kernel for a prefill. It takes no mask of ours: several
    questions would not share a pass, and no step could be replayed from a graph. So it is never the faster choice.

    Args:
        family: of the model.
    """
    return "sdpa" if family.stock._supports_sdpa else "eager"


def family_of(folder: Path, name: str | None = None) -> type[VideoLLM]:
    """The adapter for the model in a folder, by its config.json, or in a single file, by its tensors.

    Args:
        folder: in Hugging Face's layout, or a file.
        name: the model's name in an error; None takes the folder's.

    Raises:
        InputError: no folder, no readable config.json in it, or a family that is not supported.
    """
    if is_single_file(folder):
        return recognised(folder, name or folder.stem)[0].adapter
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


def makers_choice(folder: Path) -> MakersChoice:
    """How the makers of a model choose frames, which is known before it is loaded.

    Args:
        folder: in Hugging Face's layout, or a file.

    Raises:
        InputError: no model that is known, or damaged settings of its processor.
    """
    family = family_of(folder)
    return partial(family.sampling, settings={} if is_single_file(folder) else sampling_settings(folder))


def families_in(root: Path, on_skipped: Callable[[str], None] = lambda reason: None) -> dict[str, Path]:
    """Folders and single files under ``root``, links followed, with a model of a supported family, by relative path.

    Args:
        root: the folder to look into.
        on_skipped: called with a line about each folder or file that cannot be read, or whose config.json cannot.

    Raises:
        InputError: no folder can have that name.
    """

    models: dict[str, Path] = {}
    for folder, files in folders_in(root, on_skipped):
        if folder == root or "config.json" not in files:
            for file in (folder / each for each in files if each.endswith(SUFFIX)):
                try:
                    if family_of_file(file) is not None:
                        models[file.relative_to(root).as_posix()] = file
                except InputError as error:
                    on_skipped(shown(f"{file} is skipped: {error}"))
            continue
        config = config_of(folder, on_skipped)
        if config is not None and any(adapter.matches(config) for adapter in FAMILIES):
            models[folder.relative_to(root).as_posix()] = folder
    return dict(sorted(models.items()))
