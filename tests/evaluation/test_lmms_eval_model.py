"""Our model inside lmms-eval: its own evaluator runs it on a tiny task of ours, and says what we say without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from types import SimpleNamespace

import pytest

from comfyui_aot.aot.answering.answerer import ask
from comfyui_aot.aot.answering.generation import Generation
from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.evaluation.published.frames import clip_frames
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.tests.support.numbered import write_numbered

QUESTIONS = ("What is on the left?", "Is it bright?")

TASK = """\
task: aot_tiny
dataset_path: json
dataset_kwargs:
  data_files:
    test: {rows}
test_split: test
output_type: generate_until
doc_to_visual: !function functions.visual
doc_to_text: "{{{{question}}}}"
doc_to_target: "left"
process_results: !function functions.score
generation_kwargs:
  max_new_tokens: 4
metric_list:
  - metric: spoke
    aggregation: !function functions.mean
    higher_is_better: true
"""

FUNCTIONS = """\
def visual(doc):
    return [doc["video"]]


def score(doc, said):
    return {"spoke": float(bool(said[0]))}


def mean(values):
    return sum(values) / len(values)
"""

RUN = """\
import json, sys
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager

tasks = TaskManager(include_path=sys.argv[1], include_defaults=False)
results = simple_evaluate("aot", sys.argv[2], tasks=["aot_tiny"], task_manager=tasks, device="cpu")
said = [sample["filtered_resps"][0] for sample in results["samples"]["aot_tiny"]]
print(json.dumps({"said": said, "spoke": results["results"]["aot_tiny"]["spoke,none"]}))
"""


@pytest.fixture(scope="session")
def model_module():
    """The module under test, which lmms-eval has to be there for."""
    try:
        from comfyui_aot.aot.evaluation import lmms_eval_model
    except ImportError as error:
        pytest.skip(f"lmms-eval, or something it imports, is not installed: {error}")
    return lmms_eval_model


@pytest.fixture
def aot(model_module, miniature_folder):
    """aot(frames=2, stages="full"): the model as lmms-eval would make it, with the rows of a task set on it."""

    def make(**arguments):
        made = model_module.AOT(str(miniature_folder), **{"frames": 2} | arguments, device="cpu")
        made.task_dict = {"aot_tiny": {"test": {}}}
        return made

    return make


@pytest.fixture
def two_clips(make_clip):
    return [make_clip("one.mp4", frames=6), make_clip("two.mp4", frames=9)]


@pytest.fixture
def damaged(tmp_path):
    """A video that cannot be opened, and one that loses its frames on the way."""
    (tmp_path / "none.mp4").write_bytes(b"no video")
    path = write_numbered(tmp_path / "holes.mkv", "ffv1", numbers=range(40), reordered=0)
    content = bytearray(path.read_bytes())
    half, three_quarters = len(content) // 2, len(content) * 3 // 4
    content[half:three_quarters] = bytes(three_quarters - half)
    path.write_bytes(content)
    return [tmp_path / "none.mp4", path]


def request(model, visuals, question="What is on the left?", **settings):
    """A request as lmms-eval's task makes it."""
    rows = model.task_dict["aot_tiny"]["test"]
    rows[len(rows)] = visuals
    settings = {"max_new_tokens": 1, "until": ["\n\n"]} | settings
    return SimpleNamespace(args=(question, settings, lambda row: row, len(rows) - 1, "aot_tiny", "test"))


def expected(model, clips, stages):
    tokens = [parse(stages)(model.encode(clip_frames(clip, 4))) for clip in clips]
    return [ask(model, kept, question, Generation(4)).text for kept in tokens for question in QUESTIONS]


def test_lmms_evals_evaluator_runs_it_and_gets_our_answers(
    model_module, miniature, miniature_folder, two_clips, damaged, tmp_path
):
    if not any(point.name == "aot" for point in entry_points(group="lmms_eval.models")):
        pytest.skip("this pack was installed before it had lmms-eval's entry point: install it again")
    pytest.importorskip("datasets")
    clips = [two_clips[0], damaged[0], two_clips[1]]
    rows = [{"video": str(clip), "question": question} for clip in clips for question in QUESTIONS]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    task = tmp_path / "task"
    task.mkdir()
    (task / "tiny.yaml").write_text(TASK.format(rows=tmp_path / "rows.jsonl"), encoding="utf-8")
    (task / "functions.py").write_text(FUNCTIONS, encoding="utf-8")
    stages = "intra:budget=60+inter:clip_length=2,keep_ratio=0.5"
    ran = subprocess.run(
        [sys.executable, "-c", RUN, str(task), f'pretrained={miniature_folder},frames=4,stages="{stages}"'],
        env=os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "Failed to load" not in ran.stderr
    said = expected(miniature, two_clips, stages)
    said[2:2] = ["", ""]
    assert "aot: 2 of 6 answers are empty, because 1 video could not be read" in ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1]) == {"said": said, "spoke": sum(map(bool, said)) / len(said)}


def test_the_manifest_is_read_before_anything_else_of_lmms_eval(model_module):
    code = "import comfyui_aot.aot.evaluation.lmms_eval_manifest as m; print(m.manifest().simple_class_path)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split()[-1] == f"{model_module.AOT.__module__}.AOT"
    assert "Failed to load" not in ran.stderr


def test_questions_in_a_row_about_one_video_share_its_encoding(aot, two_clips, monkeypatch):
    model = aot()
    encoded = []
    encode = model._model.encode
    monkeypatch.setattr(model._model, "encode", lambda frames: encoded.append(frames.source) or encode(frames))
    one, two = map(str, two_clips)
    model.generate_until([request(model, [clip]) for clip in (one, one, two, one)])
    assert encoded == ["one.mp4", "two.mp4", "one.mp4"]


def test_a_damaged_video_is_told_once_and_the_others_are_asked(aot, miniature, two_clips, damaged, capsys):
    asked = aot(frames=4)
    one, two = map(str, two_clips)
    none, holes = map(str, damaged)
    videos = [one, none, none, holes, two, none]
    said = asked.generate_until([request(asked, [video], QUESTIONS[0], max_new_tokens=4) for video in videos])
    right = expected(miniature, two_clips, "full")
    assert said == [right[0], "", "", "", right[2], ""]
    assert list(asked.unreadable) == [none, holes]
    assert "none.mp4 cannot be read as a video" in asked.unreadable[none] and "holes.mkv" in asked.unreadable[holes]
    err = capsys.readouterr().err
    assert err.count(f"aot: {none} is left out: none.mp4") == err.count(f"aot: {holes} is left out: holes.mkv") == 1
    assert "aot: 4 of 6 answers are empty, because 2 videos could not be read" in err


def test_stages_are_chosen_as_on_the_command_line(model_module):
    chosen = model_module._pipeline
    assert chosen(None, None) == parse("full")
    assert chosen(None, 0.25) == parse("aot").at_retention(0.25)
    assert chosen("intra", 0.1) == parse("intra").at_retention(0.1)
    assert chosen('"intra:budget=60+inter"', None) == parse("intra:budget=60+inter")


def test_an_answer_ends_at_the_tasks_stops(model_module):
    assert model_module._until("B\n\nbecause", ["\n\n"]) == "B"
    assert model_module._until("B because", "because") == "B "
    assert model_module._until("B", None) == model_module._until("B", [""]) == "B"


def test_greedy_unless_the_task_samples(model_module):
    assert model_module._generation({"temperature": 0.7, "do_sample": False}, "t") == Generation()
    sampled = model_module._generation({"temperature": 0.7, "top_p": 0.9, "do_sample": True, "max_new_tokens": 8}, "t")
    assert sampled == Generation(8, temperature=0.7, top_p=0.9)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"max_frames_num": 32}, "'max_frames_num'"),
        ({"batch_size": 8}, "8"),
        ({"frames": 0}, "1 frame or more"),
        ({"stages": "paper", "retention": 0.1}, "fixes what it keeps"),
        ({"stages": "shuffle"}, "'shuffle'"),
    ],
)
def test_arguments_it_cannot_use_are_refused(aot, arguments, words):
    with pytest.raises(InputError, match=words):
        aot(**arguments)


def test_likelihoods_rounds_images_and_beams_are_refused(aot, two_clips):
    model = aot()
    for call in (model.loglikelihood, model.generate_until_multi_round):
        with pytest.raises(InputError, match="generate_until"):
            call([])
    for visuals in ([], [object()], [str(two_clips[0])] * 2):
        with pytest.raises(InputError, match="one video"):
            model.generate_until([request(model, visuals)])
    with pytest.raises(InputError, match="5 beams"):
        model.generate_until([request(model, [str(two_clips[0])], num_beams=5)])
