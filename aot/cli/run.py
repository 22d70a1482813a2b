"""``aot run``: says what a workflow file needs, runs it without ComfyUI, and reports what its nodes show."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ...nodes import NODES
from ...nodes.comfy import directories
from ...nodes.permissions import permitted
from ...nodes.workflow import core
from ...nodes.workflow.graph import load_workflow, to_graph
from ...nodes.workflow.requirements import require
from ...nodes.workflow.runner import Event, Result, override, registry
from ...nodes.workflow.runner import run as run_graph
from ..answering.answer import Answer
from ..answering.server_address import origin
from ..errors import InputError
from ..text import all_shown, shown
from .command import Result as CommandResult


def add(parser: argparse.ArgumentParser) -> None:
    """Add the file, what to change in it, and where its videos are."""
    parser.add_argument("workflow", type=Path, help="a .json file; the videos it names are looked for in BASE/input")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NODE.input=value",
        help="change an input of the node of that type, title or id, AOTLoadVideo.video=mine.mp4 for instance",
    )
    parser.add_argument(
        "--allow-server",
        action="append",
        default=[],
        metavar="URL",
        help="a server that the workflow may send the video's tokens to; those of this machine need no leave, nor "
        "does one that --set names",
    )
    parser.add_argument(
        "--allow-download",
        action="store_true",
        help="let the workflow download the published models that it names and that are not there",
    )
    parser.add_argument(
        "--allow-folder",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="a folder outside BASE whose videos the workflow may read, and whose captions it may replace; so may "
        "one that --set names",
    )
    parser.add_argument("--base", type=Path, default=Path(), help="folder that holds input/, output/ and temp/")


def run(options: argparse.Namespace) -> CommandResult:
    """Run the file and print what its nodes show."""
    allowed = {
        "servers": options.allow_server,
        "downloads": options.allow_download,
        "folders": options.allow_folder,
    }
    return run_file(options.workflow, options.set, options.base, **allowed), 0


def run_file(
    path: Path,
    overrides: Sequence[str],
    base: Path,
    *,
    servers: Iterable[str] = (),
    downloads: bool = False,
    folders: Iterable[Path] = (),
) -> dict[str, Any]:
    """Run a file with this pack's nodes, print what it needs and what they show, and report it all.

    Args:
        path: a workflow file, UI or API format.
        overrides: ``NODE.input=value`` each.
        base: holds the folders input, output and temp.
        servers: URLs of servers that the workflow may send tokens to, beside those that the overrides name.
        downloads: whether it may download published models.
        folders: whose videos it may read and whose captions it may replace, beside those that the overrides name.

    Returns:
        JSON-ready: the workflow's name, its needs, what its nodes show, and its answers.

    Raises:
        InputError: something that the workflow needs is missing, or the runner refuses it.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    allowed = permitted(
        [*servers, *_typed_urls(overrides)], downloads=downloads, folders=[*folders, *_typed_folders(overrides)]
    )
    with directories(base), allowed, tqdm(desc="run", file=sys.stderr, leave=False, disable=None) as bar:

        def on_event(event: Event) -> None:
            bar.total = event.total
            bar.set_postfix_str(event.node.title)
            if event.result:
                bar.update()

        graph = override(to_graph(load_workflow(path), registry((*NODES, *core.NODES))), overrides)
        needed = require(graph, path.name)
        for need in needed:
            print(shown(f"needs {need.kind} {need.name}"))
        results = run_graph(graph, (), on_event)
    reports = [all_shown(_report(result, graph.classes[result.node.type])) for result in results.values()]
    for entry in reports:
        lines = (*entry["text"], *entry["images"], *entry["files"])
        print(f"{entry['title']} ({entry['seconds']:.2f} s)", *lines, sep="\n    ")
        print(*entry["tables"], sep="\n", end="")
    values = [value for result in results.values() for output in result.outputs for value in output]
    answers = [value.to_dict() for value in values if isinstance(value, Answer)]
    listed = [{"kind": need.kind, "name": need.name} for need in needed]
    return {"workflow": path.name, "needs": listed, "nodes": reports, "answers": answers}


def _typed_urls(overrides: Iterable[str]) -> list[str]:
    """The servers' URLs among overrides: who types one has allowed it."""
    urls = []
    for setting in overrides:
        target, _, value = setting.partition("=")
        if target.strip().endswith(".url"):
            with suppress(InputError):  # the node says what is wrong with it
                urls.append(origin(value.strip()))
    return urls


def _typed_folders(overrides: Iterable[str]) -> list[Path]:
    """The full paths among overrides of folders: who types one has allowed it."""
    values = (
        value.strip()
        for target, _, value in (each.partition("=") for each in overrides)
        if target.strip().endswith(".folder")
    )
    return [Path(value) for value in values if Path(value).is_absolute()]


def _report(result: Result, kind: type) -> dict[str, Any]:
    images = [f"{image['type']}/{image['filename']}" for image in result.ui.get("images", ())]
    text = [line for part in result.ui.get("text", ()) for line in str(part).splitlines()]
    node = result.node
    about = {"id": node.id, "type": node.type, "title": node.title, "seconds": result.seconds}
    files = [f"output/{name}" for name in result.ui.get("aot_file", ())]
    named = zip(kind.GET_SCHEMA().outputs, result.outputs, strict=True)
    tables = [value for output, values in named if output.display_name == "markdown" for value in values]
    return {**about, "text": text, "images": images, "files": files, "tables": tables}
