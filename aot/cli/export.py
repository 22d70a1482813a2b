"""``aot export``: a video LLM's LLM as a model folder, for a vLLM server."""

from __future__ import annotations

import argparse
from pathlib import Path

from .command import Result
from .options import load, model_options


def add(parser: argparse.ArgumentParser) -> None:
    """Add which model, and where to."""
    model_options(parser)
    parser.add_argument("folder", type=Path, help="a folder to be made")


def run(options: argparse.Namespace) -> Result:
    """Write the folder, and say how it is served."""
    from ..answering.export import export

    model = load(options)
    export(model, options.folder)
    print(
        f"The LLM of {model.name} is in {options.folder}. Serve it, in an environment that has vLLM:\n"
        f"    vllm serve {options.folder} --enable-prompt-embeds --dtype {str(model.dtype).removeprefix('torch.')}"
    )
    return {"model": model.name, "folder": str(options.folder)}, 0
