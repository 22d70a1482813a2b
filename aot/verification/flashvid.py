"""FlashVID's recorded cases."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..stages.base import Part
from ..stages.methods.flashvid import FlashVID
from ..stages.toolkit.language_grid import LanguageGrid, unit
from ..tokens.video_tokens import Extra
from .findings import Case, Findings, fresh


def check(case: Case, params: dict[str, Any], dtype: torch.dtype, findings: Findings) -> None:
    """Segments, chosen cells, and the whole stage with the noise the authors drew, or with none as they were run."""
    frames, cells, _ = case["features"].shape
    attention = case["attention"]
    tokens = fresh(case["features"], attention=attention, extras={Extra.LAST: attention}).to_language_grid()
    cut, least = params["segment_threshold"], params["min_segment_num"]
    stage = FlashVID(
        retention_ratio=params["retention_ratio"],
        expansion=params["expansion"],
        alpha=params["alpha"],
        temporal_threshold=params["temporal_threshold"],
        segment_threshold=cut if params["do_segment"] else -1,
        min_segments=least if params["do_segment"] and params["complementary_segment"] else 1,
        selection=params["token_selection_method"],
    )
    grid = LanguageGrid.of(stage.title, tokens)
    segments = stage.segments(grid)
    findings.decided(torch.tensor(segments.lengths), case["segment_lengths"])
    count = case["selected"].shape[1]
    chosen = stage.chosen(grid, unit(grid.features), segments, count, once=False)
    findings.decided(chosen.sort(1).values, case["selected"])
    noise = case.get("noise", torch.zeros(1, dtype=dtype).expand(frames * cells))
    reduction = stage.build(tokens, Part(0, frames), noise)
    reduced = tokens.reduced(reduction.factor, reduction.place, reduction.role, scale=reduction.scale)
    where = tokens.layout.index(reduction.place)
    findings.decided(where, case["indices"])
    if len(where) == len(case["indices"]):
        findings.values(_as_paired(reduced.features, where, case["tokens"]), case["recorded_tokens"])


def _as_paired(ours: Tensor, where: Tensor, recorded: Tensor) -> Tensor:
    """Our tokens, two at one place in whichever order is closer: an unstable sort left it open."""
    first = (where[1:] == where[:-1]).nonzero()[:, 0]
    swapped = ours.clone()
    swapped[first], swapped[first + 1] = ours[first + 1], ours[first]
    off = [(each[first] - recorded[first]).abs().amax(1) for each in (ours, swapped)]
    better = first[off[1] < off[0]]
    better = torch.cat((better, better + 1))
    return ours.index_copy(0, better, swapped[better])
