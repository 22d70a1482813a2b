"""``aot compare``: variants side by side from the command line, full tokens first."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ..errors import InputError
from ..files import make_folder
from .command import Result
from .options import (
    Bar,
    check_before_work,
    control_options,
    encode,
    generation,
    relevance_model,
    relevance_option,
    source,
    tell_of_shapes,
    variant_options,
    video_options,
)

if TYPE_CHECKING:
    from ..comparison.compare import Row
    from ..comparison.starts import Starts
    from ..comparison.variants import Variant
    from ..tokens.video_tokens import VideoTokens
    from ..video.frames import Frames


def add(parser: argparse.ArgumentParser) -> None:
    """Add the video, the question, the variants and what is written."""
    parser.add_argument("--pictures", type=Path, help="folder to write a token map of every variant to")
    parser.add_argument(
        "--video",
        dest="film",  # ``video`` is the clip that is asked about
        type=Path,
        metavar="FILE.mp4",
        help="write the clip with its tokens over it: all of them beside the fewest that give the same answer",
    )
    parser.add_argument("--out", type=Path, help="folder to write the table (Markdown, CSV, PNG) and the curve to")
    parser.add_argument(
        "--cache",
        type=Path,
        help="folder that keeps the figures: a command that was stopped goes on when it is run again",
    )
    video_options(parser)
    variant_options(parser)
    control_options(parser)
    relevance_option(parser)


def run(options: argparse.Namespace) -> Result:
    """Print the table, full tokens first; write pictures, video, table and curve if their places are named."""
    from ..answering.answerer import LocalAnswerer
    from ..comparison.cache import open_cache
    from ..comparison.compare import compare
    from ..comparison.starts import Starts
    from ..comparison.table import terminal
    from ..comparison.variants import expand
    from ..pictures import save_png, token_map
    from ..stages.chain import FULL, is_fixed

    settings = generation(options)
    check_before_work(options, *options.retention)
    chains = [spec for spec in options.stages if spec != FULL]
    variants = expand(chains, options.retention, controls=options.controls, reinvest=options.reinvest)
    if options.film and options.film.suffix.lower() != ".mp4":
        raise InputError(f"--video is {options.film.name}; give a file name that ends in .mp4.")
    for folder in (options.pictures, options.out, options.film and options.film.parent):
        if folder:
            make_folder(folder)
    relevance = relevance_model(options, [variant.chain for variant in variants if variant.chain])
    model, frames, tokens = encode(options, *(variant.chain for variant in variants if variant.chain))
    cache = open_cache(model, tokens, options.question, settings, options.cache, relevance) if options.cache else None
    rows: list[Row] = []
    refused: list[str] = []
    printed: list[dict[str, Any]] = []
    with (
        cache.alone() if cache else nullcontext(),
        tqdm(total=len(variants), desc="compare", file=sys.stderr, leave=False, disable=None) as bar,
    ):
        watch = {"on_row": bar.set_postfix_str, "on_refused": refused.append}
        # The file again: variants that choose frames decode and encode no others, and take as long as that takes.
        file = {"frames": source(options), "file_pixels": options.file_pixels}
        answerer, by_name = LocalAnswerer(model), {variant.name: variant for variant in variants}
        file["relevance_model"] = relevance
        starts = Starts(model, tokens, **file)
        for row in compare(answerer, tokens, options.question, variants, settings, **watch, **file, cache=cache):
            bar.update()
            rows.append(row)
            printed.append(row.to_dict())
            if options.pictures:
                name = row.name.replace(" ", "-").replace(":", "-").replace("+", "-") + ".png"
                reduced, drawn = _to_draw(row, by_name[row.name], starts, frames)
                columns = math.ceil(math.sqrt(drawn.count))
                save_png(token_map(reduced, drawn, columns=columns), options.pictures / name)
                printed[-1]["picture"] = name
    if len(rows) == 1 and refused:
        raise InputError(refused[0])
    print(terminal(rows))
    for reason in refused:
        print(f"Left out: {reason}")
    fixed = [spec for spec in chains if is_fixed(spec)]
    if fixed:
        print(f"{', '.join(fixed)}: what it keeps follows from its own settings, not from --retention.")
    asking = [variant.name for variant in variants if variant.chain and variant.chain.needs_question]
    if asking:
        print(f"{', '.join(asking)}: chosen for this question; another is reduced and read anew.")
    if options.pictures:
        print(f"Token maps in {options.pictures}: {', '.join(each['picture'] for each in printed)}")
    result: dict[str, Any] = {
        "clip": frames.source, "question": options.question, "model": model.name, "rows": printed,
        "frames": frames.count,
    }  # fmt: skip
    if options.film:
        shown = to_show(rows)
        _write_video(shown, by_name, starts, frames, options.film)
        print(f"{' beside '.join(row.name for row in shown)}, as a video: {options.film}")
        result["video"] = str(options.film)
    if options.out:
        print(f"Tables and curve in {options.out}: {', '.join(_write(rows, refused, options.out))}")
    tell_of_shapes(model.name)
    return result, 0


def to_show(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Full tokens, and the variant to play beside them.

    That is the one of fewest tokens among those that give the same answer; the closest to full if none does.

    Args:
        rows: of a comparison, full tokens first.
    """
    from ..comparison.compare import closest

    others = [row for row in rows[1:] if row.reinvest == 1]
    same = [row for row in others if row.is_reduced and row.fidelity.same]
    beside = min(same, key=lambda row: row.answer.tokens_kept) if same else closest(others)
    return (rows[0],) if beside is None else (rows[0], beside)


def _to_draw(row: Row, variant: Variant, starts: Starts, frames: Frames) -> tuple[VideoTokens, Frames]:
    """A row's tokens, made again where they were measured before, and the frames to draw them on."""
    tokens = row.tokens
    if tokens is not None and tokens.on(frames.count).frames_shown == frames.count:
        return tokens, frames
    (start,) = starts.plan([variant])
    if isinstance(start, InputError):
        raise start
    if tokens is None:
        tokens = starts.reduced(start, row.answer.question)
    if start.frames is not None and tokens.on(frames.count).frames_shown != frames.count:
        (frames,) = start.frames.parts(start.frames.count)
    return tokens, frames


def _write_video(
    rows: Sequence[Row], variants: Mapping[str, Variant], starts: Starts, frames: Frames, path: Path
) -> None:
    """Write the variants of one or two rows as a video."""
    from ..pictures.token_video import Overlay, token_video

    overlays = [
        Overlay(_to_draw(row, variants[row.name], starts, frames)[0], row.answer.question, row.answer.text)
        for row in rows
    ]
    with Bar("video") as bar:
        token_video(overlays, frames, path, on_progress=bar)


def _write(rows: Sequence[Row], refused: Sequence[str], folder: Path) -> tuple[str, ...]:
    """Write the table in its forms, and the curve; return the files' names."""
    from ..comparison.sweep import curve
    from ..comparison.table import as_csv, as_markdown, picture, with_refusals
    from ..files import whole_file
    from ..pictures import save_png

    texts = {"table.md": with_refusals(as_markdown(rows), refused), "table.csv": as_csv(rows)}
    for name, text in texts.items():
        with whole_file(folder / name) as path:
            path.write_text(text, encoding="utf-8", newline="")
    images = {"table.png": picture(rows, refused), "curve.png": curve(rows, refused)}
    for name, image in images.items():
        save_png(image, folder / name)
    return (*texts, *images)
