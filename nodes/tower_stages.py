"""One node for every stage that acts inside the vision tower: AOT_FRAMES in, AOT_FRAMES out, and nothing runs yet.

The stage travels with the frames, and acts when they are encoded.
"""

from __future__ import annotations

from typing import Any, cast

from ..aot.stages import TowerStage, every_stage
from ..aot.stages.options import settings_of
from ..aot.video.frame_source import FrameSource
from .comfy import io, schema
from .sockets import AOTFrames
from .stages import describe, widget

CATEGORY = "AOT/tower"
ABOUT = "It acts inside the vision encoder when the frames are encoded, so that the encoder's later blocks see less."
WORDS = ("vision tower", "encoder", "inside the encoder", "merge frames", "reduce", "faster encoding")
"""What people who look for such a stage type into the search."""


def tower_node(kind: type[TowerStage]) -> type[io.ComfyNode]:
    """The node of one stage, which names it."""
    node_id = cast(str, kind.node_id)

    class TowerNode(io.ComfyNode):
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
                ],
                outputs=[AOTFrames.Output(display_name="frames", tooltip="The same frames, for Encode Video.")],
            )

        @classmethod
        def execute(cls, video: FrameSource, **settings: Any) -> io.NodeOutput:
            return io.NodeOutput(kind(**settings)(video), ui={"text": ("acts when the frames are encoded",)})

    TowerNode.__name__ = TowerNode.__qualname__ = node_id
    TowerNode.__doc__ = kind.__doc__
    return TowerNode


NODES = tuple(
    tower_node(kind) for kind in every_stage().values() if issubclass(kind, TowerStage) and kind.node_id is not None
)
