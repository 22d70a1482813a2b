"""aot quality: what stages keep of a set's clips or of a video, without a question."""

import json
import statistics

import pytest

from comfyui_aot.aot.cli.main import main
from comfyui_aot.aot.evaluation import open_set
from comfyui_aot.aot.models import load
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.aot.tokens.quality import figures


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


def test_neither_a_video_nor_a_set_is_one_line(quality):
    code, _, err = quality("nothing.mp4")
    assert code == 2
    assert err.startswith("aot quality: ") and "nothing.mp4" in err and err.count("\n") == 1
