"""LLaVA-OneVision through the stock transformers class, and everything assembled to its form.

The tower's second-to-last hidden state is projected frame by frame; bilinear pooling to half the grid stays
pending in the tokens; one newline embedding ends the video.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoTokenizer, GenerationConfig, LlavaOnevisionForConditionalGeneration

from ..cost import LanguageShape
from ..errors import InputError
from ..importance import ATTENTION, capture, depths
from ..tokens import Layout, StageRecord, VideoTokens
from ..video import Frames
from .base import FrameSource, Progress, Prompt, VideoLLM, ignore_progress, require_question

FRAMES_AT_ONCE = 4
"""Frames a vision pass takes: few enough to be interrupted soon, enough to fill the cores."""

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class LlavaOnevision(VideoLLM):
    """A loaded LLaVA-OneVision."""

    family = "llava_onevision"

    def __init__(
        self,
        model: LlavaOnevisionForConditionalGeneration,
        tokenizer: object,
        name: str,
        *,
        preprocessor: dict[str, object] | None = None,
        chat_template: str | None = None,
    ) -> None:
        model.model.vision_tower.set_attn_implementation(ATTENTION)
        self.model = model
        own = model.generation_config
        # A checkpoint's sampling defaults would be filled in wherever a greedy answer leaves something unsaid.
        model.generation_config = GenerationConfig(
            bos_token_id=own.bos_token_id, eos_token_id=own.eos_token_id, pad_token_id=own.pad_token_id
        )
        self.name = name
        self._tokenizer = tokenizer
        self._chat_template = chat_template
        settings = preprocessor or {}
        self._mean = tuple(settings.get("image_mean", CLIP_MEAN))
        self._std = tuple(settings.get("image_std", CLIP_STD))
        text = model.config.text_config
        self.language = LanguageShape(
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            mlp=text.intermediate_size,
            kv_heads=text.num_key_value_heads,
            head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
            context=text.max_position_embeddings,
        )

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        name: str,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        attention: str = "sdpa",
    ) -> LlavaOnevision:
        """Load from a folder in Hugging Face's layout; safetensors only, nothing is downloaded or executed.

        Raises:
            InputError: the folder holds no safetensors, or the attention asked for is not installed.
        """
        if not any(folder.glob("*.safetensors")):
            raise InputError(f"{name} has no .safetensors file; put the model's safetensors files in its folder.")
        try:
            model = LlavaOnevisionForConditionalGeneration.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, local_files_only=True, attn_implementation=attention
            )
        except ImportError as error:
            raise InputError(f"{name} cannot be loaded with attention {attention} ({error}); choose sdpa.") from error
        return cls(
            model.eval().to(device),
            AutoTokenizer.from_pretrained(folder, local_files_only=True),
            name,
            preprocessor=_first_json(folder, "video_preprocessor_config.json", "preprocessor_config.json"),
            chat_template=_processor_template(folder),
        )

    @property
    def side(self) -> int:
        """Pixels of a square frame's side as the tower takes it."""
        return self.model.config.vision_config.image_size

    def preprocess(self, frames: Frames) -> Tensor:
        """Bicubic with antialiasing to the tower's square, rounded to whole levels, then normalised."""
        pixels = frames.pixels.permute(0, 3, 1, 2)
        if pixels.shape[2:] != (self.side, self.side):
            pixels = functional.interpolate(pixels.float(), size=(self.side, self.side), mode="bicubic", antialias=True)
            pixels = pixels.round().clamp(0, 255)
        mean = torch.tensor(self._mean)[:, None, None]
        std = torch.tensor(self._std)[:, None, None]
        return (pixels.float() / 255 - mean) / std

    def layout(self, frames: int) -> Layout:
        """The tokens of ``frames`` frames: bilinear pooling, one newline at the very end."""
        side = self.side // self.model.config.vision_config.patch_size
        return Layout(frames, (side, side), "bilinear", "one_token")

    @torch.no_grad()
    def encode_parts(self, frames: FrameSource, *, on_progress: Progress = ignore_progress) -> Iterator[VideoTokens]:
        """Tower, projector and importance, a few frames at a time."""
        config = self.model.config
        hidden_layer = config.vision_feature_layer
        blocks = config.vision_config.num_hidden_layers
        used = hidden_layer if hidden_layer >= 0 else blocks + 1 + hidden_layer
        shallow, deep = depths(used)
        special = 1 if config.vision_feature_select_strategy == "default" else 0
        settings = {"model": self.name, "frames": frames.count, "source": frames.source}
        done = 0
        for part in frames.parts(FRAMES_AT_ONCE):
            on_progress(done, frames.count)
            start = time.perf_counter()
            pixels = self.preprocess(part).to(self.device, self.dtype)
            with capture(shallow, deep) as received:
                states = self.model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
            features = self.model.model.multi_modal_projector(states[hidden_layer][:, special:])
            layout = self.layout(part.count)
            tokens = part.count * layout.language_cells
            milliseconds = (time.perf_counter() - start) * 1e3
            yield VideoTokens.encoded(
                features,
                layout,
                received.sums[shallow][:, special:],
                received.sums[deep][:, special:],
                part.timestamps,
                model=self.name,
                history=(StageRecord("encode", settings, tokens, tokens, milliseconds),),
            )
            done += part.count
        on_progress(done, frames.count)

    def prompt(self, question: str) -> Prompt:
        """The chat template with the video first, then the question.

        Raises:
            InputError: the question is empty or holds the placeholder itself.
        """
        require_question(question)
        video = self._tokenizer.convert_ids_to_tokens(self.model.config.video_token_id)
        if self._chat_template:
            content = [{"type": "video"}, {"type": "text", "text": question}]
        else:
            content = f"{video}\n{question}"
        ids = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=self._chat_template,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
        )["input_ids"]
        places = [i for i, token in enumerate(ids) if token == self.model.config.video_token_id]
        if len(places) != 1:
            raise InputError(
                f"The prompt holds {len(places)} video placeholders where 1 is needed; "
                f"leave {video} out of the question."
            )
        ids = torch.tensor(ids)
        return Prompt(ids[: places[0]], ids[places[0] + 1 :])

    def visual_embeddings(self, tokens: VideoTokens) -> Tensor:
        """The tokens, pooled if that is pending, and the newline that ends a video."""
        if tokens.features.shape[1] != self.language.hidden:
            raise InputError(
                f"These tokens are {tokens.features.shape[1]} wide (encoded by {tokens.model or 'another model'}) and "
                f"{self.name} reads {self.language.hidden}; encode the video with the model that answers."
            )
        features = tokens.to_language_grid().features
        newline = self.model.model.image_newline[None]
        return torch.cat((features.to(newline), newline))

    def decode(self, ids: list[int]) -> str:
        """Token ids to text, special tokens left out."""
        return self._tokenizer.decode(ids, skip_special_tokens=True)


def _first_json(folder: Path, *names: str) -> dict[str, object] | None:
    for name in names:
        if (folder / name).is_file():
            return json.loads((folder / name).read_text(encoding="utf-8"))
    return None


def _processor_template(folder: Path) -> str | None:
    """The processor's own chat template, which takes structured content; None where only the tokenizer has one."""
    if (folder / "processor_config.json").is_file() and (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    settings = _first_json(folder, "chat_template.json")
    return str(settings["chat_template"]) if settings else None
