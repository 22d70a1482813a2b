"""Where every kept token comes from and where every source cell went: W, thinned so that a browser can hold it.

W is dense inside a clip, yet a few hundred cells make up nearly all of a token. The browser gets the largest weights
of every token, until they come to a share of it, and the largest weight of every source cell. The view states what
share that is. Everything here is NumPy on the CPU.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import InputError
from ..files import make_folder, whole_file
from ..tokens.layout import POOLINGS, Layout
from ..tokens.video_tokens import VideoTokens
from ..video.frames import Frames
from .roles import browser_styles
from .token_map import frames_together

COVERED = 0.99
"""Share of a token's weight after which its smaller entries are dropped."""

MOST_ENTRIES = 200_000
"""The most entries of W that are sent to a browser: 1.6 MB as base64, with 32-bit source numbers."""

MOST_TOKENS = 100_000
"""The most kept tokens that are sent to a browser: 4 MB of places and figures as base64."""

LEVELS = 65535
"""Steps that a weight is sent in, from 0 to the largest weight of its token."""

LARGEST_SIDE = 640
"""Longer side of a frame as it is sent, in pixels."""

QUALITY = 85
"""Quality of the frames' JPEG files."""


@dataclass(frozen=True, eq=False)
class Transport:
    """The part of W that is shown, token by token, the largest entry of each token first.

    Args:
        layout: how the source tokens lie.
        token_grid: (h, w) that the tokens' places are on: the language grid, or the encoder's while nothing is pooled.
        place: (K, 3) int64, frame, y and x of each kept token.
        role: (K,) uint8 of :class:`Role`.
        start: (K + 1,) int64: entries ``start[k]`` up to ``start[k + 1]`` are token k's.
        src: (E,) int64, the entries' source tokens.
        weight: (E,) float64, the entries of W.
        own: (K,) float64, each token's weight on the encoder cells at its own place, of all of W.
        stands_for: (K,) float64, the source cells that each token stands for, of all of W: every cell counts as one,
            divided among the tokens it went to in proportion to W's entries.
        mass: (S,) float64, the column sums of W: how much of each source token is in the kept ones.
        scale: (K,) float64, the factor a token is multiplied by beside W; 1 where it is a mean.
        entries: number of non-zero entries of all of W.
    """

    layout: Layout
    token_grid: tuple[int, int]
    place: np.ndarray
    role: np.ndarray
    start: np.ndarray
    src: np.ndarray
    weight: np.ndarray
    own: np.ndarray
    stands_for: np.ndarray
    mass: np.ndarray
    scale: np.ndarray
    entries: int

    @property
    def kept(self) -> int:
        """K, the number of kept tokens."""
        return len(self.role)

    @cached_property
    def row(self) -> np.ndarray:
        """(E,) int64: the entries' kept tokens."""
        return np.repeat(np.arange(self.kept), np.diff(self.start))

    @cached_property
    def coverage(self) -> np.ndarray:
        """(K,) float64: the share of each token's weight that its entries here come to."""
        return np.bincount(self.row, self.weight, self.kept)

    def maps(self, token: int) -> np.ndarray:
        """(T, H, W) float64: the weights of one token on the encoder's cells, without newlines.

        Args:
            token: index of the kept token.
        """
        layout = self.layout
        part = slice(self.start[token], self.start[token + 1])
        flat = np.zeros(layout.frames * layout.sources)
        flat[self.src[part]] = self.weight[part]
        cells = flat.reshape(layout.frames, layout.sources)[:, : layout.cells]
        return cells.reshape(layout.frames, *layout.grid)

    @classmethod
    def of(cls, tokens: VideoTokens, *, covered: float = COVERED, most: int = MOST_ENTRIES) -> Transport:
        """W of these tokens, thinned.

        Args:
            tokens: anything from freshly encoded to fully reduced.
            covered: share of a token's weight after which its smaller entries are dropped, 0 to 1.
            most: entries at most. Where ``covered`` needs more, a smaller share is shown, the same for all tokens.

        Raises:
            InputError: there are more than ``MOST_TOKENS`` tokens.
        """
        if tokens.map.kept > MOST_TOKENS:
            raise InputError(
                f"{tokens.map.kept} tokens are too many to explore in a browser, which takes {MOST_TOKENS}; "
                "reduce them first, or encode fewer frames."
            )
        matrix = tokens.map.means.sparse()
        filled = matrix.values().numpy() > 0
        (row, src), weight = matrix.indices().numpy()[:, filled], matrix.values().numpy()[filled]
        layout, place = tokens.layout, tokens.place.cpu().numpy()
        mass = np.bincount(src, weight, tokens.map.source)
        thin = _thinned(row, src, weight, tokens.map.kept, covered, most)
        return cls(
            layout=layout,
            token_grid=layout.language_grid if tokens.pooled else layout.grid,
            place=place,
            role=tokens.role.cpu().numpy(),
            start=np.concatenate(([0], np.cumsum(np.bincount(row[thin], minlength=tokens.map.kept)))),
            src=src[thin],
            weight=weight[thin],
            own=_own_share(row, src, weight, place, layout, tokens.pooled),
            stands_for=_cells_stood_for(row, src, weight / mass[src], tokens.map.kept, layout),
            mass=mass,
            scale=tokens.map.row_mass().cpu().numpy(),
            entries=len(weight),
        )


def _thinned(row: np.ndarray, src: np.ndarray, weight: np.ndarray, kept: int, covered: float, most: int) -> np.ndarray:
    """Indices of the entries to show, row after row, the largest of each row first.

    Args:
        row: (nnz,) int64, the entries' kept tokens.
        src: (nnz,) int64, the entries' source tokens.
        weight: (nnz,) float64, the entries of W.
        kept: rows of W.
        covered: share of a row after which its smaller entries are dropped.
        most: entries at most.
    """
    largest = np.zeros(kept)
    np.maximum.at(largest, row, weight)
    seen = np.flatnonzero(weight * (2 * LEVELS) >= largest[row])
    order = seen[np.lexsort((-weight[seen], row[seen]))]
    row, src, weight = row[order], src[order], weight[order]
    leads = _largest_of_each(src, weight, most // 2)
    room = most - np.count_nonzero(leads)
    before = np.cumsum(weight) - weight
    first = np.flatnonzero(np.diff(row, prepend=-1))
    before -= np.repeat(before[first], np.diff(np.append(first, len(row))))
    before[first] = -1
    chosen = before < covered * (1 - 1e-9)
    if np.count_nonzero(chosen) > room:
        chosen &= (before < np.partition(before, room)[room]) | (before < 0)
    return order[chosen | leads]


def _largest_of_each(src: np.ndarray, weight: np.ndarray, most: int) -> np.ndarray:
    """(n,) bool: the largest entry of every column, of the heaviest ``most`` columns where there are more."""
    by_src = np.lexsort((-weight, src))
    first = by_src[np.flatnonzero(np.diff(src[by_src], prepend=-1))]
    leads = np.zeros(len(src), dtype=bool)
    leads[first[np.argsort(-weight[first], kind="stable")[:most]]] = True
    return leads


def _own_share(
    row: np.ndarray, src: np.ndarray, weight: np.ndarray, place: np.ndarray, layout: Layout, pooled: bool
) -> np.ndarray:
    """(K,) float64: each token's weight on the encoder cells that its own place is pooled from."""
    frame, within = np.divmod(src, layout.sources)
    t, y, x = place[row].T
    own = (frame == t) & (within < layout.cells) & (x < (layout.language_grid if pooled else layout.grid)[1])
    row, weight, within, y, x = (part[own] for part in (row, weight, within, y, x))
    pooling = POOLINGS[layout.pooling if pooled else "none"]
    down, across = (pooling(side).numpy() > 0 for side in layout.grid)
    here = down[y, within // layout.grid[1]] & across[x, within % layout.grid[1]]
    return np.bincount(row, weight * here, len(place))


def _cells_stood_for(row: np.ndarray, src: np.ndarray, part: np.ndarray, kept: int, layout: Layout) -> np.ndarray:
    """(K,) float64: how many source cells each token stands for, from each entry's part in its column."""
    return np.bincount(row, part * (src % layout.sources < layout.cells), kept)


def packed(tokens: VideoTokens, transport: Transport) -> dict[str, Any]:
    """What the explorer in the browser receives, in JSON's types; arrays are base64, little-endian.

    ``place`` (K, 3) uint16, ``role`` (K,) uint8, ``start`` (K + 1,) uint32, ``source`` (E,) uint16 or uint32 by
    ``source_bits``, ``weight`` (E,) uint16 in ``levels`` steps of its token's ``largest`` (K,) float32, ``own``,
    ``speaks`` (what each token stands for), ``scale`` and ``shown`` (the coverage) (K,) float32, ``mass`` (S,) uint16
    in ``levels`` steps of ``largest_mass``, or None where source tokens take 32 bits to number. Names, colours and
    outlines of the roles are those of :func:`~.roles.browser_styles`.

    Args:
        tokens: that ``transport`` is of.
        transport: the part of W to show.
    """
    layout = transport.layout
    largest = transport.weight[transport.start[:-1]]
    bits = 16 if layout.frames * layout.sources <= 1 << 16 else 32
    arrays = {
        "place": transport.place.astype("<u2"),
        "role": transport.role.astype("<u1"),
        "start": transport.start.astype("<u4"),
        "source": transport.src.astype(f"<u{bits // 8}"),
        "weight": np.rint(transport.weight / largest[transport.row] * LEVELS).astype("<u2"),
        **{
            name: values.astype("<f4")
            for name, values in (
                ("largest", largest),
                ("own", transport.own),
                ("speaks", transport.stands_for),
                ("scale", transport.scale),
                ("shown", transport.coverage),
            )
        },
    }
    return {
        "frames": layout.frames,
        "together": frames_together(tokens),
        "times": [round(float(time), 3) for time in tokens.timestamps],
        "grid": list(layout.grid),
        "token_grid": list(transport.token_grid),
        "sources": layout.sources,
        "kept": transport.kept,
        "entries": transport.entries,
        "levels": LEVELS,
        "mass": as_base64(np.rint(transport.mass / transport.mass.max() * LEVELS).astype("<u2"))
        if bits == 16
        else None,
        "largest_mass": float(transport.mass.max()),
        "source_bits": bits,
        **browser_styles(),
        **{name: as_base64(values) for name, values in arrays.items()},
    }


def as_base64(values: np.ndarray) -> str:
    """The bytes of an array as text.

    Args:
        values: of any shape and dtype.
    """
    return base64.b64encode(values.tobytes()).decode()


def save_frames(frames: Frames, folder: Path, prefix: str) -> Sequence[str]:
    """Write every frame as a JPEG of at most ``LARGEST_SIDE`` pixels a side; the files' names, in order.

    Args:
        frames: one or more.
        folder: made where it is missing.
        prefix: start of the files' names, which no other file has.

    Raises:
        InputError: they cannot be written.
    """
    make_folder(folder)
    shrink = min(1, LARGEST_SIDE / max(frames.width, frames.height))
    size = max(1, round(frames.width * shrink)), max(1, round(frames.height * shrink))
    names = [f"{prefix}_{index:05}.jpg" for index in range(frames.count)]
    for name, pixels in zip(names, frames.pixels, strict=True):
        picture = Image.fromarray(pixels.to("cpu", torch.uint8).numpy())
        # Pillow itself does not notice a disk that takes only the beginning of a JPEG.
        content = io.BytesIO()
        picture.resize(size, Image.Resampling.LANCZOS).save(content, format="JPEG", quality=QUALITY)
        with whole_file(folder / name) as part:
            part.write_bytes(content.getvalue())
    return names
