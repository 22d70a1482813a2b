"""``aot bench ...``: the benchmarks from the command line."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ..devices import check_device
from ..errors import InputError
from ..files import scratch_folder
from ..tables import aligned
from .command import Parser, Result, new_parser
from .options import CHAIN, variant_options

if TYPE_CHECKING:
    from ..models import VideoLLM

INSIDE = ("fastv", "pyramiddrop", "holitom-inner", "flashvid-inner", "dycoke-inner")
"""Stages inside the LLM."""

SPREAD = 8
"""Frames of a drawn video for each one that is taken: a video has more than are looked at."""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the measurements, each a command of its own."""
    bench = parser.add_subparsers(dest="what", required=True)

    def verb(name: str, measure: Callable[[argparse.Namespace], Result], about: str) -> argparse.ArgumentParser:
        added = new_parser(bench, name, about, nested=True, json_file=name == "all")
        added.set_defaults(measure=measure)
        return added

    reduce = verb("reduce", _reduce, "reduction time and its ratio to the limit, and memory")
    _size(reduce)
    reduce.add_argument(
        "--operations", action="store_true", help="count the operations launched and the waits for them, on the CPU"
    )
    reduce.add_argument(
        "--graph", action="store_true", help="replay each chain as a CUDA graph, where it can be captured"
    )
    reduce.add_argument(
        "--in-turn",
        action="store_true",
        help="all stages in turn, by processor time over the first's: on a machine that others use",
    )
    reduce.add_argument("--stages", nargs="+", default=["intra", "intra+inter"], help=CHAIN)

    growth = verb("growth", _growth, "reduction time against frames, grid and width, with fitted exponents")
    growth.add_argument("--stages", default="intra+inter", help=CHAIN)
    growth.add_argument("--repeats", type=int, default=3, help="runs to take the median of")
    growth.add_argument("--device", default="cpu", help="cpu, cuda, ...")
    growth.add_argument("--points", type=int, default=5, help="values along each axis, the smallest ones")
    growth.add_argument("--plot", type=Path, default=None, metavar="PNG", help="draw the curves")

    importance = verb("importance", _importance, "what capturing importance costs the encoder")
    importance.add_argument("--tower", default="embedded", help="embedded, or siglip (so400m's shape, random weights)")
    importance.add_argument("--frames", type=int, default=4, help="frames to encode")
    importance.add_argument("--device", default="cpu", help="cpu, cuda, ...")
    importance.add_argument("--repeats", type=int, default=9, help="runs to take the median of")
    importance.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of weights and pixels")

    tower = verb("tower", _tower, "encoding time with stages on frames and inside the tower, beside all frames whole")
    tower.add_argument("--stages", nargs="+", default=["earlytom", "fewer:retention=0.5"], help=CHAIN)
    tower.add_argument("--video", type=Path, help="a video file; a drawn clip if left out")
    tower.add_argument("--frames", type=int, default=32, help="frames taken from the video")
    tower.add_argument("--model", default="embedded", help="'embedded', a model folder, or a single .safetensors file")
    tower.add_argument("--device", default="cpu", help="cpu, cuda, ...")
    tower.add_argument("--repeats", type=int, default=3, help="runs to take the median of")
    _tokenizer(tower)

    stream = verb("stream", _stream, "time and peak memory of a streamed video by its length")
    stream.add_argument("--frames", type=int, nargs="+", default=[64, 256, 1024], help="lengths of the video")
    stream.add_argument("--stages", default="aot:retention=0.1", help=CHAIN)
    stream.add_argument("--model", default="embedded", help="'embedded', a model folder, or a single .safetensors file")
    stream.add_argument("--device", default="cpu", help="cpu, cuda, ...")
    _tokenizer(stream)

    prefill = verb("prefill", _prefill, "prefill time and memory by retention, beside what operations promise")
    prefill.add_argument("--shape", default="small", help="7b (Qwen2-7B), or small; weights are random")
    prefill.add_argument("--tokens", type=int, default=6272, help="visual tokens of the whole video")
    prefill.add_argument("--device", default="cpu", help="cpu, cuda, ...")
    prefill.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of weights and tokens")
    prefill.add_argument("--repeats", type=int, default=3, help="runs to take the median of")

    inside = verb(
        "inside", _inside, "what stages inside the LLM save: processor time of prefill and of a further token"
    )
    inside.add_argument("--model", default="embedded", help="'embedded', a model folder, or a single .safetensors file")
    inside.add_argument("--frames", type=int, default=16, help="of a drawn clip")
    inside.add_argument("--new-tokens", type=int, default=16, help="tokens of an answer, 2 or more")
    inside.add_argument("--repeats", type=int, default=3, help="runs to take the median of")
    inside.add_argument("--stages", nargs="+", default=list(INSIDE), help=CHAIN)
    _tokenizer(inside)

    answer = verb("answer", _answer, "where the time of an answer goes, file to last token, beside the stock model's")
    _whole_model(answer)
    answer.add_argument("--video", type=Path, help="a video file; a drawn one if left out")
    answer.add_argument("--size", type=_size_of_frames, default="1280x720", help="of the drawn video")
    answer.add_argument("--frames", type=int, default=32, help="frames taken from the video")
    answer.add_argument("--new-tokens", type=int, default=64, help="tokens of an answer")
    answer.add_argument("--repeats", type=int, default=3, help="runs to take the median of")
    variant_options(answer)
    _tokenizer(answer)

    batch = verb("batch", _batch, "many videos as a batch beside a loop over the same calls, rounds of both in turn")
    _whole_model(batch)
    batch.add_argument("--videos", type=int, default=16, help="drawn files")
    batch.add_argument("--size", type=_size_of_frames, default="1280x720", help="of the drawn videos")
    batch.add_argument("--frames", type=int, default=16, help="frames taken from each")
    batch.add_argument("--new-tokens", type=int, default=64, help="tokens of an answer")
    batch.add_argument("--stages", default="aot:retention=0.1", help=CHAIN)
    batch.add_argument("--batch", type=int, default=8, help="videos that are answered together, at most")
    batch.add_argument("--repeats", type=int, default=3, help="rounds of both, after one that is not measured")
    _tokenizer(batch)

    every = verb("all", _all, "all of these one after another: minutes on a GPU; on a CPU at tiny sizes")
    every.add_argument("--device", default="cpu", help="cpu, cuda, ...")


def run(options: argparse.Namespace) -> Result:
    """Measure what was chosen."""
    return options.measure(options)


def _size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--frames", type=int, default=32, help="frames of 27 x 27 tokens")
    parser.add_argument("--dim", type=int, default=3584, help="width of a token")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ...")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float64"), default="float32", help="of the tokens")
    parser.add_argument("--repeats", type=int, default=5, help="runs to take the median of")


def _whole_model(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--shape", help="7b (LLaVA-OneVision-7B; the default on a GPU) or small; random weights")
    which.add_argument("--model", help="'embedded', a model folder, or a single .safetensors file")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ...")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16")


def _tokenizer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tokenizer", type=Path, metavar="FOLDER", help="of --model: tokenizer of a single file")


def _reduce(options: argparse.Namespace) -> Result:
    import torch

    from ..benchmarks.operations import count_operations
    from ..benchmarks.reduction import bench_reduce
    from ..stages.chain import parse

    _at_least_one(options.frames, options.dim, options.repeats)
    check_device(options.device)
    dtype = getattr(torch, options.dtype)
    sizes = {"device": options.device, "dtype": dtype, "repeats": options.repeats}
    if options.graph and not options.device.startswith("cuda"):
        raise InputError(f"--graph replays CUDA graphs, and --device is {options.device}; give cuda, or leave it out.")
    if options.in_turn:
        return _in_turn(options)
    rows = [
        bench_reduce(dataclasses.replace(parse(spec), graph=options.graph), options.frames, options.dim, **sizes)
        for spec in _watched(options.stages, "bench")
    ]
    for row in rows:
        print(
            f"{row['stages']}: {row['reduce_s']:.3f} s for {row['frames']} x 729 x {row['dim']} {row['dtype']} on "
            f"{row['device']}, {row['ratio']:.2f} x the limit of {row['limit_s']:.3f} s; "
            f"{row['memory_ratio']:.2f} x the features in memory on top; "
            f"{row['tokens_kept']} of {row['tokens_full']} tokens kept"
        )
        if options.operations:
            counter = count_operations(parse(row["stages"]), options.frames)
            row |= {"operations": counter.operations.total(), "waits": counter.waits.total()}
            print(f"    {row['operations']} operations, {row['waits']} waits for the device")
    return {"rows": rows}, 0


def _in_turn(options: argparse.Namespace) -> Result:
    import torch

    from ..benchmarks.in_turn import bench_reductions
    from ..stages.chain import parse

    if options.operations or options.graph or options.device != "cpu":
        raise InputError(
            "--in-turn counts the processor's time for plain stages on the CPU; leave out --operations, --graph and "
            "--device."
        )
    chains, dtype = [parse(spec) for spec in options.stages], getattr(torch, options.dtype)
    rows = bench_reductions(chains, options.frames, options.dim, dtype=dtype, repeats=options.repeats)
    head = ("stages", "processor time", f"over {rows[0]['stages']}", "tokens kept")
    cells = [
        (
            row["stages"],
            f"{row['processor_s']:.3f} s",
            f"{row['ratio']:.2f}",
            f"{row['tokens_kept']} of {row['tokens_full']}",
        )
        for row in rows
    ]
    print(aligned(head, cells))
    return {"rows": rows}, 0


def _growth(options: argparse.Namespace) -> Result:
    from ..benchmarks.growth import AXES, bench_growth, plot_growth
    from ..stages.chain import parse

    _at_least_one(options.repeats)
    check_device(options.device)
    if options.points < 2:
        raise InputError(f"points is {options.points}; an exponent needs at least 2.")
    chain, settings = parse(options.stages), {"device": options.device, "repeats": options.repeats}
    curves = [
        bench_growth(chain, axis, AXES[axis][0][: options.points], **settings)
        for axis in _watched(tuple(AXES), "bench")
    ]
    for curve in curves:
        points = ", ".join(f"{x:g}: {y:.4f} s" for x, y in zip(curve["x"], curve["seconds"], strict=True))
        print(f"{curve['axis']}: time grows with exponent {curve['exponent']:.2f} ({points})")
    if options.plot:
        plot_growth(curves, options.plot)
        print(f"Drawn to {options.plot}")
    return {"stages": options.stages, "curves": curves}, 0


def _importance(options: argparse.Namespace) -> Result:
    import torch
    from transformers.utils import logging

    from ..benchmarks.importance import bench_importance

    logging.disable_progress_bar()
    _at_least_one(options.frames, options.repeats)
    check_device(options.device)
    dtype = getattr(torch, options.dtype)
    row = bench_importance(options.tower, options.frames, device=options.device, dtype=dtype, repeats=options.repeats)
    print(
        f"{row['tower']}, {row['frames']} frames on {row['device']}: {row['captured_s']:.3f} s with importance, "
        f"{row['ratio']:.3f} x the {row['plain_s']:.3f} s without; {row['extra_bytes'] / 2**20:.0f} MiB on top for "
        "32 frames of 729 tokens at once"
    )
    return row, 0


def _tower(options: argparse.Namespace) -> Result:
    from transformers.utils import logging

    from ..benchmarks.tower import bench_tower
    from ..evaluation.drawn_clip import load_drawn_clip
    from ..models import load
    from ..stages.chain import parse
    from ..video.sampling import Sampling
    from ..video.video_source import load_video

    logging.disable_progress_bar()
    _at_least_one(options.frames, options.repeats)
    check_device(options.device)
    chains, sampling = [parse(spec) for spec in options.stages], Sampling(frames=options.frames)
    frames = load_video(options.video, sampling) if options.video else load_drawn_clip(sampling)
    model = load(options.model, device=options.device, tokenizer=options.tokenizer)
    rows = bench_tower(model, frames, chains, repeats=options.repeats)
    for row in rows:
        share = "" if row["share"] is None else f", {row['share']:.2f} of the rows through its blocks"
        print(
            f"{row['stages']}: {row['frames_left']} of {row['frames']} frames left, {row['seconds']:.2f} s, "
            f"{row['ratio']:.2f} of the time of all{share}"
        )
    return {"source": frames.source, "rows": rows}, 0


def _stream(options: argparse.Namespace) -> Result:
    from transformers.utils import logging

    from ..benchmarks.streams import bench_stream
    from ..models import load
    from ..stages.chain import parse

    logging.disable_progress_bar()
    _at_least_one(*options.frames)
    check_device(options.device)
    pipeline = parse(options.stages)
    model = load(options.model, device=options.device, tokenizer=options.tokenizer)
    result = bench_stream(pipeline, options.frames, model)
    for row in result["rows"]:
        print(
            f"{row['frames']} frames: {row['seconds']:.1f} s, peak {row['peak_bytes'] / 2**20:.0f} MiB, "
            f"{row['peak_ratio']:.2f} x the shortest; {row['tokens_kept']} of {row['tokens_full']} tokens kept"
        )
    print(f"Time grows with exponent {result['exponent']:.2f}")
    return result, 0


def _prefill(options: argparse.Namespace) -> Result:
    import torch

    from ..benchmarks.prefill import bench_prefill

    _at_least_one(options.tokens, options.repeats)
    check_device(options.device)
    rows = bench_prefill(
        options.shape,
        options.tokens,
        device=options.device,
        dtype=getattr(torch, options.dtype),
        repeats=options.repeats,
    )
    for row in rows:
        print(
            f"{row['tokens']} tokens: {row['seconds']:.2f} s, {row['speedup']:.1f} x faster; operations promise "
            f"{row['ideal']:.1f} x ({row['reached']:.0%} reached), the papers' estimate {row['paper']:.1f} x; "
            f"{row['extra_bytes'] / 2**20:.0f} MiB on top of the weights"
        )
    return {"rows": rows}, 0


def _inside(options: argparse.Namespace) -> Result:
    from transformers.utils import logging

    from ..benchmarks.in_turn import bench_inside
    from ..evaluation.drawn_clip import load_drawn_clip
    from ..models import load
    from ..stages.chain import parse
    from ..video.sampling import Sampling

    _at_least_one(options.frames, options.new_tokens - 1, options.repeats)
    chains = [parse(spec) for spec in options.stages]
    logging.disable_progress_bar()
    model = load(options.model, device="cpu", tokenizer=options.tokenizer)
    tokens = model.encode(load_drawn_clip(Sampling(frames=options.frames)))
    rows = bench_inside(model, tokens, chains, new_tokens=options.new_tokens, repeats=options.repeats)
    head = ("stages", "tokens", "mean over layers", "prefill", "over full", "further token", "over full")
    cells = [
        (
            row["stages"],
            str(row["tokens"]),
            f"{row['retention']:.1%}",
            f"{row['prefill_s']:.2f} s",
            f"{row['prefill_ratio']:.2f}",
            f"{1e3 * row['token_s']:.0f} ms",
            f"{row['token_ratio']:.2f}",
        )
        for row in rows
    ]
    print(aligned(head, cells))
    return {"model": model.name, "rows": rows}, 0


def _answer(options: argparse.Namespace) -> Result:
    import torch

    from ..benchmarks.answer import bench_answer
    from ..benchmarks.clip import write_clip
    from ..comparison.variants import expand

    _at_least_one(options.frames, options.new_tokens, options.repeats)
    check_device(options.device)
    variants = expand(options.stages, options.retention)
    model = _model(options)
    with scratch_folder() as folder:
        video = options.video
        if video is None:
            video = folder / "drawn.mp4"
            width, height = options.size
            write_clip(video, SPREAD * options.frames, height, width)
        sizes = {"frames": options.frames, "new_tokens": options.new_tokens, "repeats": options.repeats}
        result = bench_answer(model, video, variants, **sizes)
    print(
        f"{result['model']} in {result['dtype']} on {result['device']} ({torch.get_num_threads()} threads): "
        f"{result['frames']} frames of {result['width']}x{result['height']}, {result['new_tokens']} new tokens; "
        "milliseconds"
    )
    print(aligned([head for head, _ in _PARTS], [[cell(row) for _, cell in _PARTS] for row in result["rows"]]))
    print("ratio: the stock model's time over the row's, to the first token and to the end of the answer")
    if result["stock_pixels"] is None:
        print(f"The stock model is asked of LLaVA-OneVision only, not of {result['model']}.")
    if result["stock_pixels"] == "ours":
        print("The stock model's pixels are made by ours: transformers' video processor needs torchvision.")
    return result, 0


def _batch(options: argparse.Namespace) -> Result:
    import torch

    from ..answering.generation import Generation
    from ..batch.videos import Recipe
    from ..benchmarks.batch import bench_batch
    from ..benchmarks.clip import write_clip
    from ..stages.chain import parse
    from ..video.sampling import Sampling

    _at_least_one(options.frames, options.new_tokens, options.repeats, options.videos, options.batch)
    check_device(options.device)
    chain, model = parse(options.stages), _model(options)
    model.hf_model.generation_config.eos_token_id = None
    recipe = Recipe(
        model, chain, Sampling(frames=options.frames), generation=Generation(max_new_tokens=options.new_tokens)
    )
    width, height = options.size
    with scratch_folder() as folder:
        for number in range(options.videos):
            write_clip(folder / f"{number}.mp4", SPREAD * options.frames + number, height, width)
        result = bench_batch(recipe, folder, batch=options.batch, rounds=options.repeats)
    print(
        f"{result['model']} on {result['device']} ({torch.get_num_threads()} threads): {options.videos} videos of "
        f"{width}x{height}, {options.frames} frames each, {options.stages}, {options.new_tokens} new tokens; seconds"
    )
    names = ["loop_s", "batch_s", *(name for name in ("ratio", "work_ratio") if result[name] is not None)]
    print(aligned(names, [[f"{each[name]:.2f}" for name in names] for each in result["rounds"]]))
    work = "" if result["work_ratio"] is None else f", of work {result['work_ratio']:.2f} (a loop's on one thread)"
    print(f"median ratio {result['ratio']:.2f}{work}; {result['equal']} of {options.videos} answers are the loop's")
    return result, 0


def _all(options: argparse.Namespace) -> Result:
    from .every_benchmark import run_all

    check_device(options.device)
    file = getattr(options, "json", None)
    return run_all(_parser, options.device, file if isinstance(file, Path) else None)


def _parser() -> Parser:
    """The parser of this command alone."""
    parser = Parser(prog="aot bench")
    add(parser)
    return parser


def _model(options: argparse.Namespace) -> VideoLLM:
    """The model that the options name, or one with random weights."""
    import torch
    from transformers.utils import logging

    from ..benchmarks.random_models import random_model
    from ..models import DTYPES, load

    logging.disable_progress_bar()
    if options.model is not None:
        return load(options.model, dtype=options.dtype, device=options.device, tokenizer=options.tokenizer)
    if options.tokenizer is not None:
        raise InputError("--tokenizer is that of a single file; give the file as --model, or leave it out.")
    if options.dtype not in DTYPES:
        raise InputError(f"dtype is {options.dtype!r}; give one of {', '.join(DTYPES)}.")
    on_gpu = torch.device(options.device).type == "cuda"
    dtype = ("bfloat16" if on_gpu else "float32") if options.dtype == "auto" else options.dtype
    shape = options.shape or ("7b" if on_gpu else "small")
    return random_model(shape, device=options.device, dtype=getattr(torch, dtype))


def _size_of_frames(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)) or int(width) % 2 or int(height) % 2:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write 1280x720, with even numbers")
    return int(width), int(height)


def _milliseconds(key: str) -> Callable[[dict[str, Any]], str]:
    return lambda row: "-" if row[key] is None else f"{1e3 * row[key]:.1f}"


def _ratio(key: str) -> Callable[[dict[str, Any]], str]:
    return lambda row: "-" if row[key] is None else f"{row[key]:.2f} x"


_PARTS: tuple[tuple[str, Callable[[dict[str, Any]], str]], ...] = (
    ("row", lambda row: row["row"]),
    ("tokens", lambda row: str(row["tokens"])),
    ("file", _milliseconds("file_s")),
    ("pixels", _milliseconds("pixels_s")),
    ("tower", _milliseconds("tower_s")),
    ("importance", _milliseconds("importance_s")),
    ("reduce", _milliseconds("reduce_s")),
    ("prefill", _milliseconds("prefill_s")),
    ("rest", _milliseconds("rest_s")),
    ("first token", _milliseconds("first_token_s")),
    ("ratio", _ratio("first_token_ratio")),
    ("answer", _milliseconds("answer_s")),
    ("ratio", _ratio("answer_ratio")),
    ("peak", lambda row: f"{row['peak_bytes'] / 2**20:.0f} MiB"),
)
"""The columns of an answer's table, and how each gets its cell."""


def _watched(items: Any, label: str) -> Any:
    return tqdm(items, desc=label, file=sys.stderr, leave=False, disable=None)


def _at_least_one(*numbers: int) -> None:
    if min(numbers) < 1:
        raise InputError("Frames, dim and repeats start at 1; give positive numbers.")
