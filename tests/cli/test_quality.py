"""aot quality: what stages keep of a set's clips or of a video, without a question."""

import json
import statistics

import pytest

from comfyui_aot.aot.cli.main import main
from comfyui_aot.aot.evaluation import open_set
from comfyui_aot.aot.models import load
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.aot.tokens.quality import figures
from comfyui_aot.tests.support.miniatures import write_egoschema_json


@pytest.fixture
def quality(capsys, model_folder):
    """aot quality of a set or video with the tiny model, four frames; gives code, output and errors."""

    def quality(what, *options):
        code = main(["quality", str(what), "--model", str(model_folder), "--frames", "4", *map(str, options)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return quality


def test_a_sets_figures_are_the_means_over_its_clips(quality, model_folder, tmp_path):
    options = "--limit", 2, "--retention", "0.5,0.25", "--stages", "intra", "evs", "--cache", tmp_path / "kept"
    code, out, _ = quality("shapes", *options, "--json")
    result = json.loads(out.splitlines()[-1])
    assert (code, result["clips"]) == (0, 2)
    assert list(result["rows"]) == ["full", "intra 0.5", "intra 0.25", "evs 0.5", "evs 0.25"]
    model, questions = load(str(model_folder)), open_set("shapes", limit=2, frames=4)
    clips = dict.fromkeys(question.clip for question in questions.questions)
    encoded = [model.encode(questions.frames(clip, 4)) for clip in clips]
    expected = [figures(parse("evs:retention=0.25")(tokens), tokens) for tokens in encoded]
    for name, value in result["rows"]["evs 0.25"].items():
        assert value == pytest.approx(statistics.fmean(getattr(each, name) for each in expected), rel=1e-5)
    assert result["rows"]["evs 0.25"]["cells"] == pytest.approx(0.25, abs=0.01)
    assert result["rows"]["intra 0.25"]["cells"] > 0.9
    assert len(list((tmp_path / "kept").iterdir())) == 2
    assert quality("shapes", *options, "--json")[1].splitlines()[:7] == out.splitlines()[:7]


def test_a_video_is_measured_as_it_is_and_what_cannot_be_done_is_left_out(quality, carphone):
    code, out, _ = quality(carphone, "--retention", 0.25, "--stages", "aot", "dycoke", "--json")
    result = json.loads(out.splitlines()[-1])
    assert (code, result["clips"], list(result["rows"])) == (0, 1, ["full", "aot 0.25"])
    assert result["rows"]["full"]["error"] == 0 and result["rows"]["full"]["cells"] == 1
    assert result["rows"]["full"]["frames"] == pytest.approx(1)
    assert "Left out: dycoke 0.25: DyCoke: retention 0.25" in out


def test_frames_merged_inside_the_tower_have_figures_and_no_error(quality, carphone):
    code, out, _ = quality(carphone, "--retention", 0.25, "--stages", "earlytom+aot", "aot", "--json")
    rows = json.loads(out.splitlines()[-1])["rows"]
    assert code == 0
    assert rows["earlytom+aot 0.25"]["error"] is None and rows["aot 0.25"]["error"] > 0
    assert rows["earlytom+aot 0.25"]["tokens"] == rows["aot 0.25"]["tokens"]


def test_a_video_of_fewer_frames_is_measured_where_that_is_allowed(quality, make_clip):
    options = make_clip("short.mp4", frames=3), "--retention", 0.5, "--stages", "intra"
    code, _, err = quality(*options)
    assert code == 2 and "4 frames asked of short.mp4, which has 3" in err
    code, out, _ = quality(*options, "--fewer", "--json")
    assert code == 0
    assert json.loads(out.splitlines()[-1])["rows"]["full"]["tokens"] == 3 * 196


def test_neither_a_video_nor_a_set_is_one_line(quality):
    code, _, err = quality("nothing.mp4")
    assert code == 2
    assert err.startswith("aot quality: ") and "nothing.mp4" in err and err.count("\n") == 1


@pytest.fixture
def filmed(make_clip, tmp_path):
    """A published set of three films; the first of them is cut short."""
    folder = write_egoschema_json(tmp_path / "egoschema")
    (folder / "videos").mkdir()
    for i in range(3):
        make_clip(f"egoschema/videos/uid-{i}.mp4")
    path = folder / "videos" / "uid-0.mp4"
    path.write_bytes(path.read_bytes()[:700])
    return folder


def test_a_damaged_clip_is_left_out_and_told_with_its_reason(quality, filmed):
    options = "--data", filmed, "--split", "full", "--retention", 0.5, "--stages", "intra"
    code, out, err = quality("egoschema", *options, "--json")
    result = json.loads(out.splitlines()[-1])
    assert (code, result["clips"], list(result["rows"])) == (0, 2, ["full", "intra 0.5"])
    assert list(result)[-1] == "unreadable" and list(result["unreadable"]) == ["uid-0"]
    assert "uid-0.mp4 cannot be read as a video" in result["unreadable"]["uid-0"]
    line = "1 of 3 clips could not be read and are left out; the first is uid-0: uid-0.mp4 cannot be read as a video"
    assert line in out and "Clip uid-0 is left out: uid-0.mp4 cannot be read as a video" in err
    (filmed / "videos" / "uid-0.mp4").write_bytes((filmed / "videos" / "uid-1.mp4").read_bytes())
    code, out, _ = quality("egoschema", *options, "--json")
    mended = json.loads(out.splitlines()[-1])
    assert (code, mended["clips"], mended["unreadable"]) == (0, 3, {})
    assert "could not be read" not in out


def test_a_set_of_damaged_clips_is_a_users_mistake(quality, filmed):
    for i in range(3):
        (filmed / "videos" / f"uid-{i}.mp4").write_bytes(b"no video")
    code, _, err = quality("egoschema", "--data", filmed, "--split", "full")
    assert code == 2
    assert "aot quality: 3 of 3 clips could not be read and are left out; the first is uid-0: uid-0.mp4" in err


def test_a_damaged_video_is_one_line(quality, make_clip):
    path = make_clip("cut.mp4")
    path.write_bytes(path.read_bytes()[:700])
    code, out, err = quality(path)
    assert (code, out) == (2, "")
    assert err.startswith("aot quality: cut.mp4 cannot be read as a video") and err.count("\n") == 1
