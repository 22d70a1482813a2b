"""What a model's own luck is worth: the same methods, clips and questions on two models, as `aot eval` recorded them.

Another model, of another seed, gives another difference between two methods. The last columns have both, and what they
differ by; the last line says whether the two models put the methods in the same order.

    aot eval shapes ... --out one
    aot eval shapes ... --model .venv/training/1/embedded --out other
    .venv/bin/python benchmarks/two_models.py one other --against "intra 0.05"
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.evaluation.records import RECORDS, record_of
from comfyui_aot.aot.evaluation.statistics import Estimate, percentiles, resampled_means

FULL = "full"


@dataclass(frozen=True)
class Scores:
    """Sums of two models' scores.

    Attributes:
        names: of the variants.
        sums: (clips, 2, variants) float64, of a clip's questions.
        counts: (clips,) int64, of a clip's questions.
    """

    names: tuple[str, ...]
    sums: np.ndarray
    counts: np.ndarray


def read(folder: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Scores by variant, clip and question, of one run of ``aot eval``.

    Args:
        folder: given to it as ``--out``.

    Raises:
        InputError: no such results.
    """
    path = folder / RECORDS
    if not path.is_file():
        raise InputError(f"There are no results in {folder}; give the --out folder of an aot eval.")
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for record in map(record_of, path.read_bytes().splitlines(keepends=True)):
        if record is not None:
            known = {name: score for name, score in record.scores.items() if score is not None}
            scores.setdefault(record.variant, {})[record.clip] = known
    return scores


def pair(one: Path, other: Path) -> Scores:
    """Scores of the variants that both runs have, on the questions that all of those answered.

    Args:
        one: folder of a run.
        other: of the same questions on another model.

    Raises:
        InputError: they have nothing in common.
    """
    runs = read(one), read(other)
    names = tuple(name for name in runs[0] if name in runs[1])
    of_all = [run[name] for run in runs for name in names]
    clips = [clip for clip in of_all[0] if all(clip in each for each in of_all)] if of_all else []
    questions = {clip: [q for q in of_all[0][clip] if all(q in each[clip] for each in of_all)] for clip in clips}
    clips = [clip for clip in clips if questions[clip]]
    if not clips:
        raise InputError(f"{one} and {other} have no answers to the same questions; give two runs over the same clips.")
    sums = [[[sum(run[name][clip][q] for q in questions[clip]) for name in names] for run in runs] for clip in clips]
    return Scores(names, np.array(sums, float), np.array([len(questions[clip]) for clip in clips]))


def table(scores: Scores, against: str) -> list[str]:
    """The lines of the table.

    Args:
        scores: of both models.
        against: the variant that each is compared with.

    Raises:
        InputError: no such variant.
    """
    if against not in scores.names:
        raise InputError(f"No variant {against!r} is in both runs; there are {', '.join(scores.names)}.")
    clips, _, variants = scores.sums.shape
    flat = scores.sums.reshape(clips, -1)
    draws = resampled_means(flat, np.repeat(scores.counts[:, None], flat.shape[1], 1)).reshape(-1, 2, variants)
    means = (flat.sum(0) / scores.counts.sum()).reshape(2, variants)
    beside = scores.names.index(against)
    apart, apart_draws = means - means[:, [beside]], draws - draws[:, :, [beside]]
    lines = [
        f"| {clips} clips, {scores.counts.sum()} questions | one model | other model | over {against} | on the other "
        "| what they differ by |",
        "|---|---|---|---|---|---|",
    ]
    for i, name in enumerate(scores.names):
        cells = [_share(percentiles(100 * means[m, i], 100 * draws[:, m, i])) for m in (0, 1)]
        if name != FULL and i != beside:
            both = [percentiles(100 * apart[m, i], 100 * apart_draws[:, m, i]) for m in (0, 1)]
            luck = percentiles(100 * (apart[1, i] - apart[0, i]), 100 * (apart_draws[:, 1, i] - apart_draws[:, 0, i]))
            cells += map(_gain, (*both, luck))
        lines.append("| " + " | ".join([name, *cells, *[""] * (5 - len(cells))]) + " |")
    ranked = [i for i, name in enumerate(scores.names) if name != FULL]
    if len(ranked) > 2:
        order = spearmanr(means[0, ranked], means[1, ranked]).statistic
        lines += ["", f"Spearman's rank correlation over {len(ranked)} variants: {order:.2f}"]
    return lines


def _share(value: Estimate) -> str:
    return f"{value.value:.1f} ({value.low:.1f} to {value.high:.1f})"


def _gain(value: Estimate) -> str:
    return f"{value.value:+.1f} ({value.low:+.1f} to {value.high:+.1f})"


def main() -> None:
    """Print the table of two runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("one", type=Path, help="--out folder of a run of aot eval")
    parser.add_argument("other", type=Path, help="of the same clips on another model")
    parser.add_argument(
        "--against", required=True, metavar="NAME", help='variant that each is compared with: "intra 0.05"'
    )
    options = parser.parse_args()
    try:
        print("\n".join(table(pair(options.one, options.other), options.against)))
    except InputError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
