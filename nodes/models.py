"""Nodes that load a video LLM and encode a video with it."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from ..aot.errors import InputError
from ..aot.models import ATTENTIONS, DTYPES, EMBEDDED, VideoLLM, families_in, load
from ..aot.streaming import Stream
from ..aot.tokens import VideoTokens
from ..aot.video import Frames
from .comfy import interrupted, io, load_models, model_folders, model_patcher, offload_device, progress, torch_device
from .sockets import AOTVLLM, AOTFrames, AOTTokens

CATEGORY = "AOT"
DEVICES = ("auto", "cpu")


@dataclass(frozen=True, eq=False)
class Loaded:
    """What travels on an AOT_VLLM link: a model under ComfyUI's memory management."""

    vllm: VideoLLM
    patcher: Any

    def ready(self) -> VideoLLM:
        """The model, moved to its device if ComfyUI had unloaded it."""
        load_models([self.patcher])
        return self.vllm


_LOADED: weakref.WeakValueDictionary[tuple[str, ...], Loaded] = weakref.WeakValueDictionary()
"""Models that some node still holds, so that a second loader with the same settings shares them."""


def choices() -> dict[str, Any]:
    """Every model that can be chosen, by the name shown; None stands for the embedded one."""
    found: dict[str, Any] = {EMBEDDED: None}
    for _, folder in model_folders():
        if folder.is_dir():
            for name, path in families_in(folder).items():
                found.setdefault(name, path)
    return found


def not_offered(name: str, value: str, offered: Iterable[str]) -> str:
    """What is wrong with a choice that is not there, and where models belong."""
    where = " Models are folders under models/VLLM." if name == "model" else ""
    return f"{name} is {value!r}; choose one of {', '.join(offered)}.{where}"


def summary(loaded: Loaded) -> str:
    """One line about a model, for the node."""
    parameters = sum(each.numel() for each in loaded.vllm.model.parameters())
    dtype = str(loaded.vllm.dtype).removeprefix("torch.")
    return f"{loaded.vllm.name}: {parameters / 1e6:.0f} million parameters, {dtype}, on {loaded.patcher.load_device}"


def ready(tokens: VideoTokens | Stream) -> VideoTokens:
    """The tokens on a link, worked out now where Encode Video left them to be streamed."""
    return tokens.tokens(watch(tokens.frames.count)) if isinstance(tokens, Stream) else tokens


def watch(total: int) -> Any:
    """A progress callback that draws ComfyUI's bar and stops where the user has interrupted the run."""
    bar = progress(total)

    def update(done: int, total: int) -> None:
        interrupted()
        bar.update_absolute(done, total)

    return update


class AOTLoadVLLM(io.ComfyNode):
    """A video LLM from ComfyUI's model folders, or the embedded one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Its inputs and outputs."""
        return io.Schema(
            node_id="AOTLoadVLLM",
            display_name="Load Video LLM (AOT)",
            category=CATEGORY,
            description="Load a video LLM from models/VLLM (also models/LLM and models/text_encoders), or the small "
            "embedded one, which needs no download. Loaded once, however many nodes use it.",
            inputs=[
                io.Combo.Input(
                    "model",
                    options=list(choices()),
                    default=EMBEDDED,
                    tooltip="'embedded' is DINOv2-S with SmolLM2-135M: knows drawn shapes, for trying the graph out. "
                    "Others are folders in Hugging Face's layout under models/VLLM.",
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
                    default="sdpa",
                    tooltip="Attention of the LLM: PyTorch's fused one, a plain one, or FlashAttention if installed.",
                ),
            ],
            outputs=[AOTVLLM.Output(display_name="vllm", tooltip="For Encode Video and Answer.")],
        )

    @classmethod
    def execute(cls, model: str, dtype: str, device: str, attention: str) -> io.NodeOutput:
        """Load, or share what is loaded."""
        key = (model, dtype, device, attention)
        loaded = _LOADED.get(key)
        if loaded is None:
            offered = choices()
            if model not in offered:
                raise InputError(not_offered("model", model, offered))
            target = torch_device() if device == "auto" else torch.device(device)
            rest = offload_device() if device == "auto" else torch.device(device)
            vllm = load(
                offered[model] or EMBEDDED,
                name=model,
                dtype=dtype,
                device=rest,
                compute_device=target,
                attention=attention,
                on_progress=watch(1),
            )
            loaded = _LOADED.setdefault(key, Loaded(vllm, model_patcher(vllm.model, target, rest)))
        return io.NodeOutput(loaded, ui={"text": (summary(loaded),)})

    @classmethod
    def validate_inputs(cls, model: str, dtype: str, device: str, attention: str) -> bool | str:
        """Whether every choice is one of those offered: ComfyUI itself does not check a combo's value."""
        offered = {"model": tuple(choices()), "dtype": DTYPES, "device": DEVICES, "attention": ATTENTIONS}
        given = {"model": model, "dtype": dtype, "device": device, "attention": attention}
        for name, value in given.items():
            if value is not None and value not in offered[name]:
                return not_offered(name, value, offered[name])
        return True


class AOTEncodeVideo(io.ComfyNode):
    """Frames to tokens, nothing reduced."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Its inputs and outputs."""
        return io.Schema(
            node_id="AOTEncodeVideo",
            display_name="Encode Video (AOT)",
            category=CATEGORY,
            description="Run the model's vision tower and projector over every frame, and measure how much attention "
            "each token receives at a shallow and a deep layer. Runs once for all branches behind it.",
            inputs=[
                AOTVLLM.Input("vllm", tooltip="The model that will answer."),
                AOTFrames.Input("frames", tooltip="The frames to look at."),
                io.Boolean.Input(
                    "streaming",
                    default=False,
                    optional=True,
                    tooltip="Leave encoding until tokens are needed, and reduce run by run as frames are encoded: the "
                    "same tokens in little memory, for long videos. Each branch behind this node then encodes for "
                    "itself, and a stage that looks at all frames at once (solver released in phase I) holds them all.",
                ),
            ],
            outputs=[
                AOTTokens.Output(
                    display_name="tokens", tooltip="All visual tokens, for reduction stages or straight for Answer."
                )
            ],
        )

    @classmethod
    def execute(cls, vllm: Loaded, frames: Frames, streaming: bool = False) -> io.NodeOutput:
        """Encode, or promise to."""
        if streaming:
            text = f"{frames.count} frames, to be encoded and reduced run by run when they are needed"
            return io.NodeOutput(Stream(vllm.ready, frames), ui={"text": (text,)})
        tokens = vllm.ready().encode(frames, on_progress=watch(frames.count))
        seconds = tokens.history[-1].milliseconds / 1e3
        text = f"{tokens.tokens_full} tokens of {frames.count} frames in {seconds:.2f} s"
        return io.NodeOutput(tokens, ui={"text": (text,)})


NODES = (AOTLoadVLLM, AOTEncodeVideo)
