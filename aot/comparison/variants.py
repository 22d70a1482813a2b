"""What is compared: chains of stages, each at several retentions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InputError
from ..stages.base import Place
from ..stages.before_tokens import FrameChooser
from ..stages.chain import FULL, Chain, is_fixed, parse

CONTROLS = ("fewer", "smaller")
"""The stages that any method has to be better than, each a chain by itself."""

ANOTHER = " (another question)"
"""After the name of a chain that chose tokens for another question than the one answered."""

UNASKED = " (no relevance)"
"""After the name of a chain whose stages leave the question out."""

BLIND = "blind"
"""The label of the variant that leaves the video out: it shows what the words alone answer."""


@dataclass(frozen=True)
class Variant:
    """A chain at one retention.

    Args:
        chain: reduces the tokens; None leaves the video out.
        retention: share of the language grid that the chain was set to keep; None if it keeps what its own settings
            say.
        label: the same at every retention, and a line's name in a curve; the chain's name if empty.
        reinvest: how many times as many frames it sees, with as many tokens as the retention leaves of the others'.
        frames: stands for the frames that were chosen for it; "" for those that all variants share.
        elsewhere: whether stages that ask are given a question about something else, as a control.
    """

    chain: Chain | None
    retention: float | None = None
    label: str = ""
    reinvest: int = 1
    frames: str = ""
    elsewhere: bool = False

    def __post_init__(self) -> None:
        if not self.label:
            object.__setattr__(self, "label", BLIND if self.chain is None else self.chain.name)

    @property
    def name(self) -> str:
        """The label, and the retention if one was set: a row's name in a table."""
        return self.label if self.retention is None else f"{self.label} {self.retention:g}"

    @property
    def is_control(self) -> bool:
        """Whether it is one of the controls that any method has to be better than: fewer or smaller frames."""
        if self.reinvest > 1 or self.chain is None or len(self.chain.stages) != 1:
            return False
        return self.chain.stages[0].name in CONTROLS


def labelled(chain: str) -> tuple[str, str]:
    """Split "chain # label" into the two; the chain labels itself if it has no label.

    Args:
        chain: as a user writes it.
    """
    spec, _, label = (part.strip() for part in chain.partition("#"))
    return spec, label or spec


def expand(
    chains: Sequence[str],
    retentions: Sequence[float],
    *,
    blind: bool = False,
    controls: bool = False,
    reinvest: int = 1,
) -> list[Variant]:
    """Full tokens first, then every chain at every retention, each name once.

    A chain whose settings fix what it keeps is there once.

    Args:
        chains: "chain" or "chain # label", in the form of :func:`~..stages.chain.parse`.
        retentions: shares of the language grid, above 0 and at most 1.
        blind: whether a chain may be "blind", which leaves the video out.
        controls: whether fewer and smaller frames stand beside them, at the same retentions.
        reinvest: how many times as many frames every chain is also given, at the same number of tokens; 1 for none.

    Raises:
        InputError: an unknown stage or setting, a chain whose last stage has no retention, or nothing to reinvest.
    """
    require_reinvest(reinvest)
    variants = {FULL: Variant(parse(FULL))}
    for written in (*chains, *(CONTROLS if controls else ())):
        spec, label = labelled(written)
        new = [Variant(None, label=label)] if blind and spec == BLIND else _at_each(spec, label, retentions)
        for variant in (*new, *(_reinvested(each, reinvest) for each in new if reinvest > 1 and _has_more(each))):
            variants.setdefault(variant.name, variant)
    if reinvest > 1 and not any(each.reinvest > 1 for each in variants.values()):
        raise InputError(
            "Nothing can be reinvested: every chain fixes what it keeps, or leaves whole frames out; give one that "
            "takes a retention, aot for instance."
        )
    return list(variants.values())


def no_better(names: Sequence[str]) -> list[str]:
    """A line that says which variants no control is worse than; none where there is no such variant.

    Args:
        names: of those variants.
    """
    return [f"No better than fewer or smaller frames at the same retention: {', '.join(names)}."] if names else []


def require_reinvest(times: int) -> None:
    """Refuse a number that frames cannot be multiplied by."""
    if times < 1:
        raise InputError(f"Reinvest {times} is no number of times; give 2, 4 or 8, or 1 for none.")


def _has_more(variant: Variant) -> bool:
    """Whether more frames make a difference: not where whole frames are left out last."""
    if variant.chain is None or variant.retention is None:
        return False
    return not isinstance([each for each in variant.chain.stages if each.acts < Place.LLM][-1], FrameChooser)


def _reinvested(variant: Variant, times: int) -> Variant:
    return dataclasses.replace(variant, label=f"{variant.label} x{times}", reinvest=times)


def with_controls(variants: Sequence[Variant], *, wrong: bool, none: bool) -> list[Variant]:
    """The variants, each one that asks followed by its controls.

    Args:
        variants: as :func:`expand` gives them.
        wrong: whether to add the same chain, asked about something else.
        none: whether to add the chain without relevance.
    """
    every: dict[str, Variant] = {}
    for variant in variants:
        controls = [variant]
        if variant.chain is not None and variant.chain.needs_question:
            if wrong:
                controls.append(dataclasses.replace(variant, label=f"{variant.label}{ANOTHER}", elsewhere=True))
            if none:
                chain = variant.chain.without_relevance()
                controls.append(dataclasses.replace(variant, chain=chain, label=f"{variant.label}{UNASKED}"))
        for each in controls:
            every.setdefault(each.name, each)
    return list(every.values())


def _at_each(spec: str, label: str, retentions: Sequence[float]) -> list[Variant]:
    chain = parse(spec)
    if is_fixed(spec):
        return [Variant(chain, label=label)]
    return [Variant(chain.at_retention(retention), retention, label) for retention in retentions]
