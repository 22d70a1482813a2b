"""The letter read off an answer: by examples, and against lmms-eval's own functions on any text."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from comfyui_aot.aot.evaluation.published.answers import (
    egoschema_letter,
    longvideobench_letter,
    mvbench_letter,
    videomme_letter,
)
from comfyui_aot.tests.support import lmms_eval_tasks
from comfyui_aot.tests.support.searches import examples

OPTIONS = ("A. a red kite", "B. a blue kite", "C. two kites", "D. no kite at all", "E. a red kite, torn")

PIECES = (
    *"ABCDEFabcdef.,:;!?'\"()[]_-/ \n\t19",
    *("A.", "(B)", "c)", "D:", " E ", "a man", "1,000", "3.5", "Because ", "word ", "I", "option"),
    *("The answer is ", "the best answer is", "The correct option is ", "Best option:", "I choose ", "my answer is"),
    *("\uc815\ub2f5\uc740 ", "\u7b54\u6848\u662f", "\u00fc", *OPTIONS),
)
answers = st.lists(st.sampled_from(PIECES), max_size=14).map("".join) | st.text(max_size=30)
against = settings(max_examples=examples(400), deadline=None)


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("(B) a blue kite", "B"),
        ("b. a blue kite", "B"),
        ("The answer is (C).", "C"),
        ("A person flies a kite.", "A"),
        ("1,000 (kites), so D", "D"),
        ("1,000 kites, C-ish", ""),
        ("nothing", ""),
        ("", ""),
    ],
)
def test_mvbench_takes_the_first_letter_that_stands_alone(answer, letter):
    assert mvbench_letter(answer, OPTIONS) == letter


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("C", "C"),
        ("C. two kites", "C"),
        ("Between (A) and (B), (B)", "B"),
        ("The answer is D because A flies away", "A"),
        ("it is two kites: C", "C"),
        ("CAB", "B"),
        ("E", ""),
        ("nothing", ""),
        ("", ""),
    ],
)
def test_videomme_takes_the_most_telling_form(answer, letter):
    assert videomme_letter(answer, OPTIONS[:4]) == letter


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("E", "E"),
        ("(D) or (B) or (D)", "B"),
        ("E. a red kite, torn", "E"),
        ("I would say it is a. a red kite", "A"),
        ("a red kite", ""),
        ("", ""),
    ],
)
def test_egoschema_takes_the_letter_whose_last_place_comes_first(answer, letter):
    assert egoschema_letter(answer, OPTIONS) == letter


@pytest.mark.parametrize(
    ("answer", "letter"),
    [("D", "D"), ("The answer is B. A book", "B"), ("The best option is E", "E"), ("a red kite", ""), ("", "")],
)
def test_longvideobench_takes_the_first_capital_after_the_lead(answer, letter):
    assert longvideobench_letter(answer, OPTIONS) == letter


@pytest.fixture(scope="module")
def mvbench():
    return lmms_eval_tasks.utils("mvbench")


@pytest.fixture(scope="module")
def videomme():
    return lmms_eval_tasks.utils("videomme")


@pytest.fixture(scope="module")
def egoschema():
    return lmms_eval_tasks.utils("egoschema")


@pytest.fixture(scope="module")
def longvideobench():
    return lmms_eval_tasks.utils("longvideobench")


@against
@given(answer=answers, truth=st.integers(0, 3))
@example(answer="." * 40 + "A", truth=0)
def test_mvbench_scores_as_lmms_eval_does(mvbench, answer, truth):
    doc = {"candidates": list("wxyz"), "answer": "wxyz"[truth]}
    expected = mvbench.mvbench_process_results(doc, [answer])["mvbench_accuracy"]["score"]
    assert (mvbench_letter(answer, doc["candidates"]) == "ABCD"[truth]) == bool(expected)


@against
@given(answer=answers)
def test_videomme_reads_as_lmms_eval_does(videomme, answer):
    assert videomme_letter(answer, OPTIONS[:4]) == videomme.extract_characters_regex(answer)


@against
@given(answer=answers)
def test_egoschema_reads_as_lmms_eval_does_and_has_no_letter_where_that_guesses(egoschema, answer):
    index_to_answer, choices = egoschema.get_multi_choice_info({"option": list(OPTIONS)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(egoschema.random, "choice", lambda choices: "")
        expected, _ = egoschema.parse_multi_choice_response(answer, choices, index_to_answer)
    assert egoschema_letter(answer, OPTIONS) == expected


@against
@given(answer=answers)
def test_longvideobench_reads_as_lmms_eval_does_and_has_no_letter_where_that_guesses(longvideobench, answer):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(longvideobench.random, "choice", lambda choices: "")
        expected = longvideobench.parse_multi_choice_response(answer, list("ABCDE"), {})
    assert longvideobench_letter(answer, OPTIONS) == expected
