"""aot eval: one command from a question set to its table, resumed where it was stopped."""

import json
from pathlib import Path

import pytest

from comfyui_aot.aot import evaluation
from comfyui_aot.aot.cli.main import main
from comfyui_aot.aot.evaluation import open_set
from comfyui_aot.aot.evaluation.questions import Question
from comfyui_aot.aot.evaluation.records import RECORDS
from comfyui_aot.aot.evaluation.selection import Selection
from comfyui_aot.aot.files import alone
from comfyui_aot.tests.support.miniatures import write_egoschema_json
from comfyui_aot.tests.support.tiny import TinySet


@pytest.fixture
def aot(capsys, model_folder, tmp_path, monkeypatch):
    """aot eval shapes ... with the tiny model, in a folder of its own; gives code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def aot(*options, what="shapes"):
        code = main(["eval", what, "--model", str(model_folder), "--frames", "4", *map(str, options)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return aot


def test_shapes_are_evaluated_and_reported(aot, tmp_path):
    code, out, _ = aot("--limit", 2, "--stages", "aot", "paper", "blind", "--retention", "0.5,0.25", "--json")
    assert code == 0
    result = json.loads(out.splitlines()[-1])
    names = ["full", "aot 0.5", "aot 0.25", "paper", "blind"]
    assert [row["name"] for row in result["rows"]] == names
    assert [line.split("|")[1].strip() for line in out.splitlines()[2:8]] == [*names, "majority"]
    assert (result["clips"], result["model"], result["references"]) == (2, "tiny", ["full", "paper"])
    assert {path.name for path in (tmp_path / "eval-shapes").iterdir()} == {
        "curve.png", "encodings", "families.png", "records.jsonl", "results.json", "seconds.png", "settings.json",
        "table.csv", "table.md",
    }  # fmt: skip
    assert "of encodings are kept in eval-shapes/encodings" in out


def test_controls_stand_at_every_retention_at_which_they_can_be(aot):
    code, out, err = aot("--limit", 2, "--retention", "0.25,0.1", "--stages", "uniform", "--controls", "--json")
    assert (code, err) == (0, "")
    result = json.loads(out.splitlines()[-1])
    names = ["full", "uniform 0.25", "uniform 0.1", "fewer 0.25", "smaller 0.25", "smaller 0.1"]
    assert [row["name"] for row in result["rows"]] == names
    assert "Not in the table: fewer 0.1. So few tokens are less than a frame" in out


def test_a_control_that_can_be_nowhere_leaves_the_rest(aot):
    _, out, _ = aot("--limit", 1, "--retention", "0.1", "--stages", "fewer", "uniform", "--json")
    assert [row["name"] for row in json.loads(out.splitlines()[-1])["rows"]] == ["full", "uniform 0.1"]
    assert "Not in the table: fewer 0.1." in out


@pytest.mark.parametrize("stage", ["fewer:frames=9", "fewer:frames=9+uniform"])
def test_another_stage_that_cannot_begin_is_told_before_anything_is_asked(aot, tmp_path, stage):
    code, _, err = aot("--limit", 1, "--stages", "uniform", stage, "--retention", "0.1")
    assert (code, err.count("\n")) == (2, 1)
    assert "9 frames of 4 cannot be kept" in err
    assert not (tmp_path / "eval-shapes" / RECORDS).exists()


def test_the_report_tells_the_command_that_gives_it_again(aot):
    _, out, _ = aot("--limit", 1, "--retention", 0.5, "--stages", "intra", "--out", "here", "--json")
    command = json.loads(out.splitlines()[-1])["command"]
    assert command.startswith("aot eval shapes --limit 1 --frames 4 --model ")
    assert command.endswith("--stages intra --retention 0.5")


def test_the_same_command_again_gives_the_same_table(aot):
    first, again = (aot("--limit", 1, "--stages", "blind")[1] for _ in range(2))
    assert first == again


def test_later_stages_join_the_table(aot):
    aot("--limit", 1, "--stages", "blind")
    _, out, _ = aot("--limit", 1, "--stages", "intra", "--retention", "0.5", "--against", "blind", "--json")
    result = json.loads(out.splitlines()[-1])
    assert [row["name"] for row in result["rows"]] == ["full", "intra 0.5", "blind"]
    assert result["references"] == ["full", "blind"]


def test_no_cache_keeps_no_encodings(aot, tmp_path):
    code, out, _ = aot("--limit", 1, "--stages", "blind", "--no-cache")
    assert code == 0
    assert "encodings" not in out
    assert not (tmp_path / "eval-shapes" / "encodings").exists()


def test_a_stopped_run_says_how_to_go_on(aot, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("comfyui_aot.aot.evaluation.runner.evaluate", stop)
    code, _, err = aot("--limit", 1)
    assert code == 130
    assert "the same command goes on from there" in err


@pytest.fixture
def egoschema(tmp_path, make_clip):
    folder = write_egoschema_json(tmp_path / "egoschema")
    (folder / "videos").mkdir()
    for i in range(3):
        make_clip(f"egoschema/videos/uid-{i}.mp4")
    return folder


def test_a_published_set_is_read_from_its_folder(aot, egoschema):
    code, out, _ = aot("--data", egoschema, "--stages", "blind", "--json", what="egoschema")
    result = json.loads(out.splitlines()[-1])
    assert code == 0
    assert (result["clips"], result["questions"], result["asked"]) == (2, 2, {"all": 2})


def test_all_of_egoschema_gives_a_submission_of_every_variant(aot, egoschema, tmp_path):
    options = ("--data", egoschema, "--split", "full", "--stages", "intra", "--retention", "0.5")
    code, out, _ = aot(*options, what="egoschema")
    assert code == 0
    assert "submission-full.json, submission-intra-0.5.json" in out
    choices = json.loads((tmp_path / "eval-egoschema" / "submission-intra-0.5.json").read_text())
    assert choices.keys() == {"uid-0", "uid-1", "uid-2"}


def test_a_limited_published_set_has_fewer_questions(aot, egoschema):
    _, out, _ = aot("--data", egoschema, "--limit", 1, "--stages", "blind", "--json", what="egoschema")
    assert json.loads(out.splitlines()[-1])["questions"] == 1


def test_videos_that_are_missing_are_told_before_the_model_is_loaded(aot, egoschema):
    (egoschema / "videos" / "uid-1.mp4").unlink()
    code, _, err = aot("--data", egoschema, "--model", "nowhere", what="egoschema")
    assert code == 2
    assert "uid-1" in err


def test_a_damaged_clip_is_left_out_of_the_table_which_says_so(aot, egoschema, tmp_path):
    options = ("--data", egoschema, "--split", "full", "--stages", "blind")
    path = egoschema / "videos" / "uid-1.mp4"
    path.write_bytes(path.read_bytes()[:700])
    code, out, err = aot(*options, "--json", what="egoschema")
    result = json.loads(out.splitlines()[-1])
    assert code == 0
    assert (result["clips"], result["questions"], list(result["unreadable"])) == (2, 2, ["uid-1"])
    line = "1 of 3 clips could not be read and are left out; the first is uid-1: uid-1.mp4 cannot be read as a video"
    assert line in out and line in (tmp_path / "eval-egoschema" / "table.md").read_text()
    assert "Clip uid-1 is left out: uid-1.mp4 cannot be read" in err
    code, out, err = aot(*options, what="egoschema")
    assert code == 0 and line in out and "uid-1" not in err


def test_a_set_of_damaged_clips_is_a_users_mistake(aot, egoschema):
    for i in range(3):
        (egoschema / "videos" / f"uid-{i}.mp4").write_bytes(b"no video")
    code, _, err = aot("--data", egoschema, "--stages", "blind", what="egoschema")
    assert code == 2
    assert "None of the 2 clips could be read; the first: uid-" in err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--limit", 0), "it starts at 1"),
        (("--frames", 0), "give 1 or more"),
        (("--retention", "1.5"), "1.5"),
        (("--stages", "nonsense"), "No stage is called 'nonsense'"),
        (("--data", "folder"), "leave out --data"),
        (("--limit", 1, "--against", "tome"), "'tome' is no variant of this run; there are full, aot 0.25, aot 0.1"),
        (("--split", "nonsense"), "no split 'nonsense'"),
    ],
)
def test_a_users_mistake_is_one_line(aot, options, said):
    code, _, err = aot(*options)
    assert code == 2
    assert err.startswith("aot eval: ")
    assert said in err
    assert err.count("\n") == 1


def test_other_settings_in_the_same_folder_are_a_users_mistake(aot):
    aot("--limit", 1, "--stages", "blind")
    code, _, err = aot("--limit", 2, "--stages", "blind")
    assert code == 2
    assert "set.clips 1 there, 2 now" in err


def test_a_second_process_with_the_same_results_is_told_and_does_nothing(aot, tmp_path):
    results = tmp_path / "eval-shapes"
    with alone(results / RECORDS):
        code, _, err = aot("--limit", 1, "--stages", "blind")
        assert code == 2
        assert err.startswith(f"aot eval: Another process is at work on {Path('eval-shapes') / RECORDS}; wait until")
        assert err.count("\n") == 1
        assert len(list(results.iterdir())) == 1
    assert aot("--limit", 1, "--stages", "blind")[0] == 0


def test_more_questions_of_a_clip_are_asked_and_told_in_the_command(aot):
    told = (aot("--limit", 1, "--each", each, "--stages", "blind", "--out", f"o{each}", "--json")[1] for each in (1, 3))
    few, many = (json.loads(out.splitlines()[-1]) for out in told)
    assert many["questions"] > 2 * few["questions"]
    assert "--limit 1 --each 3 " in many["command"]


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("nonsense", {}, "there are shapes, hard-shapes, mvbench, videomme, egoschema, longvideobench"),
        ("mvbench", {}, "--data FOLDER"),
        ("mvbench", {"seed": 3}, "leave out --seed"),
        ("mvbench", {"each": 3}, "leave out --each"),
    ],
)
def test_what_a_set_does_not_take_is_refused(name, settings, said):
    with pytest.raises(evaluation.InputError, match=said):
        open_set(name, **settings)


def test_a_limited_set_has_its_families_share_the_limit():
    families = {"a": 10, "b": 4, "c": 1}
    questions = [Question(f"{f}{i}", f"{f}{i}", f, "?", "x") for f, count in families.items() for i in range(count)]
    chosen = [question.id for question in Selection(TinySet(questions=tuple(questions)), 7).questions]
    assert chosen == ["a0", "a3", "a6", "b0", "b1", "b2", "c0"]


@pytest.mark.parametrize("limit", [1, 3, 14, 15, 99])
def test_a_limit_is_met_where_there_are_so_many(limit):
    families = {"a": 10, "b": 4, "c": 1}
    questions = [Question(f"{f}{i}", f"{f}{i}", f, "?", "x") for f, count in families.items() for i in range(count)]
    chosen = Selection(TinySet(questions=tuple(questions)), limit).questions
    assert len(set(chosen)) == min(limit, 15)


def test_a_selection_is_another_set_with_the_same_clips_and_scores():
    whole = TinySet()
    part = Selection(whole, 2)
    assert part.identity == {"set": "tiny", "version": 1, "limit": 2}
    assert (part.name, part.max_new_tokens) == ("tiny", 3)
    assert part.frames("r", 2).source == "r"
    assert part.score(whole.questions[0], "Red.") == 1
