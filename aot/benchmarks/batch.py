"""What a batch of videos gains over a loop: the same library calls, the model loaded, rounds of both in turn.

On a busy machine two threads that share an operation wait for each other, and a loop takes many times as long as on a
quiet one. So on a CPU the work is counted too, in seconds of a core: that of the loop on one thread, where nothing
waits, over that of the batch. No number of cores can make the loop catch up with that.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ..answering.answerer import LocalAnswerer
from ..batch.questions import Asking, ask_each
from ..batch.runner import run
from ..batch.sources import clips_of
from ..batch.videos import Recipe
from ..video.video_source import open_video
from .answer import QUESTION


def bench_batch(recipe: Recipe, folder: Path, *, batch: int = 8, rounds: int = 3) -> dict[str, Any]:
    """Time questions about all videos of a folder, asked by a loop and as a batch.

    The loop opens, encodes, reduces and answers one video after another, as ``aot answer`` does, with one answerer.

    Args:
        recipe: how.
        folder: of the videos.
        batch: videos that are answered together, at most.
        rounds: of both in turn, after one that is not measured.

    Returns:
        ``rounds``, each with ``loop_s``, ``batch_s``, ``ratio``, and ``work_ratio`` on a CPU; ``ratio`` and
        ``work_ratio``, their medians; ``equal``, how many answers of a batch have the same tokens as the loop's; and
        what was measured: ``model``, ``stages``, ``device``, ``videos``, ``batch``, ``new_tokens``.
    """
    asked = ask_each(clips_of(str(folder)), [QUESTION])
    answerer = LocalAnswerer(recipe.model)
    threads, on_cpu = torch.get_num_threads(), recipe.model.device.type == "cpu"
    works: dict[str, Callable[[], dict[str, tuple[int, ...]]]] = {
        "loop": lambda: _loop(recipe, answerer, asked),
        "batch": lambda: _batch(recipe, asked, batch),
    }
    if on_cpu:
        works["one"] = works["loop"]
    measured: list[dict[str, float]] = []
    answers: dict[str, dict[str, tuple[int, ...]]] = {}
    for number in range(rounds + 1):
        seconds: dict[str, float] = {}
        cores: dict[str, float] = {}
        for name, work in works.items():
            torch.set_num_threads(1 if name == "one" else threads)
            start, used = time.perf_counter(), time.process_time()
            answers[name] = work()
            seconds[name], cores[name] = time.perf_counter() - start, time.process_time() - used
        torch.set_num_threads(threads)
        if number:
            figures = {"loop_s": seconds["loop"], "batch_s": seconds["batch"]}
            measured.append({**figures, "ratio": seconds["loop"] / seconds["batch"]})
            if on_cpu:
                measured[-1]["work_ratio"] = cores["one"] / cores["batch"]
    return {
        "model": recipe.model.name,
        "stages": recipe.chain.name,
        "device": str(recipe.model.device),
        "videos": len(asked),
        "new_tokens": len(next(iter(answers["loop"].values()))),
        "batch": batch,
        "rounds": measured,
        "ratio": statistics.median(each["ratio"] for each in measured),
        "work_ratio": statistics.median(each["work_ratio"] for each in measured) if on_cpu else None,
        "equal": sum(answers["batch"].get(name) == ids for name, ids in answers["loop"].items()),
    }


@torch.no_grad()
def _loop(recipe: Recipe, answerer: LocalAnswerer, asked: Sequence[Sequence[Asking]]) -> dict[str, tuple[int, ...]]:
    """The token ids of every answer, one video after another."""
    model, found = recipe.model, {}
    for (asking,) in asked:
        video = open_video(asking.clip.place, recipe.sampling, recipe.size)
        frames = recipe.chain.on_frames(video, model.layout)
        tokens = recipe.chain.after_encoding(model.encode(frames))
        (answer,) = answerer.answer(tokens, [asking.prompt(())], recipe.generation)
        found[asking.clip.id] = answer.ids
    return found


def _batch(recipe: Recipe, asked: Sequence[Sequence[Asking]], batch: int) -> dict[str, tuple[int, ...]]:
    """The same, as a batch."""
    with run(recipe, asked, batch=batch) as results:
        return {each.asking.clip.id: each.answer.ids if each.answer else () for each in results}
