"""``aot models``: what can be loaded, and as what."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ..text import shown
from .command import Result

if TYPE_CHECKING:
    from ..models.check import Checked, Look


def add(parser: argparse.ArgumentParser) -> None:
    """Add a folder to look into."""
    parser.add_argument("--folder", type=Path, help="a folder of model folders to list too")
    parser.add_argument(
        "--check",
        type=Path,
        metavar="MODEL",
        help="say whether this model folder or file would be loaded, as what, at which sizes, or what it lacks; its "
        "weights are not read; exit code 1 if it would not",
    )
    parser.add_argument(
        "--tokenizer", type=Path, metavar="FOLDER", help="of a single file that is checked, where none is found"
    )


def run(options: argparse.Namespace) -> Result:
    """Print the embedded model, the models of a folder, and the families; or what a check of one model says."""
    if options.check:
        return _checked(options.check, options.tokenizer)
    from ..models import EMBEDDED, FAMILIES, families_in, family_of
    from ..models.embedded.assemble import cache_folder, is_whole

    try:
        ready = is_whole(cache_folder())
    except InputError:  # The user has no home.
        ready = False
    listed = [{"name": EMBEDDED, "family": "llava_onevision", "ready": ready}]
    print(f"{EMBEDDED}: DINOv2-S/14 and SmolLM2-135M-Instruct, {'ready' if ready else 'assembled when first used'}")
    if options.folder:
        if not options.folder.is_dir():
            raise InputError(f"No folder {options.folder}; give a folder that holds model folders.")
        for name, path in families_in(options.folder, lambda reason: print(reason, file=sys.stderr)).items():
            family = family_of(path).family
            listed.append({"name": name, "family": family, "ready": True})
            print(f"{shown(name)}: {family}")
    families = [adapter.family for adapter in FAMILIES]
    print(f"Families: {', '.join(families)}")
    return {"models": listed, "families": families}, 0


def _checked(path: Path, tokenizer: Path | None) -> Result:
    """Print what a check says; exit code 1 if the model would not be loaded."""
    from transformers.utils import logging

    from ..models.check import check

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        found = check(path, tokenizer)
    except InputError as error:
        print(f"{path} would not be loaded: {error}")
        return {"model": str(path), "loads": False, "reason": str(error)}, 1
    print(f"{path} would be loaded, as {found.family}.")
    rows = _rows(found)
    width = max(map(len, rows))
    for name, text in rows.items():
        print(f"  {name:{width}}  {shown(text)}")
    return {"model": str(path), "loads": True, **dataclasses.asdict(found)}, 0


def _rows(found: Checked) -> dict[str, str]:
    """The lines about a model that would be loaded, by their headings."""
    memory = ", ".join(f"{name} {size / 2**30:.1f} GiB" for name, size in found.memory.items())
    mean, deviation = (" ".join(f"{value:.3f}" for value in values) for values in found.colours)
    rows = {
        "weights": f"{found.parameters / 1e6:.0f} million numbers; {memory}",
        "clip of 1920 x 1080": _look(found.clip),
        "its own tile": _look(found.tile),
        "mean, deviation": f"{mean}, {deviation}",
        **{f"{name} from": source for name, source in found.sources.items()},
    }
    return rows | ({"note": "; ".join(found.notes)} if found.notes else {})


def _look(look: Look) -> str:
    height, width = look.size
    return f"frames of {width} x {height} pixels, {look.tokens_a_frame:g} tokens a frame"
