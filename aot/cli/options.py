"""What commands with a video, a model and stages share: their options, and the work before the question."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ..answering.presets import OWN, apply_preset, split
from ..devices import check_device
from ..errors import InputError

if TYPE_CHECKING:
    from ..answering.generation import Generation
    from ..models import VideoLLM
    from ..models.relevance_model import RelevanceModel
    from ..stages.chain import Chain
    from ..tokens.video_tokens import VideoTokens
    from ..video.frames import Frames
    from ..video.sampling import Sampling
    from ..video.video_source import VideoSource

FRAMES = 16
"""Taken of a video where neither the user nor the model's makers say how many."""

TOKENS = ".safetensors"
"""Ends the names of files of saved tokens."""

CHAIN = "stages joined by +, each NAME or NAME:key=value,key=value, or a preset ('aot stages' lists them)"


def video_options(parser: argparse.ArgumentParser) -> None:
    """Add a video, a question, the model, and how to answer."""
    parser.add_argument("video", type=Path, help="any video file; for answer also tokens that Save Tokens wrote")
    parser.add_argument("question", help="what you want to know about it")
    answering_options(parser)


def answering_options(parser: argparse.ArgumentParser) -> None:
    """Add which frames of a video, the model, and how to answer."""
    parser.add_argument(
        "--frames",
        type=int,
        help=f"frames, evenly spread over the video; if left out, those that the model's makers take, or {FRAMES}; "
        "with --fps, at most this many",
    )
    parser.add_argument("--start", type=float, default=0.0, help="seconds")
    parser.add_argument("--end", type=float, help="seconds")
    model_options(parser)
    parser.add_argument("--max-new-tokens", type=int, default=64, help="longest answer, in LLM tokens")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy")
    parser.add_argument("--top-p", type=float, default=1.0, help="probability mass to sample from")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling")
    parser.add_argument(
        "--repetition-penalty",
        type=float,
        default=0.0,
        help="above 1, tokens that were there before are less likely; 1 is none, 0 the checkpoint's own",
    )
    parser.add_argument("--fps", type=float, help="frames a second, each the nearest to its time")
    parser.add_argument(
        "--size", type=int, default=0, help="of the shorter side in pixels; proportions stay, and 0 leaves it as it is"
    )
    parser.add_argument(
        "--file-pixels",
        action="store_true",
        help="Qwen's models: keep the file's own pixels, as far as the processor allows, where the makers make every "
        "frame 128 to 768 tokens large",
    )
    parser.add_argument("--fewer", action="store_true", help="take all frames of a video that has fewer than --frames")


def budget_options(parser: argparse.ArgumentParser) -> None:
    """Add one chain of stages, how much it keeps, and the system prompt."""
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument(
        "--retention",
        type=float,
        help="share of the language grid to keep, above 0, at most 1; set on the last stage of a chain",
    )
    budget.add_argument("--tokens", type=int, help="tokens of the whole video to keep; likewise")
    parser.add_argument(
        "--stream",
        action="store_true",
        help="decode, encode and reduce run by run: the same tokens in little memory, for long videos",
    )
    parser.add_argument("--stages", help=f"{CHAIN}; 'aot' if there is only a retention")
    parser.add_argument("--system", default="", help="system prompt; the model's own if left out")


def reinvest_option(parser: argparse.ArgumentParser) -> None:
    """Add more frames for the same tokens."""
    parser.add_argument(
        "--reinvest",
        type=int,
        default=1,
        metavar="N",
        help="N times as many frames, cut down to the tokens that the stages would leave of the others",
    )


def chosen_chain(options: argparse.Namespace) -> Chain:
    """The chain that the options of :func:`budget_options` and :func:`reinvest_option` name.

    Raises:
        InputError: no such stage, or options that do not go together.
    """
    from ..comparison.variants import require_reinvest
    from ..stages.budget import require_retention, require_tokens
    from ..stages.chain import FULL, is_fixed, parse

    if options.retention is not None:
        require_retention(options.retention)
    budget = "--retention" if options.retention is not None else "--tokens" if options.tokens is not None else ""
    spec = options.stages or ("aot" if budget else FULL)
    chain = parse(spec)
    if budget and is_fixed(spec):
        raise InputError(f"{spec} fixes what it keeps; leave out {budget}, or give stages that do not.")
    if options.retention is not None:
        chain = chain.at_retention(options.retention)
    elif options.tokens is not None:
        require_tokens(options.tokens)
        chain = chain.at_tokens(options.tokens)
    require_reinvest(options.reinvest)
    if options.stream and chain.needs_assistant:
        raise InputError("An assistant reads all tokens of a video, and --stream never holds them; leave one out.")
    if options.stream and chain.needs_relevance_model:
        raise InputError("A relevance model looks at a video that is encoded whole; leave out --stream, or that stage.")
    return chain


def model_options(parser: argparse.ArgumentParser) -> None:
    """Add which model, and how it is loaded."""
    parser.add_argument("--model", default="embedded", help="'embedded', a model folder, or a single .safetensors file")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16")
    parser.add_argument("--device", default=None, help="cpu, cuda, ...; the GPU where there is one")
    parser.add_argument("--attention", default="auto", help="auto, sdpa, eager or flash_attention_2")
    parser.add_argument("--quantization", default="none", help="none, 8-bit or 4-bit (needs bitsandbytes)")
    parser.add_argument("--decoding", default="auto", help="auto, eager or graph (a CUDA graph of one step)")
    parser.add_argument(
        "--tokenizer",
        type=Path,
        metavar="FOLDER",
        help="tokenizer of a single file, if it is not in a ComfyUI; config.json, chat template and processor settings "
        "that are there are used too",
    )


def relevance_option(parser: argparse.ArgumentParser) -> None:
    """Add the model that says how relevant places are."""
    parser.add_argument(
        "--relevance-model",
        type=Path,
        metavar="FOLDER",
        help="a CLIP or SigLIP with both halves, for stages that need one (cdpruner:relevance=clip)",
    )


def relevance_model(options: argparse.Namespace, chains: Sequence[Chain]) -> RelevanceModel | None:
    """The model that :func:`relevance_option` names; None where there is none.

    Args:
        options: of the command.
        chains: that will run.

    Raises:
        InputError: a chain needs one and none is given, or the other way round.
    """
    needs = [chain.name for chain in chains if chain.needs_relevance_model]
    if needs and options.relevance_model is None:
        raise InputError(
            f"{needs[0]} needs a CLIP with both halves; give --relevance-model FOLDER, or relevance=words."
        )
    if options.relevance_model is None:
        return None
    if not needs:
        raise InputError(
            "--relevance-model is given, and no stage asks it; leave it out, or give cdpruner:relevance=clip."
        )
    from transformers.utils import logging

    from ..models.relevance_model import RelevanceModel

    logging.disable_progress_bar()
    return RelevanceModel.load(options.relevance_model, device=_device(options.device))


def variant_options(parser: argparse.ArgumentParser) -> None:
    """Add stages, and retentions for each of them."""
    parser.add_argument(
        "--retention", type=_ratios, default=(0.25, 0.1), metavar="R,...", help="each stage is run at each of them"
    )
    parser.add_argument("--stages", nargs="+", default=["aot"], help=CHAIN)


def control_options(parser: argparse.ArgumentParser) -> None:
    """Add what stands beside every chain: the controls, and the same tokens of more frames."""
    parser.add_argument(
        "--controls",
        action="store_true",
        help="fewer and smaller frames beside the stages, at the same retentions where they can be; the table says "
        "what is no better",
    )
    parser.add_argument(
        "--reinvest",
        type=int,
        default=1,
        metavar="N",
        help="each stage also on N times as many frames, cut down to the same number of tokens; 2, 4 or 8 for instance",
    )


def _ratios(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers; write 0.25,0.1") from error


def encode(options: argparse.Namespace, *pipelines: Chain) -> tuple[VideoLLM, Frames, VideoTokens]:
    """The model, the frames and their tokens, with a bar for each piece of long work.

    A chain that cannot run on a video of this size refuses before the video is encoded.
    """
    from ..video.video_source import load_video

    frames = load_video(options.video, sampling(options), options.size or None)
    model = load(options)
    for pipeline in pipelines:
        for stage in () if pipeline.before_tokens else pipeline.on_tokens:
            stage.steps(model.layout(frames, file_pixels=options.file_pixels), model.timestamps(frames))
    with Bar("encode") as bar:
        return model, frames, model.encode(frames, on_progress=bar, file_pixels=options.file_pixels)


def source(options: argparse.Namespace) -> VideoSource:
    """The frames of the file, still to be decoded."""
    from ..video.video_source import open_video

    return open_video(options.video, sampling(options), options.size or None)


def reduced(
    options: argparse.Namespace,
    chain: Chain,
    reinvest: int = 1,
    questions: Sequence[str] = ("",),
    relevance: RelevanceModel | None = None,
) -> tuple[VideoLLM, str, list[VideoTokens]]:
    """The model, the video's name and its tokens reduced for each question; only chosen frames are decoded.

    Args:
        options: of :func:`video_options`; with ``stream`` a video is never encoded in one piece.
        chain: all its stages run.
        reinvest: times as many frames that are cut down to the tokens that the chain would leave of the others.
        questions: one for each of the tokens wanted; read where the chain asks, and with ``stream`` encoded for.
        relevance: for a chain that needs what a CLIP says of every place.
    """
    from ..answering.reduced_for import reduced as reduced_by
    from ..comparison.starts import for_frames
    from ..streaming import stream as streamed

    if options.video.suffix.lower() == TOKENS:
        return _of_file(options, chain, reinvest, questions)
    frames = source(options)
    model = load(options)
    layout = partial(model.layout, file_pixels=options.file_pixels)
    chain, frames = for_frames(chain, frames, layout, reinvest)
    settings: dict[str, Any] = {"file_pixels": options.file_pixels}
    if options.stream:
        every = []
        for question in questions:
            with Bar("stream") as bar:
                asked_by = {**settings, "question": question if chain.needs_question else ""}
                every.append(streamed(model, frames, chain.on_tokens, bar, **asked_by))
        return model, frames.source, every
    for stage in chain.on_tokens:
        stage.steps(layout(frames), model.timestamps(frames))
    with Bar("encode") as bar:
        tokens = model.encode(frames, on_progress=bar, **settings)
    looks = {"relevance_model": relevance, "frames": frames}
    every = [reduced_by(model, tokens, chain.after_encoding, each, **looks) for each in questions]
    return model, frames.source, every


def _of_file(
    options: argparse.Namespace, chain: Chain, reinvest: int, questions: Sequence[str]
) -> tuple[VideoLLM, str, list[VideoTokens]]:
    """As :func:`reduced`, of tokens that were saved."""
    from ..answering.reduced_for import reduced as reduced_by
    from ..models.file_time import encoder_settings
    from ..tokens import storage

    needless = {
        "--stream": options.stream,
        "--reinvest": reinvest > 1,
        "a stage that acts before there are tokens": bool(chain.before_tokens),
        "--relevance-model": chain.needs_relevance_model,
    }
    refused = next((name for name, is_given in needless.items() if is_given), None)
    if refused:
        raise InputError(f"{options.video.name} holds tokens, and no frames; leave out {refused}, or give the video.")
    tokens, model = storage.load(options.video), load(options)
    every = [reduced_by(model, tokens, chain, each) for each in questions]
    return model, str(encoder_settings(tokens).get("source", options.video.name)), every


def sampling(options: argparse.Namespace) -> Sampling:
    """Which frames the options of :func:`answering_options` take."""
    from ..video.sampling import Sampling

    if options.fps is not None:
        return Sampling("fps", fps=options.fps, start=options.start, end=options.end, cap=options.frames)
    if options.frames is not None:
        return Sampling(frames=options.frames, start=options.start, end=options.end, fewer=options.fewer)
    from ..models import EMBEDDED, makers_choice

    makers = None if options.model == EMBEDDED else makers_choice(Path(options.model))
    return Sampling(frames=FRAMES, start=options.start, end=options.end, makers=makers, fewer=True)


def load(options: argparse.Namespace) -> VideoLLM:
    """The model the options name, with a bar."""
    from transformers.utils import logging

    from ..models import load as load_model

    logging.disable_progress_bar()
    with Bar("model") as bar:
        model = load_model(
            options.model,
            dtype=options.dtype,
            device=_device(options.device),
            attention=options.attention,
            quantization=options.quantization,
            decoding=options.decoding,
            on_progress=bar,
            tokenizer=options.tokenizer,
        )
    for note in model.notes:
        print(f"{model.name}: {note}.", file=sys.stderr)
    return model


def _device(name: str | None) -> str:
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    check_device(name)
    return name


def generation(options: argparse.Namespace) -> Generation:
    """How answers are generated."""
    from ..answering.generation import Generation

    return Generation(
        options.max_new_tokens, options.temperature, options.top_p, options.seed, options.repetition_penalty
    )


def tell_of_shapes(model: str) -> None:
    """Say what to expect of the embedded model."""
    from ..models import EMBEDDED

    if model == EMBEDDED:
        print("The embedded model was taught drawn shapes: of footage its answers say little.", file=sys.stderr)


def check_before_work(options: argparse.Namespace, *retentions: float | None) -> None:
    """Refuse mistakes that do not depend on the video, before any work."""
    from ..stages.budget import require_retention

    for question in split(options.question, getattr(options, "a_line_each", False)):
        apply_preset(getattr(options, "preset", OWN), question, ())
    for retention in retentions:
        if retention is not None:
            require_retention(retention)


class Bar:
    """A progress bar on standard error for work that reports (done, total); nothing is drawn until it does."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._bar: tqdm[Any] | None = None

    def __enter__(self) -> Bar:
        return self

    def __call__(self, done: int, total: int) -> None:
        if self._bar is None:
            self._bar = tqdm(total=total, desc=self._label, file=sys.stderr, leave=False, disable=None)
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()
