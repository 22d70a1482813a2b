"""HoliTom's inner half: halfway through the LLM, tokens are merged into those that the prompt's last token attends to.

Source: HoliTom (NeurIPS 2025, arXiv 2505.21334), and its authors' code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from ...tokens.factors import Sparse
from ...tokens.matmul import working_dtype
from ..inner import KEEP, LAYER, Choice, Cut, InnerStage
from ..options import Setting
from ..toolkit.language_grid import unit
from ..toolkit.ranking import ranked, tally


@dataclass(frozen=True)
class HoliTomInner(InnerStage):
    """Merge, from a layer of the LLM on, the less attended tokens into the more attended ones they are most like."""

    name = "holitom-inner"
    title = "HoliTom Inner"
    node_id = "AOTHoliTomInner"
    source = "HoliTom (NeurIPS 2025, arXiv 2505.21334)"
    counts_newline = True
    presets: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            f"holitom-{percent}-whole": f"holitom:target={percent / 100:g},similarity={similarity}+holitom-inner"
            for percent, similarity in ((10, 0.65), (15, 0.8), (20, 0.8), (25, 0.8))
        }
    )

    layer: int = LAYER.field(default=18)
    keep: float = KEEP.field()
    causal: bool = Setting(
        False,
        "Keep the layer before causal. As released, every token of the prompt sees those after it there.",
        advanced=True,
    ).field()

    @property
    def sees_ahead(self) -> bool:
        """Whether, in the layer before the cut, every token of the prompt sees those after it."""
        return not self.causal

    def cuts(self, tokens: int, layers: int) -> tuple[Cut, ...]:
        """One, before the layer; at least one token stays.

        Args:
            tokens: of the video.
            layers: of the LLM.

        Raises:
            InputError: the LLM has no such layer.
        """
        return (Cut(self.require_depth(self.layer, layers), max(1, round(tokens * self.keep))),)

    def choose(self, hidden_states: Tensor, scores: Tensor, keep: int) -> Choice:
        """The best stay; each other joins the one it is most like, in order of place: (what that is by then + it) / 2.

        Args:
            hidden_states: (n, D) floating, the video's tokens before the layer.
            scores: (n,) floating, attention of the prompt's last token.
            keep: how many stay.
        """
        order = ranked(scores)
        strong, weak = order[:keep], order[keep:].sort().values
        kept, number = strong.sort()
        row = torch.empty_like(number).index_copy_(0, number, torch.arange(len(number), device=number.device))
        directions = unit(hidden_states.to(working_dtype(hidden_states.dtype)))
        joins = row[(directions[weak] @ directions[strong].mT).argmax(1)]
        joined = tally(joins, len(kept))
        by_row = joins.sort(stable=True)
        first = joined.cumsum(0) - joined
        later = (joined + first)[by_row.values] - torch.arange(len(weak), device=weak.device)
        rows = torch.cat((torch.arange(len(kept), device=kept.device), by_row.values))
        weight = torch.exp2(-torch.cat((joined, later)).to(directions))
        return Choice(kept, Sparse(rows, torch.cat((kept, weak[by_row.indices])), weight, len(kept), len(scores)))
