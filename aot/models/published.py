"""What single files leave out: the constants of each family's published models, by their widths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from transformers import GenerationConfig, PretrainedConfig

from ..errors import InputError
from .pixels import CLIP_MEAN, CLIP_STD
from .qwen import QwenVL
from .qwen2_5_vl import Qwen2_5VL
from .qwen3_vl import Qwen3VL

ROLES = {
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
}
"""Token ids of a config, and the tokens."""

ENDS = ("<|im_end|>", "<|endoftext|>")
"""Tokens that end an answer."""

_SYSTEM = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}"
    "{% endif %}"
)
_MESSAGES = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}{% for part in message.content %}"
    "{% if part.type == 'video' %}{{ '<|vision_start|><|video_pad|><|vision_end|>' }}{% else %}{{ part.text }}"
    "{% endif %}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Published:
    """A family whose single files are read.

    Args:
        adapter: the family.
        title: its name as its makers write it.
        mark: a tensor that only its files have.
        first: a tensor of the tower with its MLP's width.
        merger: one with the merger's width.
        output: one with the LLM's width.
        tied: whether the LLM's head is its word embeddings, by the LLM's width.
        towers: settings of the tower, by its width and depth.
        text: settings of the LLM.
        template: the chat format in which it was trained, over structured content.
        settings: of its video processor.
        repetition_penalty: of its generation settings.
        head_dim: width of the LLM's heads.
        rope: settings of its rotary positions.
    """

    adapter: type[QwenVL]
    title: str
    mark: str
    first: str
    merger: str
    output: str
    tied: Mapping[int, bool]
    towers: Mapping[tuple[int, int], Mapping[str, Any]]
    text: Mapping[str, Any]
    template: str
    settings: Mapping[str, Any]
    repetition_penalty: float
    head_dim: int = 128
    rope: Mapping[str, Any] = field(default_factory=dict)

    def generation(self, tokenizer: Any) -> GenerationConfig:
        """The generation settings of the published models: both ends of Qwen's answers, and the penalty.

        Args:
            tokenizer: of the model.
        """
        ids = [tokenizer.convert_tokens_to_ids(each) for each in ENDS]
        ends = [each for each in ids if each is not None and each != tokenizer.unk_token_id]
        return GenerationConfig(
            bos_token_id=ends[-1] if ends else None,
            eos_token_id=ends or tokenizer.eos_token_id,
            pad_token_id=ends[-1] if ends else tokenizer.pad_token_id,
            repetition_penalty=self.repetition_penalty,
        )


QWEN2_5_VL = Published(
    adapter=Qwen2_5VL,
    title="Qwen2.5-VL",
    mark="model.visual.blocks.0.mlp.gate_proj.weight",
    first="model.visual.blocks.0.mlp.up_proj.weight",
    merger="model.visual.merger.mlp.0.weight",
    output="model.visual.merger.mlp.2.weight",
    tied={2048: True, 3584: False, 5120: False, 8192: False},
    towers={
        (1280, 32): {
            "num_heads": 16,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
            "tokens_per_second": 2,
        }
    },
    text={"max_position_embeddings": 128000, "rope_theta": 1e6, "rms_norm_eps": 1e-6},
    rope={"rope_type": "default", "mrope_section": [16, 24, 24]},
    template=_SYSTEM + _MESSAGES,
    settings={
        "min_pixels": 3136,
        "max_pixels": 12845056,
        "image_mean": list(CLIP_MEAN),
        "image_std": list(CLIP_STD),
    },
    repetition_penalty=1.05,
)

QWEN3_VL = Published(
    adapter=Qwen3VL,
    title="Qwen3-VL",
    mark="model.visual.deepstack_merger_list.0.norm.weight",
    first="model.visual.blocks.0.mlp.linear_fc1.weight",
    merger="model.visual.merger.linear_fc1.weight",
    output="model.visual.merger.linear_fc2.weight",
    tied={2048: True, 2560: True, 4096: False, 5120: False},
    towers={
        (1024, 24): {"num_heads": 16, "deepstack_visual_indexes": [5, 11, 17]},
        (1152, 27): {"num_heads": 16, "deepstack_visual_indexes": [8, 16, 24]},
    },
    text={"max_position_embeddings": 262144, "rope_theta": 5e6, "rms_norm_eps": 1e-6},
    rope={"rope_type": "default", "mrope_section": [24, 20, 20], "mrope_interleaved": True},
    template=_MESSAGES,
    settings={
        "size": {"shortest_edge": 4096, "longest_edge": 25165824},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    },
    repetition_penalty=1.0,
)

PUBLISHED = (QWEN2_5_VL, QWEN3_VL)
"""Families whose single files are read."""


def config_by_shapes(
    family: Published, shapes: Mapping[str, tuple[int, ...]], ids: Mapping[str, int], name: str
) -> PretrainedConfig:
    """The stock class' config of a file: all that shapes tell, and the rest from its published models.

    Args:
        family: of the model.
        shapes: of its tensors, by the names of the stock class.
        ids: of the tokens in ``ROLES``.
        name: the model's name in errors.

    Raises:
        InputError: a tensor that says a width is missing, or the widths are none of the published ones.
    """

    def shape(tensor: str, axes: int) -> tuple[int, ...]:
        found = shapes.get(tensor, ())
        if len(found) != axes:
            raise InputError(
                f"The tensors of {name} are not those of a {family.title}: {tensor} is missing or of another shape; "
                "copy or download the file again."
            )
        return found

    def count(prefix: str) -> int:
        numbers = (tensor.removeprefix(prefix).partition(".")[0] for tensor in shapes if tensor.startswith(prefix))
        return len(set(numbers))

    layer = "model.language_model.layers.0."
    vocabulary, hidden = shape("model.language_model.embed_tokens.weight", 2)
    width, channels, pair, patch, _ = shape("model.visual.patch_embed.proj.weight", 5)
    depth = count("model.visual.blocks.")
    tower, tied = family.towers.get((width, depth)), family.tied.get(hidden)
    if tower is None or tied is None:
        raise InputError(
            f"{name} is a {family.title} {hidden} wide with a tower of {depth} blocks {width} wide, which is none of "
            "the published ones; give a folder with its config.json and its tokenizer (--tokenizer FOLDER)."
        )
    tied = tied and "lm_head.weight" not in shapes
    head = shape(layer + "self_attn.q_norm.weight", 1)[0] if family.adapter is Qwen3VL else family.head_dim
    text: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": shape(layer + "mlp.up_proj.weight", 2)[0],
        "num_hidden_layers": count("model.language_model.layers."),
        "num_attention_heads": shape(layer + "self_attn.q_proj.weight", 2)[0] // head,
        "num_key_value_heads": shape(layer + "self_attn.k_proj.weight", 2)[0] // head,
        "head_dim": head,
        "rope_scaling": dict(family.rope),
        "tie_word_embeddings": tied,  # where transformers 4 looks
        **family.text,
    }
    vision: dict[str, Any] = {
        "hidden_size": width,
        "in_channels": channels,
        "temporal_patch_size": pair,
        "patch_size": patch,
        "depth": depth,
        "intermediate_size": shape(family.first, 2)[0],
        "out_hidden_size": shape(family.output, 2)[0],
        "spatial_merge_size": round((shape(family.merger, 2)[1] / width) ** 0.5),
        **tower,
    }
    if "model.visual.pos_embed.weight" in shapes:
        vision["num_position_embeddings"] = shape("model.visual.pos_embed.weight", 2)[0]
    return cast(Any, family.adapter.stock.config_class)(
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=tied,
        **ids,
    )
