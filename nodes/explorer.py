"""The node to explore W: which source cells went into a kept token, and where a source cell went."""

from __future__ import annotations

import uuid

from ..aot.pictures.explorer import Transport, packed, save_frames
from ..aot.pictures.token_map import frames_drawn
from ..aot.pictures.transport_picture import CHOICES, MOST_ROWS, STANDS_FOR, transport_picture
from ..aot.streaming import Stream
from ..aot.tokens.video_tokens import VideoTokens
from ..aot.video.frames import Frames
from .comfy import io, schema, stoppable, temp_directory, ui
from .models import ready
from .pictures import CATEGORY
from .sockets import AOTFrames, AOTTokens


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
            "Point at a cell to see where it went. The image shows the most telling tokens.",
            search_aliases=["visualise tokens", "optimal transport", "transport matrix", "which cells merge"],
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
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The most telling tokens, a row for each.")],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, tokens: VideoTokens | Stream, frames: Frames, choice: str = STANDS_FOR, rows: int = 4
    ) -> io.NodeOutput:
        """Thin W and draw the picture; in a browser the node's view replaces the picture's preview."""
        tokens = ready(tokens).on(frames.count)
        with stoppable(tokens.features.device):
            transport = Transport.of(tokens)
            image = transport_picture(tokens, frames, transport, choice=choice, rows=rows)
        prefix = f"aot_explorer_{uuid.uuid4().hex[:8]}"
        names = save_frames(frames_drawn(tokens, frames)[0], temp_directory(), prefix)
        view = {
            **ui.PreviewImage(image, cls=cls).as_dict(),
            "aot_transport": [packed(tokens, transport)],
            "aot_frames": [{"filename": name, "subfolder": "", "type": "temp"} for name in names],
        }
        return io.NodeOutput(image, ui=view)


NODES = (AOTTransportExplorer,)
