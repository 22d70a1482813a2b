"""Density-peaks clustering of groups of points (DPC-kNN), as several published methods use it.

A point is a good centre where it is dense itself and far from every denser point. All groups of a video are worked
out together: they may have different sizes, and groups of about the same size share a batch.

Source: Rodriguez and Laio, Science 2014; with k nearest neighbours, Du et al. 2016. In float32 as the released code
of HoliTom, PruneVid, FastVID and FlashVID has it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import InputError
from .ranking import ranked, top_k

NOISE = 1e-6
"""What density noise is multiplied with."""

BATCH = 2**23
"""Entries that the points or the distances of one batch may have."""

SPREAD = 0.75
"""Smallest over largest group of a batch: what padding may waste."""


@dataclass(frozen=True)
class Groups:
    """Groups of points that are clustered apart from one another.

    Args:
        points: (S, D) floating; any that are in no group are not looked at.
        member: (P,) long, the rows of ``points`` that are grouped, group after group. P counts members everywhere.
        sizes: members of each group, at least one each, P together.
    """

    points: Tensor
    member: Tensor
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if sum(self.sizes) != len(self.member) or min(self.sizes, default=1) < 1:
            raise InputError(
                f"Groups of {self.sizes} members do not fit {len(self.member)} points; give the size of each group."
            )

    @classmethod
    def even(cls, points: Tensor) -> Groups:
        """(G, n, D) points as G groups of n each."""
        groups, size, width = points.shape
        return cls(points.reshape(-1, width), torch.arange(groups * size, device=points.device), (size,) * groups)


def density_scores(groups: Groups, neighbours: int | Sequence[int], noise: Tensor | None = None) -> Tensor:
    """How good a centre each member would be: its distance to the nearest denser one, times its density.

    With distances Euclidean / sqrt(D), density is exp(-mean of the k smallest squared distances, that of the point to
    itself among them). The densest has the largest distance of its group.

    Args:
        groups: the points, grouped.
        neighbours: k, the same for all groups or one each; a smaller group's size where that is less.
        noise: (P,) uniform in [0, 1), of which :data:`NOISE` times is added to the densities, and only a strictly
            higher density is denser then, as released. None adds nothing, and of equally dense members the one that
            comes first in its group is denser.

    Returns:
        (P,) float32, in the order of the members.
    """
    scores = torch.empty(len(groups.member), device=groups.points.device)
    for batch in _batches(groups, neighbours):
        scores[batch.at[batch.valid]] = _scores(batch, _distances(batch), noise)[batch.valid]
    return scores


def clustered(
    groups: Groups,
    counts: Sequence[int],
    neighbours: int | Sequence[int],
    noise: Tensor | None = None,
    by_place: bool = False,
) -> tuple[Tensor, Tensor]:
    """Clusters of every group: the members of highest score are centres, and each other one joins the nearest.

    Args:
        groups: the points, grouped.
        counts: clusters of each group, from 1 to its size.
        neighbours: as in :func:`density_scores`.
        noise: as in :func:`density_scores`.
        by_place: whether a group's centres are in the order of its members, otherwise highest score first. Of equal
            scores the member that comes first is the higher; of equally near centres the first in this order is joined.

    Returns:
        centre (C,) long, the members (0 to P - 1) that are centres, group after group; owner (P,) long, which of
        those (0 to C - 1) each member joins, a centre itself.
    """
    if any(not 1 <= count <= size for count, size in zip(counts, groups.sizes, strict=True)):
        raise InputError(f"{tuple(counts)} clusters of groups of {groups.sizes}; give 1 to a group's size.")
    device = groups.points.device
    clusters = torch.tensor(counts, dtype=torch.long, device=device)
    starts = clusters.cumsum(0) - clusters
    centre = torch.empty(sum(counts), dtype=torch.long, device=device)
    owner = torch.empty(len(groups.member), dtype=torch.long, device=device)
    for batch in _batches(groups, neighbours):
        distance = _distances(batch)
        number, start = clusters[batch.group][:, None], starts[batch.group][:, None]
        place = torch.arange(int(number.max()), device=device)
        real = place < number
        scores = _scores(batch, distance, noise)
        best = top_k(scores, len(place))
        if by_place:
            size = distance.shape[1]
            best = best.masked_fill(~real, size).sort(1).values.clamp(max=size - 1)
        near = distance.gather(2, best[:, None].expand(-1, distance.shape[1], -1))
        joined = near.masked_fill_(~real[:, None], torch.inf).argmin(2)
        which, column = real.nonzero(as_tuple=True)
        joined[which, best[real]] = column
        centre[(start + place)[real]] = batch.at.gather(1, best)[real]
        owner[batch.at[batch.valid]] = (joined + start)[batch.valid]
    return centre, owner


@dataclass(frozen=True)
class _Batch:
    """G groups side by side.

    Args:
        group: (G,) long, which these are.
        at: (G, n) long, the members of each, a smaller group's last one again after its own.
        valid: (G, n) bool, which of ``at`` are no such padding.
        points: (G, n, D) float32.
        neighbours: (G, 1) long, k of each.
    """

    group: Tensor
    at: Tensor
    valid: Tensor
    points: Tensor
    neighbours: Tensor


def _batches(groups: Groups, neighbours: int | Sequence[int]) -> Iterator[_Batch]:
    """All groups, those of about the same size together."""
    device = groups.points.device
    size = torch.tensor(groups.sizes, dtype=torch.long, device=device)
    start = size.cumsum(0) - size
    k = torch.as_tensor(neighbours, device=device).expand(len(size)).minimum(size)
    for group in _alike(groups.sizes, groups.points.shape[1]):
        index = torch.tensor(group, device=device)
        sizes = size[index][:, None]
        place = torch.arange(int(sizes.max()), device=device)
        at = start[index][:, None] + place.minimum(sizes - 1)
        points = groups.points[groups.member.to(device)[at]].float()
        yield _Batch(index, at, place < sizes, points, k[index][:, None])


def _alike(sizes: tuple[int, ...], width: int) -> Iterator[list[int]]:
    """The groups, largest first, in lists that pad little and fit a batch."""
    batch: list[int] = []
    for group in sorted(range(len(sizes)), key=lambda at: -sizes[at]):
        if batch:
            most = sizes[batch[0]]
            full = (len(batch) + 1) * most * max(most, width) > BATCH
            if full or sizes[group] < SPREAD * most or sizes[group] <= 25 < most:
                yield batch
                batch = []
        batch.append(group)
    if batch:
        yield batch


def _distances(batch: _Batch) -> Tensor:
    """(G, n, n) float32 Euclidean distances / sqrt(D), infinite to what is padding.

    More than 25 points are multiplied as matrices, fewer subtracted, as torch.cdist does for a group by itself.
    """
    distance = torch.cdist(batch.points, batch.points).div_(batch.points.shape[2] ** 0.5)
    return distance.masked_fill_(~batch.valid[:, None], torch.inf)


def _scores(batch: _Batch, distance: Tensor, noise: Tensor | None) -> Tensor:
    """(G, n) float32; below 0 for what is padding."""
    nearest = distance.topk(int(batch.neighbours.max()), dim=2, largest=False).values.square()
    counted = torch.arange(nearest.shape[2], device=nearest.device) < batch.neighbours[:, :, None]
    density = (-nearest.masked_fill(~counted, 0).sum(2) / batch.neighbours).exp()
    if noise is None:
        dense = ranked(density.masked_fill(~batch.valid, -1)).argsort(1).neg()
    else:
        density = density + NOISE * noise.to(density)[batch.at]
        dense = density
    largest = distance.masked_fill(~(batch.valid[:, None] & batch.valid[:, :, None]), 0).amax((1, 2))
    denser = dense[:, None, :] > dense[:, :, None]
    parent = torch.where(denser, distance, torch.inf).amin(2).minimum(largest[:, None])
    return (parent * density).masked_fill(~batch.valid, -1)
