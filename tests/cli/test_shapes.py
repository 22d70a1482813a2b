"""aot shapes: a clip, its questions and answers, and what a model says beside the truth."""

from __future__ import annotations

import json

import pytest

from comfyui_aot.aot.answering.generation import Generation
from comfyui_aot.aot.answering.session import Session
from comfyui_aot.aot.cli.main import main
from comfyui_aot.aot.evaluation.hard_set import HardShapesSet
from comfyui_aot.aot.evaluation.shapes_set import FAMILIES, first_answer, shapes_set
from comfyui_aot.aot.models import load
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.aot.video.sampling import Sampling
from comfyui_aot.aot.video.video_source import load_video

SEED, FRAMES = 2_000_003, 4


@pytest.fixture
def aot(capsys):
    """aot shapes ...; gives code, output and errors."""

    def aot(*options):
        code = main(["shapes", *map(str, options)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return aot


def test_questions_and_truths_are_those_of_the_set(aot):
    code, out, _ = aot(SEED, "--frames", FRAMES, "--json")
    asked = shapes_set("test", 1, 3, FRAMES).questions
    rows = json.loads(out.splitlines()[-1])["rows"]
    assert code == 0
    assert rows == [{"family": q.family, "question": q.text, "truth": q.answer} for q in asked]
    assert all(f"{q.text}  " in out for q in asked)


def test_hard_clips_and_their_questions_are_had_by_an_option(aot, tmp_path):
    code, out, _ = aot(SEED, "--hard", "--frames", FRAMES, "--mp4", tmp_path / "clip.mp4", "--json")
    drawn = shapes_set("test", 1, 3, FRAMES, kind=HardShapesSet)
    assert code == 0
    assert [row["question"] for row in json.loads(out.splitlines()[-1])["rows"]] == [q.text for q in drawn.questions]
    written = load_video(tmp_path / "clip.mp4", Sampling(frames=FRAMES)).pixels.float()
    assert (written - drawn.frames(str(SEED), FRAMES).pixels).abs().mean() < 4


def test_what_is_said_stands_beside_the_truth_and_what_is_wrong_is_marked(aot, model_folder):
    code, out, _ = aot(SEED, "--frames", FRAMES, "--ask", "--model", model_folder, "--retention", "0.5", "--json")
    assert code == 0
    rows = json.loads(out.splitlines()[-1])["rows"]
    model, asked = load(str(model_folder)), shapes_set("test", 1, 3, FRAMES)
    tokens = model.encode(asked.frames(str(SEED), FRAMES))
    for name, shown in (("full", tokens), ("aot 0.5", parse("aot:retention=0.5")(tokens))):
        said = Session(model, shown).ask([q.text for q in asked.questions], Generation(4)).texts
        assert [row[name]["said"] for row in rows] == list(said)
        right = [
            first_answer(FAMILIES[q.family], text) == q.answer for q, text in zip(asked.questions, said, strict=True)
        ]
        assert [row[name]["right"] for row in rows] == right
        assert {row[name]["tokens"] for row in rows} == {shown.tokens_kept}
        assert f"{name}: {sum(right)} of {len(rows)} right, {shown.tokens_kept} tokens" in out
    wrong = sum(not row["full"]["right"] for row in rows) + sum(not row["aot 0.5"]["right"] for row in rows)
    assert sum(line.count("  x ") for line in out.splitlines()) == wrong > 0


def test_the_clip_can_be_had_as_a_file(aot, tmp_path):
    code, out, _ = aot(SEED, "--frames", FRAMES, "--mp4", tmp_path / "clip.mp4")
    assert code == 0
    assert f"The clip is in {tmp_path / 'clip.mp4'}" in out
    assert load_video(tmp_path / "clip.mp4", Sampling(frames=FRAMES)).pixels.shape == (FRAMES, 378, 378, 3)


@pytest.mark.parametrize(
    ("options", "line"),
    [((-1,), "Seed -1; seeds begin at 0."), ((5, "--frames", 3), "A scene of 3 frames; take 4 frames or more")],
)
def test_a_mistake_is_one_line(aot, options, line):
    code, _, errors = aot(*options)
    assert code == 2
    assert errors.startswith(f"aot shapes: {line}")
    assert errors.count("\n") == 1
