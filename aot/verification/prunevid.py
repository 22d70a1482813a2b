"""PruneVid's recorded cases."""

from __future__ import annotations

from typing import Any

import torch

from ..stages.methods.prunevid import PruneVid, Units, contiguous
from ..stages.toolkit.dpc_knn import Groups, clustered
from ..stages.toolkit.language_grid import LanguageGrid
from .findings import Case, Findings, fresh


def check(case: Case, params: dict[str, Any], dtype: torch.dtype, findings: Findings) -> None:
    """Stretches of labels; clusters of points; segments, counts, W and tokens of the whole stage."""
    if "refined" in case:
        refined = torch.tensor([contiguous(labels) for labels in case["label"].tolist()])
        findings.decided(refined, case["refined"])
    elif "label" in case:
        count, (sets, points, _) = params["count"], case["x"].shape
        _, owner = clustered(Groups.even(case["x"]), (count,) * sets, params["k"], case["noise"].flatten())
        findings.decided(owner.reshape(sets, points) % count, case["label"])
    else:
        _check_tokens(case, params, findings)


def _check_tokens(case: Case, params: dict[str, Any], findings: Findings) -> None:
    tokens = fresh(case["features"]).to_language_grid()
    stage = PruneVid(
        similarity=params["tau"], segment_ratio=params["segment_ratio"], cluster_ratio=params["cluster_ratio"]
    )
    _check_segments(stage, LanguageGrid.of(stage.title, tokens), case, findings)
    reduction = stage.reduction(tokens, case.get("noise"))
    computed = case["recorded_tokens"].dtype
    findings.values(reduction.factor.apply(tokens.features), case["recorded_tokens"], computed=computed)
    row, column, weight = reduction.factor.coordinates()
    ours = torch.zeros(reduction.factor.kept, reduction.factor.source, dtype=torch.float64)
    ours[row, column] = weight.double()
    recorded = torch.zeros_like(ours)
    recorded[case["W_row"].long(), case["W_col"].long()] = case["recorded_W_value"].double()
    findings.values(ours, recorded, computed=computed)


def _check_segments(stage: PruneVid, grid: LanguageGrid, case: Case, findings: Findings) -> None:
    """Lengths of the segments, and the static and other tokens that each becomes."""
    noise = case["noise"][: len(case["features"])] if "noise" in case else None
    lengths = stage.segments(grid.features.mean(1), noise)
    findings.decided(torch.tensor(lengths), case["lengths"])
    sizes = Units.of(stage.static_places(grid, lengths), lengths).sizes
    counts = torch.from_numpy(stage.counts_and_small(grid, sizes)[0]).reshape(-1, 2)
    of_segment = torch.stack([run.sum(0) for run in counts.split(lengths)])
    findings.decided(of_segment, torch.stack((case["static_sizes"], case["dynamic_sizes"]), 1))
