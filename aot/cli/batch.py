"""``aot batch``: questions about many videos from the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ..answering.presets import WORDINGS
from ..errors import InputError, require_whole
from .cluster import PARTS, folder_or_url, pool_of, ray_options
from .command import Result, goes_on_from
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
from .servers import connections_of, server_options, tell_of_lost

if TYPE_CHECKING:
    from ..batch.captions import Captions
    from ..batch.on_ray import BatchWork
    from ..batch.questions import Asking
    from ..batch.rows import Rows
    from ..batch.videos import Recipe
    from ..batch.work import Plan
    from ..cluster.pool import Pool

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
    parser.add_argument(
        "--out",
        type=folder_or_url,
        required=True,
        help="folder of the rows, added to by later runs; with --ray a URL too",
    )
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
    server_options(parser)
    ray_options(parser)


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
    from ..batch.on_ray import AT_ONCE
    from ..batch.questions import ask_each
    from ..batch.rows import FORMATS, ROWS, require_formats
    from ..batch.sources import Listed, clips_of
    from ..files import alone

    chosen_chain(options)
    generation(options)
    if unknown := [each for each in options.format if each not in FORMATS]:
        raise InputError(f"--format {unknown[0]} is unknown; give {' or '.join(FORMATS)} (rows.jsonl is always there).")
    require_formats(options.format)
    if options.limit is not None and options.limit < 1:
        raise InputError(f"--limit {options.limit}; give 1 or more videos.")
    for what, text in (
        ("The system prompt", options.system),
        ("--prefix", options.prefix),
        ("--suffix", options.suffix),
    ):
        require_whole(text, what)
    listed = Listed(options.videos, options.video_column, options.id_column, options.allow_url)
    clips = clips_of(options.source, options.pattern, listed)
    asked = ask_each(clips, options.question, options.preset, options.question_column)[: options.limit]
    captions = None
    if options.captions:
        captions = Captions(options.prefix, options.suffix, options.replace)
        require_places([each[0].clip for each in asked])
    elif options.replace or options.prefix or options.suffix:
        raise InputError("--replace, --prefix and --suffix are of caption files; give --captions too.")
    if (pool := pool_of(options, AT_ONCE)) is not None:
        return _run_on_ray(options, pool, asked, captions)
    recipe = recipe_of(options)
    with alone(options.out / ROWS):
        return _run(options, recipe, asked, captions)


def recipe_of(options: argparse.Namespace, on_lost: Callable[[str], None] = tell_of_lost) -> Recipe:
    """How videos are looked at and questions answered, with the model loaded and servers that answer.

    Args:
        options: of the command.
        on_lost: called with a line for every server that is left out.

    Raises:
        InputError: no such model or stage, what does not go together, or no server that answers.
    """
    from ..answering.servers import Servers, require_served, those_alive
    from ..answering.vllm_server import require_embeddings
    from ..batch.videos import Recipe

    chain, connections = chosen_chain(options), connections_of(options)
    if connections:
        require_served(chain)
        connections = those_alive(connections, on_lost)
    relevance = relevance_model(options, [chain])
    model = load(options)
    if connections:
        require_embeddings(model)
    return Recipe(
        model,
        chain,
        sampling(options),
        options.size or None,
        options.file_pixels,
        options.stream,
        options.reinvest,
        generation(options),
        options.system,
        relevance,
        Servers(connections, model, on_lost) if connections else None,
    )


def _run(options: argparse.Namespace, recipe: Recipe, asked: list[list[Asking]], captions: Captions | None) -> Result:
    from ..batch.rows import Rows
    from ..batch.work import plan, settings_of, work_off

    settings = settings_of(recipe, _decisive(options))
    rows = Rows(options.out, settings, again=options.retry)
    todo = plan(asked, rows, captions)
    before = len(rows)
    with _bar(asked, todo) as bar, goes_on_from(rows.folder):
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
    files = rows.write(options.format)
    return _told(rows, files, before, len(asked), todo, captions, written, str(rows.folder), recipe.model.name)


def _run_on_ray(
    options: argparse.Namespace, pool: Pool, asked: list[list[Asking]], captions: Captions | None
) -> Result:
    """As :func:`_run`, by workers of a cluster: rows come out of the parts that they write, captions out of rows."""
    from ..batch.on_ray import pieces_of, take_in
    from ..batch.rows import ROWS, SETTINGS, Rows
    from ..batch.work import plan
    from ..cluster.folder import kept
    from ..cluster.parts import Parts
    from ..cluster.pool import about, connected, spread
    from ..files import alone

    place = str(options.out)
    make = partial(_worker, options)
    with connected(pool), kept(place, (ROWS, SETTINGS)) as (folder, save), alone(folder / ROWS):
        expected = about(pool, make)
        parts = Parts(f"{place.rstrip('/')}/{PARTS}")
        rows = Rows(folder, expected["settings"], again=options.retry)

        def join() -> None:
            names = take_in(rows, parts, again=options.retry and not begun)
            save()
            parts.remove(names)

        begun = False
        join()
        todo, before, begun = plan(asked, rows, captions), len(rows), True
        pieces = pieces_of(todo.asked, options.batch)
        with _bar(asked, todo) as bar, goes_on_from(place):
            try:
                for done, notes in spread(pool, make, pieces, parts, expected) if pieces else ():
                    bar.update(done)
                    for line in dict.fromkeys(notes):
                        bar.write(line, file=sys.stderr)
            finally:
                join()
        written = 0
        if captions is not None:
            written = sum(captions.write(asking.clip, answer) for asking, answer in plan(asked, rows, captions).lost)
        files = rows.write(options.format)
        save()
        return _told(rows, files, before, len(asked), todo, captions, written, place, expected["model"])


@contextmanager
def _worker(options: argparse.Namespace) -> Iterator[BatchWork]:
    """What a worker does, from the options alone: it loads the model itself."""
    from ..batch.on_ray import batch_work
    from ..batch.work import settings_of

    notes: list[str] = []
    recipe = recipe_of(options, notes.append)
    settings = settings_of(recipe, _decisive(options))
    with batch_work(recipe, settings, notes, batch=options.batch, decoders=options.decoders) as work:
        yield work


def _decisive(options: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(options, name) for name in _SETTINGS}


def _bar(asked: list[list[Asking]], todo: Plan) -> tqdm[Any]:
    total = sum(map(len, asked))
    return tqdm(total=total, initial=total - todo.questions, desc="batch", unit="answer", file=sys.stderr, disable=None)


def _told(
    rows: Rows,
    tables: list[Path],
    before: int,
    videos: int,
    todo: Plan,
    captions: Captions | None,
    written: int,
    place: str,
    model: str,
) -> Result:
    """Print what came of the run, and give it."""
    from ..batch.rows import ROWS

    files = [ROWS, *(path.name for path in tables)]
    failed = [row for row in rows if row["error"] is not None]
    result: dict[str, Any] = {
        "out": place,
        "files": files,
        "videos": videos,
        "rows": len(rows),
        "new": len(rows) - before,
        "errors": len(failed),
        "captions": written,
        "captions_kept": todo.kept,
    }
    print(f"{len(rows)} rows, {result['new']} of them new, of {videos} videos: {', '.join(files)} in {place}")
    if captions is not None:
        stayed = f"; {todo.kept} that were there stay (--replace writes them anew)" if todo.kept else ""
        print(f"{written} captions written beside the clips{stayed}")
    tell_of_shapes(model)
    if failed:
        print(
            f"{len(failed)} of {len(rows)} rows have an error in place of an answer; the first, of {failed[0]['id']}: "
            f"{failed[0]['error']} (--retry asks them again)",
            file=sys.stderr,
        )
    return result, int(bool(failed))
