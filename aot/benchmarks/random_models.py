"""Models of known shapes with random weights: they cost what the real ones cost, and need no download."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)

from ..errors import InputError
from ..models.embedded.sources import SPECIAL_TOKENS
from ..models.llava_onevision import LlavaOnevision
from ..models.llm_cost import QWEN2_7B, LanguageShape


@dataclass(frozen=True)
class Shape:
    """The sizes of a LLaVA-OneVision.

    Args:
        language: of the LLM.
        words: its vocabulary.
        side: of a frame, in pixels; a cell of the tower's grid has 14.
        hidden: width of the tower.
        mlp: width of the tower's MLP.
        layers: of the tower.
        heads: of the tower.
    """

    language: LanguageShape
    words: int
    side: int
    hidden: int
    mlp: int
    layers: int
    heads: int


SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        "7b": Shape(QWEN2_7B, words=152_000, side=384, hidden=1152, mlp=4304, layers=26, heads=16),
        "small": Shape(
            LanguageShape(layers=6, hidden=384, mlp=1536, kv_heads=2, head_dim=64, context=32768),
            words=8192,
            side=210,
            hidden=192,
            mlp=768,
            layers=6,
            heads=3,
        ),
    }
)
"""LLaVA-OneVision-7B (SigLIP so400m/14-384 and Qwen2-7B); and one for a CPU, of 64 tokens a frame."""

_CHAT = (
    "{% for each in messages %}<|im_start|>{{ each.role }}\n{{ each.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def random_model(
    shape: str, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> LlavaOnevision:
    """A LLaVA-OneVision of a known shape, always the same, made on its device. Its tokenizer has a token a byte.

    Args:
        shape: one of ``SHAPES``.
        device: where to make it.
        dtype: of its weights.

    Raises:
        InputError: no such shape.
    """
    if shape not in SHAPES:
        raise InputError(f"shape is {shape!r}; give one of {', '.join(SHAPES)}.")
    sizes, tokenizer = SHAPES[shape], byte_tokenizer()
    image, video = cast(list[int], tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)))
    vision = SiglipVisionConfig(
        hidden_size=sizes.hidden,
        intermediate_size=sizes.mlp,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        image_size=sizes.side,
        patch_size=14,
        vision_use_head=False,
    )
    config = LlavaOnevisionConfig(
        text_config=language_config(sizes.language, sizes.words),
        vision_config=vision,
        image_token_index=image,
        video_token_index=video,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    half = (0.5, 0.5, 0.5)
    settings = {"image_mean": half, "image_std": half}
    return LlavaOnevision(made(config, device, dtype), tokenizer, f"{shape}, random", preprocessor=settings)


def language_config(sizes: LanguageShape, words: int) -> Qwen2Config:
    """The config of a Qwen2.

    Args:
        sizes: of the LLM.
        words: its vocabulary.
    """
    return Qwen2Config(
        vocab_size=words,
        hidden_size=sizes.hidden,
        intermediate_size=sizes.mlp,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.hidden // sizes.head_dim,
        num_key_value_heads=sizes.kv_heads,
        max_position_embeddings=sizes.context,
    )


def made(
    config: LlavaOnevisionConfig, device: torch.device | str, dtype: torch.dtype
) -> LlavaOnevisionForConditionalGeneration:
    """A model with random weights, always the same on one device, made there and in this dtype.

    Args:
        config: of the model.
        device: where to make it.
        dtype: of its weights.
    """
    device, before = torch.device(device), torch.get_default_dtype()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), device:
        torch.manual_seed(0)
        torch.set_default_dtype(dtype)
        try:
            return LlavaOnevisionForConditionalGeneration(config).eval()
        finally:
            torch.set_default_dtype(before)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with a token for every byte, the placeholders of images and videos, and a chat template."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    control = ("<|im_start|>", "<|im_end|>", *SPECIAL_TOKENS)
    bpe.add_special_tokens([AddedToken(word, normalized=False) for word in control])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, clean_up_tokenization_spaces=False)
    tokenizer.chat_template = _CHAT
    return tokenizer
