"""Merging frames inside a vision tower, by hooks on the blocks of the stock one; no class is changed.

A hook after a block gives the next one fewer frames, and all that follows sees only those. It works on towers that take
frames as a batch, (frames, tokens, width) from block to block, and on those that take a video's patches as one
sequence, (frames x patches, width), with the ends of what attends to itself beside it. Such a sequence is cut by whole
frames: their patches lie together, and every frame has the same positions and the same windows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from ..devices import Elapsed, mark
from ..tokens.frame_merge import FrameMerge, TowerStep
from ..tokens.video_tokens import StageRecord
from .importance import Received, capture


@dataclass(frozen=True)
class Blocks:
    """The blocks of a tower that whole frames go through, none looking at another.

    Args:
        modules: all of them, in order.
        used: number of those whose output reaches the LLM.
        special: tokens before a frame's patches, such as a class token.
        over_frames: indices of those that attend over full frames, where others attend within windows; None for all.
        filled: modules after which the tower counts on the rows of all frames; zeros are put after the rows that they
            give.
    """

    modules: Sequence[nn.Module]
    used: int
    special: int = 0
    over_frames: Sequence[int] | None = None
    filled: Sequence[nn.Module] = ()

    def attended(self, last: int) -> int:
        """Index of the block whose attention is taken where frames are merged for the last time after block ``last``.

        It is that block, or the nearest that attends over full frames; of two the earlier.

        Args:
            last: index of a block.
        """
        if self.over_frames is None:
            return last
        return min(self.over_frames, key=lambda block: (abs(block - last), block))


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
        attention: (T', S) float32 received at the block that :meth:`Blocks.attended` names; None before it.
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
        return self.merges[self.left]

    @property
    def left(self) -> int:
        """Frames that are left after the steps that ran."""
        return min(self.merges)

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

    def of_left(self, values: Tensor) -> Tensor:
        """Values of the frames at some block as those of the frames left: what the later steps make of them.

        Args:
            values: (n, ...) floating, of as many frames as a step left, or of all.
        """
        return values if len(values) == self.left else self.merge.apply(self.spread(values))


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
    last = max((each for of_step in chosen for each in of_step), default=None)
    attended = None if last is None else blocks.attended(last)
    with ExitStack() as stack:
        received = stack.enter_context(capture(*(() if attended is None else (attended,))))
        for block, module in enumerate(blocks.modules[: blocks.used]):
            after = _After(
                block,
                blocks.special,
                tuple((i, step) for i, step in enumerate(steps) if block in chosen[i]),
                is_last=block == last,
                received=received if block == attended else None,
                on_block=on_block,
            )
            stack.callback(module.register_forward_hook(partial(_after_block, done, after)).remove)
            stack.callback(module.register_forward_pre_hook(_with_frames_left, with_kwargs=True).remove)
        for module in blocks.filled:
            stack.callback(module.register_forward_hook(partial(_with_rows_of_all_frames, done)).remove)
        yield done


def _with_frames_left(
    module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The forward pre-hook of a block: what a tower makes of all frames at the beginning, cut to those left.

    Beside frames in a batch it is a mask, beside a sequence of patches their positions and the ends of frames or
    windows. Of either, all frames have the same.
    """
    states: Tensor = inputs[0] if inputs else named["hidden_states"]
    cut = partial(_cut_mask if states.ndim == 3 else _cut_rows, len(states))
    if states.ndim == 2 and "cu_seqlens" in named:
        ends = named["cu_seqlens"]
        named = {**named, "cu_seqlens": ends[ends <= len(states)]}
    return tuple(map(cut, inputs)), {name: cut(value) for name, value in named.items()}


def _cut_mask(frames: int, value: Any) -> Any:
    is_mask = isinstance(value, Tensor) and value.ndim == 4 and len(value) > frames
    return value[:frames] if is_mask else value


def _cut_rows(rows: int, value: Any) -> Any:
    """A pair of cosines and sines of positions, one row a patch; anything else as it is."""
    is_pair = isinstance(value, tuple) and len(value) == 2 and all(isinstance(each, Tensor) for each in value)
    return tuple(each[:rows] for each in value) if is_pair else value


def _with_rows_of_all_frames(done: Inside, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    """The forward hook of a module that gives the rows of the frames left: zeros after them for those that are not."""
    rows = len(output) // done.left * done.frames
    return functional.pad(output, (0, 0, 0, rows - len(output)))


@dataclass(frozen=True)
class _After:
    """What is to happen after a block.

    Args:
        block: its index.
        special: tokens before a frame's patches.
        steps: those that merge frames after it, with their places among all.
        is_last: whether none merges frames after a later block.
        received: what was captured of the pass, where this block's attention is taken.
        on_block: called with its index.
    """

    block: int
    special: int
    steps: Sequence[tuple[int, TowerStep]]
    is_last: bool
    received: Received | None
    on_block: Callable[[int], None]


def _after_block(done: Inside, after: _After, module: nn.Module, inputs: Any, output: Any) -> Any:
    """The forward hook of a block: what the next one is given; None leaves its output as it is."""
    after.on_block(after.block)
    if after.received is not None:
        done.attention = after.received.sums[after.block].reshape(done.left, -1)
    if not after.steps:
        return None
    states: Tensor = output[0] if isinstance(output, tuple) else output
    in_sequence = states.ndim == 2
    if in_sequence:
        states = states.unflatten(0, (done.left, -1))
    for place, step in after.steps:
        start = mark(states)
        merge = step.merge(states[:, after.special :])
        if merge.left < merge.frames:
            states = merge.apply(states)
            done.attention = None if done.attention is None else merge.apply(done.attention)
            done.merges[merge.left] = done.merge.then(merge)
        if after.is_last:
            done.notes.update(step.notes(states[:, after.special :]))
        done.fewer.setdefault(place, []).append(merge.frames - merge.left)
        done.elapsed.setdefault(place, []).append(Elapsed(start, mark(states)))
    if in_sequence:
        states = states.flatten(0, 1)
    return (states, *output[1:]) if isinstance(output, tuple) else states
