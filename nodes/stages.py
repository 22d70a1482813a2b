"""One node for every reduction stage that names one: AOT_TOKENS in, AOT_TOKENS out.

The widgets are the stage's own settings, so a stage is written once, in aot/stages/, and is a node.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, cast

from ..aot.stages import InnerStage, Method, Setting, Stage, inner_stages, stages
from ..aot.stages.carried import carried
from ..aot.stages.options import settings_of
from ..aot.stages.toolkit.language_grid import SubstituteWarning
from ..aot.streaming import Stream
from ..aot.tokens.video_tokens import VideoTokens
from ..aot.transport.solvers import UnconvergedWarning
from .comfy import advanced, io, schema, stoppable
from .sockets import AOTTokens

CATEGORY = "AOT/reduction"
CATEGORY_INNER = "AOT/LLM"
ABOUT = "One of the stages that reduce the tokens of a video: they prune, merge or compress them."
ABOUT_INNER = "It acts inside the LLM when the video is read: the tokens only carry it there, after all other stages."
ABOUT_AOT = "It merges tokens by optimal transport."
WORDS = ("token reduction", "reduce", "prune", "merge", "compress", "visual tokens")
"""What people who look for a stage type into the search."""
AOT_WORDS = ("optimal transport", "Sinkhorn", "AOT")
"""And for one of AOT."""


def describe(kind: type[Method], *sentences: str) -> str:
    """What a stage's node says of itself.

    Args:
        kind: the stage.
        *sentences: about where it acts.
    """
    return " ".join(((kind.__doc__ or "").splitlines()[0], *sentences, f"Source: {kind.source}."))


def widget(name: str, setting: Setting) -> Any:
    """The ComfyUI widget of a stage's setting; an advanced one is behind ComfyUI's "Show Advanced".

    Args:
        name: the setting's, and the widget's id.
        setting: its default, help and bounds.
    """
    made = _widget(name, setting)
    return advanced(made) if setting.advanced else made


def _widget(name: str, setting: Setting) -> Any:
    default, step = setting.default, setting.step
    bounds: dict[str, Any] = {"min": setting.low, "max": setting.high}
    # Optional: a prompt saved before the setting was added still runs, with its default.
    common = {"id": name, "default": default, "tooltip": setting.help, "optional": True}
    if setting.allowed:
        return io.Combo.Input(options=list(setting.allowed), **common)
    if isinstance(default, bool):
        return io.Boolean.Input(**common)
    if isinstance(default, str):
        return io.String.Input(**common)
    if isinstance(default, int):
        return io.Int.Input(step=int(step or 1), **bounds, **common)
    step = step or 0.01
    return io.Float.Input(step=step, round=min(step, 0.001), **bounds, **common)


def summary(before: VideoTokens, after: VideoTokens, warned: Sequence[warnings.WarningMessage]) -> str:
    """One line about what a stage did or will do, and one for each warning it gave."""
    if len(after.inner) > len(before.inner):
        if carried(after)[-1].keeps_positions:
            return f"{after.tokens_kept} tokens, read at their positions among all {after.tokens_full}"
        return f"{after.tokens_kept} tokens, fewer inside the LLM: Answer shows how many"
    milliseconds = sum(record.milliseconds for record in after.history[len(before.history) :])
    line = (
        f"{before.tokens_kept} to {after.tokens_kept} tokens, {after.retention:.1%} of {after.tokens_full}, "
        f"in {milliseconds:.0f} ms"
    )
    return "\n".join((line, *dict.fromkeys(str(each.message) for each in warned)))


def stage_node(kind: type[Stage]) -> type[io.ComfyNode]:
    """The node of one stage, which names it."""
    node_id = cast(str, kind.node_id)
    is_aot = kind.source.startswith("AOT")
    about, category = (ABOUT_INNER, CATEGORY_INNER) if issubclass(kind, InnerStage) else (ABOUT, CATEGORY)

    class StageNode(io.ComfyNode):
        @classmethod
        def define_schema(cls) -> io.Schema:
            return schema(
                node_id=node_id,
                display_name=kind.title,
                category=category,
                description=describe(kind, about, *([ABOUT_AOT] if is_aot else ())),
                search_aliases=[*WORDS, *(AOT_WORDS if is_aot else ())],
                inputs=[
                    AOTTokens.Input("tokens", tooltip="Tokens of Encode Video or of another stage."),
                    *(widget(name, setting) for name, setting in settings_of(kind).items()),
                ],
                outputs=[AOTTokens.Output(display_name="tokens", tooltip="The tokens that are left.")],
            )

        @classmethod
        def execute(cls, tokens: VideoTokens | Stream, **settings: Any) -> io.NodeOutput:
            stage = kind(**settings)
            if isinstance(tokens, Stream):
                return io.NodeOutput(tokens.then(stage), ui={"text": ("streamed when tokens are needed",)})
            with warnings.catch_warnings(record=True) as warned:
                for kind_of_warning in (UnconvergedWarning, SubstituteWarning):
                    warnings.simplefilter("always", kind_of_warning)
                with stoppable(tokens.features.device):
                    reduced = stage(tokens)
            return io.NodeOutput(reduced, ui={"text": (summary(tokens, reduced, warned),)})

    StageNode.__name__ = StageNode.__qualname__ = node_id
    StageNode.__doc__ = kind.__doc__
    return StageNode


NODES = tuple(stage_node(kind) for kind in (*stages().values(), *inner_stages().values()) if kind.node_id)
