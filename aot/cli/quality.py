"""``aot quality``: what stages keep of videos, from W and the features alone, without a question."""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from ..errors import InputError, UnreadableVideo
from .command import Result
from .evaluate import questions_of, set_options
from .options import load, model_options, variant_options

if TYPE_CHECKING:
    from ..comparison.starts import Starts
    from ..comparison.variants import Variant
    from ..models.base import VideoLLM
    from ..tokens.quality import Figures

HEAD = ("variant", "tokens", "cells read", "mass over", "effective rank", "error", "frames a token")


def add(parser: argparse.ArgumentParser) -> None:
    """Add the video or the set, and the stages."""
    parser.add_argument("set", metavar="VIDEO|SET", help="any video file, or a question set as of aot eval")
    set_options(parser)
    parser.add_argument("--question", default="", help="what the tokens are chosen for, where a stage asks")
    parser.add_argument("--cache", type=Path, help="folder that keeps a set's encodings, as aot eval's; none otherwise")
    model_options(parser)
    variant_options(parser)
    parser.add_argument(
        "--fewer",
        action="store_true",
        help="of a video, not of a set: take all frames where it has fewer than --frames",
    )


def run(options: argparse.Namespace) -> Result:
    """Print what each stage keeps, in the mean over the videos."""
    from ..answering.relevance import agreement_with_unrelated, in_words
    from ..comparison.variants import expand
    from ..evaluation.report import not_read
    from ..stages.chain import FULL
    from ..tables import markdown
    from ..tokens.quality import figures, steps_inside

    variants = expand([spec for spec in options.stages if spec != FULL], options.retention)
    asking = next((each.name for each in variants if each.chain and each.chain.needs_question), None)
    if asking and not options.question.strip():
        raise InputError(f"{asking} chooses tokens by the question; give --question, or leave it out.")
    model = load(options)
    measured: dict[str, list[Figures]] = {variant.name: [] for variant in variants}
    refused: dict[str, str] = {}
    unreadable: dict[str, str] = {}
    clips, agreements = 0, []
    for starts in _videos(model, options, variants, unreadable.__setitem__):
        clips += 1
        if asking:
            agreements.append(agreement_with_unrelated(model, model.about(starts.shared, options.question)))
        for variant, start in zip(variants, starts.plan(variants), strict=True):
            try:
                if isinstance(start, InputError):
                    raise start
                reduced = starts.reduced(start, options.question)
                starts.done(start)
                comparable = reduced.is_exact and not steps_inside(reduced)
                measured[variant.name].append(figures(reduced, starts.shared if comparable else None))
            except InputError as error:
                refused.setdefault(variant.name, str(error))
    rows = {name: _mean(each) for name, each in measured.items() if each and name not in refused}
    if not rows:
        raise InputError(next(iter(refused.values())) if clips else not_read(clips, unreadable))
    print(markdown(HEAD, [_cells(name, row) for name, row in rows.items()], padded=True))
    for name, reason in refused.items():
        print(f"Left out: {name}: {reason}")
    if unreadable:
        print(not_read(clips, unreadable))
    result = {"of": str(options.set), "clips": clips, "rows": rows, "refused": refused, "unreadable": unreadable}
    if asking:
        result["unrelated"] = statistics.fmean(agreements)
        print(f"Of this question, {in_words(result['unrelated'])}.")
    return result, 0


def _videos(
    model: VideoLLM,
    options: argparse.Namespace,
    variants: Sequence[Variant],
    on_unreadable: Callable[[str, str], None],
) -> Iterator[Starts]:
    """What the variants start from in every clip that can be read, with a bar."""
    from ..comparison.starts import Starts
    from ..evaluation import SHAPES
    from ..evaluation.encodings import Encodings
    from ..evaluation.published import SETS
    from ..evaluation.runner import by_clip
    from ..models.fingerprint import fingerprint
    from ..video.sampling import Sampling
    from ..video.video_source import load_video

    if Path(options.set).is_file():
        frames = load_video(Path(options.set), Sampling(frames=options.frames, fewer=options.fewer))
        yield Starts(model, model.encode(frames), frames)
        return
    sets = SHAPES, *SETS
    if options.set not in sets:
        known = ", ".join(sets)
        raise InputError(f"there is no file {options.set}: check its name and folder, or give a set: {known}.")
    questions = questions_of(options)
    encodings = Encodings(model, questions, options.frames, options.cache, weights=fingerprint(model))
    clips = by_clip(questions.questions)
    for clip in tqdm(clips, desc="quality", file=sys.stderr, leave=False, disable=None):
        try:
            yield encodings.starts(clip, variants)
        except UnreadableVideo as error:
            on_unreadable(clip, str(error))
            tqdm.write(f"Clip {clip} is left out: {error}", file=sys.stderr)


def _mean(every: list[Figures]) -> dict[str, float | None]:
    """Every figure's mean over the clips; None where a clip has none."""
    means: dict[str, float | None] = {}
    for item in dataclasses.fields(every[0]):
        values = [getattr(each, item.name) for each in every]
        means[item.name] = None if None in values else statistics.fmean(values)
    return means


def _cells(name: str, row: dict[str, float | None]) -> list[str]:
    forms = {"tokens": ".0f", "cells": ".1%", "spread": ".1%", "rank": ".0f", "error": ".3f", "frames": ".2f"}
    return [name, *("-" if row[key] is None else format(row[key], form) for key, form in forms.items())]
