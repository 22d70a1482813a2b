"""AOT's two phases in float64 NumPy, written from the formulas alone, one problem at a time.

It shares no code with the package and is made to be read beside the paper, not to be fast. A token is followed
twice through every step: as its features, and as its row of W over the encoder's source tokens.

Letters as in the paper: T the plan, u and v its marginals, r and c Sinkhorn's scalings, lambda ``scaling``, and
q_i the largest share an anchor takes of source i.
"""

from __future__ import annotations

import re
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import ot
from scipy.special import logsumexp

TRANSPORT = {
    "scaling": 1.0,
    "eps": 0.1,
    "max_iterations": 100,
    "retention": 0.0,
    "keep_tokens": 0,
    "solver": "early",
    "tolerance": 1e-6,
    "relaxation": 1.0,
    "mass": 0.9,
    "metric": "cosine",
    "marginals": "uniform",
    "aggregation": "released",
}
INTRA = TRANSPORT | {
    "budget": 126,
    "global_ratio": 0.5,
    "spatial_weight": 0.5,
    "nearest_blend": 0.1,
    "window": 9,
    "choice": "attention",
    "random_seed": 0,
}
INTER = TRANSPORT | {
    "clip_length": 4,
    "keep_ratio": 0.3,
    "time_scale": 1.5,
    "spatial_weight": 0.0,
    "keyframe_share": 0.7,
    "ranking": "video",
    "clips": "fixed",
    "cut_similarity": 0.8,
    "cut_lowest": 7,
    "cut_times": "",
    "order": "released",
    "repeat": True,
    "explained_by": "plan",
}
EARLY_STOP = 1e-2
HIGHEST_COSINE = 1 - 1e-6
UNBALANCED = ("unbalanced", "partial")
ORIGINAL, DISTINCT, UPDATED = range(3)


def with_defaults(defaults, given):
    """The options by name, the defaults where nothing is given."""
    if unknown := set(given) - set(defaults):
        raise TypeError(f"no option {sorted(unknown)}")
    return SimpleNamespace(**defaults | given)


def highest(count, *scores):
    """Indices of the ``count`` highest entries, by the first score, then the next, then the earlier index."""
    return np.lexsort([-np.asarray(score) for score in reversed(scores)])[:count]


def split_evenly(total, parts):
    """``total`` over ``parts``: floor((i + 1) total / parts) - floor(i total / parts)."""
    return [(i + 1) * total // parts - i * total // parts for i in range(parts)]


def exact_budget(o, frames, cells):
    """Tokens to keep in the whole video; None where no exact budget is asked for."""
    if o.keep_tokens or o.retention:
        return o.keep_tokens or round(o.retention * (frames * cells))
    return None


def require(total, least, most):
    """Refuse a budget that cannot be met."""
    if not least <= total <= most:
        raise ValueError(f"{total} tokens where {least} to {most} are possible")


def products(left, right):
    """left @ right.T, row by row: BLAS gives equal rows (row newlines) sums that differ in the last bit, and q ties."""
    return (left[:, None] * right[None]).sum(-1)


# Transport


def marginal(importance, kind):
    """(M,) mass of one side's tokens, 1 together."""
    if kind == "uniform" or not np.any(importance):
        return np.full(len(importance), 1 / len(importance))
    floored = np.maximum(importance, 1e-6 * np.mean(importance))
    return floored / floored.sum()


def early_stopped(costs, us, vs, o):
    """Plans diag(r) K diag(c) of problems iterated together until the mean of |r' - r| over all is under 1e-2."""
    kernels = [np.exp(-cost / o.eps) for cost in costs]
    rs, cs = [np.ones_like(u) for u in us], [np.ones_like(v) for v in vs]
    for _ in range(o.max_iterations):
        before = rs
        rs = [u / (kernel * c).sum(1) for kernel, u, c in zip(kernels, us, cs, strict=True)]
        cs = [v / (kernel * r[:, None]).sum(0) for kernel, v, r in zip(kernels, vs, rs, strict=True)]
        if np.mean(np.abs(np.concatenate(rs) - np.concatenate(before))) < EARLY_STOP:
            break
    return [r[:, None] * kernel * c for r, kernel, c in zip(rs, kernels, cs, strict=True)]


def early(cost, u, v, o):
    """The same for one problem by itself."""
    return early_stopped([cost], [u], [v], o)[0]


def sinkhorn(cost, u, v, o):
    """The plan iterated until the L1 error of the source marginal is under the tolerance."""
    kernel, c = np.exp(-cost / o.eps), np.ones_like(v)
    for _ in range(o.max_iterations):
        r = u / (kernel * c).sum(1)
        c = v / (kernel * r[:, None]).sum(0)
        plan = r[:, None] * kernel * c
        if np.abs(plan.sum(1) - u).sum() < o.tolerance:
            break
    return plan


def log_sinkhorn(cost, u, v, o):
    """The same iteration on log r and log c."""
    log_c = np.zeros_like(v)
    for _ in range(o.max_iterations):
        log_r = np.log(u) - logsumexp(log_c - cost / o.eps, axis=1)
        log_c = np.log(v) - logsumexp(log_r[:, None] - cost / o.eps, axis=0)
        plan = np.exp(log_r[:, None] - cost / o.eps + log_c)
        if np.abs(plan.sum(1) - u).sum() < o.tolerance:
            break
    return plan


def emd(cost, u, v, o):
    """Exact optimal transport."""
    return ot.emd(u, v, cost)


def pot_log(cost, u, v, o):
    """POT's log-domain Sinkhorn."""
    stop = {"numItermax": o.max_iterations, "stopThr": o.tolerance}
    return ot.sinkhorn(u, v, cost, o.eps, method="sinkhorn_log", warn=False, **stop)


def unbalanced(cost, u, v, o):
    """POT's unbalanced Sinkhorn."""
    stop = {"numItermax": o.max_iterations, "stopThr": o.tolerance}
    return ot.unbalanced.sinkhorn_unbalanced(u, v, cost, reg=o.eps, reg_m=o.relaxation, warn=False, **stop)


def partial(cost, u, v, o):
    """POT's exact transport of a share of the mass."""
    return ot.partial.partial_wasserstein(u, v, cost, m=o.mass)


def nearest(cost, u, v, o):
    """Each source whole to its cheapest anchor."""
    plan = np.zeros_like(cost)
    for i, mass in enumerate(u):
        plan[i, cost[i].argmin()] = mass
    return plan


SOLVERS = {
    "released": early,
    "early": early,
    "sinkhorn": sinkhorn,
    "log": log_sinkhorn,
    "emd": emd,
    "pot-log": pot_log,
    "unbalanced": unbalanced,
    "partial": partial,
    "nearest": nearest,
}


def plans(costs, us, vs, o):
    """One plan a problem; only the released rule looks at all problems at once."""
    if o.solver == "released":
        return early_stopped(costs, us, vs, o)
    return [SOLVERS[o.solver](cost, u, v, o) for cost, u, v in zip(costs, us, vs, strict=True)]


def shares(plan, u, o):
    """p_ij: the share of source i that goes to anchor j."""
    if o.solver in UNBALANCED:
        return plan / u[:, None]
    return plan / np.maximum(plan.sum(1, keepdims=True), 1e-9)


# Cost


def metric_cost(sources, anchors, metric, highest_cosine=1.0):
    """(M, n) cost of features alone."""
    if metric == "sqeuclidean":
        scale = np.mean((np.concatenate((sources, anchors)) ** 2).sum(1))
        return ((sources[:, None] - anchors[None]) ** 2).sum(-1) / (2 * max(scale, 1e-16))
    lengths = np.linalg.norm(sources, axis=1)[:, None] * np.linalg.norm(anchors, axis=1)[None]
    cosines = products(sources, anchors) / np.maximum(lengths, 1e-16)
    return 1 - np.clip(cosines, -highest_cosine, highest_cosine)


def unit_places(places, grid):
    """(M, 2) y and x on [0, 1]^2 of (M, 2) rows and columns; a row newline's x is 1."""
    (height, width), (rows, columns) = grid, np.asarray(places, float).T
    x = np.where(columns == width, 1.0, columns / max(width - 1, 1))
    return np.stack((rows / max(height - 1, 1), x), 1)


def distance(places, others):
    """(M, n) Euclidean distance of places."""
    return np.linalg.norm(places[:, None] - others[None], axis=-1)


# Aggregation


def fold(anchors, sources, weights, counts=1.0):
    """(n_j a_j + sum_i w_ij x_i) / (n_j + sum_i w_ij)."""
    counts = np.broadcast_to(counts, len(anchors))
    return (counts[:, None] * anchors + weights.T @ sources) / (counts + weights.sum(0))[:, None]


def merge_anchors(anchors, sources, plan, p, nearest, o):
    """Phase I's updated anchors; nearest (M,) names each source's nearest anchor."""
    if o.aggregation == "counts":
        return fold(anchors, sources, o.scaling * p)
    transported = fold(anchors, sources, o.scaling * plan)
    if o.aggregation == "paper":
        return transported
    near = fold(anchors, sources, np.eye(len(anchors))[nearest])
    return (1 - o.nearest_blend) * transported + o.nearest_blend * near


# Phase I


def bands(side, window):
    """The whole rows (or columns) of each window along one side."""
    count = max(1, side // window)
    return [range(i * side // count, (i + 1) * side // count) for i in range(count)]


def select_anchors(shallow, deep, grid, budget, global_ratio, window):
    """Raster indices of one frame's anchors: per window by shallow attention, then over the frame by deep."""
    local = int(budget * (1 - global_ratio))
    cells = np.arange(grid[0] * grid[1]).reshape(grid)
    windows = [
        cells[np.ix_(rows, columns)].ravel() for rows in bands(grid[0], window) for columns in bands(grid[1], window)
    ]
    each = min(local // len(windows), *(len(members) for members in windows))
    chosen = [cell for members in windows for cell in members[highest(each, shallow[members])]]
    if not chosen and local == budget:
        raise ValueError(f"no anchors: {local} are fewer than the {len(windows)} windows")
    left = np.setdiff1d(cells, chosen)
    return np.sort(np.concatenate((chosen, left[highest(budget - local, deep[left])])).astype(int))


def pool_axis(side, pooling):
    """Whole-number weights (pooled, side) of 2x pooling along one axis, and their common denominator."""
    if pooling == "none":
        return np.eye(side, dtype=int), 1
    if pooling == "average":
        weights = np.zeros((side // 2, side), int)
        for i in range(side // 2):
            weights[i, 2 * i : 2 * i + 2] = 1
        return weights, 2
    pooled = -(-side // 2)
    weights = np.zeros((pooled, side), int)
    for i in range(pooled):
        low, fraction = divmod(max((2 * i + 1) * side - pooled, 0), 2 * pooled)
        weights[i, low] += 2 * pooled - fraction
        weights[i, min(low + 1, side - 1)] += fraction
    return weights, 2 * pooled


def pool(grid, pooling):
    """The language grid, pooling's whole-number weights (L, N) and their denominator: exact, so that ties are ties."""
    (down, over), (across, under) = pool_axis(grid[0], pooling), pool_axis(grid[1], pooling)
    return (len(down), len(across)), np.kron(down, across), over * under


def keep_cells(coverage, denominator, pooled_deep, count=None):
    """Raster indices of the language cells kept: half covered by anchors, or the ``count`` most covered."""
    if count is None:
        return np.flatnonzero(2 * coverage >= denominator)
    return np.sort(highest(count, coverage, pooled_deep))


def intra(features, shallow, deep, grid, pooling, *, newline=None, **options):
    """Phase I.

    Args:
        features: (T, N, D); shallow, deep: (T, N) attention received; grid: (H, W).
        pooling: "bilinear", "average" or "none".
        newline: (D,) embedding that follows every row of the language grid, or None for models without.

    Returns:
        tokens (K, D); W (K, T * N), with newlines (K, T * (N + h)); place (K, 3) of frame, row, column.
    """
    o = with_defaults(INTRA, options)
    features, shallow, deep = (np.asarray(given, float) for given in (features, shallow, deep))
    frames, cells, _ = features.shape
    (height, width), pooled, denominator = pool(grid, pooling)
    total, counts, budget = exact_budget(o, frames, height * width), [None] * frames, o.budget
    if total is not None:
        require(total, frames, frames * height * width)
        counts = split_evenly(total, frames)
        budget = max(1, min(cells - 1, round(max(counts) * cells / (height * width))))

    places = unit_places(np.argwhere(np.ones(grid)), grid)
    anchors = [select_anchors(shallow[t], deep[t], grid, budget, o.global_ratio, o.window) for t in range(frames)]
    others = [np.setdiff1d(np.arange(cells), chosen) for chosen in anchors]
    alone = [metric_cost(features[t, others[t]], features[t, anchors[t]], o.metric) for t in range(frames)]
    near_by = [distance(places[others[t]], places[anchors[t]]) for t in range(frames)]
    costs = [alone[t] + o.spatial_weight * near_by[t] for t in range(frames)]
    us = [marginal(deep[t, others[t]], o.marginals) for t in range(frames)]
    vs = [marginal(deep[t, anchors[t]], o.marginals) for t in range(frames)]

    rows_of_newlines = 0 if newline is None else height
    stride = cells + rows_of_newlines
    tokens, w, place = [], [], []
    for t, plan in enumerate(plans(costs, us, vs, o)):
        merged = []
        for given in (features[t], np.eye(cells)):
            step = (plan, shares(plan, us[t], o), alone[t].argmin(1), o)
            updated = given.copy()
            updated[anchors[t]] = merge_anchors(given[anchors[t]], given[others[t]], *step)
            merged.append(pooled @ updated / denominator)
        coverage = pooled[:, anchors[t]].sum(1)
        kept = keep_cells(coverage, denominator, pooled @ deep[t] / denominator, counts[t])
        for row in range(height):
            for cell in kept[kept // width == row]:
                tokens.append(merged[0][cell])
                w.append(np.zeros(frames * stride))
                w[-1][t * stride : t * stride + cells] = merged[1][cell]
                place.append((t, row, cell % width))
            if rows_of_newlines:
                tokens.append(np.asarray(newline, float))
                w.append(np.zeros(frames * stride))
                w[-1][t * stride + cells + row] = 1
                place.append((t, row, width))
    shapes = (-1, features.shape[-1]), (-1, frames * stride), (-1, 3)
    return tuple(np.array(rows).reshape(shape) for rows, shape in zip((tokens, w, place), shapes, strict=True))


# Phase II


def cut_clips(o, tokens, frame, is_newline, timestamps):
    """The frames of each clip, as ranges."""
    frames = len(timestamps)
    starts = {0}
    if o.clips == "fixed":
        starts |= set(range(0, frames, o.clip_length))
    elif o.clips == "times":
        for cut in filter(None, re.split(r"[\s,;/]+", o.cut_times)):
            starts |= {
                t for t in range(frames) if timestamps[t] >= float(cut) and not any(timestamps[:t] >= float(cut))
            }
    elif o.clips == "dynamic":
        sums = [tokens[(frame == t) & ~is_newline].sum(0) for t in range(frames)]
        unit = [total / max(np.linalg.norm(total), 1e-16) for total in sums]
        similar = np.array([unit[t] @ unit[t + 1] for t in range(frames - 1)])
        starts |= {t + 1 for t in np.flatnonzero(similar < o.cut_similarity)}
        starts |= {t + 1 for t in highest(o.cut_lowest, -similar)}
    ordered = [*sorted(starts), frames]
    return [range(begin, end) for begin, end in pairwise(ordered)]


def transport(video, anchors, state, sources, time_factor, o):
    """Plan and shares from a frame's tokens to the anchors as they stand, and q."""
    cost = metric_cost(video.tokens[sources], state.features, o.metric, HIGHEST_COSINE)
    cost = cost + o.spatial_weight * distance(video.places[sources], video.places[anchors])
    u, v = (marginal(video.importance[side], o.marginals) for side in (sources, anchors))
    plan = SOLVERS[o.solver]((cost - cost.min()) * time_factor, u, v, o)
    p = shares(plan, u, o)
    return plan, p, np.exp(-np.maximum(cost.min(1), 1 - HIGHEST_COSINE)) if o.explained_by == "cost" else p.max(1)


def absorb(video, state, sources, plan, p, o):
    """The anchors with some sources' tokens taken in: features, rows over the given tokens, and counts."""
    weights = o.scaling * (plan if o.aggregation == "paper" else p)
    counts = state.counts if o.aggregation == "counts" else np.ones(len(state.counts))
    return SimpleNamespace(
        features=fold(state.features, video.tokens[sources], weights, counts),
        rows=fold(state.rows, video.rows[sources], weights, counts),
        counts=state.counts + weights.sum(0),
    )


def walk(video, clip, anchors, rest, o, keep_ratio, kept=None):
    """One clip from its keyframe on.

    Args:
        clip: each frame's tokens, as indices; anchors: those of the keyframe; rest: keyframe tokens to absorb.
        kept: the tokens to keep as distinct; None for those below each frame's ``keep_ratio`` quantile of q.

    Returns:
        Features and row of the anchors at last, by token; the distinct tokens in order; q of every following token.
    """
    state = SimpleNamespace(features=video.tokens[anchors], rows=video.rows[anchors], counts=np.ones(len(anchors)))
    distinct, q = [], {}
    if len(rest):
        state = absorb(video, state, rest, *transport(video, anchors, state, rest, 1.0, o)[:2], o)
    for step, sources in enumerate(clip[1:], 1):
        if not len(sources):
            continue
        factor = 1 - np.exp(-(step**2) / (2 * o.time_scale**2 + 1e-9))
        plan, p, best = transport(video, anchors, state, sources, factor, o)
        q |= dict(zip(sources.tolist(), best.tolist(), strict=True))
        stays = best < np.quantile(best, keep_ratio) if kept is None else np.isin(sources, kept)
        distinct += sources[stays].tolist()
        state = absorb(video, state, sources[~stays], plan[~stays], p[~stays], o)
    merged = dict(zip(np.asarray(anchors).tolist(), zip(state.features, state.rows, strict=True), strict=True))
    return merged, distinct, q


def clip_quotas(key, most):
    """``key`` tokens over clips that hold at most ``most[c]``: level by level, the last level spread evenly."""
    level = 0
    while sum(min(cap, level + 1) for cap in most) <= key and level < max(most):
        level += 1
    quotas = [min(cap, level) for cap in most]
    still_open = [c for c, cap in enumerate(most) if cap > level]
    for c, more in zip(still_open, split_evenly(key - sum(quotas), len(still_open)), strict=True):
        quotas[c] += more
    return quotas


def choose_distinct(q, quota, ranking, frame):
    """The ``quota`` tokens of lowest q: over the whole video, or every frame's share of them."""
    tokens, values = np.array(list(q), int), np.array(list(q.values()))
    if ranking == "video":
        return tokens[highest(quota, -values)]
    chosen, seen = [], 0
    for t in np.unique(frame[tokens]):
        of_frame = np.flatnonzero(frame[tokens] == t)
        before, seen = seen, seen + len(of_frame)
        count = seen * quota // len(tokens) - before * quota // len(tokens)
        chosen += tokens[of_frame[highest(count, -values[of_frame])]].tolist()
    return np.array(chosen, int)


def with_newlines(indices, video):
    """The tokens and the newline of every row that one of them is in, in the given order."""
    rows = {tuple(video.place[i, :2]) for i in indices}
    ends = [i for i in np.flatnonzero(video.is_newline) if tuple(video.place[i, :2]) in rows]
    return sorted(int(i) for i in [*indices, *ends])


def emit(video, originals, distinct, updated, merged, o):
    """One clip's tokens in the order the LLM reads: (group, token, features, row over the given tokens).

    ``merged`` holds features and row of the updated anchors by token; a token it lacks is emitted as it was.
    """
    emitted = []
    for group, members in ((ORIGINAL, originals), (DISTINCT, distinct), (UPDATED, updated)):
        for i in members:
            as_it_was = video.tokens[i], video.rows[i]
            emitted.append((group, i, *(merged.get(i, as_it_was) if group == UPDATED else as_it_was)))
    if o.order == "time":
        emitted.sort(key=lambda entry: (*video.place[entry[1]], entry[0]))
    return emitted


def released(video, clips, o):
    """Every clip with a share of each frame kept; newlines are tokens like all others."""
    emitted = []
    for clip in clips:
        if len(clip) == 1:
            emitted += emit(video, clip[0], [], [], {}, o)
            continue
        merged, distinct, _ = walk(video, clip, clip[0], [], o, o.keep_ratio)
        emitted += emit(video, clip[0] if o.repeat else [], distinct, clip[0], merged, o)
    return emitted


def on_budget(video, clips, total, o):
    """Every clip, with exactly ``total`` tokens kept in the video, newlines not counted."""
    clips = [[members[~video.is_newline[members]] for members in clip] for clip in clips]
    each = [2 if o.repeat and len(clip) > 1 else 1 for clip in clips]
    most = [e * len(clip[0]) for e, clip in zip(each, clips, strict=True)]
    candidates = sum(len(members) for clip in clips for members in clip[1:])
    if not min(most):
        raise ValueError("a keyframe without tokens")
    require(total, len(clips), min(video.cells, sum(most) + candidates))
    key = round(o.keyframe_share * total)
    key = min(max(key, len(clips), total - candidates), total, sum(most))
    quota = total - key

    chosen, q = [], {}
    for clip, k, e in zip(clips, clip_quotas(key, most), each, strict=True):
        ranked = clip[0][highest(len(clip[0]), video.importance[clip[0]])]
        count = -(-k // e)
        anchors, rest, originals = np.sort(ranked[:count]), np.sort(ranked[count:]), np.sort(ranked[: k - count])
        chosen.append((clip, anchors, rest, originals))
        if candidates:
            q |= walk(video, clip, anchors, rest, o, quota / candidates)[2]
    kept = choose_distinct(q, quota, o.ranking, video.place[:, 0]) if q else []

    emitted = []
    for clip, anchors, rest, originals in chosen:
        if len(clip) == 1:
            emitted += emit(video, with_newlines(anchors, video), [], [], {}, o)
            continue
        merged, distinct, _ = walk(video, clip, anchors, rest, o, None, kept)
        groups = (with_newlines(members, video) for members in (originals, distinct, anchors))
        emitted += emit(video, *groups, merged, o)
    return emitted


def inter(features, w, place, importance, timestamps, frames, language_grid, is_newline, **options):
    """Phase II.

    Args:
        features: (K, D); w: (K, S) over the encoder's tokens; place: (K, 3) of frame, row, column, in raster order
            within a frame; importance: (K,); timestamps: (T,) seconds; is_newline: (K,) bool.

    Returns:
        features, W and place of the tokens emitted, and the name of each one's role.
    """
    o = with_defaults(INTER, options)
    tokens, w, importance = (np.asarray(given, float) for given in (features, w, importance))
    place, is_newline = np.asarray(place), np.asarray(is_newline, bool)
    places = unit_places(place[:, 1:], language_grid)
    video = SimpleNamespace(
        tokens=tokens,
        rows=np.eye(len(tokens)),
        place=place,
        places=places,
        importance=importance,
        is_newline=is_newline,
        cells=frames * language_grid[0] * language_grid[1],
    )
    frame = place[:, 0]
    cuts = cut_clips(o, tokens, frame, is_newline, timestamps)
    clips = [[np.flatnonzero(frame == t) for t in clip] for clip in cuts]
    if not all(len(clip[0]) for clip in clips):
        raise ValueError("a keyframe without tokens")
    total = exact_budget(o, frames, language_grid[0] * language_grid[1])
    emitted = released(video, clips, o) if total is None else on_budget(video, clips, total, o)
    groups, indices, merged, rows = zip(*emitted, strict=True)
    names = {ORIGINAL: "keyframe", DISTINCT: "distinct", UPDATED: "merged"}
    roles = ["newline" if is_newline[i] else names[group] for group, i in zip(groups, indices, strict=True)]
    return np.array(merged), np.array(rows) @ w, place[list(indices)], roles
