"""One node for every stage that acts on frames: AOT_FRAMES in, AOT_FRAMES out, and nothing else is encoded."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, cast

from ..aot.stages import FrameStage, every_stage
from ..aot.stages.options import settings_of
from ..aot.video.choice import Choice
from ..aot.video.frame_source import FrameSource
from .comfy import io, resolve_file, schema
from .models import Loaded
from .sockets import AOTVLLM, AOTFrames
from .stages import describe, widget
from .workflow.requirements import Kind

CATEGORY = "AOT/frames"
ABOUT = "One of the stages that act on frames before the vision encoder sees them, so that its time is saved too."
WORDS = ("choose frames", "sample frames", "keyframes", "frame selection", "downsample", "reduce", "fewer tokens")
"""What people who look for such a stage type into the search."""

SCORES = Kind("file", lambda name, _: resolve_file(name), without=("",))
"""What a workflow needs that names a file in such a node."""


def summary(before: FrameSource, after: FrameSource) -> str:
    """One line about what a stage did with frames.

    Args:
        before: that it was given.
        after: that it left.
    """
    shrink = Choice.of(after).shrink
    size = "" if shrink is None else f", to be encoded at {_amount(shrink.retention, shrink.tokens)} of their tokens"
    first, last = float(after.timestamps[0]), float(after.timestamps[-1])
    return f"{after.count} of {before.count} frames, {first:.2f} to {last:.2f} s{size}"


def _amount(retention: float, tokens: int) -> str:
    return str(tokens) if tokens else f"{retention:.1%}"


def frame_node(kind: type[FrameStage]) -> type[io.ComfyNode]:
    """The node of one stage, which names it."""
    node_id = cast(str, kind.node_id)

    class FrameNode(io.ComfyNode):
        NEEDS = MappingProxyType(dict.fromkeys(kind.files, SCORES))

        @classmethod
        def define_schema(cls) -> io.Schema:
            return schema(
                node_id=node_id,
                display_name=kind.title,
                category=CATEGORY,
                description=describe(kind, ABOUT),
                search_aliases=[*WORDS],
                inputs=[
                    AOTFrames.Input("video", tooltip="Frames of Load Video or of another stage on frames."),
                    *(widget(name, setting) for name, setting in settings_of(kind).items()),
                    AOTVLLM.Input(
                        "vllm",
                        optional=True,
                        tooltip="The model that will encode them: a budget is then met in its tokens.",
                    ),
                ],
                outputs=[AOTFrames.Output(display_name="frames", tooltip="The frames for Encode Video.")],
            )

        @classmethod
        def execute(cls, video: FrameSource, vllm: Loaded | None = None, **settings: Any) -> io.NodeOutput:
            stage = kind(**settings).with_files(resolve_file)
            chosen = stage(video, vllm.model.layout if vllm else None)
            return io.NodeOutput(chosen, ui={"text": (summary(video, chosen),)})

    FrameNode.__name__ = FrameNode.__qualname__ = node_id
    FrameNode.__doc__ = kind.__doc__
    return FrameNode


NODES = tuple(
    frame_node(kind) for kind in every_stage().values() if issubclass(kind, FrameStage) and kind.node_id is not None
)
