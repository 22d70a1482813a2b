"""Nodes that show what a reduction did."""

from __future__ import annotations

from ..aot.pictures import inspect, timeline, token_map
from ..aot.pictures.token_map import LAYOUTS
from ..aot.streaming import Stream
from ..aot.tokens.video_tokens import VideoTokens
from ..aot.video.frame_source import FrameSource
from ..aot.video.video_source import decoded
from .comfy import advanced, io, schema, stoppable, ui
from .models import ready
from .sockets import AOTFrames, AOTTokens

CATEGORY = "AOT/pictures"


def width_input(default: int) -> io.WidgetInput:
    """The widget for a picture's width.

    Args:
        default: in pixels.
    """
    return advanced(
        io.Int.Input(
            "width", default=default, min=320, max=2400, optional=True, tooltip="Width of the picture in pixels."
        )
    )


class AOTTokenMap(io.ComfyNode):
    """Frames with what became of every cell."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Its inputs and outputs."""
        return schema(
            node_id="AOTTokenMap",
            display_name="Token Map (AOT)",
            category=CATEGORY,
            description="Draw the frames and show what became of every cell: kept, keyframe, distinct, absorbed in its "
            "frame or in another, or dropped. A line shows the area that each token absorbed.",
            search_aliases=["visualise tokens", "heatmap", "overlay", "which tokens are kept"],
            inputs=[
                AOTTokens.Input("tokens", tooltip="Tokens of any stage."),
                AOTFrames.Input("frames", tooltip="The frames that were encoded."),
                io.Combo.Input(
                    "layout",
                    list(LAYOUTS),
                    default="grid",
                    optional=True,
                    tooltip="grid: rows of frames within the width. strip: all frames in one row, which may be wider.",
                ),
                advanced(
                    io.Int.Input(
                        "columns",
                        default=0,
                        min=0,
                        max=4096,
                        optional=True,
                        tooltip="Frames in a row of the grid. 0 chooses large frames, and rows that start where clips "
                        "start.",
                    )
                ),
                width_input(1600),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The picture.")],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        tokens: VideoTokens | Stream,
        frames: FrameSource,
        layout: str = "grid",
        columns: int = 0,
        width: int = 1600,
    ) -> io.NodeOutput:
        """Draw, and preview on the node."""
        tokens = ready(tokens)
        with stoppable(tokens.features.device):
            image = token_map(tokens, decoded(frames), width=width, columns=columns or None, layout=layout)
        return io.NodeOutput(image, ui=ui.PreviewImage(image, cls=cls))


class AOTClipTimeline(io.ComfyNode):
    """Frames along time, with the tokens kept of each."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Its inputs and outputs."""
        return schema(
            node_id="AOTClipTimeline",
            display_name="Clip Timeline (AOT)",
            category=CATEGORY,
            description="Draw the frames along time: cuts and keyframes, the tokens kept of every frame by role, and "
            "how well the keyframe explains each token of the frames after it.",
            search_aliases=["visualise tokens", "scene cuts", "keyframes", "chart"],
            inputs=[
                AOTTokens.Input("tokens", tooltip="Tokens of any stage."),
                AOTFrames.Input("frames", tooltip="The frames that were encoded."),
                AOTTokens.Input(
                    "full",
                    optional=True,
                    tooltip="Encode Video's tokens, before any stage. The stages run on them again to compute q. "
                    "Without them the lower chart is read off the token map.",
                ),
                width_input(1600),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The picture.")],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        tokens: VideoTokens | Stream,
        frames: FrameSource,
        full: VideoTokens | Stream | None = None,
        width: int = 1600,
    ) -> io.NodeOutput:
        """Draw, and preview on the node."""
        tokens, full = ready(tokens), None if full is None else ready(full)
        with stoppable(tokens.features.device):
            image = timeline(tokens, decoded(frames), full, width=width)
        return io.NodeOutput(image, ui=ui.PreviewImage(image, cls=cls))


class AOTStageInspector(io.ComfyNode):
    """The history as a table."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Its inputs and outputs."""
        return schema(
            node_id="AOTStageInspector",
            display_name="Stage Inspector (AOT)",
            category=CATEGORY,
            description="A table of the stages that ran: settings, tokens in and out, time, and two measures of what "
            "was kept of the features, effective rank and reconstruction error.",
            search_aliases=["token statistics", "effective rank", "reconstruction error"],
            inputs=[
                AOTTokens.Input("tokens", tooltip="Tokens of any stage."),
                AOTTokens.Input(
                    "full",
                    optional=True,
                    tooltip="Encode Video's tokens, before any stage. The stages run on them again, and each gets its "
                    "effective rank and error. Without them only the input tokens are measured.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The table as a picture."),
                io.String.Output(display_name="markdown", tooltip="The table as Markdown."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, tokens: VideoTokens | Stream, full: VideoTokens | Stream | None = None) -> io.NodeOutput:
        """Measure, draw, and preview on the node."""
        tokens, full = ready(tokens), None if full is None else ready(full)
        with stoppable(tokens.features.device):
            inspection = inspect(tokens, full)
        image = inspection.picture()
        return io.NodeOutput(image, inspection.markdown(), ui=ui.PreviewImage(image, cls=cls))


NODES = (AOTTokenMap, AOTClipTimeline, AOTStageInspector)
