"""The ``aot`` command: the library without a graph, a workflow without ComfyUI, and the checks of both."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from . import compare_command
from .benchmarks import commands
from .errors import InputError
from .evaluation import command as evaluation
from .evaluation import shapes_command
from .prompts import OWN, PRESETS, split, worded

CHAIN = "stages joined by +, each NAME or NAME:key=value,key=value, or a preset ('aot stages' lists them)"

Command = Callable[[argparse.Namespace], "tuple[dict[str, Any], int]"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a user's mistake is one line on standard error and exit code 2."""
    options = _parser().parse_args(arguments)
    try:
        with _warnings_in_a_line(options.verb):
            result, code = options.command(options)
    except InputError as error:
        print(f"aot {options.verb}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"aot {options.verb}: stopped.", file=sys.stderr)
        return 130
    if options.json:
        print(json.dumps(result))
    return code


@contextmanager
def _warnings_in_a_line(verb: str) -> Iterator[None]:
    """Warnings meant for users, as one line on standard error, each once."""
    from .solvers import UnconvergedWarning
    from .stages.grid import SubstituteWarning

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
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")

    answer = _verb(verbs, "answer", _answer, "answer a question about a video")
    _video_options(answer)
    budget = answer.add_mutually_exclusive_group()
    budget.add_argument(
        "--retention",
        type=float,
        help="share of the language grid to keep, above 0, at most 1; set on the last stage of a chain",
    )
    budget.add_argument("--tokens", type=int, help="tokens of the whole video to keep; likewise")
    answer.add_argument(
        "--stream",
        action="store_true",
        help="decode, encode and reduce run by run: the same tokens in little memory, for long videos",
    )
    answer.add_argument("--stages", help=f"{CHAIN}; 'aot' where only a retention is given")
    answer.add_argument("--system", default="", help="system prompt; the model's own where left out")
    answer.add_argument("--preset", default=OWN, help=f"words around the question: {', '.join(PRESETS)}")
    answer.add_argument("--a-line-each", action="store_true", help="every line of the question is one of its own")
    answer.add_argument("--server", metavar="URL", help="a vLLM server that answers in place of the local LLM")
    answer.add_argument("--server-model", default="", help="its name there; empty where it serves only one")
    answer.add_argument("--key-file", type=Path, help="a text file that holds the server's API key")

    export = _verb(verbs, "export", _export, "write a video LLM's LLM as a model folder, for a vLLM server")
    _model_options(export)
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

    compare = compare_command.add(verbs, _verb, _Work())
    _video_options(compare)
    _variant_options(compare)

    evaluate = evaluation.add(verbs, _verb, _load)
    _model_options(evaluate)
    _variant_options(evaluate)

    shapes = shapes_command.add(verbs, _verb, _load)
    _model_options(shapes)
    _variant_options(shapes)

    verify = _verb(verbs, "verify", _verify, "run recorded cases of the released code through ours")
    verify.add_argument("folder", type=Path, help="tests/recorded of the source, or your own in its format")

    commands.add(verbs, _verb, CHAIN)
    _verb(verbs, "stages", _stages, "the reduction stages, their settings and the presets")
    models = _verb(verbs, "models", _models, "the models that can be loaded")
    models.add_argument("--folder", type=Path, help="a folder of model folders to list too")
    return parser


def _verb(verbs: Any, name: str, command: Command, help: str) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=help, description=help, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.set_defaults(command=command)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    return parser


def _video_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("video", type=Path, help="any video file")
    parser.add_argument("question", help="what you want to know about it")
    parser.add_argument("--frames", type=int, default=16, help="frames, evenly spread over the video")
    parser.add_argument("--start", type=float, default=0.0, help="seconds")
    parser.add_argument("--end", type=float, help="seconds")
    _model_options(parser)
    parser.add_argument("--max-new-tokens", type=int, default=64, help="longest answer, in LLM tokens")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy")
    parser.add_argument("--top-p", type=float, default=1.0, help="probability mass to sample from")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling")


def _model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="embedded", help="'embedded' or a model folder")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16")
    parser.add_argument("--device", default=None, help="cpu, cuda, ...; the GPU where there is one")
    parser.add_argument("--attention", default="sdpa", help="sdpa, eager or flash_attention_2")
    parser.add_argument("--quantization", default="none", help="none, 8-bit or 4-bit (needs bitsandbytes)")


def _variant_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--retention", type=_ratios, default=(0.25, 0.1), metavar="R,...", help="each stage is run at each of them"
    )
    parser.add_argument("--stages", nargs="+", default=["aot"], help=CHAIN)


def _ratios(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers; write 0.25,0.1") from error


def _encode(options: argparse.Namespace, *pipelines: Any) -> tuple[Any, Any, Any]:
    """The model, the frames and their tokens, with a bar for each piece of long work.

    What the pipelines can refuse by the size of the video alone, they refuse before it is encoded.
    """
    from .video import load_video

    frames = load_video(options.video, _sampling(options))
    vllm = _load(options)
    for pipeline in pipelines:
        for stage in pipeline.stages:
            stage.steps(vllm.layout(frames), vllm.timestamps(frames))
    with _Bar("encode") as bar:
        return vllm, frames, vllm.encode(frames, on_progress=bar)


def _stream(options: argparse.Namespace, stages: Sequence[Any]) -> tuple[Any, str, Any]:
    """The model, the video's name and its reduced tokens, none of it ever decoded or encoded whole."""
    from .streaming import stream
    from .video import open_video

    frames = open_video(options.video, _sampling(options))
    vllm = _load(options)
    with _Bar("stream") as bar:
        return vllm, frames.source, stream(vllm, frames, stages, bar)


def _sampling(options: argparse.Namespace) -> Any:
    from .video import Sampling

    return Sampling(frames=options.frames, start=options.start, end=options.end)


def _load(options: argparse.Namespace) -> Any:
    from transformers.utils import logging

    from .models import load

    logging.disable_progress_bar()
    with _Bar("model") as bar:
        return load(
            options.model,
            dtype=options.dtype,
            device=_device(options.device),
            attention=options.attention,
            quantization=options.quantization,
            on_progress=bar,
        )


def _device(asked: str | None) -> str:
    import torch

    if asked is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    commands.check_device(asked)
    return asked


def _generation(options: argparse.Namespace) -> Any:
    from .answering import Generation

    return Generation(options.max_new_tokens, options.temperature, options.top_p, options.seed)


def _answer(options: argparse.Namespace) -> tuple[dict[str, Any], int]:
    from .budget import require_tokens
    from .pipeline import FULL, is_fixed, parse

    generation = _generation(options)
    ask = _asker(options)
    _check_before_work(options, options.retention)
    budget = "--retention" if options.retention is not None else "--tokens" if options.tokens is not None else ""
    spec = options.stages or ("aot" if budget else FULL)
    pipeline = parse(spec)
    if budget and is_fixed(spec):
        raise InputError(f"{spec} settles what it keeps; leave out {budget}, or give stages without one.")
    if options.retention is not None:
        pipeline = pipeline.at_retention(options.retention)
    elif options.tokens is not None:
        require_tokens(options.tokens)
        pipeline = pipeline.at_tokens(options.tokens)
    if options.stream:
        vllm, source, reduced = _stream(options, pipeline.stages)
    else:
        vllm, frames, tokens = _encode(options, pipeline)
        source, reduced = frames.source, pipeline(tokens)
    questions = split(options.question, options.a_line_each)
    asked = [worded(options.preset, each, reduced.timestamps.tolist()) for each in questions]
    if len(asked) == 1:
        shown = _Stream(sys.stdout)
        (said,) = ask(vllm, reduced, asked, generation, on_text=lambda _, text: shown(text))
        print(shown.rest(said.text) or ("" if said.text else "(empty answer)"))
        all_said = [said]
    else:
        said, *_ = all_said = ask(vllm, reduced, asked, generation)
        for question, each in zip(questions, all_said, strict=True):
            print(f"{question} {each.text or '(empty answer)'}")
    _tell_of_shapes(vllm.name)
    result = {"clip": source, "pipeline": pipeline.name, **said.to_dict()}
    if len(asked) > 1:
        result["answers"] = [each.to_dict() for each in all_said]
    print(
        f"{said.tokens_kept} of {said.tokens_full} tokens ({said.retention:.1%}); encode {said.encode_s:.2f} s, reduce "
        f"{said.reduce_s:.2f} s, first token {said.prefill_s:.2f} s, rest {said.decode_s:.2f} s",
        file=sys.stderr,
    )
    return result, 0


def _asker(options: argparse.Namespace) -> Callable[..., list[Any]]:
    """Who answers: the local LLM, or a server."""
    from .answering import answers
    from .serving import Server, answers_from, read_key
    from .session import Session

    if not options.server:
        return lambda vllm, tokens, *asked, **watch: answers(
            vllm, tokens, Session(vllm, tokens, system=options.system), *asked, **watch
        )
    key = read_key(options.key_file) if options.key_file else ""
    server = Server(options.server, options.server_model, key)
    server.served()  # before a video is decoded and encoded for it
    return lambda *asked, **watch: answers_from(server, *asked, system=options.system, **watch)


def _export(options: argparse.Namespace) -> tuple[dict[str, Any], int]:
    from .serving import export

    vllm = _load(options)
    export(vllm, options.folder)
    print(
        f"The LLM of {vllm.name} is in {options.folder}. Serve it, in an environment that has vLLM:\n"
        f"    vllm serve {options.folder} --enable-prompt-embeds --dtype {str(vllm.dtype).removeprefix('torch.')}"
    )
    return {"model": vllm.name, "folder": str(options.folder)}, 0


def _run(options: argparse.Namespace) -> tuple[dict[str, Any], int]:
    from ..nodes import run_command

    return run_command.command(options.workflow, options.set, options.base), 0


def _tell_of_shapes(model: str) -> None:
    from .models import EMBEDDED

    if model == EMBEDDED:
        print("The embedded model was taught drawn shapes: of other footage its answers say little.", file=sys.stderr)


def _check_before_work(options: argparse.Namespace, *retentions: float | None) -> None:
    """Refuse what no encoding could mend."""
    from .budget import require_retention

    for question in split(options.question, getattr(options, "a_line_each", False)):
        worded(getattr(options, "preset", OWN), question, ())
    for retention in retentions:
        if retention is not None:
            require_retention(retention)


class _Work:
    """What commands in other files share with those here."""

    check = staticmethod(_check_before_work)
    encode = staticmethod(_encode)
    generation = staticmethod(_generation)
    tell = staticmethod(_tell_of_shapes)


def _verify(options: argparse.Namespace) -> tuple[dict[str, Any], int]:
    from .verification import verify

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
    from .pipeline import OPEN_PRESETS, published
    from .stages import stages

    listed = []
    for name, kind in stages().items():
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
    print("Presets:")
    presets = {**OPEN_PRESETS, **published()}
    for name, chain in presets.items():
        print(f"    {name}: {chain}")
    return {"stages": listed, "presets": presets}, 0


def _allowed(setting: dict[str, Any]) -> str:
    """What a setting may be, in brackets."""
    if setting["choices"]:
        return f"  ({', '.join(setting['choices'])})"
    if "low" in setting:
        return f"  ({setting['low']:g} to {setting['high']:g})"
    return "  (true, false)" if isinstance(setting["default"], bool) else ""


def _models(options: argparse.Namespace) -> tuple[dict[str, Any], int]:
    from .models import EMBEDDED, FAMILIES, families_in, family_of
    from .models.embedded import cache_folder

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


class _Bar:
    """A progress bar on standard error for work that reports (done, total); nothing is drawn until it does."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._bar: tqdm[Any] | None = None

    def __enter__(self) -> _Bar:
        return self

    def __call__(self, done: int, total: int) -> None:
        if self._bar is None:
            self._bar = tqdm(total=total, desc=self._label, file=sys.stderr, leave=False, disable=None)
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()


class _Stream:
    """Prints text as it grows."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._shown = ""

    def __call__(self, text: str) -> None:
        text = text.lstrip()
        if text.startswith(self._shown):
            print(text[len(self._shown) :], end="", flush=True, file=self._file)
            self._shown = text

    def rest(self, text: str) -> str:
        """What of the final text has not been shown."""
        return text[len(self._shown) :] if text.startswith(self._shown.rstrip()) else ""


if __name__ == "__main__":
    sys.exit(main())
