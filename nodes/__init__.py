"""The pack's nodes: thin ComfyUI V3 classes over the library in aot/."""

from __future__ import annotations

from . import (
    answering,
    asking,
    clip_models,
    comparing,
    drawn,
    explorer,
    folders,
    frame_stages,
    inside,
    models,
    pictures,
    relevance,
    serving,
    stages,
    storage,
    token_video,
    tower_stages,
    video,
)
from .comfy import ComfyExtension, io

NODES = (
    video.NODES
    + folders.NODES
    + drawn.NODES
    + models.NODES
    + clip_models.NODES
    + storage.NODES
    + stages.NODES
    + answering.NODES
    + asking.NODES
    + comparing.NODES
    + serving.NODES
    + pictures.NODES
    + token_video.NODES
    + explorer.NODES
    + frame_stages.NODES
    + tower_stages.NODES
    + inside.NODES
    + relevance.NODES
)


class AOTExtension(ComfyExtension):
    """The nodes ComfyUI registers."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Every node of the pack."""
        return list(NODES)
