"""Two models beside each other: the same methods on the same clips and questions, as `aot eval` recorded them.

What one method is over another is measured on one model, and another model gives another difference. The last columns
have both, and what they differ by; the last line says whether the two models put the methods in the same order.
Intervals are of the clips, for these two models: they say nothing of a third.

    aot eval shapes ... --out eval-one
    aot eval shapes ... --out eval-other --model FOLDER
    .venv/bin/python benchmarks/two_models.py eval-one eval-other --against "intra 0.05"
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.evaluation.records import RECORDS, SETTINGS, record_of
from comfyui_aot.aot.evaluation.statistics import Estimate, percentiles, resampled_means
from comfyui_aot.aot.files import read_json
from comfyui_aot.aot.stages.chain import FULL
from comfyui_aot.aot.tables import differing

OF_THE_MODEL = ("model", "model_digest", "dtype", "device")
"""Settings that may differ."""
OF_THE_CLIPS = ("clips", "first_seed", "questions_digest")
"""Settings of which clips were asked about: only those in both runs count."""


@dataclass(frozen=True)
class Scores:
    """Sums of two models' scores.

    Attributes:
        names: of the variants.
        sums: (clips, 2, variants) float64, of a clip's questions.
        counts: (clips,) int64, of a clip's questions.
        left_out: clips that not all variants have answered on both models.
    """

    names: tuple[str, ...]
    sums: np.ndarray
    counts: np.ndarray
    left_out: int


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


def require_alike(one: Path, other: Path) -> None:
    """Refuse two runs that differ in more than the model, or in no model.

    Args:
        one: folder of a run.
        other: of another.

    Raises:
        InputError: other settings, or the same model.
    """
    settings = [_settings(folder) for folder in (one, other)]
    if found := differing(*({name: run[name] for name in run if name not in OF_THE_MODEL} for run in settings)):
        changes = ", ".join(f"{name} is {before} and {now}" for name, (before, now) in found.items())
        raise InputError(f"{one} and {other} have other settings: {changes}; give two runs that differ in the model.")
    if settings[0].get("model_digest") == settings[1].get("model_digest"):
        raise InputError(f"{one} and {other} are of one model; give two runs that differ in the model.")


def _settings(folder: Path) -> Mapping[str, Any]:
    given = read_json(folder / SETTINGS, "Settings", keys=("set",), remedy="give the --out folder of an aot eval")
    asked = {name: value for name, value in given["set"].items() if name not in OF_THE_CLIPS}
    return {name: value for name, value in given.items() if name not in OF_THE_CLIPS} | {"set": asked}


def pair(one: Path, other: Path, against: str) -> Scores:
    """Scores of full tokens, and of the variants at a retention, on the questions that all of them answered.

    Args:
        one: folder of a run.
        other: of the same questions on another model.
        against: the variant whose retention is meant.

    Raises:
        InputError: no such variant, or no questions that both runs have.
    """
    runs = read(one), read(other)
    common = [name for name in runs[0] if name in runs[1]]
    if against not in common:
        raise InputError(f"No variant {against!r} is in both runs; there are {', '.join(common) or 'none'}.")
    names = tuple(name for name in common if name == FULL or _retention(name) == _retention(against))
    of_all = [run[name] for run in runs for name in names]
    questions = {
        clip: [q for q in asked if all(q in each.get(clip, ()) for each in of_all)] for clip, asked in of_all[0].items()
    }
    clips = [clip for clip, asked in questions.items() if asked]
    if not clips:
        raise InputError(f"{one} and {other} have no answers to the same questions; give two runs over the same clips.")
    sums = [[[sum(run[name][clip][q] for q in questions[clip]) for name in names] for run in runs] for clip in clips]
    counts = np.array([len(questions[clip]) for clip in clips])
    return Scores(names, np.array(sums, float), counts, len(set().union(*of_all)) - len(clips))


def _retention(name: str) -> str:
    return name.rpartition(" ")[2]


def table(scores: Scores, against: str) -> list[str]:
    """The lines of the table, and of what it leaves out.

    Args:
        scores: of both models.
        against: the variant that each is compared with.
    """
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
            change = percentiles(100 * (apart[1, i] - apart[0, i]), 100 * (apart_draws[:, 1, i] - apart_draws[:, 0, i]))
            cells += map(_gain, (*both, change))
        lines.append("| " + " | ".join([name, *cells, *[""] * (5 - len(cells))]) + " |")
    if scores.left_out:
        lines += ["", f"Left out: {scores.left_out} clips that not all of these have answered on both models."]
    ranked = [i for i, name in enumerate(scores.names) if name != FULL]
    if len(ranked) > 2 and all(np.ptp(means[m, ranked]) > 0 for m in (0, 1)):
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
        "--against",
        required=True,
        metavar="NAME",
        help='variant that those at its retention are compared with: "intra 0.05"',
    )
    options = parser.parse_args()
    try:
        require_alike(options.one, options.other)
        print("\n".join(table(pair(options.one, options.other, options.against), options.against)))
    except InputError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
