"""ComfyUI's own nodes that many workflows end in, for running them without ComfyUI."""

from __future__ import annotations

from torch import Tensor

from ..comfy import io, ui

CATEGORY = "image"


class PreviewImage(io.ComfyNode):
    """Images to the temp folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Its inputs and outputs."""
        return io.Schema(
            node_id="PreviewImage",
            display_name="Preview Image",
            category=CATEGORY,
            description="Show images.",
            inputs=[io.Image.Input("images", tooltip="What to show.")],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, images: Tensor) -> io.NodeOutput:
        """Write them."""
        return io.NodeOutput(ui=ui.PreviewImage(images, cls=cls))


NODES = (PreviewImage,)
