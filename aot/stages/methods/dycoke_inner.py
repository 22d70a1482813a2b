"""DyCoke's second stage: a step of decoding reads only the tokens that the newest one attends to.

Source: DyCoke (CVPR 2025, arXiv 2411.15024), and its authors' code, which carries scores from one video to the next;
ours does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from ..inner import LAYER, InnerStage
from ..options import Setting
from ..toolkit.ranking import top_k


@dataclass(frozen=True)
class DyCokeInner(InnerStage):
    """Have each step of decoding read, from a layer on, only the video tokens that its newest token attends to."""

    name = "dycoke-inner"
    title = "DyCoke Inner"
    node_id = "AOTDyCokeInner"
    source = "DyCoke (CVPR 2025, arXiv 2411.15024)"
    presets: ClassVar[Mapping[str, str]] = MappingProxyType({"dycoke-whole": "dycoke:pruning_ratio=0.7+dycoke-inner"})

    layer: int = LAYER.field(default=3, help="First layer of the LLM that reads less; layers count from 0.")
    unread: float = Setting(
        0.8, "Share of the video's tokens that a step does not read.", low=0, high=1, step=0.01
    ).field()
    similarity: float = Setting(
        0.9,
        "A step whose attention is as like that of the step before, as a cosine, reads everything.",
        low=-1,
        high=1.01,
        step=0.01,
        advanced=True,
    ).field()

    def reads_from(self, layers: int) -> int | None:
        """The layer.

        Args:
            layers: of the LLM.

        Raises:
            InputError: the LLM has no such layer.
        """
        return self.require_depth(self.layer, layers)

    def read(self, scores: Tensor, before: Tensor | None) -> Tensor | None:
        """The best, and always the last; everything where attention is much as it was.

        Args:
            scores: (n,) floating, what the newest token attends to in the layer before.
            before: (n,) floating, the same of the step before; None in the first step.
        """
        ranked, last = scores[:-1], len(scores) - 1
        alike = 0.0 if before is None else float(functional.cosine_similarity(ranked, before[:-1], dim=0))
        if alike >= self.similarity:
            return None
        chosen = top_k(ranked, int(len(ranked) * (1 - self.unread))).sort().values
        return torch.cat((chosen, chosen.new_tensor([last])))
