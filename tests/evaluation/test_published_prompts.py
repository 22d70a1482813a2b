"""What the published sets ask: word for word as recorded here, and as lmms-eval builds it."""

from __future__ import annotations

import pytest

from comfyui_aot.aot.evaluation.published import SETS, egoschema, longvideobench, mvbench, open_set, videomme
from comfyui_aot.tests.support import lmms_eval_tasks
from comfyui_aot.tests.support.miniatures import (
    EGOSCHEMA_ROWS,
    LONGVIDEOBENCH_ROWS,
    MVBENCH_ROW,
    VIDEOMME_ROWS,
    write_egoschema_json,
    write_longvideobench,
    write_mvbench,
    write_videomme,
)


def test_mvbench_asks_for_the_best_option():
    assert mvbench.prompt(MVBENCH_ROW) == (
        "Question:What does the person lift off the stove?\n"
        "Option:\n(A) A pan\n(B) A kettle\n(C) A lid\n(D) Nothing\nOnly give the best option.\n"
    )


def test_videomme_asks_for_the_letter():
    assert videomme.prompt(VIDEOMME_ROWS[1]) == (
        "Select the best answer to the following multiple-choice question based on the video and the subtitles. "
        "Respond with only the letter (A, B, C, or D) of the correct option.\n"
        "Which tool is used 1 times?\nA. A saw.\nB. A drill.\nC. A plane.\nD. None of them.\n"
        "\nAnswer with the option's letter from the given choices directly."
    )


def test_egoschema_asks_for_the_letter():
    assert egoschema.prompt(EGOSCHEMA_ROWS[0]) == (
        "What is C up to in part 0?\nA. C bakes bread.\nB. C knits.\nC. C paints a fence.\nD. C reads aloud.\n"
        "E. C tunes a guitar.\nAnswer with the option's letter from the given choices directly."
    )


def test_longvideobench_asks_for_the_letter():
    assert longvideobench.prompt("When the tram stops, what is beside it?", ("a bicycle", "a dog")) == (
        "When the tram stops, what is beside it?\nA. a bicycle\nB. a dog\n"
        "Answer with the option's letter from the given choices directly.\n"
    )


@pytest.mark.parametrize("task", mvbench.TASKS)
def test_mvbench_asks_as_lmms_eval_does(task):
    theirs = lmms_eval_tasks.utils("mvbench")
    said = lmms_eval_tasks.settings("mvbench", f"mvbench_{task}.yaml")["lmms_eval_specific_kwargs"]["default"]
    assert mvbench.prompt(MVBENCH_ROW) == theirs.mvbench_doc_to_text(MVBENCH_ROW, said)


def test_mvbench_looks_for_cut_clips_where_lmms_eval_does():
    assert {task: source.cut for task, source in mvbench.TASKS.items()} == lmms_eval_tasks.utils("mvbench").DATA_LIST


def test_videomme_asks_as_lmms_eval_does():
    theirs = lmms_eval_tasks.utils("videomme")
    said = lmms_eval_tasks.settings("videomme", "videomme.yaml")["lmms_eval_specific_kwargs"]["default"]
    for row in VIDEOMME_ROWS:
        assert videomme.prompt(row) == theirs.videomme_doc_to_text(row, said)


@pytest.mark.parametrize("task", ["egoschema", "egoschema_subset"])
def test_egoschema_asks_as_lmms_eval_does(task):
    theirs = lmms_eval_tasks.utils("egoschema")
    said = lmms_eval_tasks.settings("egoschema", f"{task}.yaml")["lmms_eval_specific_kwargs"]["default"]
    for row in EGOSCHEMA_ROWS:
        assert egoschema.prompt(row) == theirs.egoschema_doc_to_text(row, said)


def test_longvideobench_asks_as_lmms_eval_does():
    theirs = lmms_eval_tasks.utils("longvideobench")
    said = lmms_eval_tasks.settings("longvideobench", "longvideobench_val_v.yaml")["lmms_eval_specific_kwargs"]
    for row in LONGVIDEOBENCH_ROWS:
        padded = row["candidates"] + ["N/A"] * (5 - len(row["candidates"]))
        doc = row | {f"option{i}": text for i, text in enumerate(padded)}
        assert longvideobench.prompt(row["question"], row["candidates"]) == theirs.longvideobench_doc_to_text(
            doc, said["default"]
        )


@pytest.mark.parametrize(
    ("name", "task", "file"),
    [
        ("mvbench", "mvbench", "_default_template_yaml"),
        ("videomme", "videomme", "videomme.yaml"),
        ("egoschema", "egoschema", "_default_template_yaml"),
        ("longvideobench", "longvideobench", "longvideobench_val_v.yaml"),
    ],
)
def test_answers_may_be_as_long_as_in_lmms_eval(tmp_path, name, task, file):
    if name == "videomme":
        pytest.importorskip("pyarrow")
    writers = (write_mvbench, write_videomme, write_egoschema_json, write_longvideobench)
    questions = open_set(name, dict(zip(SETS, writers, strict=True))[name](tmp_path / name))
    generation = lmms_eval_tasks.settings(task, file)["generation_kwargs"]
    assert (questions.max_new_tokens, generation["temperature"]) == (generation["max_new_tokens"], 0)
