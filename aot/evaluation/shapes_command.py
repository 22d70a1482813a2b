"""``aot shapes SEED``: one clip of Shapes to look at, its questions with their answers, and what a model says."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    from .shapes_set import ShapesSet

Load = Callable[[argparse.Namespace], Any]
Result = tuple[dict[str, Any], int]

DESCRIPTION = "one clip of Shapes: its questions, the truth, and with --ask what the model says, full and reduced"


def add(verbs: Any, verb: Callable[..., argparse.ArgumentParser], load: Load) -> argparse.ArgumentParser:
    """Add ``shapes`` to a command's parser; the options of model and variants are left to the caller."""
    parser = verb(verbs, "shapes", partial(_shapes, load), DESCRIPTION)
    parser.add_argument("seed", type=int, help="any; those of the test split begin at 2000000")
    parser.add_argument("--frames", type=int, default=16, help="that the clip has, 4 or more")
    parser.add_argument("--mp4", type=Path, metavar="FILE", help="write the clip here")
    parser.add_argument("--ask", action="store_true", help="ask the model, full tokens first")
    return parser


def _shapes(load: Load, options: argparse.Namespace) -> Result:
    from .clip_file import write_mp4
    from .shapes_set import shapes_set

    if options.seed < 0:
        raise InputError(f"Seed {options.seed}; seeds begin at 0.")
    clip = shapes_set("any", clips=1, seed=options.seed, frames=options.frames)
    rows = [{"family": q.family, "question": q.text, "truth": q.answer} for q in clip.questions]
    names = []
    if options.mp4:
        write_mp4(clip.scene(str(options.seed)).frames(), options.mp4)
    if options.ask:
        told = _ask(load, options, clip)
        names = list(told)
        for name, (tokens, said) in told.items():
            for row, question, text in zip(rows, clip.questions, said, strict=True):
                row[name] = {"said": text, "right": bool(clip.score(question, text)), "tokens": tokens}
    print(_table(rows, names))
    for name in names:
        right = sum(row[name]["right"] for row in rows)
        print(f"{name}: {right} of {len(rows)} right, {rows[0][name]['tokens']} tokens")
    if options.mp4:
        print(f"The clip is in {options.mp4}")
    return {"seed": options.seed, "frames": options.frames, "rows": rows}, 0


def _ask(load: Load, options: argparse.Namespace, clip: ShapesSet) -> dict[str, tuple[int, tuple[str, ...]]]:
    """By variant: how many tokens it showed, and what was said to each question."""
    from ..batching import answer_all
    from .runner import variants

    chosen = variants(options.stages, options.retention)
    vllm = load(options)
    tokens = vllm.encode(clip.frames(str(options.seed), options.frames))
    texts = [question.text for question in clip.questions]
    told = {}
    for variant in chosen:
        shown = None if variant.pipeline is None else variant.pipeline(tokens)
        replies = answer_all(vllm, shown, texts, clip.max_new_tokens)
        told[variant.name] = (0 if shown is None else shown.tokens_kept, replies.texts)
    return told


def _table(rows: list[dict[str, Any]], names: list[str]) -> str:
    """Aligned columns; an answer that is wrong has an x before it."""
    head = ["question", "truth", *names]
    lines = [[row["question"], row["truth"], *(_cell(row[name]) for name in names)] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    ruled = [head, ["-" * width for width in widths], *lines]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in ruled)


def _cell(reply: dict[str, Any]) -> str:
    return f"{'  ' if reply['right'] else 'x '}{reply['said'] or '(empty)'}"
