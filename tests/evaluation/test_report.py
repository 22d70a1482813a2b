"""What a table says follows from the records, and every form of it says the same."""

import csv
import dataclasses
import itertools
import json
import re

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.evaluation.curve import spread
from comfyui_aot.aot.evaluation.figures import PARTS, families_figure, seconds_figure
from comfyui_aot.aot.evaluation.questions import Question
from comfyui_aot.aot.evaluation.records import Record
from comfyui_aot.aot.evaluation.report import (
    CSV,
    CURVE,
    FAMILIES,
    JSON,
    SECONDS,
    TABLE,
    no_better,
    write_report,
    written,
)
from comfyui_aot.aot.evaluation.report import markdown as report
from comfyui_aot.aot.evaluation.summary import summarise
from comfyui_aot.aot.tables import markdown

ABOUT = {
    "set": "tiny",
    "model": "small",
    "frames": 8,
    "dtype": "float32",
    "device": "cpu",
    "command": "aot eval tiny",
    "date": "2026-11-22",
}
CLIPS = 12


def truth(clip, family):
    return "red" if family == "colour" and clip % 3 else "other"


QUESTIONS = tuple(
    Question(f"{clip}-{family}", str(clip), family, "?", truth(clip, family))
    for clip in range(CLIPS)
    for family in ("colour", "place")
    if family == "colour" or clip < 4
)


def answered(variant, right, *, kept=100, seconds=1.0, chain=None, questions=QUESTIONS):
    """Records of a variant that is right where ``right(question)`` says so, and silent elsewhere."""
    for clip in dict.fromkeys(question.clip for question in questions):
        asked = [question for question in questions if question.clip == clip]
        said = {question.id: question.answer if right(question) else "" for question in asked}
        scores = {question.id: float(right(question)) if question.answer else None for question in asked}
        yield Record(clip, variant, chain or variant, 100, kept, 2.0, 0.25, seconds, 0.5, said, scores)


def early(last):
    return lambda question: int(question.clip) < last


@pytest.fixture
def records():
    return [
        *answered("full", early(9)),
        *answered("blind", early(2), kept=0, seconds=0.01),
        *answered("aot 0.5", early(6), kept=50, seconds=0.4, chain="aot"),
        *answered("aot 0.25", early(3), kept=25, seconds=0.2, chain="aot"),
        *answered("paper-video-10", lambda question: 4 <= int(question.clip) < 8, kept=10, seconds=0.1),
    ]


@pytest.fixture
def summary(records):
    return summarise(QUESTIONS, records)


def row(summary, name):
    return next(row for row in summary.rows if row.name == name)


def test_accuracy_is_the_mean_over_questions_and_over_families(summary):
    full = row(summary, "full")
    assert full.accuracy.value == pytest.approx(13 / 16)
    assert full.family_mean.value == pytest.approx((9 / 12 + 1) / 2)


def test_families_have_wilsons_interval(summary):
    colour = row(summary, "full").families["colour"]
    expected = stats.binomtest(9, 12).proportion_ci(method="wilson")
    assert (colour.value, colour.low, colour.high) == pytest.approx((9 / 12, expected.low, expected.high))


def test_the_overall_interval_is_that_of_resampled_clips(summary):
    found = row(summary, "aot 0.5").accuracy
    assert found.low < found.value == 10 / 16 < found.high
    assert 0.3 < found.high - found.low < 0.8


def test_where_all_clips_score_alike_each_counts_once(records):
    alike = summarise(QUESTIONS, [*records, *answered("sure", lambda question: True)])
    found = row(alike, "sure").accuracy
    expected = stats.binomtest(CLIPS, CLIPS).proportion_ci(method="wilson")
    assert (found.value, found.low) == pytest.approx((1, expected.low))


def test_differences_are_paired_and_tested(summary):
    difference = row(summary, "aot 0.5").differences[0]
    assert (difference.against, difference.better, difference.worse) == ("full", 0, 3)
    assert difference.accuracy.value == pytest.approx(-3 / 16)
    assert difference.accuracy.low < -3 / 16 < difference.accuracy.high <= 0
    assert difference.p == pytest.approx(2 * 0.5**3)


def test_variants_are_compared_with_full_and_with_aot_as_released(summary):
    assert summary.references == ("full", "paper-video-10")
    assert [each.against for each in row(summary, "aot 0.5").differences] == ["full", "paper-video-10"]
    assert [each.against for each in row(summary, "full").differences] == ["paper-video-10"]


def test_another_variant_can_be_compared_with(records):
    found = summarise(QUESTIONS, records, against="aot 0.5")
    assert [each.against for each in row(found, "aot 0.25").differences] == ["full", "aot 0.5"]


def test_a_variant_that_is_not_there_cannot_be_compared_with(records):
    with pytest.raises(InputError, match="No variant 'tome' has answered all questions; there are full, "):
        summarise(QUESTIONS, records, against="tome")


def test_agreement_is_with_the_words_of_full_tokens(summary):
    assert row(summary, "full").agreement == 1
    assert row(summary, "aot 0.25").agreement == pytest.approx((16 - 13 + 6) / 16)


def test_costs_are_means_over_clips_and_speed_is_of_the_road_and_of_prefill(summary):
    reduced = row(summary, "aot 0.25")
    assert (reduced.tokens, reduced.retention, reduced.encode_s, reduced.prefill_s) == pytest.approx((25, 0.25, 2, 0.2))
    assert reduced.prefill_speedup == pytest.approx(5)
    assert reduced.speedup == pytest.approx((2 + 0.25 + 1) / (2 + 0.25 + 0.2))


def test_the_majority_answers_each_family_with_its_most_frequent_truth(summary):
    assert summary.majority == {"colour": 8 / 12, "place": 1}
    assert summary.majority_overall == pytest.approx(12 / 16)
    assert summary.asked == {"colour": 12, "place": 4}


def test_full_tokens_come_first_then_what_was_asked_for_then_the_rest(records):
    found = summarise(QUESTIONS, records, first=("aot 0.25", "blind"))
    assert [row.name for row in found.rows] == ["full", "aot 0.25", "blind", "aot 0.5", "paper-video-10"]


def test_variants_that_have_not_answered_everything_are_left_out(records):
    found = summarise(QUESTIONS, [*records, *list(answered("tome", early(3)))[:-1]])
    assert "tome" not in [row.name for row in found.rows]


def test_without_full_tokens_there_is_no_summary(records):
    with pytest.raises(InputError, match="No variant 'full'"):
        summarise(QUESTIONS, records[1:])


def test_questions_without_a_truth_count_for_agreement_alone():
    some = (*QUESTIONS, Question("x", "0", "secret", "?", ""))
    records = [*answered("full", early(9), questions=some), *answered("aot", early(12), questions=some)]
    found = summarise(some, records)
    assert (found.questions, sum(found.asked.values())) == (17, 16)
    assert row(found, "full").accuracy.value == pytest.approx(13 / 16)
    assert "secret" not in row(found, "full").families


def test_a_set_without_any_truth_has_a_table_and_a_picture_without_accuracies(tmp_path):
    hidden = tuple(dataclasses.replace(question, answer="") for question in QUESTIONS)
    found = summarise(hidden, [*answered("full", early(9), questions=hidden)])
    assert (found.rows[0].accuracy, found.majority_overall, found.asked) == (None, None, {})
    write_report(found, ABOUT, tmp_path)
    assert "no truth" in (tmp_path / TABLE).read_text()


def test_all_files_are_written_and_nothing_else(summary, tmp_path):
    write_report(summary, ABOUT, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {TABLE, CSV, JSON, CURVE, FAMILIES, SECONDS}
    assert set(written(summary)) == {path.name for path in tmp_path.iterdir()}
    for name in (CURVE, FAMILIES, SECONDS):
        assert min(Image.open(tmp_path / name).size) > 250
    assert min(Image.open(tmp_path / CURVE).size) > 500


def test_the_names_of_many_long_families_stand_apart(summary):
    families = [f"counterfactual_inference_{number}" for number in range(20)]
    rows = [dataclasses.replace(row, families=dict.fromkeys(families, row.families["colour"])) for row in summary.rows]
    many = dataclasses.replace(summary, asked=dict.fromkeys(families, 200), rows=tuple(rows))
    figure = families_figure(many, "Many")
    figure.draw_without_rendering()
    starts = [label.get_window_extent().x0 for label in figure.axes[0].get_xticklabels()]
    assert min(right - left for left, right in itertools.pairwise(starts)) > 2 * 8 / 72 * figure.dpi


def test_families_are_drawn_as_they_are_in_the_table_and_darker_where_more_is_lost(summary):
    axes = families_figure(summary, "Tiny").axes[0]
    names, families = [row.name for row in summary.rows], list(summary.asked)
    assert [label.get_text() for label in axes.get_yticklabels()] == names
    assert [label.get_text() for label in axes.get_xticklabels()] == [f"{f}\n({summary.asked[f]})" for f in families]
    drawn = np.array([float(text.get_text()) for text in axes.texts]).reshape(len(names), -1)
    right = np.array([[100 * row.families[family].value for family in families] for row in summary.rows])
    assert np.abs(drawn - right).max() <= 0.5
    shade = axes.images[0].get_array()
    assert not shade[0].any()
    worse = right < right[0]
    assert worse.any()
    assert (np.asarray(shade > 0) == worse).all()


def test_what_answers_cost_is_drawn_part_by_part(summary):
    axes = seconds_figure(summary, "Tiny").axes[0]
    assert [container.get_label() for container in axes.containers] == list(PARTS)
    for part, bars in zip(PARTS, axes.containers, strict=True):
        assert [bar.get_width() for bar in bars] == pytest.approx([getattr(row, f"{part}_s") for row in summary.rows])
    total = [sum(getattr(row, f"{part}_s") for part in PARTS) for row in summary.rows]
    assert [bar.get_x() + bar.get_width() for bar in axes.containers[-1]] == pytest.approx(total)
    assert axes.yaxis_inverted()  # the first row is the highest


def test_the_markdown_says_what_was_run_and_lists_every_variant_and_family(summary, tmp_path):
    write_report(summary, ABOUT, tmp_path)
    text = (tmp_path / TABLE).read_text()
    assert text.startswith("# tiny: 16 questions about 12 clips")
    assert all(part in text for part in ("aot eval tiny", "2026-11-22", "seed 0", "against paper-video-10"))
    variants, families = (part.splitlines() for part in text.split("\n\n") if part.startswith("|"))
    names = [line.split("|")[1].strip() for line in variants[2:]]
    assert names == ["full", "blind", "aot 0.5", "aot 0.25", "paper-video-10", "majority"]
    assert [cell.strip() for cell in families[0].split("|")[1:-1]] == ["variant", "colour", "place"]
    assert len({len(line) for line in variants}) == 1


def test_json_and_csv_hold_the_same_numbers(summary, tmp_path):
    result = write_report(summary, ABOUT, tmp_path)
    stored = json.loads((tmp_path / JSON).read_text())
    assert stored == json.loads(json.dumps(result))
    assert stored["set"] == "tiny"
    with (tmp_path / CSV).open() as file:
        for line, kept in zip(csv.DictReader(file), stored["rows"], strict=True):
            assert line["name"] == kept["name"]
            assert float(line["accuracy"]) == kept["accuracy"]["value"]
            assert float(line["family colour high"]) == kept["families"]["colour"]["high"]
            assert float(line["prefill_speedup"]) == kept["prefill_speedup"]
            assert float(line["speedup"]) == kept["speedup"]


def test_what_asks_and_is_no_better_than_its_own_controls_is_named(records, tmp_path):
    beside = {"": 6, " (another question)": 5, " (no relevance)": 6}
    for control, last in beside.items():
        records += answered(f"dart{control} 0.1", early(last), chain=f"dart{control}")
    said = "No better than the same without relevance: dart 0.1."
    assert no_better(summarise(QUESTIONS, records)) == [said]
    records += answered("fewer 0.1", early(6), chain="fewer")
    others = "dart 0.1, dart (another question) 0.1, dart (no relevance) 0.1"
    both = [f"No better than fewer or smaller frames at the same retention: {others}.", said]
    table = summarise(QUESTIONS, records)
    assert no_better(table) == both
    write_report(table, ABOUT, tmp_path)
    lines = (tmp_path / TABLE).read_text().splitlines()
    assert all(line in lines for line in both)


def test_a_table_is_aligned():
    assert markdown(["a", "long"], [["wide", "1"]], padded=True) == "| a    | long |\n| ---- | ---- |\n| wide | 1    |"


@pytest.mark.parametrize(
    ("wanted", "places"),
    [
        ([1, 5, 9], [1, 5, 9]),
        ([5, 5], [4.5, 5.5]),
        ([0, 0, 0], [0, 1, 2]),
        ([10, 10], [9, 10]),
        ([4.9, 5, 5.1, 6.2], [3.8, 4.8, 5.8, 6.8]),
    ],
)
def test_names_keep_their_distance_and_stay_near(wanted, places):
    assert spread(wanted, 1, 0, 10) == pytest.approx(places)


def test_questions_are_grouped_by_what_smaller_frames_get_right(records):
    smaller = answered("smaller 0.25", early(5), kept=25, seconds=0.2, chain="smaller")
    summary = summarise(QUESTIONS, [*records, *smaller])
    (group,) = summary.groups
    assert (group.name, group.controls) == ("aot 0.25", ("smaller 0.25",))
    # Full tokens are right about clips 0 to 8, smaller ones about 0 to 4, which have two questions but the last.
    assert (group.hard_questions, group.easy_questions) == (4, 9)
    assert (group.hard.value, group.easy.value) == pytest.approx((0, 6 / 9))
    text = report(summary, ABOUT)
    assert re.search(r"\| aot 0.25 +\| smaller 0.25 +\| 0.0 \(.*\| 4 +\| 66.7 \(.*\| 9 ", text)
    assert "where they fail" in text


def test_a_question_is_hard_where_fewer_and_smaller_frames_both_fail(records):
    smaller = [*answered("smaller 0.25", early(5), kept=25, seconds=0.2, chain="smaller")]
    fewer = answered("fewer 0.25", lambda question: int(question.clip) in (6, 7), kept=25, seconds=0.2, chain="fewer")
    (group,) = summarise(QUESTIONS, [*records, *smaller, *fewer]).groups
    assert group.controls == ("fewer 0.25", "smaller 0.25")
    # Of clips 5 to 8, which smaller frames get wrong and full tokens right, fewer frames get two right.
    alone = summarise(QUESTIONS, [*records, *smaller]).groups[0]
    of_two = sum(question.clip in ("6", "7") for question in QUESTIONS)
    assert (group.hard_questions, group.easy_questions) == (
        alone.hard_questions - of_two,
        alone.easy_questions + of_two,
    )
    assert of_two > 0


def test_without_controls_there_are_no_groups(summary):
    assert summary.groups == ()
    assert "| where one is right" not in report(summary, ABOUT)
