"""Video LLMs in a single safetensors file: the text encoders of image models that ComfyUI users have on disk.

Such a file holds tensors and nothing else. Its config is worked out from their shapes, its tokenizer is ComfyUI's own,
and its settings are those of the family's published models. A folder given for it may bring any of these instead.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PretrainedConfig

from ..errors import InputError
from ..files import parse_json
from ..names import require_name
from .base import VideoLLM
from .folder import (
    colours_file,
    first_json,
    load_tokenizer,
    loading,
    processor_template,
    require_all_tensors,
    stock_config_of,
    template_file,
    tokenizer_file,
    video_settings,
)
from .fp8 import Fp8Linear, dequantized
from .published import PUBLISHED, ROLES, Published, config_by_shapes
from .stand_ins import built, stand_in
from .weights import Header, StoredTensor, read_header

SUFFIX = ".safetensors"
COMFYUI_TOKENIZER = Path("comfy", "text_encoders", "qwen25_tokenizer")
"""The tokenizer of Qwen's text encoders in ComfyUI's folder."""

_NAMES = (
    (r"^(?:model\.)?visual\.", "model.visual."),
    (r"^language_model\.model\.", "model.language_model."),
    (r"^model\.(?=(?:layers|embed_tokens|norm)\.)", "model.language_model."),
    (r"^(?:model|language_model)\.lm_head\.", "lm_head."),
)
"""From ComfyUI's names to those of the stock classes on every version of transformers."""

_SCALE = re.compile(r"^(.+)\.(?:scale_weight|weight_scale)$")
_MARK = re.compile(r"(^|\.)(scaled_fp8|comfy_quant|scale_input|input_scale)$")
"""What quantized files hold beside weights and their scales. Input scales are for products of 8-bit floats."""

_FP8 = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
_FLOATS = frozenset({"F64", "F32", "F16", "BF16", *_FP8})
_FP8_FORMATS = ("float8_e4m3fn", "float8_e5m2")

_CLIP_NODE = "load it with ComfyUI's Load CLIP and link that to the node Video LLM from CLIP"

_KINDS = (
    (
        r"(^|\.)diffusion_model\.|^(double_blocks|joint_blocks|transformer_blocks|blocks|input_blocks)\.",
        "an image model",
    ),
    (r"lora_(A|B|up|down)", "a LoRA"),
    (r"(^|\.)text_model\.encoder\.|transformer\.resblocks\.", "a CLIP"),
    (r"(^|\.)encoder\.block\.", "a T5"),
    (r"(^|\.)decoder\.(up|mid|conv_in)", "a VAE"),
)


def is_single_file(path: Path) -> bool:
    """Whether a path is meant as a model in a single file.

    Args:
        path: of a file or a folder; it need not exist.

    Raises:
        InputError: no file can have that name.
    """
    require_name(path, "The model")
    return path.is_file() or path.suffix == SUFFIX


def family_of_file(path: Path) -> type[VideoLLM] | None:
    """The family that a file would be loaded as, by its header; None for files of another kind or quantization.

    Args:
        path: of a safetensors file.

    Raises:
        InputError: the file cannot be read, is cut short or damaged.
    """
    header = read_header(path)
    family = _family(header.tensors)
    return family.adapter if family and _other_quantization(header) is None else None


def recognised(path: Path, name: str) -> tuple[Published, Header]:
    """The family of a file, and its header.

    Args:
        path: the file.
        name: the model's name in errors.

    Raises:
        InputError: the file is missing, damaged, or of another kind or quantization.
    """
    if not path.is_file():
        raise InputError(f"No file {path}; give a safetensors file, or a model folder.")
    if path.suffix == ".gguf":
        raise InputError(f"{name} is a GGUF file, which is not read here; {_CLIP_NODE}.")
    if path.suffix != SUFFIX:
        raise InputError(f"{path.name} is no safetensors file, the only kind that is loaded; take one.")
    if re.search(r"-\d+-of-\d+$", path.stem):
        raise InputError(f"{path.name} is one of several files of a model; give their folder.")
    header = read_header(path)
    quantization = _other_quantization(header)
    if quantization and _is_language_model(header.tensors):
        raise InputError(
            f"{name} is quantized as {_named_format(path, header) or quantization}, which is not read here; "
            f"{_CLIP_NODE}, or take it in bfloat16 or fp8_scaled."
        )
    family = _family(header.tensors)
    if family is None:
        raise InputError(f"{name} is {_kind(header.tensors)}")
    return family, header


@dataclass(frozen=True)
class SingleFile:
    """A model in a single file, opened.

    Args:
        path: the file.
        name: the model's name in results and errors.
        family: that it is of.
        header: what the file says of itself.
        companions: the folder with the tokenizer, and perhaps a config, a chat template and processor settings.
    """

    path: Path
    name: str
    family: Published
    header: Header
    companions: Path

    @classmethod
    def open(cls, path: Path, name: str, tokenizer: Path | None = None) -> SingleFile:
        """Read a file's header, and find its tokenizer.

        Args:
            path: the file.
            name: the model's name in results and errors.
            tokenizer: a folder with a tokenizer; None looks beside the file, then in the ComfyUI that it is in.

        Raises:
            InputError: the file is missing, damaged, of another kind or quantization, or there is no tokenizer.
        """
        family, header = recognised(path, name)
        return cls(path, name, family, header, _companions(path, name, tokenizer))

    @cached_property
    def tensors(self) -> Mapping[str, str]:
        """Names in the file, by the names of the stock class; without scales and marks."""
        return {_ours(each): each for each in self.header.tensors if not (_SCALE.match(each) or _MARK.search(each))}

    @cached_property
    def scales(self) -> Mapping[str, str]:
        """Names of scales in the file, by the names that the stock class has for the weights they belong to."""
        matches = (_SCALE.match(each) for each in self.header.tensors)
        return {_ours(f"{match[1]}.weight"): match[0] for match in matches if match}

    def stored(self, ours: str) -> StoredTensor:
        """Dtype and shape of a tensor in the file.

        Args:
            ours: the name that the stock class has for it.
        """
        return self.header.tensors[self.tensors[ours]]

    def weight_bytes(self, dtype: torch.dtype, keep_fp8: bool) -> int:
        """Bytes of the weights once loaded.

        Args:
            dtype: of weights that do not stay in 8-bit floats.
            keep_fp8: whether weights in 8-bit floats stay so.
        """
        return sum(
            math.prod(self.stored(ours).shape) * (1 if keep_fp8 and self._stays(ours) else dtype.itemsize)
            for ours in self.tensors
        )

    def load(
        self,
        *,
        dtype: torch.dtype,
        device: torch.device,
        attention: str,
        keep_fp8: bool,
        weights: bool = True,
    ) -> VideoLLM:
        """The model in this file.

        Args:
            dtype: of weights that do not stay in 8-bit floats.
            device: where to put it.
            attention: the LLM's attention implementation.
            keep_fp8: whether the layers' weights in 8-bit floats stay so; else they are dequantized.
            weights: whether to read them; without them the model can be looked at, and is checked as it would be.

        Raises:
            InputError: the file holds not exactly the model's tensors, or no head; its widths are not known, or its
                tokenizer is another's.
        """
        with loading(self.name, attention):
            stock = self.family.adapter.stock
            tokenizer = load_tokenizer(self.companions, self.name)
            config = self._config(tokenizer)
            with torch.device("meta"):
                expected = stock(config)
            linear = {f"{each}.weight" for each, layer in expected.named_modules() if isinstance(layer, nn.Linear)}
            kept = {each for each in linear & self.tensors.keys() if keep_fp8 and self._stays(each)}
            without = kept if weights else self.tensors
            tensors = self._state(dtype, without)
            model, report = built(stock, None, config, dtype, attention, tensors=tensors, untouched=bool(without))
            self._require_all_tensors(model, report, linear)
            if weights:
                self._put(model, kept)
            model.generation_config = self.family.generation(tokenizer)
            model = model.eval().to(device)  # pyright: ignore[reportArgumentType] - its decorator hides self
            loaded = self.family.adapter(
                model,
                tokenizer,
                self.name,
                preprocessor=self._settings(),
                chat_template=processor_template(self.companions) or self.family.template,
            )
            loaded.notes = self._notes(dtype, bool(kept), config)
            return loaded

    def sources(self) -> dict[str, str]:
        """Where each setting is from, by the setting's name."""
        published = f"{self.family.title} as published"
        config = self._own_config()
        template = processor_template(self.companions)
        return {
            "config": published + ", by the shapes of the tensors" if config is None else str(config),
            "mean and deviation": published if self._own_settings() is None else colours_file(self.companions),
            "chat template": published if template is None else template_file(self.companions),
            "tokenizer": str(self.companions / tokenizer_file(self.companions)),
        }

    def _config(self, tokenizer: Any) -> PretrainedConfig:
        if self._own_config() is not None:
            config = stock_config_of(self.family.adapter.stock, self.companions, self.name, self.path)
        else:
            shapes = {ours: self.stored(ours).shape for ours in self.tensors}
            config = config_by_shapes(self.family, shapes, self._ids(tokenizer), self.name)
        if not config.tie_word_embeddings and "lm_head.weight" not in self.tensors:
            raise InputError(
                f"{self.name} has no lm_head, without which a {self.family.title} of this size cannot answer: only its "
                "prompt encoder was saved; take a file that has lm_head.weight."
            )
        return config

    def _ids(self, tokenizer: Any) -> dict[str, int]:
        ids = dict(zip(ROLES, tokenizer.convert_tokens_to_ids(list(ROLES.values())), strict=True))
        rows = self.stored("model.language_model.embed_tokens.weight").shape[0]
        if missing := [ROLES[role] for role, each in ids.items() if each is None or each == tokenizer.unk_token_id]:
            raise InputError(
                f"The tokenizer in {self.companions} has no {missing[0]}; give that of a {self.family.title} "
                "(--tokenizer FOLDER)."
            )
        if len(tokenizer) > rows:
            raise InputError(
                f"The tokenizer in {self.companions} has {len(tokenizer)} tokens and {self.name} {rows}; give that of "
                f"a {self.family.title} (--tokenizer FOLDER)."
            )
        return ids

    def _own_config(self) -> Path | None:
        """The config.json among the companions, if it is of this family: one of a bare tokenizer is not."""
        found = first_json(self.companions, "config.json")
        if found is None or not self.family.adapter.matches(found):
            return None
        return self.companions / "config.json"

    def _own_settings(self) -> Mapping[str, Any] | None:
        names = ("processor_config.json", "video_preprocessor_config.json", "preprocessor_config.json")
        if not any((self.companions / each).is_file() for each in names):
            return None
        return video_settings(self.companions, self.name)

    def _settings(self) -> Mapping[str, Any]:
        own = self._own_settings()
        return self.family.settings if own is None else own

    def _stays(self, ours: str) -> bool:
        """Whether a tensor can stay in 8-bit floats: a layer's matrix with a single scale, or none."""
        stored = self.stored(ours)
        scale = self.scales.get(ours)
        single = scale is None or math.prod(self.header.tensors[scale].shape) == 1
        return stored.dtype in _FP8 and len(stored.shape) == 2 and single and "embed" not in ours

    def _state(self, dtype: torch.dtype, without: Iterable[str]) -> dict[str, Tensor]:
        """The tensors by the names of the stock class, dequantized; stand-ins for those that are left out."""
        left_out = frozenset(without)
        state = {}
        with safe_open(self.path, "pt") as file:
            for ours, theirs in self.tensors.items():
                if ours in left_out:
                    state[ours] = stand_in(self.stored(ours).shape, dtype)
                elif ours in self.scales:
                    state[ours] = dequantized(file.get_tensor(theirs), file.get_tensor(self.scales[ours]), dtype)
                else:
                    state[ours] = file.get_tensor(theirs).to(dtype)
        return state

    def _put(self, model: nn.Module, kept: Iterable[str]) -> None:
        """Put layers that stay in 8-bit floats into the places of those that hold stand-ins."""
        with safe_open(self.path, "pt") as file:
            for ours in kept:
                place, _, attribute = ours.removesuffix(".weight").rpartition(".")
                parent = model.get_submodule(place)
                bias = getattr(parent, attribute).bias
                scale = file.get_tensor(self.scales[ours]) if ours in self.scales else torch.ones(())
                layer = Fp8Linear(file.get_tensor(self.tensors[ours]), scale, bias)
                setattr(parent, attribute, layer)

    def _require_all_tensors(self, model: nn.Module, report: Mapping[str, Any], linear: Iterable[str]) -> None:
        """The check of every folder, and for scales: each has its weight, and no weight lacks its own."""
        lost = [ours for ours in self.scales if ours not in self.tensors]
        bare = [
            f"{ours.removesuffix('weight')}weight_scale"
            for ours in linear
            if self.scales and ours in self.tensors and self.stored(ours).dtype in _FP8 and ours not in self.scales
        ]
        whole = {**report, "missing_keys": [*report["missing_keys"], *bare, *lost]}
        require_all_tensors(model, whole, self.name)

    def _notes(self, dtype: torch.dtype, kept: bool, config: PretrainedConfig) -> tuple[str, ...]:
        notes = []
        stored = self.path.stat().st_size / 2**30
        if any(self.stored(ours).dtype in _FP8 for ours in self.tensors):
            size = self.weight_bytes(dtype, kept) / 2**30
            means = (
                "stay in 8-bit floats and are dequantized layer by layer when they are used"
                if kept
                else f"are dequantized from 8-bit floats to {str(dtype).removeprefix('torch.')}"
            )
            notes.append(f"weights {means}: {size:.1f} GiB in memory, {stored:.1f} GiB in the file")
        if config.tie_word_embeddings and "lm_head.weight" not in self.tensors:
            notes.append("the file has no lm_head, and this size needs none: its word embeddings are its head")
        return tuple(notes)


def _ours(name: str) -> str:
    """The stock class' name of a tensor."""
    for pattern, replacement in _NAMES:
        name, changed = re.subn(pattern, replacement, name)
        if changed:
            break
    return name


def _family(tensors: Iterable[str]) -> Published | None:
    names = {_ours(each) for each in tensors}
    return next((each for each in PUBLISHED if {each.mark, _EMBEDDINGS} <= names), None)


_EMBEDDINGS = "model.language_model.embed_tokens.weight"


def _is_language_model(tensors: Iterable[str]) -> bool:
    return any(re.match(r"(model\.|language_model\.)*layers\.\d+\.(self_attn|linear_attn)\.", each) for each in tensors)


def _kind(tensors: Iterable[str]) -> str:
    """What a file is that is not read, and what to do; the end of a line."""
    advice = f"choose a {' or a '.join(each.title for each in PUBLISHED)}, or a model folder"
    names = list(tensors)
    for pattern, kind in _KINDS:
        if any(re.search(pattern, each) for each in names):
            return f"{kind} and no video LLM; {advice}."
    if not _is_language_model(names):
        return f"no video LLM that is known; {advice}."
    if any("vis" in each for each in names):
        return f"of a family that is not read from a single file; {_CLIP_NODE}, or {advice}."
    return f"an LLM without a vision tower and no video LLM; {advice}."


def _other_quantization(header: Header) -> str | None:
    """How a file is quantized, if not in 8-bit floats with a scale for each matrix; None for what is read."""
    formats = re.findall(r'"format": *"([^"]+)"', header.metadata.get("_quantization_metadata", ""))
    if other := sorted(set(formats) - set(_FP8_FORMATS)):
        return other[0]
    tensors = {each: stored for each, stored in header.tensors.items() if not each.endswith("comfy_quant")}
    if other := sorted({stored.dtype for stored in tensors.values()} - _FLOATS):
        return other[0]
    for each, stored in tensors.items():
        match = _SCALE.match(each)
        weight = tensors.get(f"{match[1]}.weight") if match else None
        if weight and math.prod(stored.shape) not in (1, weight.shape[0]):
            return f"blocks, with scales {stored.shape} for weights {weight.shape}"
    return None


def _named_format(path: Path, header: Header) -> str | None:
    """The quantization's name as the file has it, if it has one."""
    key = next((each for each in header.tensors if each.endswith(".comfy_quant")), None)
    if key is None:
        return None
    with safe_open(path, "pt") as file, suppress(ValueError, TypeError):
        settings = parse_json(bytes(file.get_tensor(key).tolist()), kind=dict)
        return f"{settings.get('format')}{' with convrot' if settings.get('convrot') else ''}"
    return None


def _companions(path: Path, name: str, given: Path | None) -> Path:
    """The folder with the tokenizer of a file."""
    if given is not None:
        if not _has_tokenizer(given):
            raise InputError(
                f"No tokenizer in {given}; give a folder with a tokenizer.json, or vocab.json and merges.txt."
            )
        return given
    if _has_tokenizer(path.parent):
        return path.parent
    homes = [*path.absolute().parents, *path.resolve().parents]
    for folder in (home / COMFYUI_TOKENIZER for home in homes):
        if _has_tokenizer(folder):
            return folder
    raise InputError(
        f"{name} needs a tokenizer, which a single file does not hold; give the folder {COMFYUI_TOKENIZER.as_posix()} "
        "of ComfyUI, or that of a published model (--tokenizer FOLDER)."
    )


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / each).is_file() for each in ("tokenizer.json", "vocab.json"))
