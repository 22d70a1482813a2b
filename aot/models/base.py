"""What a video LLM must offer to be reduced and asked: encode frames, lay out a prompt, read it.

A family is a subclass in a file of its own: how frames become pixels and pixels tokens, how its prompt holds a video,
and, where the LLM's positions are more than a count, what they are. The model inside is transformers' own class.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoTokenizer, DynamicCache, GenerationConfig, PreTrainedModel

from ..errors import InputError
from ..tokens.video_tokens import ENCODE, Layout, StageRecord, VideoTokens
from ..video.frames import Frames
from .folder import (
    first_json,
    missing_package,
    processor_template,
    quantizing,
    require_safetensors,
    use_general_products,
)
from .importance import ATTENTION
from .llm_cost import LanguageShape
from .prompt import Inputs, Prefix, Prompt, Turn

Progress = Callable[[int, int], None]
"""Called with (done, total) as long work goes on; may raise to stop it."""

FRAMES_AT_ONCE = 4
"""Frames a vision pass takes: few enough to be interrupted soon, enough to fill the cores."""

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class FrameSource(Protocol):
    """Frames, decoded (:class:`~..video.frames.Frames`) or in a file (:class:`~..video.frames.VideoSource`)."""

    @property
    @abstractmethod
    def count(self) -> int:
        """T."""

    @property
    @abstractmethod
    def height(self) -> int:
        """H, pixels."""

    @property
    @abstractmethod
    def width(self) -> int:
        """W, pixels."""

    @property
    @abstractmethod
    def timestamps(self) -> Tensor:
        """(T,) float64 seconds."""

    @property
    @abstractmethod
    def source(self) -> str:
        """The file's name, without its folder."""

    @abstractmethod
    def parts(self, size: int) -> Iterator[Frames]:
        """The frames in order, ``size`` at a time."""


def ignore_progress(done: int, total: int) -> None:
    """The progress callback of whoever does not watch."""


@dataclass(frozen=True)
class TowerOutput:
    """What a vision tower makes of a few frames.

    Args:
        features: (T, N, D), projected to the LLM's width.
        shallow, deep: (T, N) float32 attention received at the two layers.
        levels: (T, N, D) each, features of further depths.
        extras: what else it sees, by the names in :class:`~..tokens.video_tokens.Extra`.
    """

    features: Tensor
    shallow: Tensor
    deep: Tensor
    levels: tuple[Tensor, ...] = ()
    extras: Mapping[str, Tensor] = field(default_factory=dict)


class VideoLLM(ABC):
    """An adapter around a stock transformers model. With nothing reduced its logits are the stock model's.

    Args:
        hf_model: with a ``model.language_model`` and an ``lm_head``.
        preprocessor: the settings of the folder's video processor.
        chat_template: the processor's own, which takes structured content; the tokenizer's where left out.
    """

    family: ClassVar[str]
    stock: ClassVar[type[PreTrainedModel]]
    placeholder: ClassVar[str]
    """What stands for a video in the chat template."""
    slot: ClassVar[str] = ""
    """What stands for a group of visual tokens in :meth:`video_text`; the placeholder where empty."""
    mean: ClassVar[Sequence[float]] = CLIP_MEAN
    std: ClassVar[Sequence[float]] = CLIP_STD
    """Of the pixels, where the folder's video processor says nothing."""
    axes: ClassVar[int] = 1
    """Rotary positions of a token: 1, or 3 where time, height and width have their own."""
    frames_apart: ClassVar[bool] = False
    """Whether text stands between the frames in the prompt, so that each frame's tokens must stay together."""

    def __init__(
        self,
        hf_model: PreTrainedModel,
        tokenizer: Any,
        name: str,
        *,
        preprocessor: Mapping[str, Any] | None = None,
        chat_template: str | None = None,
    ) -> None:
        self.hf_model, self.name = hf_model, name
        own = hf_model.generation_config
        # A checkpoint's sampling defaults would be filled in wherever a greedy answer leaves something unsaid.
        hf_model.generation_config = GenerationConfig(
            bos_token_id=own.bos_token_id, eos_token_id=own.eos_token_id, pad_token_id=own.pad_token_id
        )
        self._tokenizer = tokenizer
        self._chat_template = chat_template
        self._preprocessor = dict(preprocessor or {})
        self._mean = tuple(self._preprocessor.get("image_mean", self.mean))
        self._std = tuple(self._preprocessor.get("image_std", self.std))
        self.tower.set_attn_implementation(ATTENTION)
        text = hf_model.config.get_text_config()
        self.language = LanguageShape(
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            mlp=text.intermediate_size,
            kv_heads=text.num_key_value_heads,
            head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
            context=text.max_position_embeddings,
        )

    @classmethod
    def matches(cls, config: Mapping[str, Any]) -> bool:
        """Whether a folder with this config.json is of this family."""
        return config.get("model_type") == cls.family

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        name: str,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        attention: str = "sdpa",
        quantization: str = "none",
    ) -> VideoLLM:
        """Load from a folder in Hugging Face's layout; safetensors only, nothing is downloaded or executed.

        Raises:
            InputError: the folder holds no safetensors, or the attention or quantization asked for is not installed.
        """
        require_safetensors(folder, name)
        quantized = {} if quantization == "none" else quantizing(quantization, dtype, device)
        try:
            model = cls.stock.from_pretrained(
                folder,
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                attn_implementation=attention,
                **quantized,
            )
        except ImportError as error:
            raise InputError(missing_package(name, attention, error)) from error
        use_general_products(model.eval())
        if not quantized:
            model = model.to(device)  # pyright: ignore[reportArgumentType] - its decorator hides self
        return cls(
            model,
            AutoTokenizer.from_pretrained(folder, local_files_only=True),
            name,
            preprocessor=first_json(folder, "video_preprocessor_config.json", "preprocessor_config.json"),
            chat_template=processor_template(folder),
        )

    @property
    def device(self) -> torch.device:
        """Where the model is now."""
        return next(self.hf_model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The model's floating dtype."""
        return next(self.hf_model.parameters()).dtype

    @property
    def takes_masks(self) -> bool:
        """Whether the LLM's attention takes a mask that says who sees whom; flash attention does not."""
        return "flash" not in str(self.language_model.config._attn_implementation)

    @property
    def language_model(self) -> PreTrainedModel:
        """The LLM without its head."""
        return self.hf_model.model.language_model

    @property
    def tower(self) -> PreTrainedModel:
        """The vision encoder."""
        return self.hf_model.model.vision_tower

    @abstractmethod
    def frame_size(self, frames: FrameSource) -> tuple[int, int]:
        """(h, w) pixels that these frames are resized to."""

    def preprocess(self, frames: Frames, size: tuple[int, int] | None = None) -> Tensor:
        """Pixels as the vision tower takes them, (T, 3, h, w) float32.

        Bicubic with antialiasing, rounded to whole levels, then normalised.

        Args:
            size: (h, w); what :meth:`frame_size` says of these frames where left out.
        """
        return normalised(resized(frames, size or self.frame_size(frames)), self._mean, self._std)

    def layout(self, frames: FrameSource) -> Layout:
        """How the tokens of these frames lie."""
        return self.layout_of(frames.count, self.frame_size(frames))

    @abstractmethod
    def layout_of(self, frames: int, size: tuple[int, int]) -> Layout:
        """How the tokens of so many frames of (h, w) pixels lie."""

    def timestamps(self, frames: FrameSource) -> Tensor:
        """(T,) float64 seconds of the layout's frames."""
        return frames.timestamps

    @abstractmethod
    def run_tower(self, pixels: Tensor, layout: Layout) -> TowerOutput:
        """What the tower makes of preprocessed pixels, (T, 3, h, w), whose tokens lie like this."""

    @torch.no_grad()
    def encode_parts(self, frames: FrameSource, *, on_progress: Progress = ignore_progress) -> Iterator[VideoTokens]:
        """Projected tokens with their importance, pooling pending, a few frames at a time, in order."""
        size = self.frame_size(frames)
        settings = {"model": self.name, "frames": frames.count, "source": frames.source}
        done = 0
        for part in frames.parts(FRAMES_AT_ONCE):
            on_progress(done, frames.count)
            start = time.perf_counter()
            layout = self.layout_of(part.count, size)
            found = self.run_tower(self.preprocess(part, size), layout)
            tokens = layout.frames * layout.language_cells
            milliseconds = (time.perf_counter() - start) * 1e3
            yield VideoTokens.encoded(
                found.features,
                layout,
                found.shallow,
                found.deep,
                self.timestamps(part),
                newline=self.hf_model.model.image_newline if layout.newlines else None,
                model=self.name,
                history=(StageRecord(ENCODE, settings, tokens, tokens, milliseconds),),
                levels=found.levels,
                extras=found.extras,
            )
            done += part.count
        on_progress(done, frames.count)

    def encode(self, frames: FrameSource, *, on_progress: Progress = ignore_progress) -> VideoTokens:
        """All frames' projected tokens with their importance, pooling pending."""
        return VideoTokens.concatenate(list(self.encode_parts(frames, on_progress=on_progress)))

    def video_text(self, tokens: VideoTokens | None) -> str:
        """What the prompt says in a video's place: a slot a group of visual tokens, one where there is none."""
        return self.placeholder

    def video_question(self, tokens: VideoTokens | None, question: str) -> str:
        """The first question, with what the family tells the LLM of the video beside its tokens."""
        return question

    def prompt(
        self, question: str, tokens: VideoTokens | None = None, *, system: str = "", turns: Sequence[Turn] = ()
    ) -> Prompt:
        """The model's chat prompt: the video, then the question, or the turns about it that came before.

        Args:
            tokens: of the video, which some families speak of; None where it is left out.
            system: the system prompt; the model's own where empty.

        Raises:
            InputError: a question is empty or holds the placeholder itself.
        """
        asked = [turn.question for turn in turns] + [question]
        for each in asked:
            require_question(each)
        asked[0] = self.video_question(tokens, asked[0])
        messages = [("system", system)] if system else []
        for i, each in enumerate(asked):
            messages += [("user", each)] + ([("assistant", turns[i].answer)] if i < len(turns) else [])
        text = self._tokenizer.apply_chat_template(
            self._conversation(messages), chat_template=self._chat_template, add_generation_prompt=True, tokenize=False
        )
        count = text.count(self.placeholder)
        if count != 1:
            raise InputError(
                f"The prompt holds {count} video placeholders where 1 is needed; "
                f"leave {self.placeholder} out of the question."
            )
        slot = self.slot or self.placeholder
        if slot in text.replace(self.placeholder, ""):
            raise InputError(f"The question holds {slot}, which stands for visual tokens; leave it out.")
        pieces = self._around_video(text, self.video_text(tokens)).split(slot)
        *before, after = (torch.tensor(self._ids(piece), dtype=torch.long) for piece in pieces)
        return Prompt(tuple(before), after)

    def _conversation(self, messages: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """Messages, (role, text) each, as the chat template takes them, the video at the head of the first question."""
        conversation = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in messages]
        first_question(conversation)["content"].insert(0, {"type": "video"})
        return conversation

    def _around_video(self, text: str, video: str) -> str:
        """The rendered prompt with ``video`` in the video's place."""
        return text.replace(self.placeholder, video)

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False)["input_ids"]

    def prefix(self, tokens: VideoTokens | None, prompt: Prompt) -> Prefix:
        """The prompt up to the end of the video, the video's tokens in their places.

        Raises:
            InputError: tokens of another model's width.
        """
        embed = self.hf_model.get_input_embeddings()
        words = [embed(ids.to(self.device)) for ids in prompt.before]
        shown = [words[0][:0]] * len(words)
        order: list[Tensor] = []
        levels: tuple[Tensor, ...] = ()
        if tokens is not None:
            self._require_own(tokens)
            tokens = tokens.to_language_grid()
            order = self._groups(tokens)
            shown = [self._shown(tokens, group).to(words[0]) for group in order]
            levels = tuple(level[torch.cat(order).to(level.device)].to(words[0]) for level in tokens.levels)
        pieces = [piece for pair in zip(words, shown, strict=True) for piece in pair]
        visual = torch.cat([torch.full((len(piece),), bool(i % 2)) for i, piece in enumerate(pieces)])
        positions, text, answer = self._positions(tokens, prompt, order, len(visual))
        inputs = Inputs(torch.cat(pieces), positions.to(self.device), visual.to(self.device), levels)
        return Prefix(inputs, text, answer)

    def _groups(self, tokens: VideoTokens) -> list[Tensor]:
        """Which tokens stand in each place of the prompt, in their order: all, or a frame's each."""
        if not self.frames_apart:
            return [torch.arange(len(tokens.place))]
        frame = tokens.frame.cpu()
        return [(frame == t).nonzero().flatten() for t in range(tokens.layout.frames)]

    def _shown(self, tokens: VideoTokens, group: Tensor) -> Tensor:
        """(n, D): what stands in one place of the prompt."""
        return tokens.features[group.to(tokens.features.device)]

    def _positions(
        self, tokens: VideoTokens | None, prompt: Prompt, order: Sequence[Tensor], length: int
    ) -> tuple[Tensor, int, int]:
        """Positions (A, length) of a prefix, that of the token behind, and the first an answer can have."""
        return torch.arange(length)[None], length, length

    def text_inputs(self, ids: Tensor, positions: Tensor) -> Inputs:
        """Text to read: (n,) ids at (n,) positions."""
        embeddings = self.hf_model.get_input_embeddings()(ids.to(self.device))
        axes = positions.to(self.device)[None].expand(self.axes, -1)
        return Inputs(embeddings, axes, torch.zeros(len(ids), dtype=torch.bool, device=self.device))

    def prompt_inputs(
        self, tokens: VideoTokens | None, question: str, *, system: str = "", turns: Sequence[Turn] = ()
    ) -> Inputs:
        """A whole prompt, the video's tokens in their places."""
        prompt = self.prompt(question, tokens, system=system, turns=turns)
        prefix = self.prefix(tokens, prompt)
        behind = torch.arange(prefix.next_position, prefix.next_position + len(prompt.after))
        return prefix.inputs.then(self.text_inputs(prompt.after, behind))

    def forward(self, inputs: Inputs, cache: DynamicCache, *, mask: Tensor | None = None, keep: Any = -1) -> Tensor:
        """Run the LLM over ``inputs`` behind what ``cache`` holds, which grows.

        Args:
            mask: (1, 1, n, n behind and before) to add to the scores; causal where left out.
            keep: which tokens' logits to give, an index, a slice or indices; the last's where left out.

        Returns:
            (kept, vocabulary), logits in the model's dtype; (vocabulary,) for a single index.
        """
        states = self.language_model(
            inputs_embeds=inputs.inputs_embeds[None],
            position_ids=self._position_ids(inputs, cache.get_seq_length()),
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            **self._extras(inputs),
        ).last_hidden_state[0]
        return self.hf_model.lm_head(states[keep])

    def _position_ids(self, inputs: Inputs, behind: int) -> Tensor:
        """As the stock LLM takes them, for tokens that stand behind so many others."""
        return inputs.position_ids

    def _extras(self, inputs: Inputs) -> dict[str, Any]:
        """What the stock LLM takes beside embeddings and positions."""
        return {}

    def decode(self, ids: list[int]) -> str:
        """Token ids to text, special tokens left out."""
        return self._tokenizer.decode(ids, skip_special_tokens=True)

    def save_tokenizer(self, folder: Path) -> None:
        """Write the tokenizer's files."""
        self._tokenizer.save_pretrained(folder)

    def _require_own(self, tokens: VideoTokens) -> None:
        if tokens.features.shape[1] != self.language.hidden:
            raise InputError(
                f"These tokens are {tokens.features.shape[1]} wide (encoded by {tokens.model or 'another model'}) and "
                f"{self.name} reads {self.language.hidden}; encode the video with the model that answers."
            )


def resized(frames: Frames, size: tuple[int, int]) -> Tensor:
    """(T, 3, h, w) uint8: bicubic with antialiasing, in whole levels as the stock video processors resize on a CPU."""
    pixels = frames.pixels.permute(0, 3, 1, 2)
    if pixels.shape[2:] == size:
        return pixels
    return functional.interpolate(pixels, size=size, mode="bicubic", antialias=True)


def normalised(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Levels of 0..255, uint8 (T, 3, h, w), as the tower takes them."""
    return (pixels.float() / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def first_question(conversation: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The first message of the user."""
    return next(message for message in conversation if message["role"] == "user")


def require_question(question: str) -> None:
    """Refuse a question without a word."""
    if not question.strip():
        raise InputError("The question is empty; write what you want to know about the video.")
