"""The node that shows what a layer of the LLM still saw of a video."""

from __future__ import annotations

from ..aot.answering.answer import Answer
from ..aot.streaming import Stream
from ..aot.tokens.video_tokens import VideoTokens
from .comfy import io, schema, stoppable
from .models import ready
from .pictures import CATEGORY
from .sockets import AOTAnswerType, AOTTokens


class AOTLayerTokens(io.ComfyNode):
    """The tokens that a layer of the LLM saw while it answered."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Its inputs and outputs."""
        return schema(
            node_id="AOTLayerTokens",
            display_name="What a Layer Sees (AOT)",
            category=CATEGORY,
            description="The tokens that a layer of the LLM still saw of the video while it answered, for Token Map, "
            "Transport Explorer and the other pictures. For stages that act inside the LLM, as FastV.",
            search_aliases=["LLM layer", "inside the LLM", "FastV", "PyramidDrop", "visualise tokens"],
            inputs=[
                AOTTokens.Input("tokens", tooltip="The tokens that were asked about."),
                AOTAnswerType.Input("answer", tooltip="Answer's answer about these tokens."),
                io.Int.Input(
                    "layer",
                    default=0,
                    min=-1,
                    max=1000,
                    tooltip="Layer of the LLM, counted from 0; -1 is its last.",
                ),
            ],
            outputs=[AOTTokens.Output(display_name="tokens", tooltip="What that layer saw of them.")],
        )

    @classmethod
    def execute(cls, tokens: VideoTokens | Stream, answer: Answer, layer: int = 0) -> io.NodeOutput:
        """Take what the answer says of the layer."""
        tokens = ready(tokens)
        layers = len(answer.layer_tokens)
        with stoppable(tokens.features.device):
            seen = answer.tokens_at(tokens, layers - 1 if layer < 0 and layers else layer)
        text = f"{seen.tokens_kept} of the {tokens.tokens_kept} tokens that the LLM was given"
        if not layers:
            text = f"all {tokens.tokens_kept} tokens: no stage acted inside the LLM"
        return io.NodeOutput(seen, ui={"text": (text,)})


NODES = (AOTLayerTokens,)
