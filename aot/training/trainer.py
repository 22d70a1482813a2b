"""The training loop. Every clip is new, and all its questions run in one pass.

No clip is seen twice, so the accuracy in the log is that on unseen clips. A run that was stopped goes on from its
last checkpoint.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from ..errors import InputError
from ..evaluation.scenes import Scene, SceneSettings, make_scene
from ..evaluation.shapes_set import SPLITS, SceneQuestion, ask
from ..files import append_line, make_folder, whole_file
from .learner import Learner, Ranks, Result
from .naming import Naming
from .pointing import Grounding, names
from .warm_start import WarmStart

_CHECKPOINT, _LOG = "checkpoint.pt", "log.jsonl"


@dataclass(frozen=True)
class Phase:
    """One phase of the training.

    Args:
        steps: of the optimiser.
        rate: the learning rate at the phase's end. It changes linearly from the rate of the phase before.
        size: side of the frames, in pixels. Smaller frames have fewer tokens.
        frames: numbers of frames, one of which each clip has. A clip of 1 is a frame out of a clip of 4.
        radius: least and largest radius of the shapes, in pixels.
        clips: number of clips in each step.
        each: the most questions of a family about one clip. With 0 its shapes are named only.
        layers: number of the LLM's layers to run; None runs all.
        moving: probability that a shape moves, in clips of several frames.
        cut: probability that a clip has a hard cut.
        sets: whether names of absent shapes and the colours of all named shapes are learnt too; see :class:`Learner`.
        balanced: whether every family of questions has the same weight, whatever its number of questions.
    """

    steps: int
    rate: float
    size: int
    frames: tuple[int, ...]
    radius: tuple[float, float]
    clips: int = 1
    each: int = 0
    layers: int | None = None
    moving: float = 0.5
    cut: float = 0.5
    sets: bool = False
    balanced: bool = False


@dataclass(frozen=True)
class Settings:
    """Settings of the training. The model always sees all tokens; it is not trained on reduced videos.

    Args:
        phases: in order.
        ranks: of LoRA.
        projector_rate: the projector's learning rate, as a multiple of LoRA's.
        readout_rate: the readouts' learning rate, as a multiple of LoRA's.
        flash: probability that a clip has a flash.
        warm_start: of the projector.
        naming: of the attention that is set before the first step.
        grounding: of the losses besides the answers'.
        clip_gradient: the largest norm of a gradient.
        betas: of Adam.
        first_seed: seed of the first clip; every further clip has the next one.
        checkpoint_every: steps between two checkpoints.
        seed: of LoRA's initial weights.
    """

    phases: tuple[Phase, ...]
    ranks: Ranks = field(default_factory=Ranks)
    projector_rate: float = 0.3
    readout_rate: float = 3.0
    flash: float = 0.9
    warm_start: WarmStart = field(default_factory=WarmStart)
    naming: Naming = field(default_factory=Naming)
    grounding: Grounding = field(default_factory=Grounding)
    clip_gradient: float = 1.0
    betas: tuple[float, float] = (0.9, 0.98)
    first_seed: int = SPLITS["train"]
    checkpoint_every: int = 25
    seed: int = 0

    @property
    def steps(self) -> int:
        """Number of the optimiser's steps in all phases."""
        return sum(phase.steps for phase in self.phases)

    def at(self, step: int) -> tuple[Phase, float, int]:
        """The phase of a step, its learning rate, and the seed of its first clip.

        Args:
            step: from 0.
        """
        before, seed = 0.0, self.first_seed
        for phase in self.phases:
            if step < phase.steps:
                rate = before + (phase.rate - before) * (step + 1) / phase.steps
                return phase, rate, seed + step * phase.clips
            step, before, seed = step - phase.steps, phase.rate, seed + phase.steps * phase.clips
        raise IndexError(step)


@dataclass(frozen=True)
class Progress:
    """A line of the log: the mean losses of a step's clips, and its answers.

    Args:
        step: number of the step, from 1.
        steps: number of all steps.
        loss: see :class:`.Result`, as are the next six.
        early: likewise.
        pointing: likewise.
        time: likewise.
        knowledge: likewise.
        colours: likewise.
        known: likewise.
        answers: for each question its family, and whether its answer is right.
        seconds: that the step took.
    """

    step: int
    steps: int
    loss: float
    early: float
    pointing: float
    time: float
    knowledge: float
    colours: float
    known: tuple[float, ...]
    answers: tuple[tuple[str, bool], ...]
    seconds: float


class Training:
    """A run of the training. It goes on from the folder's checkpoint if there is one.

    Args:
        settings: see :class:`Settings`. Up to the checkpoint they must be those of the earlier run.
        folder: for the checkpoint, and for the log with a line for each step.
        device: to train on.
    """

    def __init__(self, settings: Settings, folder: Path, *, device: torch.device | str = "cpu") -> None:
        make_folder(folder)
        torch.manual_seed(settings.seed)
        self._settings, self._folder = settings, folder
        self.learner = Learner(settings.ranks, device=device)
        self._optimiser = torch.optim.AdamW(_groups(self.learner, settings), betas=settings.betas, weight_decay=0.0)
        self.done = self.seconds = 0
        if (folder / _CHECKPOINT).is_file():
            self._resume()

    def steps(self) -> Iterator[Progress]:
        """Take the remaining steps, one at a time."""
        if not self.done:
            self._begin()
        for step in range(self.done, self._settings.steps):
            progress = self._step(step)
            self.done, self.seconds = step + 1, self.seconds + progress.seconds
            if self.done % self._settings.checkpoint_every == 0 or self.done == self._settings.steps:
                self._save()
            yield progress

    def _begin(self) -> None:
        """Set the projector and the attention of names in closed form."""
        settings, phase = self._settings, self._settings.phases[0]
        self.learner.warm_start(settings.warm_start)
        rng = np.random.default_rng(settings.naming.first_seed)
        made = SceneSettings(frames=4, size=phase.size, radius=phase.radius)
        seeds = range(settings.naming.first_seed, settings.naming.first_seed + settings.naming.clips)
        stills = [_still(make_scene(seed, made), rng) for seed in seeds]
        texts = [names(still, rng) for still in stills]
        self.learner.set_naming(stills, texts, settings.grounding, settings.naming)

    def _step(self, step: int) -> Progress:
        start = time.perf_counter()
        settings = self._settings
        phase, rate, seed = settings.at(step)
        results = [_learn_clip(self.learner, seed + i, phase, settings) for i in range(phase.clips)]
        for group in self._optimiser.param_groups:
            group["lr"] = rate * group["scale"]
            torch.nn.utils.clip_grad_norm_(group["params"], settings.clip_gradient)
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        progress = _progress(step, settings.steps, results, time.perf_counter() - start)
        append_line(self._folder / _LOG, json.dumps(asdict(progress)))
        return progress

    def _save(self) -> None:
        learnt = {name: p.detach() for name, p in self.learner.named_parameters() if p.requires_grad}
        state = {"learnt": learnt, "optimiser": self._optimiser.state_dict(), "done": self.done}
        state["seed"] = self._settings.seed
        with whole_file(self._folder / _CHECKPOINT) as part:
            torch.save({**state, "seconds": self.seconds}, part)

    def _resume(self) -> None:
        kept = torch.load(self._folder / _CHECKPOINT, map_location=self.learner.device, weights_only=True)
        # Before there were seeds, every checkpoint was of seed 0.
        require_seed(self._folder, kept.get("seed", 0), self._settings.seed)
        with torch.no_grad():
            for name, parameter in self.learner.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(kept["learnt"][name])
        self._optimiser.load_state_dict(kept["optimiser"])
        self.done, self.seconds = kept["done"], kept["seconds"]


def require_seed(folder: Path, found: int, asked: int) -> None:
    """Refuse a folder of another seed's model.

    Args:
        folder: of a run.
        found: the seed of the run.
        asked: the seed that is to be trained.

    Raises:
        InputError: they differ.
    """
    if found != asked:
        raise InputError(f"{folder} holds a model of seed {found}; give --seed {found}, or another folder.")


def accuracy(answers: Sequence[tuple[str, bool]]) -> Mapping[str, float]:
    """The share of right answers of each family, 0 to 1.

    Args:
        answers: (family, whether the answer is right).
    """
    families = dict.fromkeys(name for name, _ in answers)
    return {family: float(np.mean([right for name, right in answers if name == family])) for family in families}


def balance(families: Sequence[str]) -> torch.Tensor:
    """Weights of questions, (questions,) float32, with the same sum for every family.

    Args:
        families: the family of each question.
    """
    counts = Counter(families)
    return torch.tensor([1.0 / counts[family] for family in families])


def _groups(learner: Learner, settings: Settings) -> list[dict[str, object]]:
    """The trainable parameters, in groups with a learning rate each."""
    readouts = settings.readout_rate
    scales = {
        "multi_modal_projector": settings.projector_rate,
        "attributes.": readouts,
        "clock.": readouts,
        "colours.": readouts,
        "": 1.0,
    }
    groups = {part: {"params": [], "scale": scale} for part, scale in scales.items()}
    for name, parameter in learner.named_parameters():
        if parameter.requires_grad:
            groups[next(part for part in scales if part in name)]["params"].append(parameter)
    return list(groups.values())


def _learn_clip(learner: Learner, seed: int, phase: Phase, settings: Settings) -> tuple[Result, list[str]]:
    """Add the gradient of one clip to the parameters'; return its result and its questions' families."""
    rng = np.random.default_rng((seed, 7))
    frames = phase.frames[rng.integers(len(phase.frames))]
    made = SceneSettings(
        frames=max(4, frames),
        size=phase.size,
        radius=phase.radius,
        flash=settings.flash,
        moving=phase.moving,
        cut=phase.cut,
    )
    scene = make_scene(seed, made)
    if frames == 1:
        scene = _still(scene, rng)
    drawn = ask(scene, each=phase.each)
    listed = SceneQuestion(names(scene, rng), "", ())
    questions = [*(question for _, question in drawn), listed]
    weights = balance([family for family, _ in drawn]) if phase.balanced else None
    result = learner(scene, questions, settings.grounding, layers=phase.layers, sets=phase.sets, weights=weights)
    (result.total(settings.grounding) / phase.clips).backward()
    return result, [family for family, _ in drawn]


def _still(scene: Scene, rng: np.random.Generator) -> Scene:
    """A random frame of a scene that shows a shape."""
    return scene.still(int(rng.choice([i for i in range(scene.settings.frames) if scene.shapes(i)])))


def _progress(step: int, steps: int, results: Sequence[tuple[Result, list[str]]], seconds: float) -> Progress:
    def mean(name: str) -> float:
        return float(np.mean([float(getattr(result, name).detach()) for result, _ in results]))

    known = [result.known for result, _ in results if result.known]
    answers = [pair for result, families in results for pair in zip(families, result.right, strict=True)]
    return Progress(
        step + 1,
        steps,
        *(mean(name) for name in ("loss", "early", "pointing", "time", "knowledge", "colours")),
        tuple(np.mean(known, axis=0).tolist()) if known else (),
        tuple(answers),
        seconds,
    )
