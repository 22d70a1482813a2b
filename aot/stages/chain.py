"""Chains of stages by name: ``intra:budget=126+inter:keep_ratio=0.3``, or one of the paper's presets."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..errors import InputError
from ..tokens.video_tokens import Layout, VideoTokens
from ..video.frame_source import FrameSource
from . import Method, Place, Stage, every_stage
from .base import WithBudget
from .before_tokens import BeforeTokens, FrameChooser, LayoutOf
from .options import NO_RELEVANCE, settings_of
from .replayed import ReplayedStages

FULL = "full"
"""The chain of no stages."""

PRESETS = MappingProxyType(
    {
        "paper": "intra:budget=126+inter:clip_length=4,keep_ratio=0.3",
        "paper-onevision-10": "intra:budget=126+inter:clip_length=4,keep_ratio=0.3",
        "paper-onevision-10-long": "intra:budget=108+inter:clip_length=4,keep_ratio=0.1",
        "paper-onevision-15": "intra:budget=144+inter:clip_length=4,keep_ratio=0.3",
        "paper-onevision-20": "intra:budget=196+inter:clip_length=4,keep_ratio=0.3",
        "paper-onevision-25": "intra:budget=205+inter:clip_length=4,keep_ratio=0.3",
        "paper-video-10": "intra:budget=108+inter:clip_length=8,keep_ratio=0.1",
        "paper-video-15": "intra:budget=144+inter:clip_length=8,keep_ratio=0.1",
        "paper-video-20": "intra:budget=176+inter:clip_length=8,keep_ratio=0.1",
        "paper-video-25": "intra:budget=198+inter:clip_length=8,keep_ratio=0.1",
        "paper-video-intra": "intra:budget=180",
    }
)
"""AOT's published settings for LLaVA-OneVision (32 frames) and LLaVA-Video (64 frames).

The number is the retention the paper files them under; what they keep follows from the video. "paper" is
LLaVA-OneVision's at 10 %. Keep ratios are published for 126 anchors (0.3: MVBench, EgoSchema) and 108 (0.1:
VideoMME, LongVideoBench) only; the other presets use those of their family.
"""


@cache
def published() -> Mapping[str, str]:
    """Published settings of every method by name, AOT's first; each says how much it keeps."""
    others = {name: chain for kind in every_stage().values() for name, chain in kind.presets.items()}
    return MappingProxyType({**PRESETS, **others})


@dataclass(frozen=True)
class Chain:
    """Stages that run one after another: ``Chain([IntraFrame(retention=0.2), InterFrame(retention=0.1)])``.

    Those that act on frames or inside the tower come first, and those that act inside the LLM last.

    Args:
        stages: any number of them; without any, tokens pass as they are.
        name: what the chain is called in tables; by default the text that :func:`parse` reads it from.
        graph: whether tokens on CUDA are reduced by replaying a graph, from the third time that a shape comes; see
            :mod:`.replayed`.
    """

    stages: Sequence[Method] = ()
    name: str = ""
    graph: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", tuple(self.stages))
        for stage in self.stages:
            if not isinstance(stage, Method):
                raise InputError(f"A chain is made of stages, not of {stage!r}; AnchorOT(retention=0.1) is one.")
        for earlier, later in pairwise(self.stages):
            if later.acts < earlier.acts:
                raise InputError(f"{later.title} acts before {earlier.title} does; put it first in the chain.")
        if not self.name:
            object.__setattr__(self, "name", "+".join(map(_text, self.stages)) or FULL)

    def __call__(self, tokens: VideoTokens) -> VideoTokens:
        """Run every stage; without any, the tokens pass as they are.

        Args:
            tokens: what the first stage reduces.

        Raises:
            InputError: a stage of the chain acts before there are tokens.
        """
        if self.before_tokens:
            raise InputError(
                f"{self.before_tokens[0].title} acts before the video is encoded; give the chain its frames, or leave "
                "that stage out."
            )
        if self.graph and self.stages and tokens.features.is_cuda:
            replayed = self._replayed(tokens)
            if replayed is not None:
                return replayed
        for stage in self.on_tokens:
            tokens = stage(tokens)
        return tokens

    def on_frames(self, frames: FrameSource, layout: LayoutOf | None = None) -> FrameSource:
        """Run the stages that act before there are tokens; what they do inside the tower is done when it encodes.

        Args:
            frames: decoded, or a file still to be decoded.
            layout: of the model that will encode them, for budgets in tokens; None where no model is known.

        Raises:
            InputError: the frames or the settings of a stage do not allow it.
        """
        for stage in self.before_tokens:
            frames = stage(frames, layout)
        return frames

    @property
    def after_encoding(self) -> Chain:
        """This chain without the stages that act before there are tokens, under the same name."""
        return dataclasses.replace(self, stages=self.on_tokens) if self.before_tokens else self

    @property
    def before_tokens(self) -> tuple[BeforeTokens, ...]:
        """The stages that act on frames or inside the tower."""
        return tuple(stage for stage in self.stages if isinstance(stage, BeforeTokens))

    @property
    def on_tokens(self) -> tuple[Stage, ...]:
        """The stages that take tokens, those that act inside the LLM among them."""
        return tuple(stage for stage in self.stages if isinstance(stage, Stage))

    @property
    def needs_question(self) -> bool:
        """Whether a stage of it cannot do without the question."""
        return any(stage.needs_question for stage in self.stages)

    def without_relevance(self) -> Chain:
        """This chain with every stage that asks set to leave the question out: its control."""
        stages = [
            dataclasses.replace(each, relevance=NO_RELEVANCE) if "relevance" in settings_of(each) else each
            for each in self.stages
        ]
        return Chain(stages, graph=self.graph)

    @property
    def needs_assistant(self) -> bool:
        """Whether a stage of it needs to know which frames matter to a model that has read the video."""
        return any(stage.needs_assistant for stage in self.stages)

    @property
    def needs_relevance_model(self) -> bool:
        """Whether a stage of it needs to know what a CLIP's two halves say of every place."""
        return any(stage.needs_relevance_model for stage in self.stages)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that its stages' settings name."""
        named = (getattr(stage, name) for stage in self.stages for name in stage.files)
        return tuple(Path(each) for each in named if each)

    def with_files(self, find: Callable[[str], Path]) -> Chain:
        """This chain, by the same name, with every file that it names looked up.

        Args:
            find: the file that a setting's text means.
        """
        if not self.files:
            return self
        return dataclasses.replace(self, stages=tuple(stage.with_files(find) for stage in self.stages))

    @cached_property
    def _replayed(self) -> ReplayedStages:
        return ReplayedStages(self.on_tokens)

    def at_retention(self, retention: float) -> Chain:
        """This chain with its last stage before the LLM set to keep a share of the language grid.

        Itself where it has no stage.

        Args:
            retention: the share, from 0 to 1.

        Raises:
            InputError: the last stage has no retention.
        """
        return self._with_last("retention", lambda stage: stage.at_retention(retention))

    def at_tokens(self, tokens: int) -> Chain:
        """This chain with its last stage before the LLM set to keep a number of tokens; itself where it has no stage.

        Args:
            tokens: the number of the whole video, 1 or more.

        Raises:
            InputError: the last stage takes no number of tokens.
        """
        return self._with_last("keep_tokens", lambda stage: stage.at_tokens(tokens))

    def reinvested(self, layout: Layout) -> Chain:
        """This chain for more frames of the video, set to leave as many tokens as it would of these.

        Args:
            layout: of these frames.

        Raises:
            InputError: its last stage before the LLM has no retention, or leaves whole frames out.
        """
        last = self.stages[self._deciding] if self.stages else None
        if not isinstance(last, WithBudget) or isinstance(last, FrameChooser):
            raise InputError(
                f"{self.name} has no tokens to reinvest; end it in a stage with a retention, aot for instance."
            )
        return self.at_tokens(last.keep_tokens or round(last.retention * layout.frames * layout.language_cells))

    @property
    def _deciding(self) -> int:
        """Index of the stage that decides how much is kept: the last before the LLM, or the last of all."""
        return max((i for i, each in enumerate(self.stages) if each.acts < Place.LLM), default=len(self.stages) - 1)

    def _with_last(self, setting: str, change: Callable[[Any], Method]) -> Chain:
        if not self.stages:
            return self
        place = self._deciding
        last = self.stages[place]
        if not isinstance(last, WithBudget):
            raise InputError(f"{last.title} has no setting {setting}; give its own settings instead.")
        changed = change(last)
        return dataclasses.replace(self, stages=(*self.stages[:place], changed, *self.stages[place + 1 :]))


def parse(spec: str) -> Chain:
    """A chain from its name or specification.

    Args:
        spec: "full", a preset, or stages joined by ``+``, each ``name`` or ``name:key=value,key=value``.

    Raises:
        InputError: an unknown stage or setting, or a value it does not allow.
    """
    if spec == FULL:
        return Chain()
    chain = published().get(spec, spec)
    return Chain([_stage(part.strip()) for part in chain.split("+")], spec)


def is_fixed(spec: str) -> bool:
    """Whether a specification says how much it keeps, so that no retention applies to it.

    Args:
        spec: as :func:`parse` takes it.
    """
    if spec == FULL or spec in published():
        return True
    parts = [(part.partition(":")[0].strip(), part.partition(":")[2]) for part in spec.split("+")]
    known = every_stage()
    deciding = [part for part in parts if part[0] not in known or known[part[0]].acts is Place.TOKENS] or parts
    if any(key in ("retention", "keep_tokens") for _, settings in deciding for key in _keys(settings)):
        return True
    name, settings = deciding[-1]
    if name in known and "retention" not in settings_of(known[name]):
        return known[name].acts in (Place.TOWER, Place.LLM)
    return name in known and not set(known[name].fixes_budget).isdisjoint(_keys(settings))


def _keys(settings: str) -> list[str]:
    return [pair.partition("=")[0].strip() for pair in settings.split(",")]


def _text(stage: Method) -> str:
    """A stage as it would be written: its name, and the settings that are not its defaults."""
    known = settings_of(stage)
    changed = {name: value for name, value in stage.settings().items() if value != known[name].default}
    return stage.name + (":" if changed else "") + ",".join(f"{name}={value}" for name, value in changed.items())


def _stage(part: str) -> Method:
    name, _, settings = part.partition(":")
    if name in (FULL, *published()):
        raise InputError(
            f"{name} stands alone: it takes no settings and joins no chain; write its stages out, as 'aot stages' does."
        )
    if name not in every_stage():
        names = ", ".join((FULL, *every_stage()))
        presets = ", ".join(published())
        near = difflib.get_close_matches(name, (FULL, *every_stage(), *published()), 1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        raise InputError(f"No stage is called {name!r}{meant}; there are {names} and the presets {presets}.")
    kind = every_stage()[name]
    known = settings_of(kind)
    values = {}
    for pair in filter(None, settings.split(",")):
        key, equals, text = pair.partition("=")
        if not equals or key not in known:
            raise InputError(f"Stage {name} has no setting {key!r}; write key=value with {', '.join(known)}.")
        values[key] = known[key].parse(name, key, text)
    return kind(**values)
