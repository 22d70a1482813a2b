"""Density-peaks clustering of groups of points (DPC-kNN), as several published methods use it.

A point is a good centre where it is dense itself and far from every denser point. All groups of a video are worked
out together: they may have different sizes, and groups of about the same size share a batch. The host knows all sizes,
so that nothing waits for the device, and the number of operations does not grow with the number of groups, except
where memory asks for one more batch.

Source: Rodriguez and Laio, Science 2014; with k nearest neighbours, Du et al. 2016. In float32 as the released code
of HoliTom, PruneVid, FastVID and FlashVID has it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from .ranking import ranked, top_k
from .uploads import IntArray, uploaded

NOISE = 1e-6
"""What density noise is multiplied with."""

BATCH = 2**24
"""Entries that the distances of one batch may have."""

POINTS = 2**23
"""Entries of points that are compared with one another at once."""

SUBTRACTED = 25
"""Members up to which torch.cdist subtracts points; larger groups it multiplies as matrices."""


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
    plan = _Plan.of(groups, neighbours, (0,) * len(groups.sizes))
    scores = [batch.scores(batch.distances(groups), noise).flatten() for batch in plan.batches]
    return torch.cat([torch.empty(0, device=groups.points.device), *scores])[plan.member]


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
    plan = _Plan.of(groups, neighbours, counts)
    centres, owners = [groups.member[:0]], [groups.member[:0]]
    for batch in plan.batches:
        distance = batch.distances(groups)
        centre, owner = batch.clustered(distance, batch.scores(distance, noise), by_place)
        centres.append(centre.flatten())
        owners.append(owner.flatten())
    return torch.cat(centres)[plan.centre], torch.cat(owners)[plan.member] + plan.first


@dataclass(frozen=True)
class _Plan:
    """Groups in batches, and the way back. All of it is known on the host, and sent to the device at once.

    Args:
        batches: each padded to the size of its largest group.
        member: (P,) long, the place of each member among those of all batches, padding included.
        centre: (C,) long, the place of each centre among those of all batches, padding included.
        first: (P,) long, the first centre (0 to C - 1) of each member's group.
    """

    batches: tuple[_Batch, ...]
    member: Tensor
    centre: Tensor
    first: Tensor

    @classmethod
    def of(cls, groups: Groups, neighbours: int | Sequence[int], counts: Sequence[int]) -> _Plan:
        """The batches of groups that have k ``neighbours`` and are to become ``counts`` clusters."""
        sizes, clusters = (np.array(each, dtype=np.int64) for each in (groups.sizes, counts))
        k = np.minimum(np.array(neighbours, dtype=np.int64), sizes)
        starts, firsts = sizes.cumsum() - sizes, clusters.cumsum() - clusters
        arrays, known = [], []
        member, centre = np.empty(sizes.sum(), np.int64), np.empty(clusters.sum(), np.int64)
        members = centres = 0
        for group in _alike(sizes):
            start, size, count, first = (each[group, None] for each in (starts, sizes, clusters, firsts))
            places, columns = np.arange(size.max()), np.arange(count.max())
            valid, real = places < size, columns < count
            member[(start + places)[valid]] = members + valid.ravel().nonzero()[0]
            centre[(first + columns)[real]] = centres + real.ravel().nonzero()[0]
            members, centres = members + valid.size, centres + real.size
            arrays += [start + np.minimum(places, size - 1), np.stack((size, k[group, None], count))]
            known.append((tuple(sizes[group].tolist()), int(k[group].max()), len(columns)))
        *sent, member, centre, first = uploaded([*arrays, member, centre, firsts.repeat(sizes)], groups.points.device)
        parts = zip(sent[::2], sent[1::2], known, strict=True)
        batches = tuple(_Batch(at, each[0], each[1], each[2], *numbers) for at, each, numbers in parts)
        return cls(batches, member, centre, first)


@dataclass(frozen=True)
class _Batch:
    """G groups side by side, n places each.

    Args:
        at: (G, n) long, the members of each, a smaller group's last one again after its own.
        size: (G, 1) long, members of each.
        neighbours: (G, 1) long, k of each.
        count: (G, 1) long, clusters of each.
        sizes: the same on the host, largest first.
        most_neighbours: the largest k.
        most_clusters: c, the largest number of clusters.
    """

    at: Tensor
    size: Tensor
    neighbours: Tensor
    count: Tensor
    sizes: tuple[int, ...]
    most_neighbours: int
    most_clusters: int

    @cached_property
    def places(self) -> Tensor:
        """(n,) long."""
        return torch.arange(self.at.shape[1], device=self.at.device)

    @cached_property
    def padding(self) -> Tensor:
        """(G, n) bool, which places are no members of their own."""
        return self.places >= self.size

    @cached_property
    def padded_pairs(self) -> Tensor:
        """(G, n, n) bool, the pairs of places of which one is padding."""
        return self.padding[:, None] | self.padding[:, :, None]

    def distances(self, groups: Groups) -> Tensor:
        """(G, n, n) float32 Euclidean distances / sqrt(D), infinite to and from padding.

        More than :data:`SUBTRACTED` points are multiplied as matrices, fewer subtracted.
        """
        width, (number, size) = groups.points.shape[1], self.at.shape
        distance = torch.full((number, size, size), torch.inf, device=groups.points.device)
        first = 0
        while first < number:
            most = self.sizes[first]
            last = first + max(1, POINTS // (most * width))
            points = groups.points[groups.member[self.at[first:last, :most]]].float()
            distance[first:last, :most, :most] = torch.cdist(points, points)
            first = last
        distance.div_(width**0.5)
        return distance.masked_fill_(self.padded_pairs, torch.inf)

    def scores(self, distance: Tensor, noise: Tensor | None) -> Tensor:
        """(G, n) float32; below 0 for padding."""
        nearest = distance.topk(self.most_neighbours, dim=2, largest=False).values.square_()
        beyond = self.places[: self.most_neighbours] >= self.neighbours[:, :, None]
        density = (-nearest.masked_fill_(beyond, 0).sum(2) / self.neighbours).exp_()
        if noise is None:
            rank = ranked(density).argsort(1)
            no_denser = rank[:, None, :] >= rank[:, :, None]
        else:
            density = density + NOISE * noise.to(density)[self.at]
            no_denser = density[:, None, :] <= density[:, :, None]
        largest = distance.masked_fill(self.padded_pairs, 0).amax((1, 2))
        parent = distance.masked_fill(no_denser, torch.inf).amin(2).minimum(largest[:, None])
        return parent.mul_(density).masked_fill_(self.padding, -1)

    def clustered(self, distance: Tensor, scores: Tensor, by_place: bool) -> tuple[Tensor, Tensor]:
        """(G, c) long, the members that are centres, padding after a group's own; (G, n) long, each place's centre."""
        size = distance.shape[1]
        beyond = self.places[: self.most_clusters] >= self.count
        best = top_k(scores, self.most_clusters)
        if by_place:
            best = best.masked_fill(beyond, size).sort(1).values.clamp_(max=size - 1)
        near = distance.gather(2, best[:, None].expand(-1, size, -1))
        near = near.scatter_(1, best[:, None], -1).masked_fill_(beyond[:, None], torch.inf)
        return self.at.gather(1, best), near.argmin(2)


def _alike(sizes: IntArray) -> Iterator[IntArray]:
    """The groups in batches, largest first: of up to :data:`SUBTRACTED` members, and of more, those in two classes.

    The classes are those that together pad least, and batches of a class only as many as :data:`BATCH` asks for.
    """
    order = np.argsort(-sizes, kind="stable")
    ordered = sizes[order]
    large = int((ordered > SUBTRACTED).sum())
    for first, last in itertools.pairwise(sorted({0, _cut(ordered[:large]), large, len(order)})):
        at_once = max(1, BATCH // int(ordered[first]) ** 2)
        yield from (order[at : min(at + at_once, last)] for at in range(first, last, at_once))


def _cut(sizes: IntArray) -> int:
    """How many of the largest sizes are in the first of two classes, so that their padded squares add up to least.

    Args:
        sizes: (G,), the largest first.
    """
    if not len(sizes):
        return 0
    others = len(sizes) - np.arange(len(sizes))
    return int((sizes[0] ** 2 * np.arange(len(sizes)) + sizes**2 * others).argmin())
