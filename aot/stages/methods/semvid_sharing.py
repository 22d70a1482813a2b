"""SemVID's part on the host: how a budget is shared out among segments and frames, and a frame's among words.

Everything is small and of float64; what is large stays with the stage.

Source: SemVID (ECCV 2026), Open Visual-Pruning Suite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..toolkit.uploads import BoolArray, FloatArray, IntArray

NOTHING = 1e-8
"""Weights that sum to less are no weights; all count the same then."""

ROUNDS = 16
"""How often at most tokens that did not fit are shared out again."""


@dataclass(frozen=True)
class HostFigures:
    """Figures of frames on the host, float64.

    Args:
        relevance: (T,) mean cosine of a frame with the two words it is most like.
        neighbours: (T - 1,) cosine of every frame with the next.
        presence: (T, W) the highest cosine of a frame's tokens with every word, at least 0.
        motion: (T,) distance of every frame from the one before; of the first as of the second.
    """

    relevance: FloatArray
    neighbours: FloatArray
    presence: FloatArray
    motion: FloatArray


@dataclass(frozen=True)
class Sharing:
    """How a budget was shared out.

    Args:
        budget: (T,) tokens of every frame.
        relevance: (T,) of every frame, smoothed.
        lengths: frames of every segment.
        presence: (T, W) of every word in every frame.
    """

    budget: IntArray
    relevance: FloatArray
    lengths: Sequence[int]
    presence: FloatArray

    def objects(self, share: float, base: int) -> tuple[IntArray, IntArray]:
        """(T,) tokens of every frame for objects, and (T,) for objects and motion together.

        Args:
            share: of the objects.
            base: tokens for context.
        """
        extra = self.budget - base
        return np.clip(np.rint(extra * share).astype(np.int64), 0, extra), extra


def frame_relevance(relevance: FloatArray, window: int) -> FloatArray:
    """(T,) relevance of frames as a moving mean, its ends repeated.

    Args:
        relevance: (T,) of every frame.
        window: frames that are averaged; an even number counts as one more.
    """
    frames = len(relevance)
    window = min(window + (window % 2 == 0), frames - (frames % 2 == 0))
    if window < 3:
        return relevance
    padded = np.pad(relevance, window // 2, mode="edge")
    return np.convolve(padded, np.full(window, 1 / window), "valid")


def segment_lengths(neighbours: FloatArray, segments: int, tau: float) -> list[int]:
    """Frames of every segment.

    Args:
        neighbours: (T - 1,) cosine of every frame with the next.
        segments: how many to cut at the least alike places; 0 forces none.
        tau: a cosine below this is a cut, too.
    """
    cuts = neighbours < tau
    cuts[np.argsort(neighbours, kind="stable")[: max(segments - 1, 0)]] = True
    ends = [*np.flatnonzero(cuts).tolist(), len(neighbours)]
    return np.diff([-1, *ends]).tolist()


def segment_weights(relevance: FloatArray, lengths: Sequence[int], most: int) -> FloatArray:
    """(S,) weights of segments by their mean relevance.

    Args:
        relevance: (T,) of every frame.
        lengths: frames of every segment.
        most: only so many of the most relevant have a weight; 0 gives all one.
    """
    means = np.add.reduceat(relevance, np.cumsum([0, *lengths[:-1]])) / np.asarray(lengths)
    weights = np.maximum(means, 0)
    if weights.sum() < NOTHING:
        weights = means - means.min() + 1e-6
    if 0 < most < len(weights):
        best = np.argsort(-weights, kind="stable")[:most]
        only = np.zeros_like(weights)
        only[best] = weights[best] if weights[best].sum() >= NOTHING else 1
        weights = only
    return weights


def frame_budgets(
    weights: FloatArray, wanted: FloatArray, lengths: Sequence[int], total: int, base: int, cells: int
) -> IntArray:
    """(T,) tokens of every frame, ``total`` in all: a base each, the rest by segment, then by frame.

    Args:
        weights: (S,) of segments.
        wanted: (T,) weights of frames inside their segment.
        lengths: (S,) frames of every segment.
        total: from T base to T cells.
        base: tokens of every frame at the least.
        cells: tokens of every frame at the most.
    """
    budget = np.full(len(wanted), base, np.int64)
    by_segment = shared_out(weights[None], np.array([total - budget.sum()]))[0]
    end = 0
    for length, extra in zip(lengths, by_segment.tolist(), strict=True):
        part = slice(end, end + length)
        budget[part] += shared_out(wanted[None, part], np.array([extra]))[0]
        end += length
    budget = np.minimum(budget, cells)
    left, room = total - int(budget.sum()), cells - budget
    if left > 0:
        weighted = wanted * room
        budget = budget + shared_within(weighted if weighted.sum() >= NOTHING else room.astype(float), left, room)
    return budget


def shared_out(weights: FloatArray, totals: IntArray) -> IntArray:
    """(N, W) whole numbers in proportion to the weights, each row's total in all; largest fractions get the rest.

    Args:
        weights: (N, W), below 0 counts as 0; a row without any gives all the same.
        totals: (N,).
    """
    weights = np.maximum(weights, 0)
    sums = weights.sum(1, keepdims=True)
    weights = np.where(sums < NOTHING, 1.0, weights)
    exact = weights / weights.sum(1, keepdims=True) * totals[:, None]
    whole = np.floor(exact).astype(np.int64)
    place = np.argsort(np.argsort(whole - exact, axis=1, kind="stable"), axis=1, kind="stable")
    return whole + (place < (totals - whole.sum(1))[:, None])


def shared_within(weights: FloatArray, total: int, room: IntArray) -> IntArray:
    """As :func:`shared_out`, none above its room; what does not fit is shared out again.

    Args:
        weights: (W,).
        total: to share out; no more than all room is.
        room: (W,) at most for each.
    """
    given, left = np.zeros_like(room), min(total, int(room.sum()))
    for _ in range(ROUNDS):
        free = given < room
        if left <= 0 or not free.any():
            break
        among = np.maximum(weights, 0) * free
        among = free.astype(float) if among.sum() < NOTHING else among
        exact = among / among.sum() * left
        whole = np.floor(exact).astype(np.int64)
        first = np.argsort(-np.where(free, exact - whole, -1), kind="stable")
        whole[first[: min(left - int(whole.sum()), int(free.sum()))]] += 1
        whole = np.minimum(whole, room - given)
        if not whole.any():
            break
        given, left = given + whole, left - int(whole.sum())
    return given


def moved_to(marked: Sequence[int], budget: IntArray, base: int, cells: int, most: int) -> IntArray:
    """(T,) budgets with more for marked frames, out of what the others have above the base; their sum stays.

    Args:
        marked: numbers of frames.
        budget: (T,) tokens of every frame.
        base: what no frame falls below.
        cells: what no frame rises above.
        most: what a marked frame gets more, at the most.
    """
    is_marked = np.isin(np.arange(len(budget)), marked)
    wanted = np.where(is_marked, np.minimum(most, np.maximum(cells - budget, 0)), 0)
    spare = np.where(is_marked, 0, np.maximum(budget - base, 0))
    total = int(min(wanted.sum(), spare.sum()))
    if total <= 0:
        return budget
    if total < wanted.sum():
        wanted = shared_within(wanted.astype(float), total, wanted)
    taken = shared_within(spare.astype(float), int(wanted.sum()), spare)
    return np.clip(budget + wanted - taken, base, cells)


@dataclass(frozen=True)
class Plan:
    """In which step a frame looks for which word.

    Args:
        word: (T, S) the word of every step.
        begins: (T, S) bool, whether a word's first token is looked for.
        active: (T, S) bool, whether the frame takes a token in this step.
    """

    word: IntArray
    begins: BoolArray
    active: BoolArray


def plan(presence: FloatArray, counts: IntArray) -> Plan:
    """The steps of all frames: word after word, the most present first, each as often as its share.

    Args:
        presence: (T, W) of every word in every frame.
        counts: (T,) tokens of every frame for objects.
    """
    shares = shared_out(presence, counts)
    order = np.argsort(-presence, axis=1, kind="stable")
    ends = np.take_along_axis(shares, order, 1).cumsum(1)
    step = np.arange(int(counts.max(initial=0)))
    turn = np.minimum((step[None, :, None] >= ends[:, None]).sum(2), presence.shape[1] - 1)
    word = np.take_along_axis(order, turn, 1)
    begins = np.ones_like(turn, bool)
    begins[:, 1:] = turn[:, 1:] != turn[:, :-1]
    return Plan(word, begins, step < counts[:, None])
