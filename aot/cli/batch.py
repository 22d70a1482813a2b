"""``aot batch``: questions about many videos from the command line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ..answering.presets import WORDINGS
from ..errors import InputError
from .command import Result
from .options import (
    answering_options,
    budget_options,
    chosen_chain,
    generation,
    load,
    reinvest_option,
    relevance_model,
    relevance_option,
    sampling,
    tell_of_shapes,
)

if TYPE_CHECKING:
    from ..batch.captions import Captions
    from ..batch.questions import Asking
    from ..batch.videos import Recipe

_SETTINGS = (
    "frames",
    "fps",
    "start",
    "end",
    "size",
    "fewer",
    "file_pixels",
    "reinvest",
    "system",
    "max_new_tokens",
    "temperature",
    "top_p",
    "seed",
    "repetition_penalty",
)
"""The options that decide an answer, besides model and stages."""


def add(parser: argparse.ArgumentParser) -> None:
    """Add where the videos are, what is asked, and where the rows go."""
    parser.add_argument(
        "source",
        help="a folder, with those in it; a list of videos (txt, csv, jsonl, parquet); a video; a URL of a folder "
        "(s3://, gs://) or of a video (https:// too)",
    )
    parser.add_argument(
        "question", nargs="*", help="what you want to know of each; {column} is a value of the video's row in the list"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the rows, added to by later runs")
    parser.add_argument(
        "--preset", nargs="+", default=[], metavar="NAME", help=f"words around each question: {', '.join(WORDINGS)}"
    )
    parser.add_argument("--pattern", nargs="+", default=[], help="files of a folder to take: '*.mp4', 'day1/*'")
    parser.add_argument("--format", nargs="+", default=[], help="write rows.csv, rows.parquet too: csv, parquet")
    parser.add_argument("--limit", type=int, help="videos, the first of the source")
    parser.add_argument("--batch", type=int, default=8, help="videos that are answered together, at most")
    parser.add_argument("--decoders", type=int, default=2, help="threads that decode ahead")
    parser.add_argument("--retry", action="store_true", help="ask again where an earlier run has an error")
    _list_options(parser)
    _caption_options(parser)
    answering_options(parser)
    budget_options(parser)
    reinvest_option(parser)
    relevance_option(parser)


def _list_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("lists")
    group.add_argument("--videos", type=Path, metavar="FOLDER", help="where a list's videos are; its own if left out")
    group.add_argument("--video-column", default="video", metavar="NAME", help="column of the videos")
    group.add_argument("--id-column", default="", metavar="NAME", help="column of ids; 'id', or else the videos' names")
    group.add_argument(
        "--question-column", default="question", metavar="NAME", help="column that is asked where no QUESTION is given"
    )
    group.add_argument(
        "--allow-url", action="append", default=[], metavar="URL", help="a list may name URLs that begin with this"
    )


def _caption_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("captions")
    group.add_argument(
        "--captions",
        action="store_true",
        help="write the answer beside each clip, as clip.txt; those there stay",
    )
    group.add_argument("--replace", action="store_true", help="write captions that are there anew")
    group.add_argument("--prefix", default="", metavar="TEXT", help="in front of a caption: 'mystyle, '")
    group.add_argument("--suffix", default="", metavar="TEXT", help="after a caption")


def run(options: argparse.Namespace) -> Result:
    """Answer what has no row yet, and write the rows."""
    from ..batch.captions import Captions, require_places
    from ..batch.questions import ask_each
    from ..batch.rows import FORMATS, ROWS, require_formats
    from ..batch.sources import Listed, clips_of
    from ..batch.videos import Recipe
    from ..files import alone

    chain = chosen_chain(options)
    settings = generation(options)
    if unknown := [each for each in options.format if each not in FORMATS]:
        raise InputError(f"--format {unknown[0]} is unknown; give {' or '.join(FORMATS)} (rows.jsonl is always there).")
    require_formats(options.format)
    if options.limit is not None and options.limit < 1:
        raise InputError(f"--limit {options.limit}; give 1 or more videos.")
    listed = Listed(options.videos, options.video_column, options.id_column, options.allow_url)
    clips = clips_of(options.source, options.pattern, listed)
    asked = ask_each(clips, options.question, options.preset, options.question_column)[: options.limit]
    captions = None
    if options.captions:
        captions = Captions(options.prefix, options.suffix, options.replace)
        require_places([each[0].clip for each in asked])
    elif options.replace or options.prefix or options.suffix:
        raise InputError("--replace, --prefix and --suffix are of caption files; give --captions too.")
    relevance = relevance_model(options, [chain])
    model = load(options)
    recipe = Recipe(
        model,
        chain,
        sampling(options),
        options.size or None,
        options.file_pixels,
        options.stream,
        options.reinvest,
        settings,
        options.system,
        relevance,
    )
    with alone(options.out / ROWS):
        return _run(options, recipe, asked, captions)


def _run(options: argparse.Namespace, recipe: Recipe, asked: list[list[Asking]], captions: Captions | None) -> Result:
    from ..batch.rows import ROWS, Rows
    from ..batch.work import plan, settings_of, work_off

    settings = settings_of(recipe, {name: getattr(options, name) for name in _SETTINGS})
    rows = Rows(options.out, settings, again=options.retry)
    todo = plan(asked, rows, captions)
    total, before = sum(map(len, asked)), len(rows)
    with tqdm(
        total=total, initial=total - todo.questions, desc="batch", unit="answer", file=sys.stderr, disable=None
    ) as bar:
        try:
            written = work_off(
                todo,
                recipe,
                rows,
                settings,
                captions,
                batch=options.batch,
                decoders=options.decoders,
                on_row=bar.update,
            )
        except KeyboardInterrupt:
            print(f"What was answered is in {rows.folder}; the same command goes on from there.", file=sys.stderr)
            raise
    files = [ROWS, *(path.name for path in rows.write(options.format))]
    failed = [row for row in rows if row["error"] is not None]
    result: dict[str, Any] = {
        "out": str(rows.folder),
        "files": files,
        "videos": len(asked),
        "rows": len(rows),
        "new": len(rows) - before,
        "errors": len(failed),
        "captions": written,
        "captions_kept": todo.kept,
    }
    print(f"{len(rows)} rows, {result['new']} of them new, of {len(asked)} videos: {', '.join(files)} in {rows.folder}")
    if captions is not None:
        stayed = f"; {todo.kept} that were there stay (--replace writes them anew)" if todo.kept else ""
        print(f"{written} captions written beside the clips{stayed}")
    tell_of_shapes(recipe.model.name)
    if failed:
        print(
            f"{len(failed)} of {len(rows)} rows have an error in place of an answer; the first, of {failed[0]['id']}: "
            f"{failed[0]['error']} (--retry asks them again)",
            file=sys.stderr,
        )
    return result, int(bool(failed))
