"""Tables drawn as pictures, judged by their pixels, and the same as Markdown."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.pictures.canvas import BACKGROUND, MARGIN, ORANGE
from comfyui_aot.aot.pictures.table import table
from comfyui_aot.aot.tables import markdown

HEAD = ("stage", "tokens", "answer")
ROWS = (("full", "3136", "a cat"), ("aot", "784", "a very long answer " * 20))


def pixels(image: Tensor) -> np.ndarray:
    return (image[0] * 255).round().byte().numpy()


def inked(picture: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels of bright text, its soft edges too."""
    return (picture > 190).all(-1)


def test_a_table_is_an_image_as_comfyui_passes_them() -> None:
    image = table(HEAD, ROWS, width=700)
    assert image.dtype == torch.float32
    assert image.shape[0] == 1
    assert image.shape[2:] == (700, 3)
    assert 0 <= float(image.min()) <= float(image.max()) <= 1


def test_a_long_cell_takes_more_lines_and_not_more_width() -> None:
    short, long = (table(HEAD, [row], width=700) for row in ROWS)
    assert long.shape[1] > short.shape[1] + 100
    edge = pixels(long)[:, -MARGIN:]
    assert (edge == np.array(BACKGROUND)).all()


def test_a_table_without_a_width_is_as_narrow_as_its_text() -> None:
    assert table(HEAD, ROWS[:1]).shape[2] < 400
    assert table(HEAD, ROWS).shape[2] == 1600


def test_a_marked_row_has_a_bar_and_a_raised_ground_and_the_others_are_quieter() -> None:
    picture = pixels(table(HEAD, [("a", "1", "b"), ("c", "2", "d")], marks={1: ORANGE}, width=500))
    bar = np.flatnonzero((picture[:, MARGIN + 1] == np.array(ORANGE)).all(-1))
    assert len(bar) > 30
    bright = np.flatnonzero(inked(picture).any(1))
    assert bright.min() >= bar.min()
    assert bright.max() <= bar.max()
    assert tuple(picture[bar[10], 490 - MARGIN]) != BACKGROUND


def test_a_column_of_numbers_is_flush_right() -> None:
    picture = pixels(table(("numbers", "name"), [("7", "x"), ("3136", "x")], width=320))
    bright = inked(picture)[:, :110]
    rows = np.flatnonzero(bright.any(1))
    split = (int(rows.min()) + int(rows.max())) // 2
    one, four = (np.flatnonzero(part.any(0)) for part in (bright[:split], bright[split:]))
    assert abs(int(one.max()) - int(four.max())) <= 2
    assert one.min() > four.min() + 15


def test_a_word_that_is_too_wide_is_broken_and_not_lost() -> None:
    chain = "intra:budget=126,solver=sinkhorn+inter:keep_ratio=0.3,metric=sqeuclidean" * 3
    tall = table(("stages",), [(chain,)], width=400)
    assert tall.shape[1] > 8 * 24


def test_columns_that_have_no_room_are_refused() -> None:
    with pytest.raises(InputError, match=r"40 columns have no room in a table 400 pixels wide; give a larger"):
        table(["a long name"] * 40, [["some words"] * 40], width=400)


@pytest.mark.parametrize(
    ("head", "rows", "marks", "told"),
    [
        ((), (), {}, "without columns"),
        (("a", "b"), [("1",)], {}, "Row 0 of a table has 1 cells under 2 columns"),
        (("a",), [("1",)], {3: ORANGE}, "row 3 of a table of 1 rows"),
    ],
)
def test_a_table_that_does_not_fit_together_is_refused(head, rows, marks, told) -> None:
    with pytest.raises(InputError, match=told):
        table(head, rows, marks=marks)


def test_a_table_of_no_rows_is_its_head() -> None:
    assert table(HEAD, []).shape[1] < table(HEAD, ROWS[:1]).shape[1]


def test_markdown_escapes_what_would_break_its_columns() -> None:
    lines = markdown(("name", "n"), [("a|b", "1"), ("c\nd", "2.5 ms")]).splitlines()
    assert lines == ["| name | n |", "|---|---:|", "| a\\|b | 1 |", "| c<br>d | 2.5 ms |"]
