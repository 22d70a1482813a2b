"""What is compared: chains of stages, each at several retentions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..stages.chain import FULL, Chain, is_fixed, parse

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
    """

    chain: Chain | None
    retention: float | None = None
    label: str = ""

    def __post_init__(self) -> None:
        if not self.label:
            object.__setattr__(self, "label", BLIND if self.chain is None else self.chain.name)

    @property
    def name(self) -> str:
        """The label, and the retention if one was set: a row's name in a table."""
        return self.label if self.retention is None else f"{self.label} {self.retention:g}"


def labelled(chain: str) -> tuple[str, str]:
    """Split "chain # label" into the two; the chain labels itself if it has no label.

    Args:
        chain: as a user writes it.
    """
    spec, _, label = (part.strip() for part in chain.partition("#"))
    return spec, label or spec


def expand(chains: Sequence[str], retentions: Sequence[float], *, blind: bool = False) -> list[Variant]:
    """Full tokens first, then every chain at every retention, each name once.

    A chain whose settings fix what it keeps is there once.

    Args:
        chains: "chain" or "chain # label", in the form of :func:`~..stages.chain.parse`.
        retentions: shares of the language grid, above 0 and at most 1.
        blind: whether a chain may be "blind", which leaves the video out.

    Raises:
        InputError: an unknown stage or setting, or a chain whose last stage has no retention.
    """
    variants = {FULL: Variant(parse(FULL))}
    for written in chains:
        spec, label = labelled(written)
        new = [Variant(None, label=label)] if blind and spec == BLIND else _at_each(spec, label, retentions)
        for variant in new:
            variants.setdefault(variant.name, variant)
    return list(variants.values())


def _at_each(spec: str, label: str, retentions: Sequence[float]) -> list[Variant]:
    chain = parse(spec)
    if is_fixed(spec):
        return [Variant(chain, label=label)]
    return [Variant(chain.at_retention(retention), retention, label) for retention in retentions]
