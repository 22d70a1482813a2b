"""``aot models``: what can be loaded, and as what."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..errors import InputError
from .command import Result


def add(parser: argparse.ArgumentParser) -> None:
    """Add a folder to look into."""
    parser.add_argument("--folder", type=Path, help="a folder of model folders to list too")


def run(options: argparse.Namespace) -> Result:
    """Print the embedded model, the models of a folder, and the families."""
    from ..models import EMBEDDED, FAMILIES, families_in, family_of
    from ..models.embedded.assemble import cache_folder, is_whole

    ready = is_whole(cache_folder())
    listed = [{"name": EMBEDDED, "family": "llava_onevision", "ready": ready}]
    print(f"{EMBEDDED}: DINOv2-S/14 and SmolLM2-135M-Instruct, {'ready' if ready else 'assembled when first used'}")
    if options.folder:
        if not options.folder.is_dir():
            raise InputError(f"No folder {options.folder}; give a folder that holds model folders.")
        for name, path in families_in(options.folder, lambda reason: print(reason, file=sys.stderr)).items():
            family = family_of(path).family
            listed.append({"name": name, "family": family, "ready": True})
            print(f"{name}: {family}")
    families = [adapter.family for adapter in FAMILIES]
    print(f"Families: {', '.join(families)}")
    return {"models": listed, "families": families}, 0
