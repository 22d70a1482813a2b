"""Commands with stages that ask: the question they are given, and how often the video is read for it."""

import json

import pytest

from comfyui_aot.aot.cli.main import main
from comfyui_aot.aot.models import load
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.aot.tokens import storage
from comfyui_aot.aot.video.sampling import Sampling
from comfyui_aot.aot.video.video_source import load_video
from comfyui_aot.tests.support.clips import saved


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


@pytest.fixture(scope="module")
def tokens_file(tmp_path_factory, model_folder, carphone):
    """Tokens that DART chose for one question, as Save Tokens writes them."""
    model = load(model_folder)
    tokens = model.encode(load_video(carphone, Sampling(frames=4)))
    path = tmp_path_factory.mktemp("tokens") / "chosen.safetensors"
    storage.save(parse("dart:retention=0.2")(model.about(tokens, "What is it?")), path)
    return path


def test_saved_tokens_are_answered_about_and_another_question_is_told_of(command, tokens_file):
    code, result, err = command("answer", tokens_file, "What is it?", "--max-new-tokens", 2)
    assert (code, result["reduced_for"]) == (0, "What is it?")
    assert "another question" not in err
    code, result, err = command(
        "answer", tokens_file, "Who moves?\nWhat is it?", "--a-line-each", "--max-new-tokens", 2
    )
    assert code == 0 and result["tokens_kept"] < result["tokens_full"]
    assert err.count("Tokens were reduced for another question: What is it?\n") == 1


def test_options_that_need_the_frames_are_refused_beside_saved_tokens(command, tokens_file):
    for option, name in ((("--stream",), "--stream"), (("--stages", "fewer:frames=2"), "a stage that acts before")):
        code, _, err = command("answer", tokens_file, "What is it?", *option)
        assert code == 2 and f"leave out {name}" in err and err.count("\n") == 1


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory, model_folder):
    return saved(tmp_path_factory.mktemp("clips") / "tiny-clip", "clip", model_folder)


RELEASED = "cdpruner:relevance=clip"


def test_cdpruner_as_released_looks_through_the_clip_that_is_named(command, carphone, clip_folder):
    given = "--frames", 4, "--max-new-tokens", 2, "--stages", RELEASED
    named = "--relevance-model", clip_folder
    code, result, _ = command("answer", carphone, "What is it?", *given, "--retention", 0.2, *named)
    assert (code, result["reduced_for"]) == (0, "What is it?")
    code, result, _ = command("compare", carphone, "What is it?", *given, "cdpruner", "--retention", 0.2, *named)
    assert [row["stages"] for row in result["rows"]] == ["full", f"{RELEASED} 0.2", "cdpruner 0.2"]


def test_a_relevance_model_that_lacks_or_that_nobody_asks_is_refused(command, carphone, clip_folder):
    code, _, err = command("answer", carphone, "What is it?", "--stages", RELEASED)
    assert code == 2 and "give --relevance-model FOLDER" in err and err.count("\n") == 1
    code, _, err = command("answer", carphone, "What is it?", "--stages", "dart", "--relevance-model", clip_folder)
    assert code == 2 and "no stage asks it" in err
    code, _, err = command(
        "answer", carphone, "What is it?", "--stages", RELEASED, "--relevance-model", clip_folder, "--stream"
    )
    assert code == 2 and "--stream" in err


def test_an_evaluation_asks_the_relevance_model_again_when_it_is_another(command, clip_folder, tmp_path):
    given = "--frames", 4, "--limit", 1, "--retention", 0.2, "--stages", RELEASED, "--out", tmp_path / "out"
    code, result, err = command("eval", "shapes", *given, "--relevance-model", clip_folder)
    assert code == 0, err
    assert [row["name"] for row in result["rows"]] == ["full", f"{RELEASED} 0.2"]
    records = (tmp_path / "out" / "records.jsonl").read_text().splitlines()
    assert [bool(json.loads(line)["inputs"]) for line in records] == [False, True]
    assert "--relevance-model" in result["command"]
