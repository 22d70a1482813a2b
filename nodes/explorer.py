"""The node to explore W: which source cells went into a kept token, and where a source cell went."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

from ..aot.answering.answer import Answer
from ..aot.pictures.explorer import packed, save_frames
from ..aot.pictures.explorer_layers import packed_layers, transports
from ..aot.pictures.token_map import frames_drawn
from ..aot.pictures.transport_picture import CHOICES, MOST_ROWS, STANDS_FOR, transport_picture
from ..aot.stages.carried import between_layers
from ..aot.streaming import Stream
from ..aot.tokens.video_tokens import VideoTokens
from ..aot.video.frame_source import FrameSource
from ..aot.video.video_source import decoded
from .comfy import io, schema, stoppable, temp_directory, ui
from .models import ready
from .pictures import CATEGORY
from .sockets import AOTAnswerType, AOTFrames, AOTTokens


class AOTTransportExplorer(io.ComfyNode):
    """A view of kept tokens and the cells they come from, and a picture of the most telling ones."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Its inputs and outputs."""
        return schema(
            node_id="AOTTransportExplorer",
            display_name="Transport Explorer (AOT)",
            category=CATEGORY,
            description="Point at a kept token to see the cells of the video that went into it, shaded by weight. "
            "Point at a cell to see where it went. The image shows the most telling tokens. With an answer, go through "
            "the LLM's layers and see what each of them still saw.",
            search_aliases=[
                "visualise tokens",
                "optimal transport",
                "transport matrix",
                "which cells merge",
                "LLM layer",
                "inside the LLM",
            ],
            inputs=[
                AOTTokens.Input("tokens", tooltip="Tokens of any stage."),
                AOTFrames.Input("frames", tooltip="The frames that were encoded."),
                io.Combo.Input(
                    "choice",
                    options=list(CHOICES),
                    default=STANDS_FOR,
                    tooltip="Which tokens the image shows. stand for most: those that stand for most source cells. "
                    "reach furthest: those with most weight in other frames.",
                ),
                io.Int.Input("rows", default=4, min=1, max=MOST_ROWS, tooltip="How many tokens the image shows."),
                AOTAnswerType.Input(
                    "answer",
                    optional=True,
                    tooltip="Answer's answer about these tokens, to go through the LLM's layers. For stages that act "
                    "inside the LLM, as FastV.",
                ),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The most telling tokens, a row for each.")],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        tokens: VideoTokens | Stream,
        frames: FrameSource,
        choice: str = STANDS_FOR,
        rows: int = 4,
        answer: Answer | None = None,
    ) -> io.NodeOutput:
        """Thin W and draw the picture; in a browser the node's view replaces the picture's preview."""
        tokens, frames = ready(tokens), decoded(frames)
        with stoppable(tokens.features.device):
            steps = () if answer is None else answer.steps(tokens)
            steps = [replace(step, tokens=step.tokens.on(frames.count)) for step in steps]
            given = (tokens.to_language_grid() if steps else tokens).on(frames.count)
            transport, *seen = transports(given, steps)
            image = transport_picture(given, frames, transport, choice=choice, rows=rows)
            layers: dict[str, Any] = {}
            if answer is not None and steps:
                layers = {"aot_layers": [packed_layers(given, steps, answer.layer_tokens, seen)]}
            elif between_layers(tokens):
                layers = {"aot_layers": [{"note": _why_no_layers(tokens, answer)}]}
        prefix = f"aot_explorer_{uuid.uuid4().hex[:8]}"
        names = save_frames(frames_drawn(given, frames)[0], temp_directory(), prefix)
        view = {
            **ui.PreviewImage(image, cls=cls).as_dict(),
            "aot_transport": [packed(given, transport)],
            "aot_frames": [{"filename": name, "subfolder": "", "type": "temp"} for name in names],
            **layers,
        }
        return io.NodeOutput(image, ui=view)


def _why_no_layers(tokens: VideoTokens, answer: Answer | None) -> str:
    names = " and ".join(stage.title for stage in between_layers(tokens))
    if answer is None:
        return f"To act inside the LLM: {names}. Link Answer's answer to go through its layers."
    return f"Every layer of the LLM saw all of these tokens: {names} left none out between layers."


NODES = (AOTTransportExplorer,)
