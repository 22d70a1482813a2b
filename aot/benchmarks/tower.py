"""What encoding takes where stages act before there are tokens, beside encoding every frame whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..models.base import VideoLLM
from ..stages.chain import FULL, Chain
from ..tokens.video_tokens import VideoTokens
from ..video.frame_source import FrameSource
from .measuring import medians


def bench_tower(
    model: VideoLLM, frames: FrameSource, chains: Sequence[Chain], *, repeats: int = 3
) -> list[dict[str, Any]]:
    """Encode a clip with each chain and without any, all in turn.

    On the CPU the time is that of the process, over all its threads: other work on the machine then hardly matters.

    Args:
        model: encodes.
        frames: decoded.
        chains: of stages on frames and inside the tower; those on tokens are left out.
        repeats: measured rounds; medians are reported.

    Returns:
        A row a chain, the first of all frames: ``stages``, ``frames_left`` and ``frames`` of the layout, ``seconds``,
        ``ratio`` to the first row, and ``share``: of the rows that the tower's blocks take for all frames, those that
        they took; None where the tower's blocks are not known.

    Raises:
        InputError: a chain does nothing before there are tokens, or it refuses the clip.
    """
    idle = next((chain for chain in chains if not chain.before_tokens), None)
    if idle is not None:
        raise InputError(
            f"{idle.name} does nothing before there are tokens, so encoding takes as long; give stages such as "
            "earlytom or fewer:retention=0.5."
        )
    sources = {FULL: frames} | {chain.name: chain.on_frames(frames, model.layout) for chain in chains}
    tokens: dict[str, VideoTokens] = {}
    rows: dict[str, int] = {}

    def encode(name: str) -> None:
        with rows_through(model) as count:
            tokens[name] = model.encode(sources[name])
        rows[name] = count()

    like = torch.zeros(1, device=model.device)
    seconds = medians({name: partial(encode, name) for name in sources}, like, repeats, clock=clock_of(model.device))
    return [
        {
            "stages": name,
            "frames_left": each.tokens_kept // each.layout.language_cells,
            "frames": tokens[FULL].layout.frames,
            "seconds": seconds[name],
            "ratio": seconds[name] / seconds[FULL],
            "share": rows[name] / rows[FULL] if rows[FULL] else None,
        }
        for name, each in tokens.items()
    ]


def clock_of(device: torch.device) -> Callable[[], float]:
    """The clock by which encoding is timed: of the process on the CPU, of the wall elsewhere.

    Args:
        device: that encodes.
    """
    return time.process_time if device.type == "cpu" else time.perf_counter


@contextmanager
def rows_through(model: VideoLLM) -> Iterator[Callable[[], int]]:
    """Count the rows that go into all of a tower's blocks together, by hooks on them.

    Args:
        model: whose tower runs meanwhile.
    """
    counts: list[int] = []

    def add(module: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        states: Tensor = inputs[0] if inputs else named["hidden_states"]
        counts.append(states.numel() // states.shape[-1])

    with ExitStack() as stack:
        for module in model.blocks.modules[: model.blocks.used] if model.blocks else ():
            stack.callback(module.register_forward_pre_hook(add, with_kwargs=True).remove)
        yield lambda: sum(counts)
