"""Models of every family's architecture, small and random, saved as a user's folder would be.

Their tokenizer is SmolLM2's with the family's special tokens added; the chat templates lay a prompt out as the
family's own does.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from transformers import (
    AutoTokenizer,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3Config,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
    SiglipVisionConfig,
)

HIDDEN, LAYERS = 48, 4
LLM = {
    "hidden_size": HIDDEN,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}
SIGLIP = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "image_size": 126, "patch_size": 14}

LMMS_LAB_NAMES = {
    "model.language_model.": "model.",
    "multi_modal_projector.linear_1": "mm_projector.0",
    "multi_modal_projector.linear_2": "mm_projector.2",
}
VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
INTERN_TOKENS = ("<img>", "</img>", "<IMG_CONTEXT>")
SMOL_TOKENS = ("<fake_token_around_image>", "<global-img>", "<image>", "<end_of_utterance>")


def chat_template(video: str, system: str = "") -> str:
    """ChatML over structured content, with ``video`` in a video's place and a default system prompt."""
    default = (
        "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\n" + system + "<|im_end|>\n' }}{% endif %}"
        if system
        else ""
    )
    return (
        default + "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% for c in m.content %}"
        "{% if c.type == 'video' %}{{ '" + video + "' }}{% else %}{{ c.text }}{% endif %}{% endfor %}"
        "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )


GEMMA_TOKENS = ("<|image>", "<image|>", "<|image|>", "<|video|>", "<|audio>", "<|audio|>")
MINICPM_TOKENS = (
    "<image>", "</image>", "<slice>", "</slice>", "<image_id>", "</image_id>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
MOLMO_TOKENS = (
    "<im_start>", "<low_res_im_start>", "<im_end>", "<im_patch>", "<frame_start>", "<frame_end>",
    "<im_col>", "<im_low>", "<|video|>",
)  # fmt: skip
GLM_TOKENS = (
    "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>", "<|image|>", "<|video|>",
)  # fmt: skip


def is_there(family: str) -> bool:
    """Whether this version of transformers has the class of ``family``."""
    name = NEWER.get(family.partition(" (experts")[0])
    return name is None or hasattr(transformers, name)


def save(folder: Path, family: str, source: Path, seed: int = 0) -> None:
    """Save a small model of ``family`` to ``folder``; ``source`` holds the embedded model's tokenizer."""
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.chat_template = None
    (BUILDERS | VARIANTS)[family](folder, tokenizer)


def saved_or_skipped(name: str, into: Path, embedded_folder: Path) -> Path:
    """The folder of a small model of a family; the test is skipped where this transformers has no such family."""
    if not is_there(name):
        pytest.skip(f"this transformers has no {name}")
    save(into / "small", name, embedded_folder)
    return into / "small"


def _llava_onevision(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    image, video = tokenizer.convert_tokens_to_ids(["<image>", "<video>"])
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(num_hidden_layers=6, vision_use_head=False, **SIGLIP),
        text_config=Qwen2Config(**_text(tokenizer)),
        image_token_index=image,
        video_token_index=video,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    settings = {"size": {"height": 126, "width": 126}}
    _save(LlavaOnevisionForConditionalGeneration(config), folder, tokenizer, chat_template("<video>\n"), settings)


def _lmms_lab(folder: Path, tokenizer: PreTrainedTokenizerFast, newline: str | None) -> None:
    """LLaVA's own layout: its config, its names, SigLIP with the block that LLaVA leaves out."""
    tower = SIGLIP | {"num_hidden_layers": 7}
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(vision_use_head=False, **tower),
        text_config=Qwen2Config(**_text(tokenizer)),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    model = LlavaOnevisionForConditionalGeneration(config)
    tensors = {}
    for name, tensor in model.state_dict().items():
        theirs = name
        for stock, original in LMMS_LAB_NAMES.items():
            theirs = theirs.replace(stock, original)
        if name.startswith("model.vision_tower."):
            inner = name.removeprefix("model.vision_tower.").removeprefix("vision_model.")
            theirs = f"model.vision_tower.vision_tower.vision_model.{inner}"
        tensors[theirs] = tensor.contiguous().clone()
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "tower").mkdir()
    (folder / "tower" / "config.json").write_text(json.dumps(tower))
    own = {"model_type": "llava", "architectures": ["LlavaQwenForCausalLM"], "mm_vision_tower": "tower"}
    own |= {**_text(tokenizer), "mm_hidden_size": 32, "mm_spatial_pool_mode": "average" if newline else "bilinear"}
    own |= {"mm_newline_position": newline} if newline else {}
    (folder / "config.json").write_text(json.dumps(own))
    tokenizer.save_pretrained(folder)


def _qwen2_5_vl(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.add_special_tokens({"additional_special_tokens": list(VISION_TOKENS)})
    config = Qwen2_5_VLConfig(
        text_config=_text(tokenizer) | {"rope_scaling": {"rope_type": "default", "mrope_section": [2, 2, 2]}},
        vision_config={
            "depth": 8,
            "hidden_size": 32,
            "num_heads": 4,
            "intermediate_size": 64,
            "out_hidden_size": HIDDEN,
            "patch_size": 14,
            "window_size": 84,
            "fullatt_block_indexes": [1, 4, 7],
            "tokens_per_second": 2,
        },
        **_vision_ids(tokenizer),
    )
    settings = {"size": {"shortest_edge": 28 * 28 * 4, "longest_edge": 28 * 28 * 40}}
    _save(Qwen2_5_VLForConditionalGeneration(config), folder, tokenizer, QWEN_TEMPLATE, settings)


def _qwen2_vl(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.add_special_tokens({"additional_special_tokens": list(VISION_TOKENS)})
    config = Qwen2VLConfig(
        text_config=_text(tokenizer) | {"rope_scaling": {"rope_type": "default", "mrope_section": [2, 2, 2]}},
        vision_config={
            "depth": 8,
            "embed_dim": 32,
            "num_heads": 4,
            "mlp_ratio": 2,
            "hidden_size": HIDDEN,
            "patch_size": 14,
        },
        **_vision_ids(tokenizer),
    )
    settings = {"size": {"shortest_edge": 28 * 28 * 4, "longest_edge": 28 * 28 * 40}}
    _save(Qwen2VLForConditionalGeneration(config), folder, tokenizer, QWEN_TEMPLATE, settings)


def _qwen3_vl(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    config = Qwen3VLConfig(**_qwen3_settings(tokenizer, {}))
    _save(Qwen3VLForConditionalGeneration(config), folder, tokenizer, QWEN_TEMPLATE, QWEN3_PIXELS)


def _qwen3_vl_moe(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "tie_word_embeddings": False}
    config = Qwen3VLMoeConfig(**_qwen3_settings(tokenizer, experts))
    _save(Qwen3VLMoeForConditionalGeneration(config), folder, tokenizer, QWEN_TEMPLATE, QWEN3_PIXELS)


QWEN3_PIXELS = {"size": {"shortest_edge": 32 * 32 * 8, "longest_edge": 32 * 32 * 4 * 40}}


def _qwen3_settings(tokenizer: PreTrainedTokenizerFast, llm: dict[str, Any]) -> dict[str, Any]:
    tokenizer.add_special_tokens({"additional_special_tokens": list(VISION_TOKENS)})
    rope = {"rope_type": "default", "mrope_section": [2, 2, 2], "mrope_interleaved": True}
    return {
        "text_config": _text(tokenizer) | {"head_dim": 12, "rope_scaling": rope} | llm,
        "vision_config": {
            "depth": 8,
            "hidden_size": 32,
            "num_heads": 4,
            "intermediate_size": 64,
            "out_hidden_size": HIDDEN,
            "patch_size": 16,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [1, 3, 5],
        },
        **_vision_ids(tokenizer),
    }


def save_internvl3_5(folder: Path, source: Path) -> None:
    """InternVL3.5, a Qwen3 inside InternVL, with heads that are wider than its hidden states over their number."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.chat_template = None
    _internvl(folder, tokenizer, Qwen3Config, head_dim=20)


def _internvl(
    folder: Path, tokenizer: PreTrainedTokenizerFast, text: type[PretrainedConfig] = Qwen2Config, **settings: Any
) -> None:
    tokenizer.add_special_tokens({"additional_special_tokens": list(INTERN_TOKENS)})
    config = InternVLConfig(
        vision_config=InternVLVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=6,
            num_attention_heads=4,
            image_size=[112, 112],
            patch_size=[14, 14],
            # As trained; the config's own default all but silences the blocks.
            layer_scale_init_value=0.5,
        ),
        text_config=text(**_text(tokenizer), **settings),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
    )
    size = {"size": {"height": 112, "width": 112}}
    template = chat_template("<video>\n", "You are InternVL.")
    _save(InternVLForConditionalGeneration(config), folder, tokenizer, template, size)


def _qwen3_5_text(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Every second layer with linear attention."""
    rope = {"rope_type": "default", "mrope_section": [2, 2, 2], "mrope_interleaved": True, "rope_theta": 10_000.0}
    text = _text(tokenizer) | {"head_dim": 24, "rope_parameters": rope | {"partial_rotary_factor": 0.5}}
    text |= {"linear_key_head_dim": 12, "linear_value_head_dim": 12, "linear_num_key_heads": 2}
    return text | {"linear_num_value_heads": 4, "full_attention_interval": 2}


def _qwen3_5(name: str, folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.add_special_tokens({"additional_special_tokens": list(VISION_TOKENS)})
    text = _qwen3_5_text(tokenizer)
    if name.endswith("Moe"):
        text |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
        text |= {"shared_expert_intermediate_size": 32}
        del text["intermediate_size"]
    config = getattr(transformers, f"{name}Config")(
        text_config=text,
        vision_config={
            "depth": 8,
            "hidden_size": 32,
            "num_heads": 4,
            "intermediate_size": 64,
            "out_hidden_size": HIDDEN,
            "patch_size": 16,
            "num_position_embeddings": 64,
        },
        **_vision_ids(tokenizer),
    )
    settings = {"size": {"shortest_edge": 32 * 32 * 8, "longest_edge": 32 * 32 * 4 * 40}}
    _save(getattr(transformers, f"{name}ForConditionalGeneration")(config), folder, tokenizer, QWEN_TEMPLATE, settings)


def _video_llama_3(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.add_special_tokens({"additional_special_tokens": list(VISION_TOKENS)})
    ids = _vision_ids(tokenizer)
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4}
    config = transformers.VideoLlama3Config(
        text_config=_text(tokenizer) | {"model_type": "qwen2"},
        vision_config=vision | {"patch_size": 14},
        image_token_id=ids["image_token_id"],
        video_token_id=ids["video_token_id"],
    )
    settings = {"size": {"shortest_edge": 28 * 28 * 4, "longest_edge": 28 * 28 * 120}, "use_token_compression": False}
    model = transformers.VideoLlama3ForConditionalGeneration(config)
    _save(model, folder, tokenizer, chat_template("<|video_pad|>\\n"), settings)


def _gemma4(folder: Path, tokenizer: PreTrainedTokenizerFast, large: bool = False) -> None:
    """With all that a size has. Small ones share keys and values, and have an embedding for each layer.

    Large ones have experts, keys for values, and visual tokens that see ahead.
    """
    tokenizer.add_special_tokens({"additional_special_tokens": list(GEMMA_TOKENS)})
    names = ("boi_token_id", "eoi_token_id", "image_token_id", "video_token_id", "boa_token_id", "audio_token_id")
    text = _text(tokenizer) | {"head_dim": 12, "global_head_dim": 24, "pad_token_id": 0, "sliding_window": 40}
    text |= {"num_hidden_layers": 6, "num_kv_shared_layers": 2, "hidden_size_per_layer_input": 8}
    text |= {"layer_types": ["sliding_attention", "full_attention"] * 3, "final_logit_softcapping": 3.0}
    text |= {"vocab_size_per_layer_input": len(tokenizer)}
    if large:
        text |= {"num_kv_shared_layers": 0, "hidden_size_per_layer_input": 0, "use_bidirectional_attention": "vision"}
        text |= {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 24}
        text |= {"attention_k_eq_v": True, "num_global_key_value_heads": 1}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4}
    vision |= {"num_key_value_heads": 4, "head_dim": 8, "patch_size": 8, "position_embedding_size": 64}
    config = transformers.Gemma4Config(
        text_config=text,
        vision_config=vision,
        **dict(zip(names, tokenizer.convert_tokens_to_ids(list(GEMMA_TOKENS)), strict=True)),
    )
    model = transformers.Gemma4ForConditionalGeneration(config)
    _save(model, folder, tokenizer, chat_template("<|video|>"), {"max_soft_tokens": 70, "patch_size": 8})


def _molmo2(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.add_special_tokens({"additional_special_tokens": list(MOLMO_TOKENS)})
    names = ("image_start_token_id", "low_res_image_start_token_id", "image_end_token_id", "image_patch_id")
    names += ("frame_start_token_id", "frame_end_token_id")
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4}
    vision |= {"num_key_value_heads": 4, "head_dim": 8}
    text = _text(tokenizer) | {"head_dim": 12, "additional_vocab_size": 0}
    text |= {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}}
    config = transformers.Molmo2Config(
        text_config=text,
        vision_config=vision | {"image_size": [112, 112], "patch_size": 14},  # windows of 3 x 3 go beyond the grid
        adapter_config=vision | {"text_hidden_size": HIDDEN, "vision_feature_layer": [5, 2]},
        **dict(zip(names, tokenizer.convert_tokens_to_ids(list(MOLMO_TOKENS[:6])), strict=True)),
    )
    settings = {"size": {"height": 112, "width": 112}, "pooling_size": [3, 3], "patch_size": 14}
    settings |= {"do_rescale": True, "do_normalize": True}  # as trained; the stock class' own default is neither
    _save(transformers.Molmo2ForConditionalGeneration(config), folder, tokenizer, chat_template("<|video|>"), settings)


def _minicpmv(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.add_special_tokens({"additional_special_tokens": list(MINICPM_TOKENS)})
    image, video = tokenizer.convert_tokens_to_ids(["<|image_pad|>", "<|video_pad|>"])
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4}
    config = transformers.MiniCPMV4_6Config(
        text_config=_qwen3_5_text(tokenizer) | {"model_type": "qwen3_5_text"},
        vision_config=vision | {"image_size": 112, "patch_size": 14},
        insert_layer_id=2,
        image_token_id=image,
        video_token_id=video,
    )
    settings = {"scale_resolution": 224, "patch_size": 14, "slice_mode": False}
    model = transformers.MiniCPMV4_6ForConditionalGeneration(config)
    _save(model, folder, tokenizer, chat_template("<|video_pad|>\\n"), settings)


def _glm(name: str, folder: Path, tokenizer: PreTrainedTokenizerFast, experts: bool = False) -> None:
    tokenizer.add_special_tokens({"additional_special_tokens": list(GLM_TOKENS)})
    names = ("image_start_token_id", "image_end_token_id", "video_start_token_id", "video_end_token_id")
    names += ("image_token_id", "video_token_id")
    text = _text(tokenizer) | {"rope_scaling": {"rope_type": "default", "mrope_section": [2, 2, 2]}}
    if experts:
        text |= {"model_type": "glm4v_moe_text", "first_k_dense_replace": 1, "moe_intermediate_size": 24}
        text |= {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "head_dim": 12}
        text["rope_parameters"] = text.pop("rope_scaling") | {"rope_theta": 10_000.0, "partial_rotary_factor": 1.0}
    config = getattr(transformers, f"{name}Config")(
        text_config=text,
        vision_config={
            "depth": 8,
            "hidden_size": 32,
            "num_heads": 4,
            "intermediate_size": 64,
            "out_hidden_size": HIDDEN,
            "patch_size": 14,
            "image_size": 112,
        },
        **dict(zip(names, tokenizer.convert_tokens_to_ids(list(GLM_TOKENS)), strict=True)),
    )
    settings = {"size": {"shortest_edge": 28 * 28 * 8, "longest_edge": 28 * 28 * 4 * 40}}
    model = getattr(transformers, f"{name}ForConditionalGeneration")(config)
    _save(model, folder, tokenizer, chat_template("<|begin_of_video|><|video|><|end_of_video|>"), settings)


def _smolvlm(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.add_special_tokens({"additional_special_tokens": list(SMOL_TOKENS)})
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4}
    config = transformers.SmolVLMConfig(
        vision_config=vision | {"image_size": 130, "patch_size": 14},  # nine patches a side, and four pixels more
        text_config=_text(tokenizer) | {"model_type": "llama"},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=3,
        pad_token_id=0,
    )
    settings = {
        "size": {"longest_edge": 300},
        "max_image_size": {"longest_edge": 130},
        "video_sampling": {"fps": 1, "max_frames": 64, "video_size": {"longest_edge": 130}},
    }
    model = transformers.SmolVLMForConditionalGeneration(config)
    _save(model, folder, tokenizer, chat_template("<image>"), settings)


QWEN_TEMPLATE = chat_template("<|vision_start|><|video_pad|><|vision_end|>", "You are a helpful assistant.")

BUILDERS = {
    "llava_onevision": _llava_onevision,
    "llava_onevision (lmms-lab)": lambda folder, tokenizer: _lmms_lab(folder, tokenizer, None),
    "llava_video (lmms-lab)": lambda folder, tokenizer: _lmms_lab(folder, tokenizer, "grid"),
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "internvl": _internvl,
    "smolvlm": _smolvlm,
    "glm4v": partial(_glm, "Glm4v"),
    "glm46v": partial(_glm, "Glm46V"),
    "qwen3_5": partial(_qwen3_5, "Qwen3_5"),
    "qwen3_5_moe": partial(_qwen3_5, "Qwen3_5Moe"),
    "video_llama_3": _video_llama_3,
    "gemma4": _gemma4,
    "molmo2": _molmo2,
    "qwen2_vl": _qwen2_vl,
    "qwen3_vl_moe": _qwen3_vl_moe,
    "minicpmv4_6": _minicpmv,
}

VARIANTS = {
    "gemma4 (experts, seeing ahead)": partial(_gemma4, large=True),
    "glm46v (experts)": partial(_glm, "Glm46V", experts=True),
}
"""Further sizes of a family that differ in more than numbers."""

NEWER = {
    "glm46v": "Glm46VForConditionalGeneration",
    "qwen3_5": "Qwen3_5ForConditionalGeneration",
    "qwen3_5_moe": "Qwen3_5MoeForConditionalGeneration",
    "video_llama_3": "VideoLlama3ForConditionalGeneration",
    "gemma4": "Gemma4ForConditionalGeneration",
    "molmo2": "Molmo2ForConditionalGeneration",
    "minicpmv4_6": "MiniCPMV4_6ForConditionalGeneration",
}
"""Classes that the oldest supported version of transformers lacks."""


def _text(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return LLM | {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}


def _vision_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    names = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    return dict(zip(names, tokenizer.convert_tokens_to_ids(list(VISION_TOKENS)), strict=True))


def _save(
    model: torch.nn.Module,
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    template: str,
    settings: dict[str, Any] | None = None,
) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:  # livelier than the usual start, so that positions and order tell
                parameter.mul_(3)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    (folder / "video_preprocessor_config.json").write_text(json.dumps(settings or {}))
