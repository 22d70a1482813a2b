"""The uncertainty of a measured accuracy: intervals, resampling of clips, and a test of paired answers.

All intervals are at 95 %. Questions about one clip are answered from one encoding and are not independent, so
accuracies over many families, and differences between variants, are judged by drawing whole clips.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
DRAWS = 10_000
SEED = 0
"""Of the draws, so that the same answers always have the same intervals."""

_NORMAL = 1.959963984540054
"""The normal distribution's quantile that leaves half of 5 % above it."""
_DRAWS_AT_ONCE = 1000


@dataclass(frozen=True)
class Estimate:
    """A value and the two ends of its 95 % interval."""

    value: float
    low: float
    high: float


def wilson(share: float, count: int) -> Estimate:
    """Wilson's score interval for a proportion of ``count`` independent answers.

    ``(p + z^2/2n +- z sqrt(p (1 - p)/n + z^2/4n^2)) / (1 + z^2/n)``, Wilson 1927. A share that is a mean of partial
    scores is taken for a proportion; its interval is then too wide, never too narrow.
    """
    z = _NORMAL
    middle = share + z**2 / (2 * count)
    reach = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    scale = 1 + z**2 / count
    return Estimate(share, min(share, (middle - reach) / scale), max(share, (middle + reach) / scale))


def resampled_means(sums: np.ndarray, counts: np.ndarray, *, draws: int = DRAWS, seed: int = SEED) -> np.ndarray:
    """Means of as many clips as there are, drawn with replacement: the cluster bootstrap.

    Every column sees the same draws, so that differences between columns are paired.

    Args:
        sums: (clips, columns) float, the summed scores of a clip's questions.
        counts: (clips, columns), the number of these questions.
        draws: number of draws.
        seed: of the draws.

    Returns:
        (draws, columns) float64; NaN for a draw without a question of a column.
    """
    rng = np.random.default_rng(seed)
    clips = len(sums)
    means = np.empty((draws, sums.shape[1]))
    for first in range(0, draws, _DRAWS_AT_ONCE):
        part = means[first : first + _DRAWS_AT_ONCE]
        times = rng.multinomial(clips, np.full(clips, 1 / clips), size=len(part)).astype(float)
        drawn = times @ counts
        part[:] = np.where(drawn > 0, times @ sums / np.maximum(drawn, 1), np.nan)
    return means


def percentiles(value: float, draws: np.ndarray) -> Estimate:
    """The percentile interval of a value, from the values (draws,) that resampling gave."""
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(draws, (tail, 100 - tail))
    return Estimate(value, float(low), float(high))


def sign_test(better: int, worse: int) -> float:
    """Two-sided p-value of ``better`` against ``worse`` answers if both were as likely; McNemar's exact test.

    For scores of 0 and 1 the pairs that differ are McNemar's discordant ones; partial scores count by their sign.
    It takes questions for independent.
    """
    from scipy.stats import binomtest

    return float(binomtest(better, better + worse, 0.5).pvalue) if better + worse else 1.0
