"""Merging frames inside a vision tower, by hooks on the blocks of the stock one; no class is changed.

It works on towers that take frames as a batch, (frames, tokens, width) from block to block: a hook after a block gives
the next one fewer frames, and all that follows sees only those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn

from ..devices import Elapsed, mark
from ..tokens.frame_merge import FrameMerge, TowerStep
from ..tokens.video_tokens import StageRecord
from .importance import Received, capture


@dataclass(frozen=True)
class Blocks:
    """The blocks of a tower that frames go through as a batch.

    Args:
        modules: all of them, in order.
        used: number of those whose output reaches the LLM.
        special: tokens before a frame's patches, such as a class token.
    """

    modules: Sequence[nn.Module]
    used: int
    special: int = 0


def block_list(tower: nn.Module) -> Sequence[nn.Module]:
    """The list of a tower's blocks, which the stock towers that take frames as a batch have one of.

    Args:
        tower: a stock one.
    """
    return tuple(max((each for each in tower.modules() if isinstance(each, nn.ModuleList)), key=len))


@dataclass
class Inside:
    """What steps did in one pass of a tower.

    Args:
        frames: T, that the tower was given.
        merges: how the T frames were merged after each step that ran, by the number of frames it left. The frames that
            a tensor of the pass is of are known by that number: a step that leaves as many as came changes nothing.
        notes: what the steps say of the frames left, by the names of the tokens' extras, (T', ...) each.
        attention: (T', S) float32 received at the last block after which frames were merged; None before it.
        elapsed: time of each step after each of its blocks, by its place among the steps.
        fewer: by how many frames each was fewer after them, likewise.
    """

    frames: int
    merges: dict[int, FrameMerge]
    notes: dict[str, Tensor] = field(default_factory=dict)
    attention: Tensor | None = None
    elapsed: dict[int, list[Elapsed]] = field(default_factory=dict)
    fewer: dict[int, list[int]] = field(default_factory=dict)

    @property
    def merge(self) -> FrameMerge:
        """Of all steps together."""
        return self.merges[min(self.merges)]

    def records(self, steps: Sequence[TowerStep], cells: int) -> tuple[StageRecord, ...]:
        """A line of the history for each step; tokens are those of the frames before all blocks, and after.

        Args:
            steps: that ran.
            cells: language-grid tokens of a frame.
        """
        lines, came = [], self.frames
        for place, step in enumerate(steps):
            left = came - sum(self.fewer.get(place, ()))
            spent = sum(map(float, self.elapsed.get(place, ())))
            lines.append(StageRecord(step.name, step.settings(), came * cells, left * cells, spent))
            came = left
        return tuple(lines)

    def spread(self, values: Tensor) -> Tensor:
        """Values of the frames at some block, at all T frames: each frame's are those of the mean it went into, or 0.

        Args:
            values: (n, ...) floating, of as many frames as a step left, or of all.
        """
        return values if len(values) == self.frames else self.merges[len(values)].spread(values)


@contextmanager
def inside(
    steps: Sequence[TowerStep], blocks: Blocks, frames: int, on_block: Callable[[int], None] = lambda block: None
) -> Iterator[Inside]:
    """Run steps between a tower's blocks, in one pass of it.

    Args:
        steps: in order.
        blocks: of the tower.
        frames: that the tower will be given.
        on_block: called with the index of a block that has run.
    """
    done = Inside(frames, {frames: FrameMerge.none(frames)})
    chosen = [tuple(step.blocks(blocks.used)) for step in steps]
    last = max((each for of_step in chosen for each in of_step), default=-1)
    with ExitStack() as stack:
        received = stack.enter_context(capture(*({last} if last >= 0 else ())))
        for block, module in enumerate(blocks.modules[: blocks.used]):
            at = [(i, step) for i, step in enumerate(steps) if block in chosen[i]]
            run = partial(_after_block, done, blocks.special, block, at, last == block, received, on_block)
            stack.callback(module.register_forward_hook(run).remove)
            stack.callback(module.register_forward_pre_hook(_with_masks_of_frames_left, with_kwargs=True).remove)
        yield done


def _with_masks_of_frames_left(
    module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The forward pre-hook of a block: some towers make a mask of all frames at the beginning, the same for each."""
    states: Tensor = inputs[0] if inputs else named["hidden_states"]

    def cut(value: Any) -> Any:
        is_mask = isinstance(value, Tensor) and value.ndim == 4 and len(value) > len(states)
        return value[: len(states)] if is_mask else value

    return tuple(map(cut, inputs)), {name: cut(value) for name, value in named.items()}


def _after_block(
    done: Inside,
    special: int,
    block: int,
    steps: Sequence[tuple[int, TowerStep]],
    is_last: bool,
    received: Received,
    on_block: Callable[[int], None],
    module: nn.Module,
    inputs: Any,
    output: Any,
) -> Any:
    """The forward hook of a block: what the next one is given; None leaves its output as it is."""
    on_block(block)
    if not steps:
        return None
    states: Tensor = output[0] if isinstance(output, tuple) else output
    attention = received.sums[block] if is_last else None
    for place, step in steps:
        start = mark(states)
        merge = step.merge(states[:, special:])
        if merge.left < merge.frames:
            states = merge.apply(states)
            attention = None if attention is None else merge.apply(attention)
            done.merges[merge.left] = done.merge.then(merge)
        if is_last:
            done.notes.update(step.notes(states[:, special:]))
        done.fewer.setdefault(place, []).append(merge.frames - merge.left)
        done.elapsed.setdefault(place, []).append(Elapsed(start, mark(states)))
    if is_last:
        done.attention = attention
    return (states, *output[1:]) if isinstance(output, tuple) else states
