"""Nodes that load a video LLM and encode a video with it."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from ..aot.answering.answerer import LocalAnswerer
from ..aot.errors import InputError
from ..aot.models import (
    ATTENTIONS,
    DECODINGS,
    DTYPES,
    EMBEDDED,
    QUANTIZATIONS,
    VideoLLM,
    families_in,
    load,
)
from ..aot.models.download import PUBLISHED, advice, download, folder_name
from ..aot.models.single_file import COMFYUI_TOKENIZER
from ..aot.streaming import Stream
from ..aot.tokens.video_tokens import VideoTokens
from ..aot.video.frame_source import FrameSource
from .comfy import (
    advanced,
    comfyui_folder,
    interrupted,
    io,
    load_models,
    model_folders,
    model_patcher,
    offload_device,
    progress,
    room_for_weights,
    schema,
    stoppable,
    torch_device,
    unload_model,
)
from .permissions import require_download
from .progress_text import Said
from .sockets import AOTVLLM, AOTFrames, AOTTokens
from .workflow.requirements import Kind

CATEGORY = "AOT"

_LOG = logging.getLogger(__name__)
DEVICES = ("auto", "cpu")

MODEL_WORDS = (
    "VLM", "LLaVA-OneVision", "LLaVA-Video", "Qwen2-VL", "Qwen2.5-VL", "Qwen3-VL", "Qwen3.5", "InternVL", "SmolVLM2",
    "GLM-4.1V", "GLM-4.6V", "Gemma 4", "VideoLLaMA3", "Molmo2", "MiniCPM-V",
)  # fmt: skip
"""What people who look for a model of theirs type into the search."""

KEPT_BYTES = 512 * 2**20
"""Most bytes of keys and values that are kept of a video for the next question about it."""


@dataclass(frozen=True, eq=False)
class Loaded:
    """What travels on an AOT_VLLM link: a model under ComfyUI's memory management.

    Args:
        answerer: answers with the model; keeps the last video in its cache.
        patcher: ComfyUI's handle of the model's weights.
    """

    answerer: LocalAnswerer
    patcher: Any

    @property
    def model(self) -> VideoLLM:
        """The model, wherever its weights are."""
        return self.answerer.model

    def ready(self) -> VideoLLM:
        """The model, moved to its device if ComfyUI had unloaded it."""
        load_models([self.patcher])
        return self.model

    def unload(self) -> None:
        """Free the device of the model's weights and of its cache."""
        self.answerer.forget()
        unload_model(self.patcher)


_LOADED: weakref.WeakValueDictionary[tuple[str, ...], Loaded] = weakref.WeakValueDictionary()
"""Models that some node still holds, so that a second loader with the same settings shares them."""


def installed_models(on_skipped: Callable[[str], None] = lambda reason: None) -> dict[str, Path]:
    """The models in ComfyUI's folders, by the name in the list.

    Args:
        on_skipped: called with a line about each folder that cannot be read.
    """
    models: dict[str, Path] = {}
    for _, folder in model_folders():
        if os.path.isdir(folder):
            for name, path in families_in(folder, on_skipped).items():
                models.setdefault(name, path)
    return models


def choices() -> list[str]:
    """Every model that can be chosen: the embedded one, those that are there, and published ones that are not."""
    models = installed_models(_LOG.warning)
    names = {name.rpartition("/")[2] for name in models}
    return [EMBEDDED, *models, *(each for each in PUBLISHED if folder_name(each) not in names)]


def located(model: str, fetch: bool) -> Path | None:
    """The folder of a model; None for the embedded one, which has its own.

    Args:
        model: its name in the list.
        fetch: whether to download a published model that is not there.

    Raises:
        InputError: there is no such model, or it may not or cannot be downloaded.
    """
    if model == EMBEDDED:
        return None
    models = installed_models()
    if model in models:
        return models[model]
    if model not in PUBLISHED:
        raise InputError(not_offered("model", model, choices()))
    home = model_folders()[0][1]
    named = {name.rpartition("/")[2]: path for name, path in models.items()}
    if folder_name(model) in named:
        return named[folder_name(model)]
    if not fetch:
        raise InputError(advice(model, home))
    require_download(model)
    return download(model, home, on_progress=watch(1))


def _tokenizer(model: Path | None) -> Path | None:
    """ComfyUI's tokenizer for a model in a single file; None for folders, which have their own."""
    home = comfyui_folder()
    tokenizer = home and home / COMFYUI_TOKENIZER
    return tokenizer if tokenizer and tokenizer.is_dir() and model is not None and model.is_file() else None


def _present(model: str, inputs: Mapping[str, Any]) -> None:
    """Raise an InputError if a model is neither there nor to be downloaded."""
    if not (inputs.get("download") and model in PUBLISHED):
        located(model, False)


def _to_download(on: Any, inputs: Mapping[str, Any]) -> str:
    """The model that a node would download; "" if it would not."""
    model = inputs.get("model")
    if on is not True or model not in PUBLISHED:
        return ""
    try:
        located(model, False)
    except InputError:
        return model
    return ""


def not_offered(name: str, value: str, offered: Iterable[str]) -> str:
    """What is wrong with a choice that is not there, and where models belong."""
    where = " Models are folders under models/VLLM, and files in models/text_encoders." if name == "model" else ""
    return f"{name} is {value!r}; choose one of {', '.join(offered)}.{where}"


def size_and_place(loaded: Loaded) -> str:
    """A model's name, its size, and where it computes, for the node."""
    model = loaded.model
    parameters = sum(each.numel() for each in model.hf_model.parameters())
    dtype = str(model.dtype).removeprefix("torch.")
    return f"{model.name}: {parameters / 1e6:.0f} million parameters, {dtype}, on {loaded.patcher.load_device}"


def summary(loaded: Loaded) -> str:
    """A line about a model, for the node, and one for each thing that loading did besides."""
    settings = f"attention {loaded.model.attention}, decoding {loaded.model.decoding}"
    return "\n".join((f"{size_and_place(loaded)}, {settings}", *loaded.model.notes))


def ready(tokens: VideoTokens | Stream) -> VideoTokens:
    """The tokens on a link, worked out now where Encode Video left them to be streamed."""
    if not isinstance(tokens, Stream):
        return tokens
    with stoppable(tokens.device):
        return tokens.tokens(watch(tokens.frames.count))


def watch(total: int) -> Any:
    """A progress callback that draws ComfyUI's bar and stops where the user has interrupted the run."""
    bar = progress(total)

    def update(done: int, total: int) -> None:
        interrupted()
        bar.update_absolute(done, total)

    return update


class AOTLoadVLLM(io.ComfyNode):
    """A video LLM from ComfyUI's model folders, or the embedded one."""

    NEEDS = MappingProxyType(
        {
            "model": Kind("model", _present),
            "download": Kind("download", lambda model, inputs: require_download(model), named=_to_download),
        }
    )

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Its inputs and outputs."""
        return schema(
            node_id="AOTLoadVLLM",
            display_name="Load Video LLM (AOT)",
            category=CATEGORY,
            description="Load a video LLM (VLM) from models/VLLM (also models/LLM and models/text_encoders): "
            "LLaVA-OneVision, LLaVA-Video, Qwen2.5-VL, Qwen3-VL or InternVL. Or load the small embedded one, which "
            "needs no download. Loaded once, however many nodes use it.",
            search_aliases=[*MODEL_WORDS, "load model", "vision language model", "multimodal LLM"],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=choices(),
                    default=EMBEDDED,
                    tooltip="'embedded' is DINOv2-S with SmolLM2-135M: knows drawn shapes, for trying the graph out. "
                    "Others are folders under models/VLLM, text encoders in single files, or published models that are "
                    "not there yet.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(DTYPES),
                    default="auto",
                    tooltip="auto: bfloat16 on a GPU, float32 on the CPU.",
                ),
                io.Combo.Input(
                    "device", options=list(DEVICES), default="auto", tooltip="auto: where ComfyUI computes."
                ),
                io.Combo.Input(
                    "attention",
                    options=list(ATTENTIONS),
                    default="auto",
                    tooltip="Attention of the LLM: PyTorch's fused one, a plain one, or FlashAttention if installed. "
                    "auto: the fastest that lets questions share a pass; the node says which.",
                ),
                io.Combo.Input(
                    "quantization",
                    options=list(QUANTIZATIONS),
                    default="none",
                    optional=True,
                    tooltip="8-bit or 4-bit weights of the LLM, where bitsandbytes is installed; the vision tower "
                    "stays as it is.",
                ),
                io.Boolean.Input(
                    "download",
                    default=False,
                    optional=True,
                    tooltip="Fetch a published model that is not there from huggingface.co into models/VLLM, many "
                    "gigabytes, going on where an earlier try stopped. A workflow alone cannot: the model's name has "
                    "to be in user/aot_downloads.txt. Off: nothing is ever downloaded.",
                ),
                io.Combo.Input(
                    "decoding",
                    options=list(DECODINGS),
                    default="auto",
                    optional=True,
                    tooltip="How prompts of up to 1024 tokens are read, and answers generated. graph: CUDA graphs are "
                    "replayed, which spares the launches of a thousand kernels a token; it takes memory for a second "
                    "copy of the video's keys and values. auto: graph on CUDA where it can be captured and memory "
                    "allows, else eager.",
                ),
            ],
            outputs=[AOTVLLM.Output(display_name="vllm", tooltip="For Encode Video and Answer.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: str,
        dtype: str,
        device: str,
        attention: str,
        quantization: str = "none",
        download: bool = False,
        decoding: str = "auto",
    ) -> io.NodeOutput:
        """Load, or share what is loaded."""
        chosen = (
            ("dtype", dtype, DTYPES),
            ("device", device, DEVICES),
            ("attention", attention, ATTENTIONS),
            ("quantization", quantization, QUANTIZATIONS),
            ("decoding", decoding, DECODINGS),
        )
        for name, value, offered in chosen:
            if value not in offered:
                raise InputError(not_offered(name, value, offered))
        key = (model, dtype, device, attention, quantization, decoding)
        loaded = _LOADED.get(key)
        if loaded is None:
            target = torch_device() if device == "auto" else torch.device(device)
            # Quantized weights do not move between devices.
            rest = offload_device() if device == "auto" and quantization == "none" else target
            folder = located(model, download)
            said, bar = Said(cls.hidden), watch(1)
            said.say(f"loading {model}", now=True)

            def on_progress(done: int, total: int) -> None:
                said.step("assembling the embedded model, this once", done, total, now=True)
                bar(done, total)

            with stoppable(torch.device("cpu")):
                video_llm = load(
                    folder or EMBEDDED,
                    name=model,
                    dtype=dtype,
                    device=rest,
                    compute_device=target,
                    attention=attention,
                    quantization=quantization,
                    decoding=decoding,
                    room=room_for_weights,
                    on_progress=on_progress,
                    tokenizer=_tokenizer(folder),
                )
            patcher = model_patcher(video_llm.hf_model, target, rest)
            loaded = _LOADED.setdefault(key, Loaded(LocalAnswerer(video_llm, keep_bytes=KEPT_BYTES), patcher))
        return io.NodeOutput(loaded, ui={"text": (summary(loaded),)})

    @classmethod
    def validate_inputs(cls, model: str) -> bool | str:
        """Whether there is such a model, or one to download. ComfyUI reports one cause for every input named here."""
        if model is not None and model not in PUBLISHED:
            try:
                located(model, False)
            except InputError as error:
                return str(error)
        return True


class AOTEncodeVideo(io.ComfyNode):
    """Frames to tokens, nothing reduced."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Its inputs and outputs."""
        return schema(
            node_id="AOTEncodeVideo",
            display_name="Encode Video (AOT)",
            category=CATEGORY,
            description="Run the model's vision tower and projector over every frame, and measure how much attention "
            "each token receives at a shallow and a deep layer. Runs once for all branches after it.",
            search_aliases=["video tokens", "visual tokens", "vision tower", "embed video", "VLM"],
            inputs=[
                AOTVLLM.Input("vllm", tooltip="The model that will answer."),
                AOTFrames.Input("frames", tooltip="The frames to look at."),
                io.Boolean.Input(
                    "streaming",
                    default=False,
                    optional=True,
                    tooltip="Leave encoding until tokens are needed, and reduce run by run as frames are encoded: the "
                    "same tokens in little memory, for long videos. Each branch after this node then encodes for "
                    "itself, and a stage that looks at all frames at once (solver released in phase I) keeps them all.",
                ),
                advanced(
                    io.Boolean.Input(
                        "file_pixels",
                        default=False,
                        optional=True,
                        tooltip="Qwen's models: keep the pixels of the frames, as far as the model's processor allows. "
                        "Off: as their makers do, from 128 to 768 tokens a pair of frames, fewer for long videos. "
                        "Other models have one size.",
                    )
                ),
            ],
            outputs=[
                AOTTokens.Output(
                    display_name="tokens", tooltip="All visual tokens, for reduction stages or straight for Answer."
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, vllm: Loaded, frames: FrameSource, streaming: bool = False, file_pixels: bool = False
    ) -> io.NodeOutput:
        """Encode, or promise to."""
        if streaming:
            text = f"{frames.count} frames, to be encoded and reduced run by run when they are needed"
            return io.NodeOutput(Stream(vllm.ready, frames, file_pixels=file_pixels), ui={"text": (text,)})
        model = vllm.ready()
        said, bar = Said(cls.hidden), watch(frames.count)

        def on_progress(done: int, total: int) -> None:
            said.step(f"encoding, {done} of {total} frames done", done, total)
            bar(done, total)

        with stoppable(model.device):
            tokens = model.encode(frames, on_progress=on_progress, file_pixels=file_pixels)
        seconds = tokens.history[-1].milliseconds / 1e3
        text = f"{tokens.tokens_full} tokens of {frames.count} frames in {seconds:.2f} s"
        return io.NodeOutput(tokens, ui={"text": (text,)})


NODES = (AOTLoadVLLM, AOTEncodeVideo)
