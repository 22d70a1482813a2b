"""Where the time of an answer goes, from the video's file to its last token, beside the stock model's own ``generate``.

Every row goes the whole road several times, all rows in turn: from the file to the first token, and on to the end of an
answer. So what overlaps is counted once. Beside that, each part of the road is timed alone.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from torch import Tensor, nn
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.utils.import_utils import is_torchvision_available

from ..answering.generation import Generation
from ..answering.session import Session
from ..comparison.variants import Variant
from ..devices import synchronise
from ..memory import PeakMemory, give_back
from ..models.base import VideoLLM
from ..models.importance import ATTENTION
from ..models.llava_onevision import LlavaOnevision
from ..models.passes import FRAMES_AT_ONCE
from ..stages.chain import Chain
from ..video.frames import Frames
from ..video.sampling import Sampling
from ..video.video_source import load_video
from .measuring import medians

QUESTION = "What happens in this video?"
STOCK = "stock"
"""The row of the stock model."""


@dataclass(frozen=True)
class Road:
    """One way from the file to the end of an answer.

    Args:
        first_s: seconds from the file to the first token.
        answer_s: seconds from the file to the end of the answer.
        prefill_s: seconds of the first of these that the LLM reads the prompt; None if it was not timed alone.
        tokens: visual tokens that the LLM read.
        peak_bytes: most memory in use, the model included (on the CPU, of the whole process).
    """

    first_s: float
    answer_s: float
    prefill_s: float | None
    tokens: int
    peak_bytes: int = 0


@torch.no_grad()
def bench_answer(
    model: VideoLLM,
    video: Path,
    variants: Sequence[Variant],
    *,
    frames: int = 32,
    new_tokens: int = 64,
    repeats: int = 3,
) -> dict[str, Any]:
    """Time answers about a video by every variant, and by the stock model.

    The stock model is the same weights under its own attention, asked through its own ``generate`` about the same
    frames. Its pixels are made by transformers' video processor, or by ours where that lacks torchvision. Answers go
    on after tokens that would end them, so that all are equally long. The model is not to be used afterwards.

    Args:
        model: encodes and answers.
        video: a file.
        variants: each with a chain, all tokens first as :func:`~..comparison.variants.expand` gives them.
        frames: taken from the video, evenly spread.
        new_tokens: of an answer.
        repeats: measured rounds after one that is not; medians are reported.

    Returns:
        ``rows``, each with ``row``, ``tokens``, the parts ``file_s``, ``pixels_s``, ``tower_s``, ``importance_s``,
        ``reduce_s``, ``prefill_s``, ``rest_s`` (None where they are not timed alone), the road as it was gone,
        ``first_token_s`` and ``answer_s``, the stock model's times over them, ``first_token_ratio`` and
        ``answer_ratio`` (None without a stock row), and ``peak_bytes``; and what was measured: ``model``, ``device``,
        ``dtype``, ``frames``, ``height``, ``width``, ``new_tokens``, ``stock_pixels`` ("transformers" or "ours"; None
        if no stock model was asked).
    """
    hf_model = model.hf_model
    hf_model.generation_config.eos_token_id = None
    load = partial(load_video, video, Sampling(frames=frames))
    decoded = load()
    stock_pixels = _stock_pixels(model)
    chains = {variant.name: variant.chain for variant in variants if variant.chain is not None}
    roads: dict[str, Callable[[], Road]] = {
        name: partial(_ours, model, load, chain, new_tokens) for name, chain in chains.items()
    }
    if stock_pixels:
        roads[STOCK] = partial(_stock, model, load, stock_pixels[1], new_tokens)
    gone = _gone(roads, repeats, model.device)
    parts = _parts(model, load, decoded, chains, stock_pixels[1] if stock_pixels else None, repeats)
    medians_of = {name: _median(each) for name, each in gone.items()}
    stock = medians_of.get(STOCK)
    rows = [_row(name, road, parts, stock) for name, road in medians_of.items()]
    return {
        "model": model.name,
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "frames": frames,
        "height": decoded.height,
        "width": decoded.width,
        "new_tokens": new_tokens,
        "stock_pixels": stock_pixels[0] if stock_pixels else None,
        "rows": rows,
    }


def _gone(roads: Mapping[str, Callable[[], Road]], repeats: int, device: torch.device) -> dict[str, list[Road]]:
    """Every road ``repeats`` times, all in turn, after one round that does not count."""
    gone: dict[str, list[Road]] = {name: [] for name in roads}
    for round in range(repeats + 1):
        for name, road in roads.items():
            give_back()
            with PeakMemory(device) as memory:
                measured = road()
            if round:
                gone[name].append(dataclasses.replace(measured, peak_bytes=memory.bytes))
    return gone


def _median(roads: Sequence[Road]) -> Road:
    """Medians of the seconds; the most memory."""
    prefills = [road.prefill_s for road in roads if road.prefill_s is not None]
    return dataclasses.replace(
        roads[0],
        first_s=statistics.median(road.first_s for road in roads),
        answer_s=statistics.median(road.answer_s for road in roads),
        prefill_s=statistics.median(prefills) if prefills else None,
        peak_bytes=max(road.peak_bytes for road in roads),
    )


def _ours(model: VideoLLM, load: Callable[[], Frames], chain: Chain, new_tokens: int) -> Road:
    model.tower.set_attn_implementation(ATTENTION)
    start = time.perf_counter()
    tokens = chain.after_encoding(model.encode(chain.on_frames(load(), model.layout)))
    (answer,) = Session(model, tokens).answer([QUESTION], Generation(max_new_tokens=new_tokens))
    answer_s = time.perf_counter() - start
    return Road(answer_s - answer.decode_s, answer_s, answer.prefill_s, tokens.tokens_kept)


def _stock(model: VideoLLM, load: Callable[[], Frames], pixels: Callable[[Frames], Tensor], new_tokens: int) -> Road:
    model.tower.set_attn_implementation("sdpa")
    start = time.perf_counter()
    frames = load()
    pixel_values = pixels(frames).to(model.device, model.dtype)
    layout, prompt = model.layout(frames), model.prompt(QUESTION)
    tokens = layout.frames * layout.language_cells
    video = torch.full((tokens + 1,), model.hf_model.config.video_token_id)  # and the newline that ends a video
    ids = torch.cat((*prompt.before, video, prompt.after))[None].to(model.device)
    clock = _FirstToken()
    cast(Any, model.hf_model).generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values_videos=pixel_values,
        max_new_tokens=new_tokens,
        do_sample=False,
        stopping_criteria=StoppingCriteriaList([clock]),
    )
    synchronise(ids)
    return Road(clock.at - start, time.perf_counter() - start, None, tokens)


class _FirstToken(StoppingCriteria):
    """Never stops; takes the time of the first token."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        if not self.at:
            synchronise(input_ids)
            self.at = time.perf_counter()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def _stock_pixels(model: VideoLLM) -> tuple[str, Callable[[Frames], Tensor]] | None:
    """Who makes the stock model's pixels, and how, to (1, T, 3, h, w) floating; None where no stock model is asked."""
    if type(model) is not LlavaOnevision:
        return None
    if not is_torchvision_available():
        return "ours", lambda frames: model.preprocess(frames)[None]
    side = {"height": model.side, "width": model.side}
    settings = {"size": side, "image_mean": model._mean, "image_std": model._std}
    processor = transformers.LlavaOnevisionVideoProcessor(**settings)

    def process(frames: Frames) -> Tensor:
        output = processor(videos=[frames.pixels.permute(0, 3, 1, 2)], return_tensors="pt")
        return output["pixel_values_videos"]

    return "transformers", process


def _parts(
    model: VideoLLM,
    load: Callable[[], Frames],
    frames: Frames,
    chains: Mapping[str, Chain],
    stock_pixels: Callable[[Frames], Tensor] | None,
    repeats: int,
) -> dict[str, float]:
    """Median seconds of the parts of the roads, each timed alone."""
    model.tower.set_attn_implementation(ATTENTION)
    size = model.frame_size(frames)
    groups = list(frames.parts(FRAMES_AT_ONCE))

    def upload(group: Frames) -> Tensor:
        return model.preprocess(group, size).to(model.device, model.dtype)

    pixels = [(upload(group), model.layout_of(group.count, size)) for group in groups]
    tokens = model.encode(frames)
    calls = _recorded(model, lambda: [model.run_tower(*each) for each in pixels])
    works: dict[str, Callable[[], object]] = {
        "file": load,
        "pixels": lambda: [upload(group) for group in groups],
        "captured": lambda: [model.run_tower(*each) for each in pixels],
        "tower": lambda: [module(*args, **kwargs) for module, args, kwargs in calls],
    }
    for name, chain in chains.items():
        works[f"reduce {name}"] = lambda chain=chain.after_encoding: chain(dataclasses.replace(tokens))
    if stock_pixels is not None:
        works["stock pixels"] = lambda: stock_pixels(frames).to(model.device, model.dtype)
    return medians(works, tokens.features, repeats)


def _recorded(model: VideoLLM, work: Callable[[], object]) -> list[tuple[nn.Module, Any, Any]]:
    """The calls of tower and projector while ``work`` runs. Made again, they capture no importance."""
    calls: list[tuple[nn.Module, Any, Any]] = []
    modules = (model.tower, getattr(model.hf_model.model, "multi_modal_projector", None))
    hooks = [
        module.register_forward_pre_hook(
            lambda module, args, kwargs: calls.append((module, args, kwargs)), with_kwargs=True
        )
        for module in modules
        if module is not None
    ]
    try:
        work()
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _row(name: str, road: Road, parts: dict[str, float], stock: Road | None) -> dict[str, Any]:
    ours = f"reduce {name}" in parts
    return {
        "row": name,
        "tokens": road.tokens,
        "file_s": parts["file"],
        "pixels_s": parts["pixels" if ours else "stock pixels"],
        "tower_s": parts["tower"] if ours else None,
        "importance_s": parts["captured"] - parts["tower"] if ours else None,
        "reduce_s": parts[f"reduce {name}"] if ours else None,
        "prefill_s": road.prefill_s,
        "rest_s": road.answer_s - road.first_s,
        "first_token_s": road.first_s,
        "answer_s": road.answer_s,
        "first_token_ratio": stock.first_s / road.first_s if stock else None,
        "answer_ratio": stock.answer_s / road.answer_s if stock else None,
        "peak_bytes": road.peak_bytes,
    }
