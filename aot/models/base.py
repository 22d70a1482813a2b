"""The adapter around a video LLM: it encodes frames, lays out a prompt around their tokens, and runs the LLM.

A family is a subclass in a file of its own. It says how frames become pixels and pixels tokens, how its prompt holds a
video, and its rotary positions where they are more than a count. The model inside is transformers' own class.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, PreTrainedModel
from transformers.cache_utils import Cache

from ..devices import synchronise
from ..errors import InputError
from ..tokens.video_tokens import ENCODE, Layout, StageRecord, VideoTokens
from ..video.frame_source import FrameSource
from ..video.frames import Frames, MakersChoice
from .chat_template import render
from .file_time import clock_settings, with_file_seconds
from .folder import (
    colours_file,
    first_json,
    in_one_line,
    is_positive,
    load_tokenizer,
    missing_package,
    processor_template,
    quantizing,
    require_all_tensors,
    stock_config_of,
    template_file,
    tokenizer_file,
    use_general_products,
    video_settings,
)
from .frame_choice import NO_SETTINGS
from .importance import ATTENTION
from .llm_cost import LanguageShape
from .passes import FRAMES_AT_ONCE, LONGEST_PASS, Pixels, frames_a_pass, passes, whole_parts
from .pixels import CLIP_MEAN, CLIP_STD, normalise, resize, upload
from .progress import Progress, ignore_progress
from .prompt import OPENS, Inputs, Prefix, Prompt, Turn, chat_messages, insert_video, require_one_place
from .stand_ins import built, stand_ins
from .versions import cache_argument
from .weights import weight_files


@dataclass(frozen=True)
class TowerOutput:
    """The outputs of a vision tower for a few frames.

    Args:
        image_features: (T, N, D) floating, projected to the LLM's width.
        shallow: (T, N) float32, attention received at the shallow layer.
        deep: (T, N) float32, attention received at the deep layer.
        levels: (T, N, D) each, image features of further depths.
        extras: further outputs, by the names in :class:`~..tokens.video_tokens.Extra`.
    """

    image_features: Tensor
    shallow: Tensor
    deep: Tensor
    levels: tuple[Tensor, ...] = ()
    extras: Mapping[str, Tensor] = field(default_factory=dict)


FILE_PIXELS = "file_pixels"
"""The name of that choice among the settings of the encoder's record; absent where there is none."""


class VideoLLM(ABC):
    """An adapter around a stock transformers model. With nothing reduced its logits are the stock model's.

    Args:
        hf_model: with a ``model.language_model`` and an ``lm_head``.
        tokenizer: of the LLM, a stock one; None for a model that only computes.
        name: the model's name in results and errors.
        preprocessor: the settings of the folder's video processor.
        chat_template: the processor's own, which takes structured content; None takes the tokenizer's.
    """

    family: ClassVar[str]
    stock: ClassVar[type[PreTrainedModel]]
    placeholder: ClassVar[str]
    """The text that marks a video in the chat template."""
    slot: ClassVar[str] = ""
    """The text that marks a group of visual tokens in :meth:`video_text`; "" means the placeholder."""
    mean: ClassVar[Sequence[float]] = CLIP_MEAN
    std: ClassVar[Sequence[float]] = CLIP_STD
    """Of the pixels, unless the folder's video processor has its own."""
    quantizes: ClassVar[bool] = True
    """Whether its weights can be loaded in 8 or 4 bits."""
    axes: ClassVar[int] = 1
    """A: rotary positions of a token, 1, or 3 for models with positions of time, height and width."""
    any_size: ClassVar[bool] = False
    """Whether the tower takes frames of any size, so that it is a choice how large they are."""
    frames_apart: ClassVar[bool] = False
    """Whether the prompt has text between the frames, so that each frame's tokens must stay together."""

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
        self.decoding = "auto"
        """How answers are decoded: auto, eager or graph."""
        self.notes: tuple[str, ...] = ()
        """What loading did that a user should know, a sentence each without its full stop."""
        own = hf_model.generation_config
        if not (own.repetition_penalty is None or is_positive(own.repetition_penalty)):
            raise InputError(
                f"The generation_config.json of {name} says repetition_penalty {own.repetition_penalty!r}, which "
                "cannot be used; copy or download it again."
            )
        # Without a checkpoint's sampling defaults: an answer is greedy unless its settings say otherwise.
        hf_model.generation_config = GenerationConfig(
            bos_token_id=own.bos_token_id,
            eos_token_id=own.eos_token_id,
            pad_token_id=own.pad_token_id,
            repetition_penalty=own.repetition_penalty,
        )
        self._tokenizer = tokenizer
        self._chat_template = chat_template
        self._preprocessor = dict(preprocessor or {})
        self._mean = tuple(self._preprocessor.get("image_mean", self.mean))
        self._std = tuple(self._preprocessor.get("image_std", self.std))
        self.tower.set_attn_implementation(ATTENTION)
        self.language = LanguageShape.of(hf_model.config.get_text_config())

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
        weights: bool = True,
    ) -> VideoLLM:
        """Load from a folder in Hugging Face's layout; safetensors only, nothing is downloaded or executed.

        Args:
            folder: of the model.
            name: the model's name in results and errors.
            dtype: of the weights.
            device: where to put them.
            attention: the LLM's attention implementation.
            quantization: "none", "8-bit" or "4-bit".
            weights: whether to read them; without them the model can be looked at, and is checked as it would be.

        Raises:
            InputError: the folder holds no safetensors, not exactly the model's tensors, or no settings of its
                processor or tokenizer; or the attention or the quantization is not installed.
        """
        weight_files(folder, name)
        quantized = {} if quantization == "none" else quantizing(quantization, dtype, device)
        tensors = None if weights else stand_ins(folder, name, dtype)
        try:
            config = stock_config_of(cls.stock, folder, name)
            model, report = built(
                cls.stock,
                folder if weights else None,
                config,
                dtype,
                attention,
                tensors=tensors,
                untouched=not weights,
                **quantized,
            )
        except ImportError as error:
            raise InputError(missing_package(name, attention, error)) from error
        except InputError:
            raise
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"{name} cannot be loaded ({in_one_line(error)}); copy or download all its files again."
            ) from error
        require_all_tensors(model, report, name)
        if not weights and (own := first_json(folder, "generation_config.json")):
            model.generation_config = GenerationConfig.from_dict(own)
        use_general_products(model.eval())
        if not quantized:
            model = model.to(device)  # pyright: ignore[reportArgumentType] - its decorator hides self
        return cls(
            model,
            load_tokenizer(folder, name),
            name,
            preprocessor=video_settings(folder, name),
            chat_template=processor_template(folder),
        )

    @classmethod
    def sampling(
        cls, frames: int, fps: float, duration: float, settings: Mapping[str, Any] = NO_SETTINGS
    ) -> Sequence[int] | None:
        """Indices of the frames that the family's makers take of a video; None for the pack's own uniform sampling.

        Args:
            frames: of the video.
            fps: frames a second.
            duration: in seconds.
            settings: of the folder's video processor.
        """
        return None

    @property
    def makers(self) -> MakersChoice:
        """:meth:`sampling` by this model's own settings."""
        return partial(self.sampling, settings=self._preprocessor)

    @classmethod
    def sources(cls, folder: Path) -> Mapping[str, str]:
        """Which file of a folder each setting is from, by the setting's name.

        Args:
            folder: of a model that can be loaded.
        """
        return {
            "mean and deviation": colours_file(folder),
            "chat template": template_file(folder),
            "tokenizer": tokenizer_file(folder),
        }

    @property
    def device(self) -> torch.device:
        """The device that the weights are on."""
        return next(self.hf_model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The model's floating dtype."""
        return next(self.hf_model.parameters()).dtype

    @property
    def repetition_penalty(self) -> float:
        """The checkpoint's own: logits of tokens that were there before are divided by it, negative ones multiplied."""
        return self.hf_model.generation_config.repetition_penalty or 1.0

    @property
    def weights(self) -> Iterable[Tensor]:
        """All weights, for a digest of them."""
        return self.hf_model.state_dict().values()

    @property
    def takes_masks(self) -> bool:
        """Whether the LLM's attention takes a mask of ours; flash and linear attention and sliding windows do not."""
        return "flash" not in self.attention and not {"sliding_attention", "linear_attention"} & self._layer_kinds

    @property
    def rewinds(self) -> bool:
        """Whether a cache can be cut back to fewer tokens; that of linear attention keeps one state for all tokens."""
        return "linear_attention" not in self._layer_kinds

    @property
    def sees_ahead(self) -> bool:
        """Whether visual tokens see some that come after them, so that a video is read in one pass."""
        return False

    @property
    def beyond_embeddings(self) -> str:
        """What the LLM is given of a prompt that its embeddings cannot carry to a server; "" where they suffice."""
        if self.axes > 1:
            return "positions of time, height and width"
        return "sight of tokens that come later" if self.sees_ahead else ""

    @property
    def _layer_kinds(self) -> frozenset[str]:
        return frozenset(getattr(self.language_model.config, "layer_types", None) or ())

    def new_cache(self) -> DynamicCache:
        """An empty cache of the LLM."""
        return DynamicCache() if self.rewinds else DynamicCache(config=self.language_model.config)

    @property
    def attention(self) -> str:
        """The LLM's attention implementation."""
        return str(self.language_model.config._attn_implementation)

    @property
    def language_model(self) -> PreTrainedModel:
        """The LLM without its head."""
        return self.hf_model.model.language_model

    @property
    def tower(self) -> PreTrainedModel:
        """The vision encoder."""
        return self.hf_model.model.vision_tower

    @abstractmethod
    def frame_size(self, frames: FrameSource, *, file_pixels: bool = False) -> tuple[int, int]:
        """(h, w), in pixels, that these frames are resized to.

        Args:
            frames: decoded, or a file still to be decoded.
            file_pixels: keep the file's own pixels, as far as the model's processor allows, where its makers make
                frames smaller. It has no effect on a family whose frames are all of one size.
        """

    @property
    def tile(self) -> tuple[int, int] | None:
        """(h, w), in pixels, of the smallest frame that the tower takes; None where all frames are of one size."""
        return None

    def preprocess(self, frames: Frames, size: tuple[int, int] | None = None, *, file_pixels: bool = False) -> Tensor:
        """Resize and normalise frames for the vision tower.

        Args:
            frames: (T, H, W, 3) uint8.
            size: (h, w), in pixels; None takes that of :meth:`frame_size`.
            file_pixels: see :meth:`frame_size`.

        Returns:
            Pixel values, (T, 3, h, w) float32, on the model's device if that is CUDA, else on the CPU.
        """
        size = size or self.frame_size(frames, file_pixels=file_pixels)
        return normalise(self.resize(frames.pixels, size), self._mean, self._std)

    def resize(self, pixels: Tensor, size: tuple[int, int]) -> Tensor:
        """Resize frames as the original does, here as the stock video processors do on the same device.

        Args:
            pixels: (T, H, W, 3) uint8.
            size: (h, w), in pixels.

        Returns:
            (T, 3, h, w), levels 0 to 255, on the model's device if that is CUDA, else on the CPU.
        """
        return resize(upload(pixels, self.device), size)

    def layout(self, frames: FrameSource, *, file_pixels: bool = False) -> Layout:
        """The layout of these frames' tokens.

        Args:
            frames: decoded, or a file still to be decoded.
            file_pixels: see :meth:`frame_size`.
        """
        return self.layout_of(frames.count, self.frame_size(frames, file_pixels=file_pixels))

    @abstractmethod
    def layout_of(self, frames: int, size: tuple[int, int]) -> Layout:
        """The layout of the tokens of ``frames`` frames, ``size`` (h, w) pixels each."""

    def timestamps(self, frames: FrameSource) -> Tensor:
        """(T,) float64, the times of the layout's frames in seconds."""
        return frames.timestamps

    @abstractmethod
    def run_tower(self, pixel_values: Tensor, layout: Layout) -> TowerOutput:
        """Run tower and projector, and collect the importance of their tokens.

        Args:
            pixel_values: (T, 3, h, w) float32, from :meth:`preprocess`.
            layout: of their tokens.
        """

    @torch.no_grad()
    def encode_parts(
        self,
        frames: FrameSource,
        *,
        on_progress: Progress = ignore_progress,
        frames_at_once: int | None = None,
        file_pixels: bool = False,
    ) -> Generator[VideoTokens, None, None]:
        """Encode frames pass by pass, in order: image features with their importance, not pooled yet.

        A pass that a CUDA device has too little memory for is made again in halves. Passes after it, and after one that
        took long, are smaller.

        Args:
            frames: decoded, or a file still to be decoded.
            on_progress: called with (done, total) frames, several times a pass.
            frames_at_once: in a pass, rounded down to a multiple of four; None takes four on a CPU, and as many as
                memory allows on CUDA.
            file_pixels: see :meth:`frame_size`.
        """
        size = self.frame_size(frames, file_pixels=file_pixels)
        if frames_at_once is None:
            frames_at_once = frames_a_pass(self.tower.config, size, self.language.hidden, self.dtype, self.device)
        at_once = whole_parts(frames_at_once)
        settings = {"model": self.name, "frames": frames.count, "source": frames.source, **clock_settings(frames)}
        if self.any_size:
            settings[FILE_PIXELS] = file_pixels
        timestamps, done = self.timestamps(frames), 0
        prepare = partial(self.preprocess, size=size, file_pixels=file_pixels)
        with closing(passes(frames, prepare, self.device, at_once, on_progress)) as batches:
            for layout, output, seconds in self._outputs(batches, size, at_once, on_progress, frames.count):
                tokens = layout.frames * layout.language_cells
                yield VideoTokens.encoded(
                    output.image_features,
                    layout,
                    output.shallow,
                    output.deep,
                    timestamps[done : done + layout.frames],
                    newline=self.hf_model.model.image_newline if layout.newlines else None,
                    model=self.name,
                    history=(StageRecord(ENCODE, settings, tokens, tokens, seconds * 1e3),),
                    levels=output.levels,
                    extras=output.extras,
                )
                done += layout.frames
        on_progress(frames.count, frames.count)

    def _outputs(
        self, batches: Iterator[Pixels], size: tuple[int, int], at_once: int, on_progress: Progress, total: int
    ) -> Iterator[tuple[Layout, TowerOutput, float]]:
        """The tower's outputs with their layouts and seconds, for ``at_once`` frames until those are too many."""
        done = 0
        for batch in batches:
            first = 0
            while first < len(batch.values):
                if first:
                    on_progress(done + first, total)
                pixel_values = batch.values[first : first + at_once]
                layout = self.layout_of(len(pixel_values), size)
                start = time.perf_counter()
                output = self._run_if_it_fits(pixel_values, layout)
                if output is None:
                    at_once = whole_parts(len(pixel_values) // 2)
                    continue
                seconds = time.perf_counter() - start
                if seconds > LONGEST_PASS:
                    at_once = whole_parts(len(pixel_values) // 2)
                yield layout, output, seconds + batch.seconds * len(pixel_values) / len(batch.values)
                first += len(pixel_values)
            done += first

    def _run_if_it_fits(self, pixel_values: Tensor, layout: Layout) -> TowerOutput | None:
        """The tower's output, complete; None if a CUDA device has too little memory for more than a few frames."""
        try:
            output = self.run_tower(pixel_values, layout)
        except torch.cuda.OutOfMemoryError:
            if len(pixel_values) <= FRAMES_AT_ONCE:
                raise
            return None
        synchronise(output.image_features)
        return output

    def encode(
        self,
        frames: FrameSource,
        *,
        on_progress: Progress = ignore_progress,
        frames_at_once: int | None = None,
        file_pixels: bool = False,
    ) -> VideoTokens:
        """Encode all frames: image features with their importance, not pooled yet.

        Args:
            frames: decoded, or a file still to be decoded.
            on_progress: see :meth:`encode_parts`.
            frames_at_once: see :meth:`encode_parts`.
            file_pixels: see :meth:`frame_size`.
        """
        start = time.perf_counter()
        parts = self.encode_parts(
            frames, on_progress=on_progress, frames_at_once=frames_at_once, file_pixels=file_pixels
        )
        tokens = VideoTokens.concatenate(list(parts))
        return with_file_seconds(tokens, frames, time.perf_counter() - start)

    def video_text(self, tokens: VideoTokens | None) -> str:
        """The text in the video's place: a slot for each group of visual tokens; one slot if ``tokens`` is None."""
        return self.placeholder

    def video_question(self, tokens: VideoTokens | None, question: str) -> str:
        """The first question, with the facts about the video that the family puts in front of it."""
        return question

    def prompt(
        self, question: str, tokens: VideoTokens | None = None, *, system: str = "", turns: Sequence[Turn] = ()
    ) -> Prompt:
        """The model's chat prompt: the video, earlier turns about it, then the question.

        Args:
            question: the last one, to be answered next.
            tokens: of the video, which some families mention in the text; None for a prompt without a video.
            system: the system prompt; "" means the model's own.
            turns: earlier questions and their answers.

        Raises:
            InputError: a question is empty or holds the placeholder itself.
        """
        text = self._rendered(chat_messages(question, turns, system, lambda first: self.video_question(tokens, first)))
        slot = self.slot or self.placeholder
        require_one_place(text, self.placeholder, slot)
        pieces = self._around_video(text, self.video_text(tokens)).split(slot)
        *before, after = (torch.tensor(self._ids(piece), dtype=torch.long) for piece in pieces)
        return Prompt(tuple(before), after)

    @cached_property
    def opens_thoughts(self) -> bool:
        """Whether a prompt ends inside the model's thoughts, so that what it writes begins with them."""
        return self._rendered(chat_messages("?", (), "", lambda first: first)).rstrip().endswith(OPENS)

    def _rendered(self, messages: Sequence[tuple[str, str]]) -> str:
        """Messages, (role, text) each, as the chat template writes them, up to where an answer begins.

        Raises:
            InputError: the template does too much, has mistakes, or refuses the messages.
        """
        try:
            template = self._tokenizer.get_chat_template(self._chat_template)
            return render(template, self._conversation(messages), self._tokenizer.special_tokens_map, self.name)
        except InputError:
            raise
        except Exception as error:  # whatever a template makes of the messages
            raise InputError(
                f"The chat template of {self.name} cannot write this prompt ({in_one_line(error)}); leave out the "
                "system prompt if you gave one, or put the template that the model's makers publish into its folder."
            ) from error

    def _conversation(self, messages: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """Messages, (role, text) each, as the chat template takes them, the video before the first question."""
        return insert_video(messages)

    def _around_video(self, text: str, video: str) -> str:
        """The rendered prompt with ``video`` in the video's place."""
        return text.replace(self.placeholder, video)

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False)["input_ids"]

    def prefix(self, tokens: VideoTokens | None, prompt: Prompt) -> Prefix:
        """Embed the prompt up to the end of the video, with the video's tokens in their places.

        Args:
            tokens: of the video; None leaves their places empty.
            prompt: from :meth:`prompt`.

        Raises:
            InputError: the tokens have another model's width.
        """
        words = [self.embed(ids) for ids in prompt.before]
        image_features = [words[0][:0]] * len(words)
        groups: list[Tensor] = []
        levels: tuple[Tensor, ...] = ()
        if tokens is not None:
            self._require_own(tokens)
            tokens = tokens.to_language_grid()
            groups = self._groups(tokens)
            image_features = [self._image_features(tokens, group).to(words[0]) for group in groups]
            levels = tuple(level[torch.cat(groups).to(level.device)].to(words[0]) for level in tokens.levels)
        pieces = [piece for pair in zip(words, image_features, strict=True) for piece in pair]
        visual = torch.cat([torch.full((len(piece),), bool(i % 2)) for i, piece in enumerate(pieces)])
        position_ids, next_position, answer_position = self._positions(tokens, prompt, groups, len(visual))
        visual = visual.to(self.device)
        ids = torch.zeros(len(visual), dtype=torch.long, device=self.device)
        ids[~visual] = torch.cat(prompt.before).to(self.device)
        inputs = Inputs(torch.cat(pieces), position_ids.to(self.device), visual, levels, ids)
        return Prefix(inputs, next_position, answer_position)

    def repeatable(self, tokens: VideoTokens | None, prompt: Prompt) -> Tensor:
        """The token ids of a prompt that a repetition penalty counts as there before: its words, and the placeholder.

        The stock class' ``generate`` counts its ``input_ids``, where the placeholder takes the place of every visual
        token. How many those are makes no difference.

        Args:
            tokens: of the video; None for a prompt without a video.
            prompt: from :meth:`prompt`.

        Returns:
            (n,) long.
        """
        placeholder = [] if tokens is None else self._ids(self.slot or self.placeholder)
        return torch.cat((*prompt.before, prompt.after, torch.tensor(placeholder, dtype=torch.long)))

    def _groups(self, tokens: VideoTokens) -> list[Tensor]:
        """Indices of the tokens in each place of the prompt: one group of all, or one for each frame."""
        if not self.frames_apart:
            return [torch.arange(len(tokens.place))]
        frame = tokens.frame.cpu()
        return [(frame == t).nonzero().flatten() for t in range(tokens.layout.frames)]

    def _image_features(self, tokens: VideoTokens, group: Tensor) -> Tensor:
        """(n, D): the embeddings in one place of the prompt."""
        return tokens.features[group.to(tokens.features.device)]

    def _positions(
        self, tokens: VideoTokens | None, prompt: Prompt, groups: Sequence[Tensor], length: int
    ) -> tuple[Tensor, int, int]:
        """Positions (A, length) of a prefix, of the token after it, and the first that an answer can have."""
        return torch.arange(length)[None], length, length

    def text_inputs(self, ids: Tensor, positions: Tensor) -> Inputs:
        """Embed text.

        Args:
            ids: (n,) long, token ids.
            positions: (n,) long, rotary positions.
        """
        ids = ids.to(self.device)
        position_ids = positions.to(self.device)[None].expand(self.axes, -1)
        return Inputs(self.embed(ids), position_ids, torch.zeros_like(ids, dtype=torch.bool), ids=ids)

    def embed(self, ids: Tensor) -> Tensor:
        """Embed token ids.

        Args:
            ids: (n,) long.

        Returns:
            (n, D) in the model's dtype.
        """
        return self.hf_model.get_input_embeddings()(ids.to(self.device))

    def prompt_inputs(
        self, tokens: VideoTokens | None, question: str, *, system: str = "", turns: Sequence[Turn] = ()
    ) -> Inputs:
        """Embed a complete prompt, with the video's tokens in their places.

        Args:
            tokens: of the video; None for a prompt without a video.
            question: the last one, to be answered next.
            system: the system prompt; "" means the model's own.
            turns: earlier questions and their answers.
        """
        prompt = self.prompt(question, tokens, system=system, turns=turns)
        prefix = self.prefix(tokens, prompt)
        positions = torch.arange(prefix.next_position, prefix.next_position + len(prompt.after))
        return prefix.inputs.then(self.text_inputs(prompt.after, positions))

    def forward(self, inputs: Inputs, cache: Cache, *, mask: Tensor | None = None, keep: Any = -1) -> Tensor:
        """Run the LLM over ``inputs``, which follow the tokens in ``cache``.

        Args:
            inputs: n tokens.
            cache: keys and values of the p tokens before them; those of ``inputs`` are added.
            mask: (1, 1, n, p + n) floating, added to the scores; None is causal, but for tokens that see ahead.
            keep: the tokens whose logits to return: an index, a slice or indices.

        Returns:
            Logits in the model's dtype, (kept, vocabulary), or (vocabulary,) for a single index.
        """
        hidden_states = self.language_model(
            inputs_embeds=inputs.inputs_embeds[None],
            position_ids=self._position_ids(inputs, cache.get_seq_length()),
            attention_mask=self._mask(inputs, cache.get_seq_length()) if mask is None else mask,
            use_cache=True,
            **{cache_argument(type(self.language_model)): cache},
            **self._extras(inputs),
        ).last_hidden_state[0]
        return self._logits(hidden_states[keep])

    def _logits(self, hidden_states: Tensor) -> Tensor:
        """Logits of the LLM's last hidden states."""
        return self.hf_model.lm_head(hidden_states)

    def _mask(self, inputs: Inputs, before: int) -> Any:
        """The stock LLM's mask for tokens that follow ``before`` others; None is causal."""
        return None

    def _position_ids(self, inputs: Inputs, before: int) -> Tensor:
        """Positions as the stock LLM takes them, for tokens that follow ``before`` others."""
        return inputs.position_ids

    def _extras(self, inputs: Inputs) -> dict[str, Any]:
        """Further arguments of the stock LLM."""
        return {}

    def decode(self, ids: list[int]) -> str:
        """Token ids to text, without special tokens."""
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


def added(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to attention scores so that only visible tokens count.

    Args:
        visible: (n, m) bool.
        dtype: of the scores.

    Returns:
        (1, 1, n, m) of ``dtype``.
    """
    scores = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return scores.masked_fill(~visible, torch.finfo(dtype).min)[None, None]
