"""``python -m comfyui_aot.aot.training FOLDER``: train the embedded model, score it, put it into the package.

A run that was stopped goes on from its last checkpoint when the same command runs again.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm
from transformers.utils import logging

from ..errors import InputError
from ..models import EMBEDDED, load
from ..models.embedded.assemble import convert
from ..models.embedded.weights import TRAINED, TrainedWeights, read
from .plan import PLAN
from .scoring import FRAMES, score
from .trainer import Settings, Training, accuracy, require_seed

CLIPS_A_SEED = 100_000
SEEDS = range(8)
"""What ``--seed`` may be: each has clips of the train split for itself; those from 800,000 on are for closed forms."""

_RECENT = 40
"""Steps over which the progress bar averages the accuracy."""


def main(arguments: Sequence[str] | None = None, plan: Settings = PLAN, frames: Sequence[int] = FRAMES) -> None:
    """Train the embedded model, score it and save its weights.

    Args:
        arguments: of the command line; None takes the process's own.
        plan: the settings of the training.
        frames: numbers of frames to score the model at.
    """
    parser = argparse.ArgumentParser(prog="python -m comfyui_aot.aot.training", description=__doc__)
    parser.add_argument("folder", type=Path, help="for checkpoint, log and scores; a run that was stopped goes on")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--clips", type=int, default=30, help="of the test split, to score the model with")
    parser.add_argument("--seed", type=int, choices=SEEDS, default=0, help="of the weights and the clips")
    parser.add_argument("--out", type=Path, help="where to put the result; seed 0 into the package, others in FOLDER")
    options = parser.parse_args(arguments)
    logging.disable_progress_bar()
    trained_file, plan = options.folder / "embedded.safetensors", seeded(plan, options.seed)
    if not trained_file.is_file():
        _train(plan, options.folder, options.device).save(trained_file)
    trained = read(trained_file)
    require_seed(options.folder, trained.info["settings"]["seed"], plan.seed)
    convert(options.folder / EMBEDDED, trained=trained_file)
    model = load(str(options.folder / EMBEDDED), device=options.device)
    scores = score(model, options.clips, options.folder / "scores", frames)
    out = options.out or (trained_file if options.seed else TRAINED)
    dataclasses.replace(trained, info={**trained.info, "scores": scores, "clips": options.clips}).save(out)
    for name, families in scores.items():
        print(f"{name}: {', '.join(f'{family} {share:.2f}' for family, share in families.items())}")


def seeded(plan: Settings, seed: int) -> Settings:
    """The plan for another model: first weights, directions of the projector and clips come from other seeds.

    Args:
        plan: of seed 0.
        seed: see ``SEEDS``.
    """
    return dataclasses.replace(
        plan,
        seed=plan.seed + seed,
        first_seed=plan.first_seed + seed * CLIPS_A_SEED,
        warm_start=dataclasses.replace(plan.warm_start, seed=plan.warm_start.seed + seed),
    )


def _train(plan: Settings, folder: Path, device: str) -> TrainedWeights:
    """Train, and return the weights. The progress bar shows losses, and the accuracy over the last steps."""
    recent: deque[tuple[tuple[str, bool], ...]] = deque(maxlen=_RECENT)
    training = Training(plan, folder, device=device)
    with tqdm(total=plan.steps, initial=training.done, desc="train", file=sys.stderr) as bar:
        for progress in training.steps():
            recent.append(progress.answers)
            shares = accuracy([pair for answers in recent for pair in answers])
            right = f", right {np.mean(list(shares.values())):.2f}" if shares else ""
            bar.set_postfix_str(f"pointing {progress.pointing:.2f}, early {progress.early:.2f}{right}", refresh=False)
            bar.update()
    info = {"settings": dataclasses.asdict(plan), "device": device, "seconds": round(training.seconds)}
    return training.learner.weights(info)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(str(error))
