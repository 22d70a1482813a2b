"""The training loop: clip after clip, every one new, each asked many questions in one pass.

No clip is ever seen twice, so the accuracy noted while learning is that on unseen clips. A run that was stopped goes
on from its last checkpoint.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from ..evaluation.scenes import SceneSettings, make_scene
from ..evaluation.shapes_set import SPLITS, ask
from ..files import make_folder, whole
from .learner import Learner
from .pointing import Grounding
from .warm_start import WarmStart

_CHECKPOINT, _LOG = "checkpoint.pt", "log.jsonl"


@dataclass(frozen=True)
class Phase:
    """A stretch of training.

    Args:
        clips: how many, one optimiser step each.
        size: of the frames, pixels; smaller ones hold fewer tokens, and shapes of the same size in pixels.
        frames: a clip has one of these numbers of frames.
        radius: of the shapes, pixels.
        each: at most so many questions of a family are asked of a clip.
        rate: the learning rate at its end, reached in a straight line from that of the phase before.
    """

    clips: int
    size: int
    frames: tuple[int, ...]
    radius: tuple[float, float]
    each: int
    rate: float


@dataclass(frozen=True)
class Settings:
    """How the embedded model is trained. Always with all tokens: what is reduced later is reduced untrained.

    Args:
        phases: one after another.
        rank, alpha: of LoRA.
        projector_rate: the projector's learning rate, as a share of LoRA's.
        clip_gradient: the longest gradient.
        betas: of Adam.
        first_seed: the first clip's; every further clip has the next.
        checkpoint_every: so many clips.
        seed: of what LoRA begins with.
    """

    phases: tuple[Phase, ...]
    rank: int = 8
    alpha: float = 16.0
    projector_rate: float = 0.3
    warm_start: WarmStart = field(default_factory=WarmStart)
    grounding: Grounding = field(default_factory=Grounding)
    clip_gradient: float = 1.0
    betas: tuple[float, float] = (0.9, 0.98)
    first_seed: int = SPLITS["train"]
    checkpoint_every: int = 25
    seed: int = 0

    @property
    def clips(self) -> int:
        """How many clips are seen in all."""
        return sum(phase.clips for phase in self.phases)

    def at(self, index: int) -> tuple[Phase, float]:
        """The phase and the learning rate of a clip."""
        before = 0.0
        for phase in self.phases:
            if index < phase.clips:
                return phase, before + (phase.rate - before) * (index + 1) / phase.clips
            index, before = index - phase.clips, phase.rate
        raise IndexError(index)


@dataclass(frozen=True)
class Progress:
    """Where training is after a clip: families' answers as (name, right) pairs."""

    clip: int
    clips: int
    loss: float
    pointing: float
    answers: tuple[tuple[str, bool], ...]
    seconds: float


def train(
    settings: Settings, folder: Path, *, device: torch.device | str = "cpu"
) -> Iterator[tuple[Learner, Progress]]:
    """Train, from the checkpoint in ``folder`` where there is one; yields after every clip.

    Args:
        settings: see :class:`Settings`; those of a checkpoint's run have to be the same up to where it stopped.
        folder: for the checkpoint and the log, a line a clip.
    """
    make_folder(folder)
    torch.manual_seed(settings.seed)
    learner = Learner(rank=settings.rank, alpha=settings.alpha, device=device)
    projector = [p for n, p in learner.named_parameters() if p.requires_grad and "multi_modal_projector" in n]
    lora = [p for n, p in learner.named_parameters() if p.requires_grad and "multi_modal_projector" not in n]
    groups = [{"params": lora, "scale": 1.0}, {"params": projector, "scale": settings.projector_rate}]
    optimiser = torch.optim.AdamW(groups, betas=settings.betas, weight_decay=0.0)
    done = _resume(folder / _CHECKPOINT, learner, optimiser)
    if not done:
        learner.warm_start(settings.warm_start)
    for index in range(done, settings.clips):
        start = time.perf_counter()
        phase, rate = settings.at(index)
        loss, pointing, answers = _learn_clip(learner, settings.first_seed + index, phase, settings.grounding)
        for group in optimiser.param_groups:
            group["lr"] = rate * group["scale"]
        torch.nn.utils.clip_grad_norm_(lora + projector, settings.clip_gradient)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        progress = Progress(index + 1, settings.clips, loss, pointing, answers, time.perf_counter() - start)
        with (folder / _LOG).open("a", encoding="utf-8") as log:
            log.write(json.dumps(asdict(progress)) + "\n")
        if (index + 1) % settings.checkpoint_every == 0 or index + 1 == settings.clips:
            _save(folder / _CHECKPOINT, learner, optimiser, index + 1)
        yield learner, progress


def accuracy(answers: Sequence[tuple[str, bool]]) -> Mapping[str, float]:
    """The share of right answers of each family."""
    families = dict.fromkeys(name for name, _ in answers)
    return {family: float(np.mean([right for name, right in answers if name == family])) for family in families}


def _learn_clip(
    learner: Learner, seed: int, phase: Phase, grounding: Grounding
) -> tuple[float, float, tuple[tuple[str, bool], ...]]:
    frames = phase.frames[np.random.default_rng((seed, 7)).integers(len(phase.frames))]
    scene = make_scene(seed, SceneSettings(frames=frames, size=phase.size, radius=phase.radius))
    asked = ask(scene, each=phase.each)
    result = learner(scene, [question for _, question in asked], grounding)
    (result.loss + grounding.weight * result.pointing).backward()
    answers = tuple((family, ok) for (family, _), ok in zip(asked, result.right, strict=True))
    return float(result.loss.detach()), float(result.pointing.detach()), answers


def _learnt(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in learner.named_parameters() if p.requires_grad}


def _save(path: Path, learner: Learner, optimiser: torch.optim.Optimizer, done: int) -> None:
    with whole(path) as part:
        torch.save({"learnt": _learnt(learner), "optimiser": optimiser.state_dict(), "done": done}, part)


def _resume(path: Path, learner: Learner, optimiser: torch.optim.Optimizer) -> int:
    if not path.is_file():
        return 0
    kept = torch.load(path, map_location=learner.device, weights_only=True)
    with torch.no_grad():
        for name, parameter in learner.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(kept["learnt"][name])
    optimiser.load_state_dict(kept["optimiser"])
    return kept["done"]
