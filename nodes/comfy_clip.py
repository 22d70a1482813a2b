"""What is used of the inside of ComfyUI's CLIP. No other file names it.

A text encoder of an image model may be a whole video LLM: a vision tower, an LLM, and a head for words. ComfyUI loads
it, dequantizes its weights layer by layer and moves them between devices. None of that is a public interface: whatever
is missing here in some version of ComfyUI becomes one error that says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional
from transformers.cache_utils import DynamicCache

from ..aot.errors import InputError
from ..aot.models.base import added
from ..aot.models.importance import Received
from .comfy import model_management, unload_model

OLDEST = "0.26"
"""The first ComfyUI whose text encoders answer in words about pictures, Qwen3-VL's among them."""

FITTING = "Qwen3-VL (qwen3vl_4b, qwen3vl_8b) or Qwen2.5-VL (qwen_2.5_vl_7b)"
"""The text encoders that are video LLMs, and the names of their files."""

ROOM = 2 * 2**30
"""Bytes that ComfyUI leaves free beside the weights, for passes over a video and its keys and values."""

_LANGUAGE = ("config", "layers", "norm", "embed_tokens", "compute_freqs_cis", "get_past_len")
_RENAMED = {"model.language_model.": "model.", "model.visual.": "visual.", "lm_head.": "model.lm_head."}
"""Beginnings of names in a file, and in ComfyUI's model."""


@dataclass(frozen=True)
class Parts:
    """A video LLM inside a CLIP.

    Args:
        transformer: with a vision tower ``visual`` and an LLM ``model``.
        operations: ComfyUI's classes of layers, which the model was built with.
        tokenizer: transformers' own.
    """

    transformer: Any
    operations: Any
    tokenizer: Any


class TextEncoder:
    """A video LLM that ComfyUI has loaded as a text encoder.

    Args:
        clip: ComfyUI's CLIP.

    Raises:
        InputError: it is none, not of a kind that is known here, or its file lacks tensors of its model; or this
            ComfyUI has no text encoders that answer.
    """

    def __init__(self, clip: Any) -> None:
        parts = _parts(clip)
        self._transformer = parts.transformer
        self._language, self._tower = parts.transformer.model, parts.transformer.visual
        self.tokenizer = parts.tokenizer
        self.patcher = clip.patcher
        """ComfyUI's handle of the weights."""
        self.family = _family(parts.transformer)
        """The `model_type` of the family in transformers."""
        file = _file(clip)
        self.name = file.stem if file is not None else str(getattr(clip.cond_stage_model, "clip", self.family))
        """The name of its file, else ComfyUI's name of its model."""
        if file is not None:
            _require_all_tensors(file, parts.transformer)
        self._head, self._patchers = getattr(self._language, "lm_head", None), [self.patcher]
        if self._head is None and self.family == "qwen2_5_vl":
            self._head = _head(file, self.name, parts, self.patcher)
            # ComfyUI's handles name the layers of a model, so that the layer must be in one.
            model = nn.ModuleDict({"lm_head": self._head})
            self._patchers.append(type(self.patcher)(model, self.patcher.load_device, self.patcher.offload_device))

    @property
    def device(self) -> torch.device:
        """The device that ComfyUI computes on."""
        return self.patcher.load_device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which ComfyUI has text encoders answer on that device."""
        return torch.bfloat16 if _module("comfy.model_management").should_use_bf16(self.device) else torch.float32

    @property
    def weights(self) -> Iterator[Tensor]:
        """All weights as they are stored."""
        modules = (self._transformer,) if self._head is None else (self._transformer, self._head)
        return (tensor for module in modules for tensor in module.state_dict().values())

    def load(self) -> None:
        """Have ComfyUI bring the weights to their device, as many as it finds room for."""
        model_management.load_models_gpu(self._patchers, memory_required=ROOM, force_full_load=False)

    def unload(self) -> None:
        """Free the device of the weights."""
        for patcher in self._patchers:
            unload_model(patcher)

    def text_config(self) -> dict[str, Any]:
        """The LLM's sizes, by transformers' names."""
        config = self._language.config
        names = (
            "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "rope_theta",
        )  # fmt: skip
        rope = {"rope_type": "default", "mrope_section": list(config.rope_dims)}
        return {name: getattr(config, name) for name in names} | {"rope_scaling": rope}

    def vision_config(self) -> dict[str, Any]:
        """The tower's sizes, by transformers' names."""
        tower, config = self._tower, self._language.config
        block = tower.blocks[0]
        first = block.mlp.linear_fc1 if self.family == "qwen3_vl" else block.mlp.gate_proj
        common = {
            "depth": len(tower.blocks),
            "hidden_size": tower.hidden_size,
            "intermediate_size": first.out_features,
            "num_heads": block.attn.num_heads,
            "out_hidden_size": config.hidden_size,
            "patch_size": tower.patch_size,
            "spatial_merge_size": tower.spatial_merge_size,
            "temporal_patch_size": tower.patch_embed.temporal_patch_size,
        }
        if self.family == "qwen3_vl":
            return common | {
                "num_position_embeddings": tower.num_position_embeddings,
                "deepstack_visual_indexes": list(tower.deepstack_visual_indexes),
            }
        return common | {
            "window_size": tower.window_size,
            "fullatt_block_indexes": list(tower.fullatt_block_indexes),
            "tokens_per_second": 2,  # of every published checkpoint
        }

    @property
    def has_own_head(self) -> bool:
        """Whether the head for words has weights of its own, and not those of the word embeddings."""
        return self._head is not None

    def embed(self, ids: Tensor) -> Tensor:
        """Embed token ids.

        Args:
            ids: (n,) long.

        Returns:
            (n, D) on the device, in the dtype of answers.
        """
        words = self._language.embed_tokens(ids.to(self.device)[None], out_dtype=torch.float32)
        return words[0].to(self.device, self.dtype)

    def encode_patches(self, patches: Tensor, grid: Tensor, layers: Sequence[int]) -> tuple[Any, Received]:
        """The tower's own output, and the attention received at some of its layers.

        Args:
            patches: (n, values) float32.
            grid: (1, 3) long on the CPU, pairs of frames, and the height and width of a frame in patches.
            layers: their indices; the keys of the last are kept too.
        """
        # Qwen2.5-VL's rotary positions make float32 of queries and keys, and leave the values as they are.
        dtype = self.dtype if self.family == "qwen3_vl" else torch.float32
        received = Received(tuple(layers), layers[-1])
        with self._watched(received):
            output = self._tower(patches.to(self.device, dtype), grid)
        if isinstance(output, Tensor):
            return output.to(self.dtype), received
        image_features, levels = output
        return (image_features.to(self.dtype), [level.to(self.dtype) for level in levels]), received

    @contextmanager
    def _watched(self, received: Received) -> Iterator[None]:
        """Inside this block the blocks of the tower tell what attention their tokens receive."""
        handles = [
            self._tower.blocks[layer].register_forward_pre_hook(partial(_watch, layer, received), with_kwargs=True)
            for layer in dict.fromkeys(received.layers)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def read(
        self,
        inputs_embeds: Tensor,
        position_ids: Tensor,
        cache: DynamicCache,
        mask: Tensor | None,
        visual: Tensor,
        levels: Sequence[Tensor],
    ) -> Tensor:
        """Run the LLM over tokens that follow those in the cache.

        Args:
            inputs_embeds: (n, D) in the dtype of answers.
            position_ids: (3, n) long.
            cache: keys and values of the p tokens before them; those of these tokens are added.
            mask: (1, 1, n, p + n) floating, added to the scores; None is causal.
            visual: (n,) bool, whether a token is visual.
            levels: (v, D) each, added to the v visual tokens' hidden states after the first layers.

        Returns:
            (n, D), the hidden states that the head takes.
        """
        count, past = len(inputs_embeds), cache.get_seq_length()
        # The layers write into their input.
        hidden_states = inputs_embeds[None].clone()
        before = self._before(cache, past)
        if mask is None and (count == 1 or not past):
            extras = {"deepstack_embeds": list(levels), "visual_pos_masks": visual[None]} if levels else {}
            hidden_states, _, after = self._language(
                None, embeds=hidden_states, position_ids=position_ids, past_key_values=before, **extras
            )
        else:
            # ComfyUI's own pass has no causal mask for several tokens after others, nor takes one.
            mask = _causal(count, past, hidden_states) if mask is None else mask
            hidden_states, after = self._run_layers(hidden_states, position_ids, before, mask, visual[None], levels)
        for number, (keys, values, _) in enumerate(after):
            if past:
                layer: Any = cache.layers[number]
                layer.keys, layer.values = keys, values
            else:
                cache.update(keys, values, number)
        return hidden_states[0]

    def _before(self, cache: DynamicCache, past: int) -> list[tuple[Tensor, Tensor, int]]:
        """Keys and values of the tokens in the cache, layer by layer, as ComfyUI's layers take them."""
        if past:
            return [(layer.keys, layer.values, past) for layer in cast(list[Any], cache.layers)]
        config = self._language.config
        shape = 1, config.num_key_value_heads, 0, config.head_dim
        empty = torch.empty(shape, dtype=self.dtype, device=self.device)
        return [(empty, empty, 0)] * config.num_hidden_layers

    def _run_layers(
        self,
        hidden_states: Tensor,
        position_ids: Tensor,
        before: Sequence[tuple[Tensor, Tensor, int]],
        mask: Tensor,
        visual: Tensor,
        levels: Sequence[Tensor],
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor, int]]]:
        """The LLM, layer by layer: hidden states, and keys and values with the new ones."""
        positions = self._language.compute_freqs_cis(position_ids, hidden_states.device)
        after = []
        for number, (layer, past) in enumerate(zip(self._language.layers, before, strict=True)):
            hidden_states, keys_and_values = layer(
                x=hidden_states,
                attention_mask=mask,
                freqs_cis=positions,
                optimized_attention=_attend,
                past_key_value=past,
            )
            after.append(keys_and_values)
            if number < len(levels):
                hidden_states[visual] += levels[number].to(hidden_states)
        return self._language.norm(hidden_states), after

    def logits(self, hidden_states: Tensor) -> Tensor:
        """The logits of next tokens.

        Args:
            hidden_states: (..., D), of :meth:`read`.

        Returns:
            (..., vocabulary) in the dtype of answers.
        """
        if self._head is not None:
            return self._head(hidden_states)
        # ComfyUI's own function gives those of the last token in each row.
        rows = hidden_states.reshape(-1, 1, hidden_states.shape[-1])
        return self._transformer.logits(rows).reshape(*hidden_states.shape[:-1], -1)


def _parts(clip: Any) -> Parts:
    """The video LLM in a CLIP.

    Raises:
        InputError: there is none.
    """
    model = getattr(clip, "cond_stage_model", None)
    if model is None:
        raise InputError(f"There is no text encoder in this CLIP; load {FITTING} with CLIPLoader.")
    encoders = {name: each for name, each in model.named_children() if hasattr(each, "transformer")}
    found = [each for each in encoders.values() if hasattr(each.transformer, "visual")]
    if not found:
        raise InputError(
            f"This CLIP ({', '.join(encoders) or type(model).__name__}) has no vision tower beside an LLM: it cannot "
            f"watch a video. Load {FITTING} with CLIPLoader, of type qwen_image."
        )
    transformer = found[0].transformer
    language: Any = getattr(transformer, "model", None)
    if not hasattr(transformer, "logits") or not all(hasattr(language, name) for name in _LANGUAGE):
        raise _too_old("its text encoders do not answer")
    if language.norm is None:
        raise InputError(
            f"This text encoder ({', '.join(encoders)}) is cut short, for conditioning only: its LLM has no end. Load "
            f"{FITTING} with CLIPLoader, of type qwen_image."
        )
    operations = getattr(found[0], "operations", None)
    return Parts(transformer, operations, _tokenizer(clip))


def _family(transformer: Any) -> str:
    """The `model_type` of a video LLM in transformers.

    Raises:
        InputError: it is of a family that is not known here.
    """
    tower = transformer.visual
    if getattr(tower, "deepstack_merger_list", None) is not None:
        return "qwen3_vl"
    if hasattr(tower, "fullatt_block_indexes"):
        return "qwen2_5_vl"
    raise InputError(f"This text encoder ({type(transformer).__name__}) is of another family; load {FITTING}.")


def _tokenizer(clip: Any) -> Any:
    """The tokenizer with the words that mark a video, as transformers has it."""
    for each in vars(clip.tokenizer).values():
        tokenizer: Any = getattr(each, "tokenizer", None)
        if hasattr(tokenizer, "get_vocab") and "<|video_pad|>" in tokenizer.get_vocab():
            return tokenizer
    raise _too_old("its tokenizer has no place for a video")


def _too_old(reason: str) -> InputError:
    version = getattr(_module("comfyui_version"), "__version__", "this version")
    return InputError(
        f"ComfyUI {version} is not one that this node knows ({reason}); it needs ComfyUI {OLDEST} or newer, and was "
        "tried on 0.26 and 0.33. Load Video LLM reads model folders on any version."
    )


def _module(name: str) -> Any:
    return import_module(name)


def _file(clip: Any) -> Path | None:
    """The file that a CLIP's vision tower was loaded from, where ComfyUI has kept its name."""
    remembered = getattr(clip.patcher, "cached_patcher_init", None)
    paths = remembered[1][0] if remembered and remembered[1] and isinstance(remembered[1][0], list) else ()
    return next((Path(path) for path in paths if any("visual." in name for name in _stored(Path(path)))), None)


def _stored(file: Path) -> frozenset[str]:
    """Names of the tensors in a safetensors file, as ComfyUI's model has them; none in another file."""
    try:
        with safe_open(file, "pt") as opened:
            return frozenset(map(_renamed, opened.keys()))
    except (SafetensorError, OSError):
        return frozenset()


def _renamed(name: str) -> str:
    return next((new + name.removeprefix(old) for old, new in _RENAMED.items() if name.startswith(old)), name)


def _require_all_tensors(file: Path, transformer: nn.Module) -> None:
    """Refuse a model that ComfyUI has loaded from a file without all of its tensors: those that lack are random.

    Raises:
        InputError: some are missing.
    """
    missing = sorted({name for name, _ in transformer.named_parameters()} - _stored(file))
    if missing:
        raise InputError(
            f"{file.name} lacks {len(missing)} tensors of its model ({', '.join(missing[:2])}), so it cannot answer; "
            f"take a file of {FITTING} that is whole."
        )


def _head(file: Path | None, name: str, parts: Parts, patcher: Any) -> nn.Module:
    """The head for words that ComfyUI leaves out, from the text encoder's file, as a layer of ComfyUI's.

    Raises:
        InputError: its file is not known, or has no head.
    """
    if file is None:
        raise InputError(
            f"The head of {name}, which writes its words, is not in this CLIP, and its file is not known; load a "
            ".safetensors file of Qwen2.5-VL with CLIPLoader."
        )
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
        wanted = [key for key in opened.keys() if "lm_head." in key or key == "scaled_fp8"]  # noqa: SIM118 - no mapping
        tensors = {key: opened.get_tensor(key) for key in wanted}
    tensors, _ = _module("comfy.utils").convert_old_quants(tensors, model_prefix="", metadata=metadata)
    own = {key.rpartition("lm_head.")[2]: tensor for key, tensor in tensors.items() if "lm_head." in key}
    if "weight" not in own:
        raise InputError(
            f"{file.name} has no lm_head.weight, which writes the words of an answer; take a file of Qwen2.5-VL that "
            "is whole."
        )
    config = parts.transformer.model.config
    plain = None if "comfy_quant" in own else own["weight"].dtype
    head = parts.operations.Linear(
        config.hidden_size, config.vocab_size, bias=False, device=patcher.offload_device, dtype=plain
    )
    try:
        head.load_state_dict(own, assign=patcher.is_dynamic())
    except RuntimeError as error:
        raise InputError(
            f"The head of {file.name} is not of its model ({' '.join(str(error).split())[:160]}); copy or download "
            "the file again."
        ) from error
    return head.eval().requires_grad_(False)


def _watch(
    layer: int, received: Received, block: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Have a block's attention tell its queries and keys, rotated as they are then."""
    attend = kwargs.get("optimized_attention")
    if attend is None:
        raise _too_old("the blocks of its vision tower are not given their attention")
    return args, {**kwargs, "optimized_attention": partial(_attend_watched, attend, layer, received)}


def _attend_watched(
    attend: Callable[..., Tensor],
    layer: int,
    received: Received,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    received.add(layer, query, key, query.shape[-1] ** -0.5)
    return attend(query, key, value, *args, **kwargs)


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None = None, **kwargs: Any) -> Tensor:
    """Attention as ComfyUI's layers call it: (B, heads, n, d) in, (B, n, heads d) out."""
    grouped = key.shape[1] != query.shape[1]
    output = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=grouped)
    return output.transpose(1, 2).flatten(2)


def _causal(count: int, past: int, like: Tensor) -> Tensor:
    """(1, 1, count, past + count): what the last ``count`` of a sequence's tokens see of it, to be added to scores."""
    visible = torch.ones(count, past + count, dtype=torch.bool, device=like.device).tril_(past)
    return added(visible, like.dtype)
