"""aot batch from a folder to rows: the answers of aot answer, once each, whatever happens on the way."""

import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial

import pytest

from comfyui_aot.aot.answering.together import TogetherAnswerer
from comfyui_aot.aot.batch.rows import ROWS, Rows
from comfyui_aot.aot.batch.videos import Recipe
from comfyui_aot.aot.cli.main import main
from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.files import alone
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.aot.video.sampling import Sampling
from comfyui_aot.tests.support.videos import write_clip

QUESTION = "What is {name}?"


@pytest.fixture
def clips(tmp_path):
    folder = tmp_path / "clips"
    (folder / "sub").mkdir(parents=True)
    for i, name in enumerate(("a.mp4", "b.mp4", "sub/c.mp4")):
        write_clip(folder / name, frames=6 + i)
    return folder


@pytest.fixture
def options(model_folder):
    return ["--model", str(model_folder), "--frames", "4", "--max-new-tokens", "6"]


@pytest.fixture
def aot(capsys, options, tmp_path, monkeypatch):
    """aot batch ..., with the tiny model; gives code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def aot(*words, verb="batch"):
        code = main([verb, *map(str, words), *options])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return aot


def rows_of(folder):
    return [json.loads(line) for line in (folder / ROWS).read_text().splitlines()]


def answers_of(folder):
    return {(row["id"], row["question"]): row["answer"] for row in rows_of(folder)}


CHAINS = (
    ["--retention", "0.5"],
    ["--stages", "fewer:frames=2+aot:retention=0.5"],
    ["--stages", "cdpruner:retention=0.5"],
    ["--stages", "uniform:retention=0.5+fastv:layer=1"],
    ["--stages", "uniform:retention=0.5+positions"],
    ["--stages", "dytok"],
    ["--stages", "aot:retention=0.5,clip_length=2", "--stream"],
    ["--stages", "aot:retention=0.4,clip_length=2+positions", "--stream"],
)


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: chain[1])
def test_answers_are_those_of_aot_answer(aot, clips, tmp_path, chain):
    code, _, err = aot(clips, QUESTION, "Is it day?", "--out", "out", "--batch", "2", *chain)
    assert code == 0, err
    found = rows_of(tmp_path / "out")
    assert len(found) == 6
    for row in found[::3]:
        _, out, _ = aot(row["video"], row["question"], "--json", *chain, verb="answer")
        expected = json.loads(out.splitlines()[-1])
        same = ("answer", "tokens_full", "tokens_kept", "retention", "prompt_tokens", "new_tokens")
        assert [row[name] for name in same] == [expected[name] for name in same]


@pytest.mark.parametrize(
    ("chain", "alone"), [("uniform+positions", False), ("uniform+fastv", True), ("earlytom", True), ("dytok", True)]
)
def test_only_stages_that_change_how_the_model_runs_have_it_to_themselves(model, chain, alone):
    assert Recipe(model, parse(chain), Sampling()).needs_model_alone is alone


def test_rows_say_what_they_are_of(aot, clips, tmp_path):
    code, out, _ = aot(clips, QUESTION, "--out", "out", "--retention", "0.5", "--format", "csv", "parquet", "--json")
    assert code == 0
    assert json.loads(out.splitlines()[-1]) == {
        "out": "out", "files": ["rows.jsonl", "rows.csv", "rows.parquet"], "videos": 3, "rows": 3, "new": 3,
        "errors": 0, "captions": 0, "captions_kept": 0,
    }  # fmt: skip
    row = next(row for row in rows_of(tmp_path / "out") if row["id"] == "sub/c.mp4")
    assert (row["question"], row["model"], row["stages"]) == ("What is c?", "tiny", "aot:retention=0.5")
    assert row["error"] is None and row["tokens_kept"] * 2 == row["tokens_full"]
    assert all(row[name] > 0 for name in ("file_s", "encode_s", "reduce_s", "prefill_s", "decode_s"))
    assert row["sha256"] == subprocess.check_output(["sha256sum", clips / "sub/c.mp4"], text=True).split()[0]
    parquet = pytest.importorskip("pyarrow.parquet").read_table(tmp_path / "out" / "rows.parquet")
    assert parquet.to_pylist() == rows_of(tmp_path / "out")
    assert (tmp_path / "out" / "rows.csv").read_text().splitlines()[0].startswith("id,video,preset,question,answer,")


def test_errors_are_rows_and_are_asked_again_only_where_that_is_wanted(aot, clips, tmp_path):
    whole = (clips / "a.mp4").read_bytes()
    (clips / "a.mp4").write_bytes(whole[:700])
    (clips / "b.mp4").write_bytes(b"")
    code, _, err = aot(clips, QUESTION, "--out", "out")
    assert code == 1 and "2 of 3 rows have an error" in err
    by_id = {row["id"]: row for row in rows_of(tmp_path / "out")}
    assert by_id["a.mp4"]["answer"] is None and "a.mp4" in by_id["a.mp4"]["error"]
    assert by_id["sub/c.mp4"]["answer"]
    (clips / "a.mp4").write_bytes(whole)
    _, out, _ = aot(clips, QUESTION, "--out", "out")
    assert "3 rows, 0 of them new" in out
    code, _, err = aot(clips, QUESTION, "--out", "out", "--retry")
    found = rows_of(tmp_path / "out")
    assert code == 1 and sorted(row["id"] for row in found if row["error"] is None) == ["a.mp4", "sub/c.mp4"]
    assert len(found) == 3


def test_an_error_that_nobody_foresaw_is_of_the_video_that_has_it(aot, clips, tmp_path, monkeypatch):
    answer = TogetherAnswerer.answer

    def failing(self, videos, *args, **settings):
        if any("b?" in question for video in videos for question in video.questions):
            raise RuntimeError("unforeseen")
        return answer(self, videos, *args, **settings)

    assert aot(clips, QUESTION, "--out", "expected")[0] == 0
    monkeypatch.setattr(TogetherAnswerer, "answer", failing)
    assert aot(clips, QUESTION, "--out", "out")[0] == 1
    by_id = {row["id"]: row for row in rows_of(tmp_path / "out")}
    assert by_id.pop("b.mp4")["error"] == "RuntimeError: unforeseen"
    expected = answers_of(tmp_path / "expected")
    assert {name: row["answer"] for name, row in by_id.items()} == {
        name: expected[name, f"What is {name[-5]}?"] for name in by_id
    }


def test_a_name_of_another_encoding_is_a_row_like_others(aot, clips, tmp_path):
    try:
        os.rename(clips / "b.mp4", os.fsencode(clips) + b"/b\xfc.mp4")
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    words = [clips, QUESTION, "--out", "out", "--captions", "--format", "csv", "parquet"]
    code, out, _ = aot(*words)
    assert code == 0 and "3 rows, 3 of them new" in out
    rows = rows_of(tmp_path / "out")
    row = next(row for row in rows if row["id"] == "b\\xfc.mp4")
    assert row["video"] == f"{clips}/b\\xfc.mp4" and row["question"] == "What is b\\xfc?" and row["answer"]
    assert os.path.exists(os.fsencode(clips) + b"/b\xfc.txt")
    parquet = pytest.importorskip("pyarrow.parquet").read_table(tmp_path / "out" / "rows.parquet")
    assert parquet.to_pylist() == rows
    _, out, _ = aot(*words)
    assert "3 rows, 0 of them new" in out


def test_later_videos_and_questions_join_the_rows(aot, clips, tmp_path):
    aot(clips, QUESTION, "--out", "out", "--limit", "1")
    before = (tmp_path / "out" / ROWS).read_bytes()
    _, out, _ = aot(clips, QUESTION, "Is it day?", "--out", "out", "--json")
    assert json.loads(out.splitlines()[-1])["new"] == 5
    assert (tmp_path / "out" / ROWS).read_bytes().startswith(before)
    assert len(answers_of(tmp_path / "out")) == 6


def test_rows_of_other_settings_are_not_added_to(aot, clips):
    aot(clips, QUESTION, "--out", "out", "--limit", "1")
    code, _, err = aot(clips, QUESTION, "--out", "out", "--retention", "0.5")
    assert code == 2
    assert "has rows of other settings: stages full there, aot:retention=0.5 now" in err


def test_captions_are_beside_the_clips_and_those_there_are_not_asked_for(aot, clips):
    (clips / "b.txt").write_text("by hand\n")
    code, out, _ = aot(clips, "Who?", "--out", "out", "--captions", "--prefix", "x, ", "--json")
    result = json.loads(out.splitlines()[-1])
    assert code == 0 and (result["captions"], result["captions_kept"], result["rows"]) == (2, 1, 2)
    assert (clips / "b.txt").read_text() == "by hand\n"
    assert (clips / "sub" / "c.txt").read_text().startswith("x, ")
    _, out, _ = aot(clips, "Who?", "--out", "out", "--captions", "--prefix", "x, ", "--replace", "--json")
    result = json.loads(out.splitlines()[-1])
    assert (result["captions"], result["new"]) == (1, 1)
    assert (clips / "b.txt").read_text().startswith("x, ")


def test_captions_are_no_clips_of_a_later_run(aot, clips):
    words = [clips, QUESTION, "--out", "out", "--captions", "--pattern", "sub/*", "--json"]
    for new in (1, 0):
        code, out, err = aot(*words)
        assert code == 0, err
        result = json.loads(out.splitlines()[-1])
        assert (result["videos"], result["new"]) == (1, new)


def test_a_caption_that_a_killed_run_has_not_written_is_written_from_its_row(aot, clips, tmp_path):
    aot(clips, "Who?", "--out", "out", "--captions")
    expected = (clips / "a.txt").read_bytes()
    (clips / "a.txt").unlink()
    before = (tmp_path / "out" / ROWS).read_bytes()
    aot(clips, "Who?", "--out", "out", "--captions")
    assert (clips / "a.txt").read_bytes() == expected
    assert (tmp_path / "out" / ROWS).read_bytes() == before


def test_a_line_that_was_cut_off_is_answered_again(aot, clips, tmp_path):
    aot(clips, QUESTION, "--out", "out")
    path, expected = tmp_path / "out" / ROWS, answers_of(tmp_path / "out")
    path.write_bytes(path.read_bytes()[:-30])
    _, out, _ = aot(clips, QUESTION, "--out", "out")
    assert "3 rows, 1 of them new" in out
    assert answers_of(tmp_path / "out") == expected


def test_a_second_run_on_the_same_rows_says_so(aot, clips, tmp_path):
    with alone(tmp_path / "out" / ROWS):
        code, _, err = aot(clips, QUESTION, "--out", "out")
    assert code == 2 and "Another process is at work on" in err


@pytest.mark.skipif(sys.platform == "win32", reason="a process is killed in another way there")
def test_a_run_that_is_killed_again_and_again_answers_every_video_once(aot, options, tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    for i in range(12):
        write_clip(folder / f"{i}.mp4", frames=6 + i)
    words = [str(folder), "Who?", "--captions", "--batch", "2", "--out", str(tmp_path / "out")]
    command = [sys.executable, "-m", "comfyui_aot", "batch", *words, *options]
    rows = tmp_path / "out" / ROWS
    kills = 0
    for wanted in (1, 4, 8):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and (not rows.exists() or rows.read_bytes().count(b"\n") < wanted):
            time.sleep(0.005)
        process.kill()
        kills += process.wait() == -signal.SIGKILL
    assert kills >= 2
    before = rows.read_bytes()
    code, _, err = aot(*words)
    assert code == 0, err
    assert rows.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    assert sorted(row["id"] for row in rows_of(tmp_path / "out")) == sorted(f"{i}.mp4" for i in range(12))
    assert sorted(os.listdir(tmp_path / "out")) == ["rows.jsonl", "settings.json"]
    for row in rows_of(tmp_path / "out"):
        assert (folder / row["id"]).with_suffix(".txt").read_text() == f"{row['answer']}\n"
    assert len(os.listdir(folder)) == 24


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent in another way there")
def test_a_run_that_is_stopped_says_how_to_go_on(options, clips, tmp_path):
    for i in range(12):
        shutil.copy(clips / "a.mp4", clips / f"{i}.mp4")
    command = [
        sys.executable,
        "-m",
        "comfyui_aot",
        "batch",
        str(clips),
        "Who?",
        "--batch",
        "1",
        *options,
        "--out",
        "out",
    ]
    rows = tmp_path / "out" / ROWS
    with subprocess.Popen(command, stderr=subprocess.PIPE, cwd=tmp_path, text=True) as process:
        while process.poll() is None and not rows.exists():
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "What was answered is in out; the same command goes on from there." in err and "aot batch: stopped." in err
    assert "Traceback" not in err


def test_rows_that_cannot_be_written_end_the_run_in_a_line(aot, clips, monkeypatch):
    def full(path, line):
        raise InputError(f"{path} cannot be written (No space left on device); make room there.")

    monkeypatch.setattr("comfyui_aot.aot.batch.rows.append_line", full)
    code, _, err = aot(clips, QUESTION, "--out", "out")
    assert code == 2 and "No space left on device" in err
    assert not any(each.name == "aot-batch" for each in threading.enumerate())


class _Server(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        if self.path.startswith("/moved/"):
            self.send_response(302)
            self.send_header("Location", f"{self.path.removeprefix('/moved')}?key=secret")
            self.end_headers()
        else:
            super().do_GET()

    do_HEAD = do_GET

    def log_message(self, *args):
        self.server.paths.append(self.path)


@pytest.fixture
def server(clips):
    pytest.importorskip("aiohttp")
    pytest.importorskip("fsspec")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Server, directory=clips)) as server:
        server.paths = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_list_of_urls_that_are_allowed_is_fetched_and_redirects_are_not_followed(aot, clips, server, tmp_path):
    host = f"http://127.0.0.1:{server.server_address[1]}"
    urls = [f"{host}/a.mp4?key=secret", f"{host}/moved/b.mp4?key=secret", f"{host}/none.mp4?key=secret", "sub/c.mp4"]
    (tmp_path / "list.txt").write_text("\n".join(urls))
    words = ["list.txt", "Who?", "--videos", clips, "--out", "out"]
    code, _, err = aot(*words)
    assert code == 2 and f"--allow-url {host}/" in err and server.paths == []
    code, _, _ = aot(*words, "--allow-url", f"{host}/")
    rows = rows_of(tmp_path / "out")
    assert "secret" not in str(rows)
    by_place = {row["video"].removeprefix(host): row for row in rows}
    assert code == 1 and len(rows) == 4
    assert by_place["/a.mp4"]["answer"] and by_place[str(clips / "sub/c.mp4")]["answer"]
    assert "leads elsewhere, to /b.mp4" in by_place["/moved/b.mp4"]["error"] and "/b.mp4" not in server.paths
    assert "none.mp4" in by_place["/none.mp4"]["error"]
    assert by_place["/a.mp4"]["sha256"] == subprocess.check_output(["sha256sum", clips / "a.mp4"], text=True).split()[0]


def test_a_broken_video_at_a_url_is_named_in_its_error(aot, clips, server, tmp_path):
    host = f"http://127.0.0.1:{server.server_address[1]}"
    (clips / "torn one.mp4").write_bytes(b"no video")
    (tmp_path / "list.txt").write_text(f"{host}/torn%20one.mp4")
    code, _, _ = aot("list.txt", "Who?", "--allow-url", f"{host}/", "--out", "out")
    (row,) = rows_of(tmp_path / "out")
    assert code == 1 and row["error"].startswith("torn_one.mp4 cannot be read")


def test_a_library_that_is_missing_is_named_in_a_line(aot, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    code, _, err = aot("s3://bucket/clips/", "Who?", "--out", "out")
    assert (code, err) == (2, "aot batch: s3:// needs s3fs, which is missing; pip install fsspec s3fs.\n")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["CLIPS"], "There is no question"),
        (["CLIPS", "Wh\udcffo?"], "The question holds half a character"),
        (["CLIPS", "Who?", "--system", "Wh\udcffo"], "The system prompt holds half a character"),
        (["CLIPS", "Who?", "--captions", "--prefix", "\udcff"], "--prefix holds half a character"),
        (["CLIPS", "Who?", "--captions", "--suffix", "\udcff"], "--suffix holds half a character"),
        (["CLIPS", "{nope}?"], "no such column, but id, name, folder"),
        (["nowhere", "Who?"], "There is no nowhere"),
        (["CLIPS", "Who?", "--replace"], "give --captions too"),
        (["CLIPS", "Who?", "--format", "xls"], "--format xls is unknown; give csv or parquet"),
        (["CLIPS", "Who?", "--batch", "0"], "A batch of 0 videos"),
        (["CLIPS", "Who?", "--limit", "0"], "--limit 0"),
        (["CLIPS", "Who?", "--stages", "magic"], "No stage is called 'magic'"),
        (["https://host/clips/", "Who?"], "give a list file"),
        (["https://host/clips.csv", "Who?"], "is a list at a URL"),
        (["ftp://host/a.mp4", "Who?"], "give one of s3://, gs://, https://"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(aot, clips, words, line):
    code, _, err = aot(*[clips if word == "CLIPS" else word for word in words], "--out", "out")
    assert code == 2 and line in err and err.strip().count("\n") == 0


def test_rows_are_read_as_they_were_written(tmp_path):
    rows = Rows(tmp_path, {"a": 1})
    row = {"id": "x", "video": "x.mp4", "preset": "own words", "question": "W\u00fcrfel?\n", "answer": "=1+1"}
    rows.add(row)
    (read,) = Rows(tmp_path, {"a": 1})
    assert {name: read[name] for name in row} == row and read["error"] is None
    rows.write(["csv"])
    assert "'=1+1" in (tmp_path / "rows.csv").read_text()
