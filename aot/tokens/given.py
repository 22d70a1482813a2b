"""The frames that a video had before stages chose among them, and the W that leads from the encoded ones to those."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .factors import Sparse
from .layout import Layout, area_axis


@dataclass(frozen=True, eq=False)
class Given:
    """What an encoder would have made of all frames that were given.

    Args:
        layout: of the tokens of all of them, none made smaller.
        timestamps: (T,) float64 seconds of that layout's frames.
        frames: of the video that were given.
        of: (t, n) long, for every frame of the encoded layout those of this one that it was made of: one, or several
            where the encoder takes several frames as one and those were not neighbours.
        exact: whether encoded tokens are W times those of all frames. If not, W says what they stand for: a cell of
            smaller frames for the area that it covers, a pair of frames for the pairs that they were in.
    """

    layout: Layout
    timestamps: Tensor
    frames: int
    of: Tensor
    exact: bool

    @property
    def tokens(self) -> int:
        """Language-grid tokens of all frames that were given, newlines not counted."""
        return self.layout.frames * self.layout.language_cells

    def weights(self, layout: Layout, like: Tensor) -> Sparse:
        """W of the encoded source tokens over those of all frames that were given.

        Args:
            layout: of the encoded frames.
            like: of the dtype and on the device of the result.
        """
        row, column, weight = _within_a_frame(layout, self.layout)
        count = self.of.shape[1]
        frame = torch.arange(layout.frames).repeat_interleave(count)
        rows = frame[:, None] * layout.sources + row
        columns = self.of.flatten()[:, None] * self.layout.sources + column
        weights = (weight / count).expand(len(frame), -1)
        kept, source = layout.frames * layout.sources, self.layout.frames * self.layout.sources
        device = like.device
        entries = rows.flatten().to(device), columns.flatten().to(device), weights.flatten().to(like)
        return Sparse(*entries, kept, source)

    def places(self, place: Tensor, layout: Layout) -> Tensor:
        """Places on the language grid of all frames, of those on the encoded frames' language grid.

        Args:
            place: (K, 3) long, frame, y and x; a newline is at x = w.
            layout: of the encoded frames.
        """
        frame, y, x = place.unbind(-1)
        (height, width), (rows, columns) = layout.language_grid, self.layout.language_grid
        newline = x == width
        y = (2 * y + 1) * rows // (2 * height)
        x = torch.where(newline, columns, (2 * x + 1) * columns // (2 * width))
        return torch.stack((self.of[:, 0].to(place.device)[frame], y, x), -1)


def _within_a_frame(layout: Layout, given: Layout) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, columns and weights of a frame's source tokens over those of a frame that was given, (E,) each."""
    (height, width), (rows, columns) = layout.grid, given.grid
    matrix = torch.zeros(layout.sources, given.sources, dtype=torch.float64)
    matrix[: layout.cells, : given.cells] = torch.kron(area_axis(rows, height), area_axis(columns, width))
    line = torch.arange(layout.newlines)
    if layout.newlines:
        matrix[layout.cells + line, given.cells + (2 * line + 1) * given.newlines // (2 * layout.newlines)] = 1
    row, column = matrix.nonzero(as_tuple=True)
    return row, column, matrix[row, column]
