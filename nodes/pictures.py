"""Nodes that show what a reduction did."""

from __future__ import annotations

from ..aot.pictures import token_map
from ..aot.streaming import Stream
from ..aot.tokens import VideoTokens
from ..aot.video import Frames
from .comfy import io, ui
from .models import ready
from .sockets import AOTFrames, AOTTokens

CATEGORY = "AOT/pictures"


class AOTTokenMap(io.ComfyNode):
    """The frames with every cell's fate."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Its inputs and outputs."""
        return io.Schema(
            node_id="AOTTokenMap",
            display_name="Token Map (AOT)",
            category=CATEGORY,
            description="Draw the frames with the fate of every token: kept, keyframe, distinct or absorbed.",
            inputs=[
                AOTTokens.Input("tokens", tooltip="Tokens of any stage."),
                AOTFrames.Input("frames", tooltip="The frames that were encoded."),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The picture.")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, tokens: VideoTokens | Stream, frames: Frames) -> io.NodeOutput:
        """Draw, and preview on the node."""
        image = token_map(ready(tokens), frames)
        return io.NodeOutput(image, ui=ui.PreviewImage(image, cls=cls))


NODES = (AOTTokenMap,)
