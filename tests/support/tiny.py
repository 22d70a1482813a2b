"""A question set and a model small enough for every test: three clips of a square, five questions, random weights."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    SiglipVisionConfig,
)

from comfyui_aot.aot.evaluation.questions import Question
from comfyui_aot.aot.models.importance import ATTENTION
from comfyui_aot.aot.models.llava_onevision import LlavaOnevision
from comfyui_aot.aot.video.frames import Frames

COLOURS = {"r": (200, 30, 30), "g": (30, 160, 50), "b": (40, 70, 210)}
QUESTIONS = (
    Question("r-colour", "r", "colour", "What colour is it?", "red"),
    Question("r-place", "r", "place", "Is it on the left or on the right? Say one word.", "left"),
    Question("g-colour", "g", "colour", "What colour is it?", "green"),
    Question("g-place", "g", "place", "Is it on the left or on the right? Say one word.", "left"),
    Question("b-colour", "b", "colour", "What colour is it, would you say?", "blue"),
)


@dataclass
class TinySet:
    """``shown`` tells which clips have been asked for, in that order; ``tint`` is what decides how they look."""

    questions: tuple[Question, ...] = QUESTIONS
    max_new_tokens: int = 3
    version: int = 1
    tint: int = 120
    shown: list[str] = field(default_factory=list)

    name = "tiny"

    @property
    def identity(self):
        return {"set": "tiny", "version": self.version}

    @property
    def footage(self):
        return {"set": "tiny", "tint": self.tint}

    def frames(self, clip, count):
        self.shown.append(clip)
        pixels = torch.full((count, 56, 56, 3), self.tint, dtype=torch.uint8)
        for i in range(count):
            pixels[i, 8:40, 4 + i : 30 + i] = torch.tensor(COLOURS[clip], dtype=torch.uint8)
        return Frames(pixels, torch.arange(count, dtype=torch.float64), clip)

    def score(self, question, answer):
        return float(question.answer in answer.lower()) if question.answer else None


def tiny_model(tokenizer_folder, cells=6):
    """A stock LLaVA-OneVision with ``cells`` on a side of a frame, half as many on the language grid."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    image, video = tokenizer.convert_tokens_to_ids(["<image>", "<video>"])
    vision = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=14 * cells,
        patch_size=14,
        vision_use_head=False,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image,
        video_token_index=video,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlavaOnevisionForConditionalGeneration(config).eval()
        # Weights as small as a fresh model's would have every answer be the same word.
        model.model.multi_modal_projector.linear_2.weight.data *= 50
    model.model.vision_tower.set_attn_implementation(ATTENTION)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=0)
    return LlavaOnevision(model, tokenizer, "tiny")


def save_miniature(folder: Path, source: Path) -> None:
    """The embedded model in ``source`` made narrow: its files, its frames' grid and the number of its layers stay."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors", "model_info.json"))
    config = LlavaOnevisionConfig.from_pretrained(source)
    vision, text = config.vision_config, config.text_config
    vision.hidden_size, vision.num_attention_heads, vision.mlp_ratio = 24, 2, 2
    text.hidden_size, text.intermediate_size, text.head_dim = 48, 96, 12
    text.num_attention_heads, text.num_key_value_heads = 4, 2
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlavaOnevisionForConditionalGeneration(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim > 1 and "embed" not in name:  # livelier than the usual start, so that answers differ
                    parameter.mul_(8)
    model.generation_config = GenerationConfig.from_pretrained(source)
    model.save_pretrained(folder)
