"""Nodes that put answers side by side: those on their inputs, and those of stages swept over retentions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..aot.answering.answer import Answer
from ..aot.answering.generation import Generation
from ..aot.comparison import sweep as sweeping
from ..aot.comparison import table as comparison_table
from ..aot.comparison.compare import Row, side_by_side
from ..aot.comparison.variants import Variant, expand
from ..aot.errors import InputError
from ..aot.files import whole_file
from ..aot.models.prompt import require_question
from ..aot.streaming import Stream
from ..aot.tokens.video_tokens import VideoTokens
from ..aot.video.frame_source import FrameSource
from .comfy import interrupted, io, output_directory, progress, resolve_file, schema, stoppable, ui, unused_output
from .models import CATEGORY, Loaded, ready
from .progress_text import Rest, Said
from .sockets import AOTVLLM, AOTAnswerType, AOTFrames, AOTTokens

SOCKETS = tuple(f"answer_{number}" for number in range(2, 9))
"""Sockets for answers beside the first."""

REINVEST = ("off", "2", "4", "8")
"""How many times as many frames a chain is also given."""

SWEEPS = "aot_sweeps"
"""Folder in ComfyUI's output folder that keeps what was measured."""


def write_csv(rows: Sequence[Row], prefix: str) -> str:
    """Write the rows to a new file in the output folder; its name there."""
    with unused_output(prefix, ".csv") as path, whole_file(path) as temporary:
        temporary.write_text(comparison_table.as_csv(rows), encoding="utf-8", newline="")
    return path.relative_to(output_directory().resolve()).as_posix()


def _variants(stages: str, retentions: str, controls: bool, reinvest: str) -> list[Variant]:
    """What the widgets say, full tokens first."""
    if reinvest not in REINVEST:
        raise InputError(f"reinvest is {reinvest!r}; choose one of {', '.join(REINVEST)}.")
    times = 1 if reinvest == REINVEST[0] else int(reinvest)
    chains, shares = sweeping.chains_in(stages), sweeping.retentions_in(retentions)
    return [
        dataclasses.replace(each, chain=each.chain and each.chain.with_files(resolve_file))
        for each in expand(chains, shares, controls=controls, reinvest=times)
    ]


class AOTCompare(io.ComfyNode):
    """Answers to a table."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Its inputs and outputs."""
        return schema(
            node_id="AOTCompare",
            display_name="Compare Answers (AOT)",
            category=CATEGORY,
            description="Put answers side by side in a table: tokens, times, operations, memory, and whether they say "
            "what full tokens say. With two token maps linked, a slider on the node lies between them.",
            search_aliases=["compare methods", "benchmark", "table", "side by side"],
            inputs=[
                AOTAnswerType.Input("answers", tooltip="Answers, one or a list of them."),
                *(
                    AOTAnswerType.Input(name, optional=True, tooltip="More answers, one or a list of them.")
                    for name in SOCKETS
                ),
                io.Image.Input("map_a", optional=True, tooltip="A token map, to the left of the slider."),
                io.Image.Input("map_b", optional=True, tooltip="Another one, to its right."),
                io.String.Input(
                    "filename_prefix",
                    default="aot_tables/compare",
                    optional=True,
                    tooltip="Folder and start of the CSV file's name in ComfyUI's output folder; a number is added.",
                ),
                io.String.Input(
                    "truth",
                    optional=True,
                    force_input=True,
                    tooltip="The right answer, where it is known, of Drawn Clip for instance: the table then says who "
                    "gave it.",
                ),
                io.Boolean.Input(
                    "reinvest",
                    default=False,
                    optional=True,
                    tooltip="Measure answers about more frames by the tokens of the fewest, so that the same number of "
                    "tokens from 2, 4 or 8 times the frames stands beside them at the same retention.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The table, drawn."),
                io.String.Output(display_name="markdown", tooltip="The table in Markdown."),
                io.String.Output(display_name="csv", tooltip="The CSV file's name in the output folder."),
            ],
            is_output_node=True,
            is_input_list=True,
        )

    @classmethod
    def execute(
        cls,
        answers: list[Answer],
        map_a: list[Tensor] | None = None,
        map_b: list[Tensor] | None = None,
        filename_prefix: list[str] | None = None,
        truth: list[str] | None = None,
        reinvest: list[bool] | None = None,
        **more: list[Answer],
    ) -> io.NodeOutput:
        """Gather, draw, write."""
        others = [each for name in SOCKETS for each in more.get(name) or () if each is not None]
        right = (truth or [""])[0].strip() or None
        by = side_by_side([*answers, *others], reinvest=bool((reinvest or [False])[0]))
        rows = [dataclasses.replace(row, truth=right) for row in by]
        image, markdown = comparison_table.picture(rows), comparison_table.as_markdown(rows)
        file = write_csv(rows, (filename_prefix or ["aot_tables/compare"])[0])
        report = {**ui.PreviewImage(image, cls=cls).as_dict(), "aot_file": (file,)}
        if map_a and map_b:
            maps = [ui.PreviewImage(each[0][:1], cls=cls).as_dict()["images"][0] for each in (map_a, map_b)]
            report["aot_maps"] = maps
        return io.NodeOutput(image, markdown, file, ui=report)


class AOTSweep(io.ComfyNode):
    """Stages and retentions to a curve."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Its inputs and outputs."""
        return schema(
            node_id="AOTSweep",
            display_name="Sweep Retention (AOT)",
            category=CATEGORY,
            description="Ask one question with full tokens and with every chain of stages at every retention, over one "
            "encoding, and draw time and closeness to the full answer. What was measured is kept: a run that was "
            "stopped goes on, and another point costs only itself.",
            search_aliases=["compare methods", "benchmark", "curve", "retention", "how many tokens"],
            inputs=[
                AOTVLLM.Input("vllm", lazy=True, tooltip="The model that encoded the video."),
                AOTTokens.Input("tokens", lazy=True, tooltip="Tokens of Encode Video, nothing reduced."),
                io.String.Input(
                    "question",
                    default="What happens in this video?",
                    multiline=True,
                    tooltip="The question for every variant. Answers are greedy: the likeliest token every time.",
                ),
                io.String.Input(
                    "stages",
                    default="aot\nintra",
                    multiline=True,
                    tooltip="Chains of stages, one a line: aot, intra, intra:budget=126+inter, a preset; the command "
                    "'aot stages' lists them. A # starts a name of your own.",
                ),
                io.String.Input(
                    "retentions",
                    default="0.5, 0.25, 0.15, 0.1, 0.05",
                    tooltip="Shares of the language grid to keep, above 0, at most 1. A chain whose own settings "
                    "fix what it keeps is run once.",
                ),
                io.Int.Input("max_new_tokens", default=32, min=1, max=512, tooltip="Longest answer, in LLM tokens."),
                io.String.Input(
                    "filename_prefix",
                    default="aot_tables/sweep",
                    tooltip="Folder and start of the CSV file's name in ComfyUI's output folder; a number is added.",
                ),
                AOTFrames.Input(
                    "frames",
                    optional=True,
                    tooltip="The frames that were encoded, for chains that begin with a stage on frames "
                    "(fewer:frames=8+aot), for controls and for reinvest. Each such chain encodes for itself.",
                ),
                io.Boolean.Input(
                    "controls",
                    default=False,
                    optional=True,
                    tooltip="Fewer and smaller frames beside the chains, at the same retentions. The table says what "
                    "is no better than those.",
                ),
                io.Combo.Input(
                    "reinvest",
                    options=list(REINVEST),
                    default=REINVEST[0],
                    optional=True,
                    tooltip="Each chain also on 2, 4 or 8 times as many frames of the video, cut down to the same "
                    "number of tokens: speed turned into better answers.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The curves; the table if there is only one retention."),
                io.String.Output(display_name="markdown", tooltip="Every point in a Markdown table."),
                io.String.Output(display_name="csv", tooltip="The CSV file's name in the output folder."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def check_lazy_status(
        cls,
        question: str,
        stages: str,
        retentions: str,
        vllm: Loaded | None = None,
        tokens: VideoTokens | Stream | None = None,
        controls: bool = False,
        reinvest: str = REINVEST[0],
        **others: Any,
    ) -> list[str]:
        """The links that are still needed. Raises an InputError first where what was typed cannot be swept."""
        require_question(question)
        _variants(stages, retentions, controls, reinvest)
        return [name for name, value in (("vllm", vllm), ("tokens", tokens)) if value is None]

    @classmethod
    def execute(
        cls,
        vllm: Loaded,
        tokens: VideoTokens | Stream,
        question: str,
        stages: str,
        retentions: str,
        max_new_tokens: int,
        filename_prefix: str,
        frames: FrameSource | None = None,
        controls: bool = False,
        reinvest: str = REINVEST[0],
    ) -> io.NodeOutput:
        """Measure what is missing, draw all of it."""
        variants = _variants(stages, retentions, controls, reinvest)
        bar = progress(len(variants))
        folder = Path(output_directory()) / SWEEPS
        rows: list[Row] = []
        refused: list[str] = []
        model = vllm.ready()
        tokens = ready(tokens)
        work = [model.language.prefill_flops(round((each.retention or 1) * tokens.tokens_full)) for each in variants]
        said = Said(cls.hidden)
        said.say(f"{len(variants)} answers: a first word, unmeasured, to warm up", now=True)
        rest = Rest(work)

        def on_row(name: str) -> None:
            interrupted()
            number = len(rows) + len(refused)
            said.say(f"{name}: {number + 1} of {len(variants)}{rest.begin(number)}", now=True)

        with stoppable(model.device):
            for row in sweeping.sweep(
                vllm.answerer,
                tokens,
                question,
                variants,
                Generation(max_new_tokens),
                folder,
                on_row=on_row,
                on_token=lambda count: interrupted(),
                on_refused=refused.append,
                frames=frames,
                on_progress=lambda done, total: interrupted(),
            ):
                rows.append(row)
                bar.update_absolute(len(rows) + len(refused), len(variants))
        image = sweeping.picture(rows, refused)
        file = write_csv(rows, filename_prefix)
        report = {**ui.PreviewImage(image, cls=cls).as_dict(), "aot_file": (file,)}
        markdown = comparison_table.with_refusals(comparison_table.as_markdown(rows), refused)
        return io.NodeOutput(image, markdown, file, ui=report)


NODES = (AOTCompare, AOTSweep)
