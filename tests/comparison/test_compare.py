"""Rows of a comparison, whoever made them, and the table they become."""

import csv
import dataclasses
import io
import itertools

import pytest
import torch

from comfyui_aot.aot.answering.answer import Answer
from comfyui_aot.aot.answering.answerer import LocalAnswerer
from comfyui_aot.aot.answering.fidelity import Fidelity
from comfyui_aot.aot.answering.generation import Generation
from comfyui_aot.aot.comparison.compare import Row, closest, compare, fastest, side_by_side
from comfyui_aot.aot.comparison.table import as_csv, as_markdown, picture, terminal, verdicts
from comfyui_aot.aot.comparison.variants import expand

QUESTION = "What colour is the square?"


@pytest.fixture(scope="module")
def rows(model, encoded):
    variants = expand(["aot"], (0.5, 0.1))
    return list(compare(LocalAnswerer(model), encoded.cut(0, 2), QUESTION, variants, Generation(4)))


def made(text, **changed):
    """An answer with figures of its own."""
    usual = {
        "question": "What?", "text": text, "model": "small", "stages": (), "tokens_full": 100, "tokens_kept": 100,
        "retention": 1.0, "prompt_tokens": 120, "new_tokens": 2, "encode_s": 1.0, "reduce_s": 0.0, "prefill_s": 2.0,
        "decode_s": 0.5, "prefill_flops": 1e12, "kv_cache_bytes": 2**20, "peak_memory_bytes": 0,
    }  # fmt: skip
    return Answer(**{**usual, **changed})


def cut(text, kept, **changed):
    """An answer about fewer tokens."""
    return made(text, stages=("intra",), tokens_kept=kept, retention=kept / 100, **changed)


def row(name, kept, fidelity, **changed):
    return Row(name, cut(name, kept, **changed), 1.0, fidelity)


def test_full_tokens_come_first_and_every_row_is_held_against_them(rows):
    assert [row.name for row in rows] == ["full", "aot 0.5", "aot 0.1"]
    assert rows[0].speedup == 1.0
    assert (rows[0].fidelity.kl, rows[0].fidelity.top1, rows[0].fidelity.same) == (0.0, 1.0, True)
    for row in rows[1:]:
        assert row.speedup == rows[0].answer.prefill_s / row.answer.prefill_s
        assert row.fidelity.kl > 0
        assert row.fidelity.same is (row.answer.text == rows[0].answer.text)
    assert rows[0].fidelity.log_probability > rows[2].fidelity.log_probability


def test_answers_alone_give_the_same_figures_as_the_comparison_they_came_from(rows):
    given = side_by_side([row.answer for row in rows])
    for ours, theirs in zip(given, rows, strict=True):
        told, expected = ours.to_dict(), theirs.to_dict()
        unknown = {name for name in expected if told[name] is None is not expected[name]}
        assert unknown == {
            "kl", "full_answer_log_probability", "full_answer_log_probability_per_token", "top1_agreement"
        }  # fmt: skip
        for name in expected.keys() - unknown - {"stages"}:
            assert told[name] == expected[name], name
    assert given[0].name == "full"
    assert given[1].name == "intra+inter 0.5"


def test_the_answer_about_all_tokens_is_the_reference_wherever_it_stands():
    first, full, other = cut("red", 10, prefill_s=0.5), made("blue"), cut("blue", 20, prefill_s=1.0)
    given = side_by_side([first, full, other])
    assert [row.fidelity.same for row in given] == [False, True, True]
    assert [row.speedup for row in given] == [4.0, 1.0, 2.0]


def test_without_it_the_first_answer_is():
    given = side_by_side([cut("red", 10), cut("blue", 20), cut("red", 30)])
    assert [row.fidelity.same for row in given] == [True, False, True]


def test_a_row_says_where_its_tokens_were_chosen_for_another_question():
    given = [made("red"), *(cut("red", 10, reduced_for=question) for question in ("What?", "Is it day?"))]
    assert [row.name for row in side_by_side(given)] == ["full", "intra 0.1", "intra (another question) 0.1"]


def test_answers_to_several_questions_are_held_against_their_own_full_answer():
    pairs = itertools.product(("Is it day?", "What?"), (made, cut))
    given = [make(f"{q} {make.__name__}", question=q, **({} if make is made else {"kept": 10})) for q, make in pairs]
    rows = side_by_side(given)
    assert [row.fidelity.same for row in rows] == [True, False, True, False]
    assert "question" in as_markdown(rows).splitlines()[0]
    assert [line.split("?")[0] for line in verdicts(rows)] == ["Is it day", "What"]


def test_the_closest_row_has_the_least_divergence_and_ties_go_to_the_likelier_answer():
    far, near = Fidelity(False, 0.5, 0.9, 0.8, -3.0, -1.5, 0.5), Fidelity(True, 1.0, 0.2, 0.1, -2.0, -1.0, 1.0)
    likelier = dataclasses.replace(near, log_probability=-1.0)
    full = Row("full", made("full"), 1.0, dataclasses.replace(near, kl=0.0))
    rows = [full, row("far", 50, far), row("near", 40, near), row("likelier", 30, likelier)]
    assert closest(rows).name == "likelier"
    assert closest(rows[:3]).name == "near"
    assert closest(rows[:1]) is None


def test_answers_of_a_server_are_close_only_where_they_are_the_same():
    rows = [row("other", 50, Fidelity(False)), row("same", 10, Fidelity(True))]
    assert closest(rows).name == "same"
    assert closest(rows[:1]) is None
    table = terminal(rows)
    assert table.splitlines()[2].split()[-3:] == ["-", "-", "other"]
    assert "log-prob" not in table


def test_the_fastest_row_is_the_one_whose_reduction_pays():
    slow = row("slow reduction", 10, Fidelity(False), reduce_s=3.0, prefill_s=0.1)
    quick = row("quick", 50, Fidelity(False), reduce_s=0.1, prefill_s=1.0)
    assert fastest([slow, quick]).name == "quick"
    assert verdicts([slow, quick])[0].startswith("Fastest: quick (2.10 s to the first token).")


def test_the_way_to_the_first_token_begins_with_the_file_where_that_is_known():
    full, reduced = made("a", file_s=0.5), cut("a", 10, file_s=0.5, reduce_s=0.25, prefill_s=0.25)
    assert (full.first_token_s, reduced.first_token_s) == (3.5, 2.0)
    rows = side_by_side([full, reduced])
    assert [row.first_token_speedup for row in rows] == [1.0, 1.75]
    assert rows[1].to_dict()["first_token_s"] == 2.0
    assert list(rows[1].to_dict())[-5:] == ["file_s", "was_read", "first_token_s", "first_token_speedup", "reduced_for"]
    cells = dict(zip(*(line.strip("| ").split(" | ") for line in as_markdown(rows).splitlines()[2:5:2]), strict=False))
    assert (cells["file"], cells["first token"], cells["speed-up"]) == ("0.50 s", "3.50 s", "1.0 x")
    assert full.road == "file to first token 3.50 s (file 0.50, encode 1.00, reduce 0.000, prefill 2.00)"


def test_without_a_file_it_begins_with_the_frames_and_says_so():
    answer = made("a", was_read=True, prefill_s=0.25)
    assert answer.road == (
        "frames to first token 1.25 s (encode 1.00, reduce 0.000, prefill of the question alone 0.25)"
    )
    assert "| - | 1.00 s |" in as_markdown(side_by_side([answer]))


def test_variants_share_the_way_up_to_their_encoding(rows):
    full, *others = rows
    assert {(row.answer.file_s, row.answer.encode_s) for row in rows} == {(full.answer.file_s, full.answer.encode_s)}
    assert full.answer.file_s > 0
    for row in others:
        assert row.first_token_speedup == full.answer.first_token_s / row.answer.first_token_s


def test_the_terminals_table_has_every_figure_the_issue_names(rows):
    head, _, full, *_ = terminal(rows).splitlines()
    names = ["tokens", "retention", "file", "encode", "reduce", "prefill", "speed-up", "decode", "TFLOPs", "KV", "same"]
    for name in (*names, "first token"):
        assert name in head
    assert full.split()[:3] == ["full", "392/392", "100.0%"]
    assert "1.0 x" in full


def test_markdown_marks_the_fastest_and_the_closest(rows):
    text = as_markdown(rows)
    assert text.startswith(f"**{QUESTION}**")
    quick, near = fastest(rows), closest(rows)
    assert any(line.startswith(f"| {quick.name}<br>") and "fastest" in line for line in text.splitlines())
    assert any(line.startswith(f"| {near.name}<br>") and "closest to full" in line for line in text.splitlines())
    assert text.count("\n|") == len(rows) + 2


def test_csv_holds_the_figures_as_they_were_measured(rows):
    found = list(csv.DictReader(io.StringIO(as_csv(rows))))
    assert [line["stages"] for line in found] == [row.name for row in rows]
    for line, row in zip(found, rows, strict=True):
        assert float(line["prefill_s"]) == row.answer.prefill_s
        assert float(line["kl"]) == row.fidelity.kl
        assert line["answer"] == row.answer.text
    alone = list(csv.DictReader(io.StringIO(as_csv(side_by_side([row.answer for row in rows])))))
    assert alone[1]["kl"] == ""


def test_a_long_or_foreign_answer_keeps_the_table_whole():
    answer = 'many, "words" | ' * 40 + "\nand a line"
    rows = side_by_side([made("short"), cut(answer, 10)])
    assert list(csv.DictReader(io.StringIO(as_csv(rows))))[1]["answer"] == answer
    assert len(terminal(rows).splitlines()) == 5
    assert picture(rows).shape[2] <= 1600


def test_neither_a_question_nor_an_answer_is_a_formula_in_the_csv_file():
    answer = dataclasses.replace(made("=1+1"), question="@SUM(1)")
    (line,) = csv.DictReader(io.StringIO(as_csv(side_by_side([answer]))))
    assert (line["answer"], line["question"]) == ("'=1+1", "'@SUM(1)")


def test_the_picture_has_a_mark_for_the_closest_row(rows):
    image = picture(rows)
    assert image.shape[0] == 1
    assert image.dtype == torch.float32
    green = torch.tensor([0, 158, 115]) / 255
    assert int((image[0] - green).abs().sum(-1).lt(0.02).sum()) > 100


def test_where_the_truth_is_known_the_table_says_who_gave_it():
    answers = [made("Red."), cut("a reddish square", 10), cut("It is RED", 20)]
    rows = side_by_side(answers)
    assert [each.right for each in rows] == [None] * 3
    assert "right" not in as_markdown(rows)
    told = [dataclasses.replace(each, truth="red") for each in rows]
    assert [each.right for each in told] == [True, False, True]
    head, _, *lines = (line for line in as_markdown(told).splitlines() if line.startswith("|"))
    at = [cell.strip() for cell in head.split("|")].index("right")
    assert [line.split("|")[at].strip() for line in lines] == ["yes", "no", "yes"]
    assert [line["right"] for line in csv.DictReader(io.StringIO(as_csv(told)))] == ["True", "False", "True"]
