"""The aot command: every verb for real, JSON as the last line, a user's mistake one line and exit code 2."""

import json
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import av
import pytest

from comfyui_aot.aot.answering.fidelity import Fidelity
from comfyui_aot.aot.cli import stages as stages_command
from comfyui_aot.aot.cli.compare import to_show
from comfyui_aot.aot.cli.main import main
from comfyui_aot.aot.comparison.compare import Row
from comfyui_aot.aot.stages import every_stage

WORKFLOW = Path(__file__).parents[1] / "frozen" / "aot_full_pipeline.json"
"""Of one video and one answer."""


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def last_json(out):
    return json.loads(out.splitlines()[-1])


def test_answer_gives_text_and_figures(capsys, bunny, embedded_folder):
    code, out, _ = run(
        capsys, "answer", bunny, "What is it?", "--frames", 4, "--retention", 0.3, "--max-new-tokens", 4, "--json"
    )
    result = last_json(out)
    assert code == 0
    assert result["clip"] == "bigbuckbunny.mp4"
    assert result["tokens_kept"] == round(0.3 * 784)
    assert out.startswith(result["answer"])


def test_answer_without_stages_keeps_all_tokens(capsys, bunny, miniature_embedded):
    _, out, _ = run(capsys, "answer", bunny, "What is it?", "--frames", 2, "--max-new-tokens", 2, "--json")
    assert (last_json(out)["tokens_kept"], last_json(out)["pipeline"]) == (392, "full")


def test_a_streamed_answer_is_the_eager_one(capsys, bunny, miniature_embedded):
    question = ("answer", bunny, "What is it?", "--frames", 5, "--tokens", 77, "--max-new-tokens", 3, "--json")
    eager, streamed = (last_json(run(capsys, *question, *switch)[1]) for switch in ((), ("--stream",)))
    assert eager["tokens_kept"] == 77
    for name in ("clip", "answer", "stages", "tokens_full", "tokens_kept", "prompt_tokens"):
        assert streamed[name] == eager[name]


FEWER = (("answer",), ("answer", "--stream"), ("compare", "--retention", "0.5", "--stages", "intra"))


@pytest.mark.parametrize("words", FEWER, ids=" ".join)
def test_all_frames_of_a_video_that_has_fewer_are_taken_where_that_is_allowed(
    capsys, make_clip, words, miniature_embedded
):
    verb, *more = words
    question = (verb, make_clip("short.mp4", frames=5), "What?", "--max-new-tokens", 1, "--json", *more, "--frames")
    code, out, err = run(capsys, *question, 8)
    assert (code, out) == (2, "")
    assert err.startswith(f"aot {verb}: 8 frames asked of short.mp4, which has 5 ") and "allow fewer" in err
    for frames, taken in ((8, 5), (5, 5), (4, 4)):
        code, out, _ = run(capsys, *question, frames, "--fewer")
        result = last_json(out)
        rows = result.get("rows", [result])
        assert code == 0 and [row["tokens_full"] for row in rows] == [taken * 196] * len(rows)
    by_rate = run(capsys, *question, 8, "--fewer", "--fps", 100)
    assert last_json(by_rate[1]).get("rows", [last_json(by_rate[1])])[0]["tokens_full"] == 5 * 196


def test_a_transport_that_ends_unconverged_is_one_line(capsys, bunny, miniature_embedded):
    chain = "intra:budget=60,solver=sinkhorn,max_iterations=2"
    code, _, err = run(capsys, "answer", bunny, "What?", "--frames", 2, "--stages", chain, "--max-new-tokens", 1)
    lines = [line for line in err.splitlines() if "unconverged" in line]
    assert code == 0
    assert len(lines) == 1
    assert lines[0].startswith("aot answer: 2 of 2 transport problems ended unconverged")


def test_compare_puts_full_tokens_first_and_writes_pictures(capsys, bunny, tmp_path, miniature_embedded):
    code, out, _ = run(
        capsys, "compare", bunny, "What is it?", "--frames", 2, "--retention", "0.5,0.25", "--stages", "aot",
        "paper-onevision-10", "--max-new-tokens", 3, "--pictures", tmp_path / "maps", "--json",
    )  # fmt: skip
    result = last_json(out)
    assert code == 0
    assert [row["stages"] for row in result["rows"]] == ["full", "aot 0.5", "aot 0.25", "paper-onevision-10"]
    assert [row["tokens_kept"] for row in result["rows"][:3]] == [392, 196, 98]
    wanted = {"stages", "tokens_full", "tokens_kept", "retention", "encode_s", "reduce_s", "prefill_s", "answer"}
    assert all(wanted <= row.keys() for row in result["rows"])
    assert {path.name for path in (tmp_path / "maps").iterdir()} == {row["picture"] for row in result["rows"]}


def test_compare_writes_a_video_of_full_tokens_beside_the_fewest_that_say_the_same(
    capsys, bunny, tmp_path, miniature_embedded
):
    file = tmp_path / "new" / "compared.mp4"
    code, out, _ = run(
        capsys, "compare", bunny, "What is it?", "--frames", 2, "--retention", "0.5,0.25", "--max-new-tokens", 1,
        "--video", file, "--json",
    )  # fmt: skip
    result = last_json(out)
    assert code == 0
    assert list(result)[-1] == "video"
    assert result["video"] == str(file)
    assert f"as a video: {file}" in out
    assert "full beside aot 0." in out
    with av.open(str(file)) as video:
        assert video.streams.video[0].width == 1280
        assert video.streams.video[0].frames >= 50


@pytest.mark.parametrize("name", ["compared.avi", "compared"])
def test_compare_refuses_another_kind_of_video_before_any_work(capsys, tmp_path, name):
    code, _, err = run(capsys, "compare", tmp_path / "none.mp4", "What?", "--video", tmp_path / name)
    assert code == 2
    assert err.strip() == f"aot compare: --video is {name}; give a file name that ends in .mp4."


def comparison_row(name, kept, same, kl):
    answer = SimpleNamespace(tokens_kept=kept, tokens_full=100)
    return Row(name, answer, 1.0, Fidelity(same, kl=kl, log_probability=-1.0))


def test_the_video_of_a_comparison_shows_the_fewest_tokens_that_say_the_same_or_else_the_closest():
    full = comparison_row("full", 100, True, 0.0)
    rows = [full, comparison_row("a", 50, True, 0.1), comparison_row("b", 20, True, 0.3)]
    unlike = [comparison_row("c", 10, False, 0.6), comparison_row("d", 5, False, 0.5)]
    assert [row.name for row in to_show([*rows, *unlike])] == ["full", "b"]
    assert [row.name for row in to_show([full, *unlike])] == ["full", "d"]
    assert [row.name for row in to_show([full])] == ["full"]


def test_run_runs_the_bundled_workflow_with_inputs_changed(capsys, bunny, tmp_path, miniature_embedded):
    (tmp_path / "input").mkdir()
    shutil.copy(bunny, tmp_path / "input")
    changes = ["AOTLoadVideo.frames=4", "AOTAnswer.max_new_tokens=3", "AOTIntraFrame.retention=0.5"]
    code, out, _ = run(
        capsys,
        "run",
        WORKFLOW,
        "--base",
        tmp_path,
        "--json",
        *(part for change in changes for part in ("--set", change)),
    )
    result = last_json(out)
    assert code == 0
    assert [node["type"] for node in result["nodes"]][-1] in ("AOTAnswer", "AOTTokenMap")
    assert result["answers"][0]["stages"] == ["intra", "inter"]
    assert result["answers"][0]["tokens_full"] == 784
    (picture,) = [image for node in result["nodes"] for image in node["images"]]
    assert (tmp_path / picture).is_file()


def test_stages_lists_every_stage_with_its_settings(capsys):
    _, out, _ = run(capsys, "stages", "--json")
    listed = last_json(out)
    assert {stage["name"] for stage in listed["stages"]} == set(every_stage())
    assert {stage["name"]: stage["acts"] for stage in listed["stages"]}["fewer"] == "frames"
    assert "paper-onevision-10" in listed["presets"]


def test_models_lists_the_embedded_model_and_a_folders_own(capsys, tmp_path):
    folder = tmp_path / "maker" / "my-llava"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llava_onevision"}')
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "bert"}')
    _, out, _ = run(capsys, "models", "--folder", tmp_path, "--json")
    assert [model["name"] for model in last_json(out)["models"]] == ["embedded", "maker/my-llava"]


def test_bench_reduce_measures_against_the_limit(capsys):
    code, out, _ = run(capsys, "bench", "reduce", "--frames", 4, "--dim", 32, "--repeats", 1, "--json")
    row = last_json(out)["rows"][0]
    assert code == 0
    assert row["ratio"] == pytest.approx(row["reduce_s"] / row["limit_s"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["answer", "gone.mp4", "What?"], "gone.mp4"),
        (["answer", "BUNNY", "What?", "--frames", "500"], "132"),
        (["answer", "BUNNY", "What?", "--frames", "0"], "at least 1"),
        (["answer", "BUNNY", "What?", "--stages", "magic"], "No stage is called 'magic'"),
        (["answer", "BUNNY", "What?", "--retention", "1.5", "--frames", "2"], "Retention|retention"),
        (["answer", "BUNNY", "What?", "--retention", "0.1", "--stages", "paper-onevision-10"], "fixes what it keeps"),
        (["answer", "BUNNY", "What?", "--tokens", "0"], "1 or more"),
        (["answer", "BUNNY", "What?", "--tokens", "999", "--frames", "2"], "give 1 to 392 tokens"),
        (["answer", "BUNNY", "What?", "--stages", "inter:clips=times,cut_times=soon"], "not seconds"),
        (["answer", "BUNNY", "What?", "--stages", "intra:solver=magic"], "released, sinkhorn"),
        (["bench", "importance", "--tower", "eiffel"], "embedded, siglip"),
        (["answer", "BUNNY", "What?", "--temperature", "-1"], "temperature"),
        (["answer", "BUNNY", "What?", "--model", "nowhere", "--frames", "2"], "No model in nowhere"),
        (["answer", "BUNNY", "What?", "--dtype", "int3", "--frames", "2"], "float32"),
        (["answer", "BUNNY", "What?", "--device", "abacus", "--frames", "2"], "abacus"),
        (["answer", "BUNNY", "", "--frames", "2"], "question is empty"),
        (["bench", "reduce", "--frames", "0"], "start at 1"),
        (["bench", "tower", "--stages", "aot", "--frames", "2"], "does nothing before there are tokens"),
        (["models", "--folder", "nowhere"], "No folder nowhere"),
        (["run", "nowhere.json"], "nowhere.json"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(capsys, bunny, miniature_embedded, arguments, says):
    import re

    code, _, err = run(capsys, *(bunny if argument == "BUNNY" else argument for argument in arguments))
    lines = [line for line in err.splitlines() if line.startswith("aot ")]
    assert code == 2
    assert len(lines) == 1
    assert re.search(says, lines[0])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["answer", "clip.mp4", "What?", "--retention", "ten"], "--retention: invalid float value: 'ten'"),
        (["answer", "clip.mp4"], "required: question"),
        (["shapes", "abc"], "invalid int value: 'abc'"),
        (["answr", "clip.mp4", "What?"], "invalid choice: 'answr'"),
        (["bench", "foo"], "invalid choice: 'foo'"),
        (["stages", "--colour"], "aot stages: unrecognized arguments: --colour; 'aot stages --help'"),
    ],
)
def test_what_cannot_be_parsed_is_one_line_too(capsys, words, says):
    with pytest.raises(SystemExit) as ended:
        main(words)
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert says in line
    assert "--help' says what it takes." in line


@pytest.mark.parametrize("words", [["--help"], ["answer", "--help"], ["bench", "--help"], ["eval", "--help"]])
def test_help_does_not_wait_for_torch(words):
    code = "import sys; from comfyui_aot.aot.cli.main import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\n"
    code += "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code, *words], stdout=subprocess.DEVNULL, check=True)


def test_a_reader_that_has_enough_is_no_error():
    command = [sys.executable, "-m", "comfyui_aot", "stages"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        error = process.stderr.read()
    assert (process.returncode, error) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
@pytest.mark.parametrize("words", [["stages"], ["stages", "--json"], ["stages", "aot"]])
def test_an_output_that_cannot_be_written_is_one_line(words):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "comfyui_aot", *words], stdout=full, stderr=subprocess.PIPE, text=True
        )
    line = "aot stages: the output cannot be written (No space left on device); make room there.\n"
    assert (done.returncode, done.stderr) == (2, line)


def test_help_tells_the_defaults_that_say_something_as_they_are_typed(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["eval", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    assert "each stage is run at each of them (default: 0.25,0.1)" in told and "(default: aot)" in told
    assert "default: None" not in told and "default: False" not in told


def test_the_version_is_the_packages(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"aot {metadata.version('comfyui-aot')}\n"


def test_one_stage_is_listed_by_its_name_and_a_slip_of_the_pen_is_guessed(capsys, bunny):
    code, out, _ = run(capsys, "stages", "vidcom2", "--json")
    assert code == 0
    assert [stage["name"] for stage in last_json(out)["stages"]] == ["vidcom2"]
    assert "vidcom2-10" in last_json(out)["presets"]
    code, _, err = run(capsys, "stages", "vidcom")
    assert code == 2 and "No stage is called 'vidcom'; there are aks, aot, " in err
    code, _, err = run(capsys, "compare", bunny, "What?", "--stages", "vidcom")
    assert code == 2 and "(did you mean vidcom2?); there are" in err


def test_run_prints_a_nodes_table_and_names_its_file(capsys, bunny, tmp_path, miniature_embedded):
    (tmp_path / "input").mkdir()
    shutil.copy(bunny, tmp_path / "input")
    settings = (
        "AOTLoadVideo.frames=2",
        "AOTSweep.max_new_tokens=1",
        "AOTSweep.stages=intra",
        "AOTSweep.retentions=0.5",
    )
    sets = [word for setting in settings for word in ("--set", setting)]
    code, out, _ = run(
        capsys, "run", WORKFLOW.with_name("aot_retention_sweep.json"), "--base", tmp_path, *sets, "--json"
    )
    assert code == 0
    (entry,) = (node for node in last_json(out)["nodes"] if node["type"] == "AOTSweep")
    assert entry["tables"][0] in out and "| intra 0.5" in out
    assert f"    {entry['files'][0]}\n" in out and (tmp_path / entry["files"][0]).is_file()


@pytest.fixture
def faulty(monkeypatch, tmp_path):
    """`aot stages` as it is when it has a fault."""

    def run(options):
        raise KeyError("one\ntwo\x1b" + "x" * 500)

    monkeypatch.setattr(stages_command, "run", run)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_a_fault_of_the_program_is_one_line_and_a_file_with_the_rest(capsys, faulty, tmp_path):
    code, out, err = run(capsys, "stages")
    (file,) = tmp_path.iterdir()
    assert (code, out) == (70, "")
    assert err.startswith("aot stages: a fault of aot itself (KeyError: ")
    assert err.endswith(f"; the rest is in {file}: report it with that file and 'aot doctor'.\n")
    assert err.count("\n") == 1 and err.strip().isprintable() and len(err) < 600
    assert "Traceback (most recent call last)" in file.read_text() and "in run" in file.read_text()


def test_a_fault_that_no_file_can_tell_of_is_told_in_full(capsys, faulty, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    code, _, err = run(capsys, "stages")
    assert code == 70 and "no file can be written" in err and "Traceback" in err
