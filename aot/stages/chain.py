"""Chains of stages by name: ``intra:budget=126+inter:keep_ratio=0.3``, or one of the paper's presets."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

from ..errors import InputError
from ..tokens.video_tokens import VideoTokens
from . import Stage, stages

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

PLUS = "aot-plus"
"""Our own preset, at any retention: AOT with a sharper transport. See docs/results.md for what it was chosen on."""

OPEN_PRESETS = MappingProxyType({PLUS: "aot:eps=0.01"})
"""Presets that keep what retention asks for."""


@cache
def published() -> Mapping[str, str]:
    """Published settings of every method by name, AOT's first: they settle what they keep."""
    others = {name: chain for kind in stages().values() for name, chain in kind.presets.items()}
    return MappingProxyType({**PRESETS, **others})


@dataclass(frozen=True)
class Chain:
    """Stages that run one after another: ``Chain([IntraFrame(retention=0.2), InterFrame(retention=0.1)])``.

    Args:
        stages: any number of them; without any, tokens pass as they are.
        name: what the chain is called in tables; as :func:`parse` would read it, where left out.
    """

    stages: Sequence[Stage] = ()
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", tuple(self.stages))
        for stage in self.stages:
            if not isinstance(stage, Stage):
                raise InputError(f"A chain is made of stages, not of {stage!r}; AnchorOT(retention=0.1) is one.")
        if not self.name:
            object.__setattr__(self, "name", "+".join(map(_text, self.stages)) or FULL)

    def __call__(self, tokens: VideoTokens) -> VideoTokens:
        """Run every stage; without any, the tokens pass as they are."""
        for stage in self.stages:
            tokens = stage(tokens)
        return tokens

    def at_retention(self, retention: float) -> Chain:
        """This pipeline with its last stage set to keep ``retention``; itself where it has no stage.

        Raises:
            InputError: the stage has no retention.
        """
        return self._with_last(lambda stage: stage.at_retention(retention))

    def at_tokens(self, tokens: int) -> Chain:
        """This pipeline with its last stage set to keep so many tokens; itself where it has no stage.

        Raises:
            InputError: the stage takes no count of tokens.
        """
        return self._with_last(lambda stage: stage.at_tokens(tokens))

    def _with_last(self, change: Callable[[Stage], Stage]) -> Chain:
        if not self.stages:
            return self
        *earlier, last = self.stages
        return dataclasses.replace(self, stages=(*earlier, change(last)))


def parse(spec: str) -> Chain:
    """A pipeline from its name or specification.

    Args:
        spec: "full", a preset, or stages joined by ``+``, each ``name`` or ``name:key=value,key=value``.

    Raises:
        InputError: an unknown stage or setting, or a value it does not allow.
    """
    if spec == FULL:
        return Chain()
    chain = {**published(), **OPEN_PRESETS}.get(spec, spec)
    return Chain([_stage(part.strip()) for part in chain.split("+")], spec)


def is_fixed(spec: str) -> bool:
    """Whether a specification settles what it keeps, so that no retention applies to it."""
    if spec == FULL or spec in published():
        return True
    given = [(part.partition(":")[0].strip(), part.partition(":")[2]) for part in spec.split("+")]
    if any(key in ("retention", "keep_tokens") for _, settings in given for key in _keys(settings)):
        return True
    name, settings = given[-1]
    return name in stages() and not set(stages()[name].settling).isdisjoint(_keys(settings))


def _keys(settings: str) -> list[str]:
    return [pair.partition("=")[0].strip() for pair in settings.split(",")]


def _text(stage: Stage) -> str:
    """A stage as it would be written: its name, and the settings that are not its defaults."""
    defaults = {item.name: item.default for item in dataclasses.fields(stage)}
    given = {name: value for name, value in stage.settings().items() if value != defaults[name]}
    return stage.name + (":" if given else "") + ",".join(f"{name}={value}" for name, value in given.items())


def _stage(part: str) -> Stage:
    name, _, settings = part.partition(":")
    if name in (FULL, *published(), *OPEN_PRESETS):
        raise InputError(
            f"{name} stands alone: it takes no settings and joins no chain; write its stages out, as 'aot stages' does."
        )
    if name not in stages():
        names = ", ".join((FULL, *stages()))
        presets = ", ".join((*OPEN_PRESETS, *published()))
        near = difflib.get_close_matches(name, (FULL, *stages(), *published(), *OPEN_PRESETS), 1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        raise InputError(f"No stage is called {name!r}{meant}; there are {names} and the presets {presets}.")
    kind = stages()[name]
    fields = {item.name: item for item in dataclasses.fields(kind)}
    values = {}
    for pair in filter(None, settings.split(",")):
        key, equals, text = pair.partition("=")
        if not equals or key not in fields:
            raise InputError(f"Stage {name} has no setting {key!r}; write key=value with {', '.join(fields)}.")
        values[key] = _value(name, fields[key], text)
    return kind(**values)


def _value(stage: str, item: dataclasses.Field[Any], text: str) -> Any:
    if isinstance(item.default, bool):
        if text.lower() not in ("true", "false"):
            raise InputError(f"Stage {stage}: {item.name} is {text!r}; write true or false.")
        return text.lower() == "true"
    if isinstance(item.default, str):
        return text
    try:
        return type(item.default)(text)
    except ValueError as error:
        kind = "whole number" if isinstance(item.default, int) else "number"
        raise InputError(f"Stage {stage}: {item.name} is {text!r}; write a {kind}.") from error
