"""Steps of loading a model from its folder, and the errors for missing parts."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoTokenizer, BitsAndBytesConfig, PretrainedConfig, PreTrainedModel

from ..errors import InputError
from ..files import read_json
from .weights import stored_tensors, weight_files

NOT_QUANTIZED = (
    *("vision_tower", "vision_model", "visual", "audio_tower"),
    *("multi_modal_projector", "connector", "projector", "embed_vision", "embed_audio"),
    "lm_head",
)
"""Modules that are never quantized. transformers 4 looks for them anywhere in a name, 5 at its beginning."""

_VOCABULARIES = {
    "tokenizer_file": ("tokenizer.json",),
    "vocab_file": ("vocab.json", "vocab.txt", "tokenizer.model", "spiece.model"),
    "merges_file": ("merges.txt",),
}
"""A tokenizer's files, by the settings that could name others."""

_ELSEWHERE: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("transformers_weights", lambda value: True),
    ("attn_implementation", lambda value: "/" in value),
    ("experts_implementation", lambda value: "/" in value),
    ("backbone", lambda value: True),
    ("model_type", lambda value: value.startswith("timm")),
)
"""Ends of settings, and which of their values name files or repositories that are not the folder's."""

_HARMLESS = re.compile(r"(^|\.)(rotary_emb\.inv_freq|position_ids)$")
"""Tensors that older versions of transformers saved, and that every model works out for itself."""

DEEP = 1000
"""Layers that any model may have."""

_COUNT = re.compile(r"(layers|depth|blocks|experts)$")
"""Names of settings that say how many parts a model has."""

_SCALES = re.compile(r"(scale_weight|weight_scale|scale_input|input_scale|scaled_fp8|comfy_quant)$")
"""Of weights that ComfyUI's tools have quantized: without these they are nothing."""


def in_one_line(error: BaseException) -> str:
    """What a library says of a fault, for the middle of our own line: at most 160 characters, and no full stop."""
    said = " ".join(str(error).split()).rstrip(".")
    return said if len(said) <= 160 else f"{said[:160]}..."


def missing_package(name: str, attention: str, error: ImportError) -> str:
    """The error for a model that needs a package which is not installed."""
    if attention not in ("sdpa", "eager"):
        return f"{name} cannot be loaded with attention {attention} ({error}); choose sdpa."
    return f"{name} needs a package that is not installed ({error}); install it, or take a checkpoint without it."


@contextmanager
def loading(name: str, attention: str) -> Iterator[None]:
    """Whatever a library makes of a model's files in this block is one line; code of theirs is not ours to repair.

    Args:
        name: the model's name in the error.
        attention: the LLM's attention implementation.

    Raises:
        InputError: a package is missing, or the files cannot be used.
    """
    try:
        yield
    except InputError:
        raise
    except ImportError as error:
        raise InputError(missing_package(name, attention, error)) from error
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise InputError(
            f"{name} takes more memory than there is; choose a smaller dtype, a quantization, or a smaller model."
        ) from error
    except Exception as error:
        kind = "" if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: "
        raise InputError(
            f"{name} cannot be loaded ({kind}{in_one_line(error)}); copy or download all its files again."
        ) from error


def quantizing(quantization: str, dtype: torch.dtype, device: torch.device | str) -> dict[str, Any]:
    """The arguments of ``from_pretrained`` that quantize the LLM's layers; the vision tower stays as it is.

    Args:
        quantization: "8-bit" or "4-bit".
        dtype: of the 4-bit products.
        device: where to put the model.

    Raises:
        InputError: bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None or find_spec("accelerate") is None:
        raise InputError(
            f"quantization {quantization} needs bitsandbytes and accelerate, which are not installed; run: pip install "
            "bitsandbytes accelerate, or choose none."
        )
    settings: dict[str, Any] = {"llm_int8_skip_modules": [*NOT_QUANTIZED, *(f"model.{name}" for name in NOT_QUANTIZED)]}
    if quantization == "8-bit":
        config = BitsAndBytesConfig(load_in_8bit=True, **settings)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype, **settings
        )
    return {"quantization_config": config, "device_map": {"": device}}


def use_general_products(model: nn.Module) -> None:
    """Make bitsandbytes multiply 4-bit weights of any width on any processor.

    On a CPU with bfloat16 units, 4-bit layers pack their weights for these units when first used. They fail if their
    outputs are not a multiple of 32 or their inputs not a multiple of their block. Such layers keep the products of
    other CPUs.
    """
    for layer in model.modules():
        state = getattr(getattr(layer, "weight", None), "quant_state", None)
        if state is not None and hasattr(layer, "support_avx512bf16_for_cpu"):
            outputs, inputs = state.shape
            if outputs % 32 or inputs % state.blocksize:
                cast(Any, layer).support_avx512bf16_for_cpu = False


def require_self_contained(config: Mapping[str, Any], name: str) -> None:
    """Refuse a config.json that has transformers fetch something from elsewhere: weights, a backbone, or a kernel.

    Args:
        config: its content.
        name: the model's name in the error.

    Raises:
        InputError: a setting names something that is not in the folder.
    """
    todo: list[Any] = [config]
    while todo:
        part = todo.pop()
        if isinstance(part, list):
            todo.extend(part)
        if not isinstance(part, dict):
            continue
        todo.extend(part.values())
        for key, value in part.items():
            if any(key.endswith(end) and names(str(value)) for end, names in _ELSEWHERE if value):
                raise InputError(
                    f"The config.json of {name} says {key} {str(value)[:80]!r}, which would be looked for outside of "
                    "its folder; take the model as its makers publish it."
                )


def stock_config_of(
    stock: type[PreTrainedModel], folder: Path, name: str, weights: Path | None = None
) -> PretrainedConfig:
    """The config of a folder, of which a model can be built that is as large as its weights.

    Args:
        stock: the class of the model.
        folder: with the config.json.
        name: the model's name in errors.
        weights: a single file with them; None takes those of ``folder``.

    Raises:
        InputError: no such model can be built, or it would be far larger.
    """
    own = first_json(folder, "config.json") or {}
    require_self_contained(own, name)
    files = weight_files(folder, name) if weights is None else [weights]
    tensors = list(stored_tensors(files))
    require_depth(own, name, len(tensors))
    try:
        config = cast(Any, stock.config_class).from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            expected = sum(each.numel() for each in stock(config).parameters())
    except ImportError:
        raise
    except Exception as error:  # whatever the parts of transformers say of a value that they cannot use
        raise InputError(
            f"The config.json of {name} describes no model ({in_one_line(error)}); copy or download it again."
        ) from error
    stored = sum(math.prod(tensor.shape) for _, tensor in tensors)
    if expected > 2 * stored:
        raise InputError(
            f"The config.json of {name} describes a model of {expected:,} numbers, and its files hold {stored:,}; copy "
            "or download all its files again."
        )
    return config


def require_depth(config: Mapping[str, Any], name: str, tensors: int) -> None:
    """Refuse more layers than there are tensors: even without weights they would take hours to make.

    Args:
        config: of the model, or of a part of it.
        name: the model's name in the error.
        tensors: how many its files hold.

    Raises:
        InputError: there are more.
    """
    for key, value in config.items():
        if isinstance(value, dict):
            require_depth(value, name, tensors)
        elif isinstance(value, (int, float)) and _COUNT.search(key) and value > max(DEEP, tensors):
            raise InputError(
                f"The config.json of {name} says {key} {value:,}, and its files hold {tensors:,} tensors; copy or "
                "download all its files again."
            )


def require_all_tensors(model: nn.Module, report: Mapping[str, Any], name: str) -> None:
    """Refuse weights that are not exactly those of the model: what lacks is random, and what is left over was needed.

    Args:
        model: as it was loaded.
        report: transformers' of the loading: ``missing_keys``, ``unexpected_keys``, and ``mismatched_keys``, which
            version 5 gives with the shapes in the file and in the model.
        name: the model's name in the error.

    Raises:
        InputError: a tensor is missing, of another shape, or has no place in the model.
    """
    unexpected = [each for each in report["unexpected_keys"] if not _HARMLESS.search(each)]
    # Version 4 takes what its index names for what the files hold.
    missing = {*report["missing_keys"], *(key for key, each in model.named_parameters() if each.is_meta)}
    shapes = [_shape(each) for each in report["mismatched_keys"]]
    if any(_SCALES.search(each) for each in unexpected):
        raise InputError(
            f"{name} holds quantized weights with scales of their own ({_some(unexpected)}), which are not read; take "
            "a checkpoint in bfloat16, and choose a quantization to save memory."
        )
    faults = []
    if missing:
        faults.append(f"lacks {_some(missing)}")
    if unexpected:
        faults.append(f"has no place for {_some(unexpected)}")
    if shapes:
        faults.append(f"has {len(shapes)} of another shape ({min(shapes)})")
    if faults:
        raise InputError(
            f"The tensors of {name} are not those of its config.json: it {', and '.join(faults)}; copy or download all "
            "its files again."
        )


def _shape(mismatched: str | tuple[str, Iterable[int], Iterable[int]]) -> str:
    """A tensor of another shape, with both shapes where they are known."""
    if isinstance(mismatched, str):
        return mismatched
    name, theirs, ours = mismatched
    return f"{name} is {tuple(theirs)}, not {tuple(ours)}"


def _some(names: Iterable[str]) -> str:
    """How many tensors, and the first two of them."""
    names = sorted(names)
    return f"{len(names)} tensor{'s' if len(names) > 1 else ''}: {', '.join(names[:2])}{', ...' if names[2:] else ''}"


def load_tokenizer(folder: Path, name: str) -> Any:
    """The folder's tokenizer, a stock one; code that comes with it is never run.

    Args:
        folder: of the model.
        name: the model's name in the error.

    Raises:
        InputError: there is none, it is damaged, or it needs code of its own.
    """
    try:
        files = _tokenizer_files(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **files)
        has_words = bool(tokenizer("video").input_ids)
    except Exception as error:  # whatever a damaged file makes the reader of its format say
        if "trust_remote_code" in str(error):
            raise InputError(
                f"The tokenizer of {name} is code that comes with it, which is never run; take a checkpoint with a "
                "tokenizer of transformers' own."
            ) from error
        raise InputError(
            f"The tokenizer of {name} cannot be read ({in_one_line(error)}); copy or download its files again."
        ) from error
    if not has_words:
        raise InputError(f"{name} has no vocabulary; copy or download its tokenizer.json into its folder.")
    return tokenizer


def _tokenizer_files(folder: Path) -> dict[str, str]:
    """The folder's own files for those that its tokenizer_config.json names, which transformers 4 would read."""
    named = first_json(folder, "tokenizer_config.json") or {}
    files = {}
    for key in (each for each in named if each.endswith("_file") and named[each] and each != "special_tokens_map_file"):
        own = next((folder / each for each in _VOCABULARIES.get(key, ()) if (folder / each).is_file()), None)
        if own is None:
            raise InputError(f"its tokenizer_config.json names a {key} and there is none in the folder")
        files[key] = str(own)
    return files


def video_settings(folder: Path, name: str) -> Mapping[str, Any]:
    """The settings of a folder's video processor, where transformers looks for them, in that order.

    Version 5 saves one ``processor_config.json`` with a part for each processor, versions before it a file for each.

    Args:
        folder: of the model.
        name: the model's name in the error.

    Raises:
        InputError: there are none, or their file is damaged.
    """
    _, found = _settings(folder)
    if not isinstance(found, dict):
        raise InputError(
            f"{name} has no settings of its processor, so that sizes and colours of its frames are not known; put the "
            "checkpoint's processor_config.json or video_preprocessor_config.json into its folder."
        )
    _require_usable(found, name)
    return found


def sampling_settings(folder: Path) -> Mapping[str, Any]:
    """The same, for choosing frames before the model is loaded: none where there are none.

    Args:
        folder: of the model.

    Raises:
        InputError: their file is damaged.
    """
    _, found = _settings(folder)
    return found if isinstance(found, dict) else {}


def _settings(folder: Path) -> tuple[str, Any]:
    """The file with the settings of a folder's video processor, and what it holds of them."""
    own = first_json(folder, "processor_config.json") or {}
    if own.get("video_processor") is not None:
        return "processor_config.json (video_processor)", own["video_processor"]
    for file in ("video_preprocessor_config.json", "preprocessor_config.json"):
        if (found := first_json(folder, file)) is not None:
            return file, found
    return "processor_config.json (image_processor)", own.get("image_processor")


def colours_file(folder: Path) -> str:
    """The name of the file that says mean and deviation of a folder's pixels.

    Args:
        folder: of a model that can be loaded.
    """
    file, found = _settings(folder)
    return file if "image_mean" in found else f"the family's own: {file} has none"


def template_file(folder: Path) -> str:
    """The name of the file with a folder's chat template: the processor's, or else the tokenizer's.

    Args:
        folder: of a model that can be loaded.
    """
    names = ["chat_template.json", "chat_template.jinja"]
    if (folder / "processor_config.json").is_file():
        names.reverse()
    return next((each for each in names if (folder / each).is_file()), "tokenizer_config.json")


def tokenizer_file(folder: Path) -> str:
    """The name of the file with a folder's vocabulary.

    Args:
        folder: of a model that can be loaded.
    """
    names = ("tokenizer.json", "vocab.json", "tokenizer.model")
    return next((each for each in names if (folder / each).is_file()), "tokenizer_config.json")


def _require_usable(settings: Mapping[str, Any], name: str) -> None:
    """Refuse settings of another kind than those that are used; those that are left out have their defaults."""
    size = settings.get("size")
    counts = {key: settings.get(key) for key in ("min_pixels", "max_pixels")}
    counts |= {f"size {key}": value for key, value in size.items()} if isinstance(size, dict) else {"size": size}
    colours = {key: settings.get(key) for key in ("image_mean", "image_std")}
    faulty = {key: value for key, value in counts.items() if not (value is None or is_positive(value))}
    faulty |= {key: value for key, value in colours.items() if not (value is None or _is_colour(value))}
    if not faulty and colours["image_std"] is not None and not all(is_positive(each) for each in colours["image_std"]):
        faulty = {"image_std": colours["image_std"]}
    if faulty:
        key, value = next(iter(faulty.items()))
        raise InputError(
            f"The processor settings of {name} say {key} {value!r}, which cannot be used; copy or download its "
            "processor_config.json or video_preprocessor_config.json again."
        )


def is_positive(value: Any) -> bool:
    """Whether a value of a JSON file is a number above 0."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


def _is_colour(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(isinstance(each, (int, float)) for each in value)


def first_json(folder: Path, *names: str, keys: Sequence[str] = ()) -> dict[str, Any] | None:
    """The content of the first of these files that exists; None where there is none.

    Args:
        folder: of the model.
        names: of the files.
        keys: names that the content must have.

    Raises:
        InputError: that file is no JSON object, or lacks one of the keys.
    """
    for name in names:
        if (folder / name).is_file():
            return read_json(folder / name, "The model's", keys=keys)
    return None


def processor_template(folder: Path) -> str | None:
    """The processor's own chat template, which takes structured content; None where only the tokenizer has one."""
    if (folder / "processor_config.json").is_file() and (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    settings = first_json(folder, "chat_template.json", keys=("chat_template",))
    return str(settings["chat_template"]) if settings else None
