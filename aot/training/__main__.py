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

from ..models import EMBEDDED, load
from ..models.embedded.assemble import convert
from ..models.embedded.weights import TRAINED, TrainedWeights, read
from .plan import PLAN
from .scoring import FRAMES, score
from .trainer import Settings, Training, accuracy

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
    parser.add_argument("--out", type=Path, default=TRAINED, help="where to put the result; into the package")
    options = parser.parse_args(arguments)
    logging.disable_progress_bar()
    trained_file = options.folder / "embedded.safetensors"
    if not trained_file.is_file():
        _train(plan, options.folder, options.device).save(trained_file)
    convert(options.folder / EMBEDDED, trained=trained_file)
    model = load(str(options.folder / EMBEDDED), device=options.device)
    scores = score(model, options.clips, options.folder / "scores", frames)
    trained = read(trained_file)
    dataclasses.replace(trained, info={**trained.info, "scores": scores, "clips": options.clips}).save(options.out)
    for name, families in scores.items():
        print(f"{name}: {', '.join(f'{family} {share:.2f}' for family, share in families.items())}")


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
    main()
