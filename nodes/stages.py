"""One node for every reduction stage that names one: AOT_TOKENS in, AOT_TOKENS out.

The widgets are the stage's own settings, so a stage is written once, in aot/stages/, and is a node.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ..aot.stages import Stage, stages
from ..aot.tokens import VideoTokens
from .comfy import io
from .sockets import AOTTokens

CATEGORY = "AOT/reduction"


def widget(item: dataclasses.Field[Any]) -> Any:
    """The ComfyUI widget of a stage's option."""
    help, low, high, step, choices = (item.metadata[key] for key in ("help", "low", "high", "step", "choices"))
    if choices:
        return io.Combo.Input(item.name, options=list(choices), default=item.default, tooltip=help)
    if isinstance(item.default, bool):
        return io.Boolean.Input(item.name, default=item.default, tooltip=help)
    if isinstance(item.default, int):
        return io.Int.Input(item.name, default=item.default, min=low, max=high, step=step or 1, tooltip=help)
    step = step or 0.01
    return io.Float.Input(
        item.name, default=item.default, min=low, max=high, step=step, round=min(step, 0.001), tooltip=help
    )


def summary(before: VideoTokens, after: VideoTokens) -> str:
    """One line about what a stage did."""
    return (
        f"{before.tokens_kept} to {after.tokens_kept} tokens, {after.retention:.1%} of {after.tokens_full}, "
        f"in {after.history[-1].milliseconds:.0f} ms"
    )


def stage_node(kind: type[Stage]) -> type[io.ComfyNode]:
    """The node of one stage."""

    class StageNode(io.ComfyNode):
        @classmethod
        def define_schema(cls) -> io.Schema:
            return io.Schema(
                node_id=kind.node_id,
                display_name=kind.title,
                category=CATEGORY,
                description=f"{(kind.__doc__ or '').splitlines()[0]} Source: {kind.source}.",
                inputs=[
                    AOTTokens.Input("tokens", tooltip="Tokens of Encode Video or of another stage."),
                    *(widget(item) for item in dataclasses.fields(kind)),
                ],
                outputs=[AOTTokens.Output(display_name="tokens", tooltip="The tokens that are left.")],
            )

        @classmethod
        def execute(cls, tokens: VideoTokens, **settings: Any) -> io.NodeOutput:
            reduced = kind(**settings)(tokens)
            return io.NodeOutput(reduced, ui={"text": (summary(tokens, reduced),)})

    StageNode.__name__ = StageNode.__qualname__ = kind.node_id
    StageNode.__doc__ = kind.__doc__
    return StageNode


NODES = tuple(stage_node(kind) for kind in stages().values() if kind.node_id)
