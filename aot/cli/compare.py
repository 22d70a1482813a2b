"""``aot compare``: variants side by side from the command line, full tokens first."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ..errors import InputError
from ..files import make_folder
from .command import Result
from .options import (
    check_before_work,
    encode,
    generation,
    tell_of_shapes,
    variant_options,
    video_options,
)

if TYPE_CHECKING:
    from ..comparison.compare import Row


def add(parser: argparse.ArgumentParser) -> None:
    """Add the video, the question, the variants and what is written."""
    parser.add_argument("--pictures", type=Path, help="folder to write a token map of every variant to")
    parser.add_argument("--out", type=Path, help="folder to write the table (Markdown, CSV, PNG) and the curve to")
    parser.add_argument(
        "--cache",
        type=Path,
        help="folder that keeps the figures: a command that was stopped goes on when it is run again",
    )
    video_options(parser)
    variant_options(parser)


def run(options: argparse.Namespace) -> Result:
    """Print the table, full tokens first; write pictures, table and curve if their folders are named."""
    from ..answering.answerer import LocalAnswerer
    from ..comparison.cache import open_cache
    from ..comparison.compare import compare
    from ..comparison.table import terminal
    from ..comparison.variants import expand
    from ..pictures import save_png, token_map
    from ..stages.chain import FULL, is_fixed

    settings = generation(options)
    check_before_work(options, *options.retention)
    chains = [spec for spec in options.stages if spec != FULL]
    variants = expand(chains, options.retention)
    for folder in (options.pictures, options.out):
        if folder:
            make_folder(folder)
    model, frames, tokens = encode(options, *(variant.chain for variant in variants if variant.chain))
    cache = open_cache(model, tokens, options.question, settings, options.cache) if options.cache else None
    rows: list[Row] = []
    refused: list[str] = []
    printed: list[dict[str, Any]] = []
    with tqdm(total=len(variants), desc="compare", file=sys.stderr, leave=False, disable=None) as bar:
        watch = {"on_row": bar.set_postfix_str, "on_refused": refused.append}
        by_name = {variant.name: variant.chain for variant in variants}
        for row in compare(LocalAnswerer(model), tokens, options.question, variants, settings, **watch, cache=cache):
            bar.update()
            rows.append(row)
            printed.append(row.to_dict())
            chain = by_name[row.name]
            if options.pictures and chain is not None:
                name = row.name.replace(" ", "-").replace(":", "-").replace("+", "-") + ".png"
                columns = math.ceil(math.sqrt(frames.count))
                reduced = chain(tokens) if row.tokens is None else row.tokens
                save_png(token_map(reduced, frames, columns=columns), options.pictures / name)
                printed[-1]["picture"] = name
    if len(rows) == 1 and refused:
        raise InputError(refused[0])
    print(terminal(rows))
    for reason in refused:
        print(f"Left out: {reason}")
    fixed = [spec for spec in chains if is_fixed(spec)]
    if fixed:
        print(f"{', '.join(fixed)}: what it keeps follows from its own settings, not from --retention.")
    if options.pictures:
        print(f"Token maps in {options.pictures}: {', '.join(each['picture'] for each in printed)}")
    if options.out:
        print(f"Tables and curve in {options.out}: {', '.join(_write(rows, refused, options.out))}")
    tell_of_shapes(model.name)
    result = {"clip": frames.source, "question": options.question, "model": model.name, "rows": printed}
    return {**result, "frames": frames.count}, 0


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
