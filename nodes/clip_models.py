"""The node that makes a video LLM of a text encoder which ComfyUI has loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache

from ..aot.answering.answerer import LocalAnswerer
from ..aot.models.importance import Received
from ..aot.models.prompt import Inputs
from ..aot.models.published import QWEN2_5_VL, QWEN3_VL, ROLES, Published
from ..aot.models.qwen import QwenVL
from ..aot.models.qwen2_5_vl import Qwen2_5VL
from ..aot.models.qwen3_vl import Qwen3VL
from .comfy import io, schema
from .comfy_clip import TextEncoder
from .models import CATEGORY, KEPT_BYTES, MODEL_WORDS, Loaded, size_and_place
from .sockets import AOTVLLM


class FromClip(QwenVL):
    """A video LLM whose weights are in ComfyUI's CLIP. The stock model beside it is empty: sizes and positions.

    Args:
        encoder: the text encoder.
    """

    published: Published
    """What no text encoder brings: the chat template, and the settings of processor and answers."""

    def __init__(self, encoder: TextEncoder) -> None:
        tokenizer = encoder.tokenizer
        config = cast(Any, self.stock.config_class)(
            text_config=encoder.text_config(),
            vision_config=encoder.vision_config(),
            tie_word_embeddings=not encoder.has_own_head,
            **{name: tokenizer.convert_tokens_to_ids(word) for name, word in ROLES.items()},
        )
        with torch.device("meta"):
            empty = self.stock(config)
        empty.generation_config = self.published.generation(tokenizer)
        super().__init__(
            empty,
            tokenizer,
            encoder.name,
            preprocessor=self.published.settings,
            chat_template=self.published.template,
        )
        self.decoding = "eager"
        self.encoder = encoder
        """The text encoder with the weights."""

    @property
    def device(self) -> torch.device:
        """The device that ComfyUI computes on."""
        return self.encoder.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of embeddings, keys and values, whatever that of the weights."""
        return self.encoder.dtype

    @property
    def weights(self) -> Iterator[Tensor]:
        """All weights as ComfyUI has them, quantized ones in their parts."""
        return self.encoder.weights

    @property
    def takes_masks(self) -> bool:
        """ComfyUI's layers take a mask of ours."""
        return True

    @property
    def attention(self) -> str:
        """Whose attention it is."""
        return "ComfyUI's"

    def encode_patches(self, patches: Tensor, grid: Tensor, layers: Sequence[int]) -> tuple[Any, Received]:
        """The tower's own output, and the attention received at some of its layers.

        Args:
            patches: (n, values) float32.
            grid: (1, 3) long, pairs of frames, and the height and width of a frame in patches.
            layers: their indices; the keys of the last are kept too.
        """
        return self.encoder.encode_patches(patches, grid, layers)

    def embed(self, ids: Tensor) -> Tensor:
        """Embed token ids.

        Args:
            ids: (n,) long.

        Returns:
            (n, D) in the model's dtype.
        """
        return self.encoder.embed(ids)

    def forward(self, inputs: Inputs, cache: Cache, *, mask: Tensor | None = None, keep: Any = -1) -> Tensor:
        """Run the LLM over ``inputs``, which follow the tokens in ``cache``; see :meth:`VideoLLM.forward`.

        Args:
            inputs: n tokens.
            cache: keys and values of the p tokens before them; those of ``inputs`` are added.
            mask: (1, 1, n, p + n) floating, added to the scores; None is causal.
            keep: the tokens whose logits to return: an index, a slice or indices.
        """
        hidden_states = self.encoder.read(
            inputs.inputs_embeds, inputs.position_ids, cast(DynamicCache, cache), mask, inputs.visual, inputs.levels
        )
        return self.encoder.logits(hidden_states[keep])


class Qwen3VLFromClip(FromClip, Qwen3VL):
    """Qwen3-VL as a text encoder."""

    published = QWEN3_VL


class Qwen2_5VLFromClip(FromClip, Qwen2_5VL):
    """Qwen2.5-VL as a text encoder."""

    published = QWEN2_5_VL


ADAPTERS: Mapping[str, type[FromClip]] = MappingProxyType(
    {adapter.family: adapter for adapter in (Qwen3VLFromClip, Qwen2_5VLFromClip)}
)


@dataclass(frozen=True, eq=False)
class LoadedClip(Loaded):
    """A text encoder on an AOT_VLLM link.

    Args:
        encoder: has ComfyUI load and unload its weights.
    """

    encoder: TextEncoder

    def ready(self) -> FromClip:
        """The model, with as much of its weights on its device as ComfyUI finds room for."""
        self.encoder.load()
        return cast(FromClip, self.model)

    def unload(self) -> None:
        """Free the device of the model's weights and of its cache."""
        self.answerer.forget()
        self.encoder.unload()


class AOTVideoLLMFromCLIP(io.ComfyNode):
    """A text encoder that is a whole video LLM, to watch a video with."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Its inputs and outputs."""
        return schema(
            node_id="AOTVideoLLMFromCLIP",
            display_name="Video LLM from CLIP (AOT)",
            category=CATEGORY,
            description="Watch videos with a text encoder you have: Qwen3-VL or Qwen2.5-VL, loaded by ComfyUI's own "
            "CLIPLoader in any of its formats (bf16, fp8_scaled, int8, ...). The weights stay ComfyUI's, which moves "
            "them as those of any model. Needs ComfyUI 0.26 or newer.",
            search_aliases=[*MODEL_WORDS[:1], "Qwen2.5-VL", "Qwen3-VL", "text encoder", "CLIP", "qwen3vl", "fp8"],
            inputs=[
                io.Clip.Input(
                    "clip",
                    tooltip="Of CLIPLoader, with type qwen_image: qwen3vl_4b, qwen3vl_8b or qwen_2.5_vl_7b in any "
                    "format. A LoRA on it applies.",
                ),
            ],
            outputs=[AOTVLLM.Output(display_name="vllm", tooltip="For Encode Video and Answer.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, clip: Any) -> io.NodeOutput:
        """Look at what the CLIP is; nothing is copied, and nothing loaded yet."""
        encoder = TextEncoder(clip)
        model = ADAPTERS[encoder.family](encoder)
        loaded = LoadedClip(LocalAnswerer(model, keep_bytes=KEPT_BYTES), encoder.patcher, encoder)
        return io.NodeOutput(loaded, ui={"text": (size_and_place(loaded),)})


NODES = (AOTVideoLLMFromCLIP,)
