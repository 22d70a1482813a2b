"""The ``aot`` command: the library without a graph, a workflow without ComfyUI, and the checks of both."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..errors import InputError
from . import (
    answer as answer_command,
)
from . import bench as commands
from . import (
    compare as compare_command,
)
from . import (
    doctor as doctor_command,
)
from . import evaluate as evaluation
from . import quality as quality_command
from . import shapes as shapes_command
from .options import CHAIN, load, model_options, variant_options

Command = Callable[[argparse.Namespace], "tuple[dict[str, Any], int]"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a user's mistake is one line on standard error and exit code 2."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.verb is None:
        parser.print_help()
        return 0
    try:
        with _warnings_in_a_line(options.verb):
            result, code = options.command(options)
        if options.json:
            print(json.dumps(result))
        sys.stdout.flush()
    except InputError as error:
        print(f"aot {options.verb}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"aot {options.verb}: stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Its reader (head, say) has what it wanted; what is left must not fail once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


@contextmanager
def _warnings_in_a_line(verb: str) -> Iterator[None]:
    """Warnings meant for users, as one line on standard error, each once."""
    from ..stages.toolkit.language_grid import SubstituteWarning
    from ..transport.solvers import UnconvergedWarning

    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(message: Any, category: type[Warning], *rest: Any) -> None:
            if issubclass(category, (UnconvergedWarning, SubstituteWarning)):
                print(f"aot {verb}: {message}", file=sys.stderr)
            else:
                usual(message, category, *rest)

        warnings.showwarning = show
        yield


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="aot", description="Token reduction for video LLMs by optimal transport.")
    parser.add_argument("--version", nargs=0, action=_Version, help="show the version and exit")
    verbs = parser.add_subparsers(dest="verb", metavar="COMMAND")

    answer_command.add(verbs, _verb)

    export = _verb(verbs, "export", _export, "write a video LLM's LLM as a model folder, for a vLLM server")
    model_options(export)
    export.add_argument("folder", type=Path, help="a folder to be made")

    run = _verb(verbs, "run", _run, "run a workflow file, UI or API format, without ComfyUI")
    run.add_argument("workflow", type=Path, help="a .json file; the videos it names are looked for in BASE/input")
    run.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NODE.input=value",
        help="change an input of the node of that type, title or id, AOTLoadVideo.video=mine.mp4 for instance",
    )
    run.add_argument("--base", type=Path, default=Path(), help="folder that holds input/, output/ and temp/")

    compare_command.add(verbs, _verb)

    evaluate = evaluation.add(verbs, _verb, load)
    model_options(evaluate)
    variant_options(evaluate)

    quality = quality_command.add(verbs, _verb, load)
    model_options(quality)
    variant_options(quality)

    shapes = shapes_command.add(verbs, _verb, load)
    model_options(shapes)
    variant_options(shapes)

    verify = _verb(verbs, "verify", _verify, "run recorded cases of the released code through ours")
    verify.add_argument("folder", type=Path, help="tests/recorded of the source, or your own in its format")

    commands.add(verbs, _verb, CHAIN)
    listing = _verb(verbs, "stages", _stages, "the reduction stages, their settings and the presets")
    listing.add_argument("name", nargs="?", help="only this stage")
    models = _verb(verbs, "models", _models, "the models that can be loaded")
    models.add_argument("--folder", type=Path, help="a folder of model folders to list too")
    doctor_command.add(verbs, _verb)
    return parser


class _Version(argparse.Action):
    """Looks the version up when it is asked for, and not whenever a command starts."""

    def __call__(self, parser: argparse.ArgumentParser, *given: Any) -> None:
        print(f"aot {metadata.version('comfyui-aot')}")
        parser.exit()


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Tells the defaults that say something, as they would be typed."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, "") or action.default is False:
            return action.help
        if isinstance(action.default, (tuple, list)):
            join = "," if isinstance(action.default, tuple) else " "
            return f"{action.help} (default: {join.join(map(str, action.default))})"
        return super()._get_help_string(action)


def _verb(verbs: Any, name: str, command: Command, help: str) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=help, description=help, formatter_class=_Help)
    parser.set_defaults(command=command)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    return parser


def _export(options: argparse.Namespace) -> tuple[dict[str, Any], int]:
    from ..answering.vllm_server import export

    vllm = load(options)
    export(vllm, options.folder)
    print(
        f"The LLM of {vllm.name} is in {options.folder}. Serve it, in an environment that has vLLM:\n"
        f"    vllm serve {options.folder} --enable-prompt-embeds --dtype {str(vllm.dtype).removeprefix('torch.')}"
    )
    return {"model": vllm.name, "folder": str(options.folder)}, 0


def _run(options: argparse.Namespace) -> tuple[dict[str, Any], int]:
    from . import run as run_command

    return run_command.command(options.workflow, options.set, options.base), 0


def _verify(options: argparse.Namespace) -> tuple[dict[str, Any], int]:
    from ..verification import verify

    results = []
    for result in tqdm(verify(options.folder), desc="verify", file=sys.stderr, leave=False, disable=None):
        results.append(result)
    for result in results:
        verdict = "ok" if result.passed else "FAILED"
        near = f", {result.near} within rounding" if result.near else ""
        print(
            f"{verdict:6} {result.case:34} {result.dtype:8} error {result.error:.1e} of {result.tolerance:.1e}, "
            f"{result.decisions} decisions differ{near}"
        )
    failed = sum(not result.passed for result in results)
    print(f"{len(results) - failed} of {len(results)} passed")
    cases = [dataclasses.asdict(result) | {"passed": result.passed} for result in results]
    summary = {
        "folder": options.folder.name,
        "cases": cases,
        "largest_error": max(result.error for result in results),
        "decisions": sum(result.decisions for result in results),
        "failed": failed,
    }
    return summary, 1 if failed else 0


def _stages(options: argparse.Namespace) -> tuple[dict[str, Any], int]:
    from ..stages import stages
    from ..stages.chain import OPEN_PRESETS, published

    if options.name not in (None, *stages()):
        raise InputError(f"No stage is called {options.name!r}; there are {', '.join(stages())}.")
    chosen = {options.name: stages()[options.name]} if options.name else stages()
    presets = chosen[options.name].presets if options.name else {**OPEN_PRESETS, **published()}
    listed = []
    for name, kind in chosen.items():
        settings = [
            {"name": item.name, "default": item.default, **{k: v for k, v in item.metadata.items() if v is not None}}
            for item in dataclasses.fields(kind)
        ]
        listed.append(
            {"name": name, "title": kind.title, "node": kind.node_id, "source": kind.source, "settings": settings}
        )
        summary = (kind.__doc__ or "").splitlines()[0]
        print(f"{name}: {kind.title} ({kind.source})\n    {summary}")
        for setting in settings:
            lines = textwrap.wrap(setting["help"], 90, initial_indent=" " * 8, subsequent_indent=" " * 8)
            print(f"    {setting['name']}={setting['default']}{_allowed(setting)}", *lines, sep="\n")
    if presets:
        print("Presets:")
    for name, chain in presets.items():
        print(f"    {name}: {chain}")
    return {"stages": listed, "presets": dict(presets)}, 0


def _allowed(setting: dict[str, Any]) -> str:
    """What a setting may be, in brackets."""
    if setting["choices"]:
        return f"  ({', '.join(setting['choices'])})"
    if "low" in setting:
        return f"  ({setting['low']:g} to {setting['high']:g})"
    return "  (true, false)" if isinstance(setting["default"], bool) else ""


def _models(options: argparse.Namespace) -> tuple[dict[str, Any], int]:
    from ..models import EMBEDDED, FAMILIES, families_in, family_of
    from ..models.embedded.assemble import cache_folder

    ready = (cache_folder() / "config.json").is_file()
    listed = [{"name": EMBEDDED, "family": "llava_onevision", "ready": ready}]
    print(f"{EMBEDDED}: DINOv2-S/14 and SmolLM2-135M-Instruct, {'ready' if ready else 'assembled when first used'}")
    if options.folder:
        if not options.folder.is_dir():
            raise InputError(f"No folder {options.folder}; give a folder that holds model folders.")
        for name, path in families_in(options.folder).items():
            family = family_of(path).family
            listed.append({"name": name, "family": family, "ready": True})
            print(f"{name}: {family}")
    families = [adapter.family for adapter in FAMILIES]
    print(f"Families: {', '.join(families)}")
    return {"models": listed, "families": families}, 0


if __name__ == "__main__":
    sys.exit(main())
