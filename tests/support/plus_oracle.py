"""Anchor OT Plus in float64 NumPy, written from its four steps alone; made to be read, not to be fast.

It shares no code with the package: what the anchors before a cell can make up of it is a least squares problem here,
solved anew for every cell and step, and every cell's shares are found for itself. A token is given twice, as its
features and as its row of W.
"""

import math

import numpy as np

NOTHING_NEW, FEWEST, CANDIDATES, LEAST = 1e-6, 1024, 2, 1e-3


def clips_of(frames, clip_length):
    """Frames of each clip, as ranges: as few clips as may be, of equal length but for the last."""
    length = math.ceil(frames / math.ceil(frames / clip_length))
    return [range(first, min(frames, first + length)) for first in range(0, frames, length)]


def gains_of(z, frame=None, quotas=()):
    """How much of each candidate the anchors before it cannot make up, (M, D) to (M,); 0 past the rank.

    With the candidates' frames, a frame that has its quota gives no more anchors.
    """
    gains, before, left = np.zeros(len(z)), [], list(range(len(z)))
    if frame is not None:
        left = [i for i in left if quotas[frame[i]]]
    least = NOTHING_NEW * (z**2).sum(1).max(initial=0)
    while left:
        basis = z[before].T if before else np.zeros((z.shape[1], 1))
        unmade = [((z[i] - basis @ np.linalg.lstsq(basis, z[i], rcond=None)[0]) ** 2).sum() for i in left]
        best = int(np.argmax(unmade))
        if unmade[best] <= least:
            break
        gains[left[best]] = unmade[best]
        before.append(left.pop(best))
        if frame is not None:
            anchors = [frame[i] for i in before]
            left = [i for i in left if anchors.count(frame[i]) < quotas[frame[i]]]
    return gains


def anchors_of(z, clips, budget):
    """The cells that are kept, frame * L + cell each, in order."""
    frames, cells, _ = z.shape
    flat, length = z.reshape(-1, z.shape[2]), (z**2).sum(2).ravel()
    ranking = []
    for clip in clips:
        of_clip = np.arange(clip[0] * cells, (clip[-1] + 1) * cells)
        if np.ndim(budget) == 0:
            share = math.ceil(budget * len(of_clip) / (frames * cells))
            among = of_clip[np.argsort(-length[of_clip], kind="stable")[: max(FEWEST, CANDIDATES * share)]]
        else:
            by_frame = [np.arange(frame * cells, (frame + 1) * cells) for frame in clip]
            among = np.concatenate(
                [
                    of_it[np.argsort(-length[of_it], kind="stable")[: CANDIDATES * budget[frame]]]
                    for frame, of_it in zip(clip, by_frame, strict=True)
                ]
            )
        among = np.sort(among)
        quotas = (None,) if np.ndim(budget) == 0 else (among // cells, budget)
        ranking += [(-gain, -length[i], i) for gain, i in zip(gains_of(flat[among], *quotas), among, strict=True)]
    best = [i for _, _, i in sorted(ranking)]
    if np.ndim(budget) == 0:
        return sorted(best[:budget])
    return sorted(i for frame, number in enumerate(budget) for i in [i for i in best if i // cells == frame][:number])


def reduce(features, attention, budget, *, carry=0.0, eps=0.02, reach=0.1, clip_length=32):
    """Places (K,), tokens (K, D) and W (K, T L) of a video of (T, L, D) features."""
    frames, cells, width = features.shape
    y = features - features.mean((0, 1))
    clips = clips_of(frames, clip_length)
    place = anchors_of(attention[:, :, None] * y, clips, budget)
    flat, content = features.reshape(-1, width), y.reshape(-1, width)
    weights = np.zeros((len(place), frames * cells))
    for clip in clips:
        of_clip = range(clip[0] * cells, (clip[-1] + 1) * cells)
        rows = [row for row, anchor in enumerate(place) if anchor in of_clip]
        for row in rows:
            weights[row, place[row]] = 1
        for i in of_clip:
            if i in place or not rows:
                continue
            cost = np.array([1 - _cosine(content[i], content[place[row]]) for row in rows])
            mass = np.exp(-cost / eps)
            share = mass / (mass.sum() + math.exp(-reach / eps)) - LEAST
            for row, part in zip(rows, share, strict=True):
                weights[row, i] = carry * max(0, part)
    weights /= weights.sum(1, keepdims=True)
    return np.array(place), weights @ flat, weights


def _cosine(a, b):
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return a @ b / lengths if lengths else 0.0
