"""The scores of a trained model on unseen clips, for the metadata of its file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..comparison.variants import BLIND, expand
from ..evaluation.encodings import Encodings
from ..evaluation.records import Records
from ..evaluation.runner import evaluate, settings
from ..evaluation.shapes_set import shapes_set
from ..evaluation.summary import summarise
from ..models.base import VideoLLM
from ..models.fingerprint import fingerprint

FRAMES = (16, 8, 32)
EACH = 3
"""The most questions of a family about one clip."""


def score(
    model: VideoLLM, clips: int, folder: Path, frames: Sequence[int] = FRAMES
) -> Mapping[str, Mapping[str, float]]:
    """Accuracy on the test split, of each family and of "all" questions. Answers are greedy, with all tokens.

    Args:
        model: the trained model.
        clips: number of clips, from the split's first on.
        folder: for the answers. A run that was stopped goes on from them.
        frames: numbers of frames. At the first of them the model also answers without the video.

    Returns:
        Shares from 0 to 1, under "16 frames" and so on, "16 frames, blind" (without the video) and "16 frames,
        majority" (always the most frequent answer of a family).
    """
    scores: dict[str, Mapping[str, float]] = {}
    weights = fingerprint(model)
    for number in frames:
        question_set = shapes_set("test", clips, frames=number, each=EACH)
        records = Records(folder / str(number), settings(model, question_set, number, weights))
        encodings = Encodings(model, question_set, number, None, weights=weights)
        blind = [BLIND] if number == frames[0] else []
        evaluate(model, question_set, expand(blind, (), blind=True), records, encodings)
        summary = summarise(question_set.questions, records)
        for row in summary.rows:
            name = f"{number} frames" + (f", {BLIND}" if row.name == BLIND else "")
            families = {family: round(estimate.value, 4) for family, estimate in row.families.items()}
            scores[name] = {**families, "all": round(row.accuracy.value, 4)}
        if blind:
            majority = {family: round(share, 4) for family, share in summary.majority.items()}
            scores[f"{number} frames, majority"] = {**majority, "all": round(summary.majority_overall, 4)}
    return scores
