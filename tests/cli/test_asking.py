"""Commands with stages that ask: the question they are given, and how often the video is read for it."""

import json

import pytest

from comfyui_aot.aot.cli.main import main


@pytest.fixture
def command(capsys, model_folder):
    """A command with the tiny model; gives code, the last line as JSON where there is any, and errors."""

    def command(*words):
        code = main([*map(str, words), "--model", str(model_folder), "--json"])
        captured = capsys.readouterr()
        lines = captured.out.splitlines()
        return code, json.loads(lines[-1]) if lines and code == 0 else None, captured.err

    return command


TWO = "What is it?\nWhich way does it move?"


def answer(command, clip, *options):
    given = "--frames", 4, "--retention", 0.2, "--max-new-tokens", 2
    return command("answer", clip, TWO, "--a-line-each", *given, *options)


def test_every_question_is_read_for_itself_and_that_is_said(command, carphone):
    code, result, err = answer(command, carphone, "--stages", "dart")
    assert (code, result["readings"]) == (0, 2)
    assert [each["reduced_for"] for each in result["answers"]] == TWO.splitlines()
    assert "Video read 2 times" in err
    streamed = answer(command, carphone, "--stages", "dart", "--stream")[1]
    assert [each["answer"] for each in streamed["answers"]] == [each["answer"] for each in result["answers"]]


def test_an_assistants_reading_counts(command, carphone):
    _, result, err = answer(command, carphone, "--stages", "dytok:method=random")
    assert result["readings"] == 4
    assert "every second time by the assistant" in err
    code, _, err = answer(command, carphone, "--stages", "dytok", "--stream")
    assert code == 2 and "--stream" in err and err.count("\n") == 1


def test_stages_that_do_not_ask_read_once(command, carphone):
    _, result, err = answer(command, carphone, "--stages", "uniform")
    assert result["readings"] == 1
    assert [each["reduced_for"] for each in result["answers"]] == [None, None]
    assert "Video read" not in err


def test_quality_needs_the_question_where_a_stage_asks(command, carphone):
    code, _, err = command("quality", carphone, "--frames", 4, "--stages", "semvid")
    assert code == 2
    assert "semvid 0.25 chooses tokens by the question; give --question" in err and err.count("\n") == 1
    code, result, _ = command("quality", carphone, "--frames", 4, "--stages", "semvid", "--question", "What is it?")
    assert code == 0
    assert -1 <= result["unrelated"] <= 1
    assert list(result["rows"]) == ["full", "semvid 0.25", "semvid 0.1"]


def test_the_list_of_stages_says_which_ask(capsys):
    assert main(["stages", "--json"]) == 0
    out = capsys.readouterr().out
    listed = json.loads(out.splitlines()[-1])["stages"]
    assert [each["name"] for each in listed if each["asks"]] == ["aks", "cdpruner", "dart", "dytok", "semvid"]
    assert out.count("It asks: what it keeps depends on the question.") == 5
