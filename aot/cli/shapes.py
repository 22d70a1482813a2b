"""``aot shapes SEED``: one clip of Shapes, its questions with the right answers, and a model's answers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..tables import aligned
from .command import Result
from .evaluate import with_blind
from .options import load, model_options, variant_options

if TYPE_CHECKING:
    from ..evaluation.records import Record
    from ..evaluation.shapes_set import ShapesSet


def add(parser: argparse.ArgumentParser) -> None:
    """Add the clip, the file to write it to, and the model."""
    parser.add_argument("seed", type=int, help="any; those of the test split begin at 2000000")
    parser.add_argument("--frames", type=int, default=16, help="that the clip has, 4 or more")
    parser.add_argument("--hard", action="store_true", help="the clip and the questions that hard-shapes has for it")
    parser.add_argument("--mp4", type=Path, metavar="FILE", help="write the clip here")
    parser.add_argument("--ask", action="store_true", help="ask the model, full tokens first")
    model_options(parser)
    variant_options(parser)


def run(options: argparse.Namespace) -> Result:
    """Print the questions with their answers, and what the model says."""
    from ..evaluation import HARD_SHAPES, SHAPES, drawn_set
    from ..evaluation.clip_file import write_mp4

    if options.seed < 0:
        raise InputError(f"Seed {options.seed}; seeds begin at 0.")
    if options.mp4 and options.mp4.suffix.lower() != ".mp4":
        raise InputError(f"--mp4 is {options.mp4.name}; give a file name that ends in .mp4.")
    name = HARD_SHAPES if options.hard else SHAPES
    clip = drawn_set(name, options.frames, split="any", clips=1, seed=options.seed)
    rows: list[dict[str, Any]] = [{"family": q.family, "question": q.text, "truth": q.answer} for q in clip.questions]
    records = _ask(options, clip) if options.ask else []
    if options.mp4:
        write_mp4(clip.scene(str(options.seed)).frames(), options.mp4)
    for record in records:
        for row, question in zip(rows, clip.questions, strict=True):
            answer, right = record.said[question.id], bool(record.scores[question.id])
            row[record.variant] = {"said": answer, "right": right, "tokens": record.tokens_kept}
    names = [record.variant for record in records]
    cells = [[row["question"], row["truth"], *(_cell(row[name]) for name in names)] for row in rows]
    print(aligned(("question", "truth", *names), cells))
    for record in records:
        right = sum(map(bool, record.scores.values()))
        print(f"{record.variant}: {right} of {len(rows)} right, {record.tokens_kept} tokens")
    if options.mp4:
        print(f"The clip is in {options.mp4}")
    return {"seed": options.seed, "frames": options.frames, "rows": rows}, 0


def _ask(options: argparse.Namespace, clip: ShapesSet) -> list[Record]:
    from ..comparison.starts import Starts
    from ..evaluation.runner import answer_variants

    variants = with_blind(options)
    model = load(options)
    frames = clip.frames(str(options.seed), options.frames)
    starts = Starts(model, model.encode(frames), frames)
    return list(answer_variants(model, clip, clip.questions, variants, starts))


def _cell(reply: dict[str, Any]) -> str:
    """The answer, after an x if it is wrong."""
    return f"{'  ' if reply['right'] else 'x '}{reply['said'] or '(empty)'}"
