"""HoliTom's recorded cases."""

from __future__ import annotations

import math
from typing import Any

import torch

from ..stages.methods.holitom import HoliTom, cut
from ..stages.toolkit.dpc_knn import Groups, clustered
from ..stages.toolkit.language_grid import LanguageGrid
from ..tokens.video_tokens import Extra, Role
from .findings import Case, Findings, fresh


def check(case: Case, params: dict[str, Any], dtype: torch.dtype, findings: Findings) -> None:
    """Windows of similarity fields; centres of points; windows, places, W and tokens of the whole stage."""
    if "similarity" in case:
        _check_windows(case, findings)
    elif "centres" in case:
        count, (sets, points, _) = params["count"], case["x"].shape
        noise = case["noise"].flatten()
        centre, _ = clustered(Groups.even(case["x"]), (count,) * sets, params["k"], noise, by_place=True)
        findings.decided(centre.reshape(sets, count) % points, case["centres"])
    else:
        _check_tokens(case, params, findings)


def _check_windows(case: Case, findings: Findings) -> None:
    recorded = zip(*(case[name] for name in ("similarity", "tau", "max_window", "first", "gone")), strict=True)
    for similarity, tau, longest, first, gone in recorded:
        lengths, gain = cut((similarity > tau).numpy(), int(longest))
        starts = torch.tensor(lengths).cumsum(0) - torch.tensor(lengths)
        findings.decided(torch.zeros_like(first).index_fill_(0, starts, True), first)
        findings.decided(torch.tensor(gain), gone)


def _check_tokens(case: Case, params: dict[str, Any], findings: Findings) -> None:
    frames, cells, _ = case["features"].shape
    side = math.isqrt(cells)
    attention = case["attention"]
    newline = case["newline"] if params["newline"] == "grid" else None
    tokens = fresh(case["features"], newline, attention=attention, extras={Extra.LAST: attention}).to_language_grid()
    stage = HoliTom(
        target=params["retain_ratio"],
        similarity=params["tau"],
        centre_share=params["beta"],
        neighbours=params["k"],
        longest_window=params["max_window"],
        merge="average" if params["plain_mean"] else "released",
    )
    lengths = stage.windows_and_counts(LanguageGrid.of(stage.title, tokens))[0].lengths
    findings.decided(torch.from_numpy(lengths), case["windows"][:, 1] - case["windows"][:, 0] + 1)
    reduction = stage.reduction(tokens, case.get("noise"))
    computed = case["recorded_tokens"].dtype
    findings.values(reduction.factor.apply(tokens.features), case["recorded_tokens"], computed=computed)
    means = reduction.role != int(Role.NEWLINE)
    if "place" in case:
        frame, y, x = reduction.place.unbind(1)
        findings.decided(torch.stack((frame, torch.where(means, y * side + x, -1)), 1), case["place"])
    row, column, weight = reduction.factor.coordinates()
    cell = torch.full((len(tokens.place),), -1)
    cell[LanguageGrid.of(stage.title, tokens).token.flatten()] = torch.arange(frames * cells)
    kept = means[row]
    ours = torch.zeros(len(means), frames * cells, dtype=torch.float64)
    ours[row[kept], cell[column[kept]]] = weight[kept].double()
    recorded = torch.zeros_like(ours)
    recorded[case["W_row"].long(), case["W_col"].long()] = case["recorded_W_value"].double()
    findings.values(ours, recorded, computed=computed)
