"""Several servers: the least busy is asked, a dead one is left out with a line, and the last one's end is an error."""

import json
import threading
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from comfyui_aot.aot.answering import vllm_server
from comfyui_aot.aot.answering.generation import Generation
from comfyui_aot.aot.answering.servers import Servers, those_alive
from comfyui_aot.aot.answering.vllm_server import Connection, ServerLost
from comfyui_aot.aot.cli.main import main
from comfyui_aot.aot.video.frames import Frames
from comfyui_aot.tests.support.videos import write_clip

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(vllm_server, "PAUSES", (0.0,))


@contextmanager
def serving(word):
    """A server that answers a word, once its gate is open; `asked` counts prompts, `came` is set by the first."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.give(b'{"data": [{"id": "small"}]}')

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            server.asked += 1
            server.came.set()
            server.gate.wait(60)
            self.give(b'data: {"choices": [{"text": "%s"}]}\n\ndata: [DONE]\n\n' % word.encode())

        def give(self, content):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked, server.came, server.gate = 0, threading.Event(), threading.Event()
        server.gate.set()
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.gate.set()
        server.shutdown()


@pytest.fixture
def two():
    with ExitStack() as stack:
        yield [stack.enter_context(serving(word)) for word in ("one", "two")]


@pytest.fixture(scope="module")
def tokens(miniature):
    black = torch.zeros(1, 28, 28, 3, dtype=torch.uint8)
    return miniature.encode(Frames(black, torch.zeros(1, dtype=torch.float64), "black"))


def ask(servers, tokens):
    return [each.text for each in servers.answer(tokens, ["Who?"], Generation(2))]


def test_the_least_busy_is_asked(two, miniature, tokens):
    first, second = two
    servers = Servers([Connection(each.url) for each in two], miniature)
    first.gate.clear()
    waiting = threading.Thread(target=ask, args=(servers, tokens))
    waiting.start()
    assert first.came.wait(60)
    assert [ask(servers, tokens) for _ in range(3)] == [["two"]] * 3
    first.gate.set()
    waiting.join(60)
    assert ask(servers, tokens) == ["one"]
    assert (first.asked, second.asked) == (2, 3)


def test_a_dead_one_is_left_out_with_a_line(two, miniature, tokens):
    lines = []
    servers = Servers([Connection(NOWHERE), Connection(two[0].url)], miniature, lines.append)
    assert [ask(servers, tokens) for _ in range(2)] == [["one"]] * 2
    (line,) = lines
    assert line.startswith(f"No server at {NOWHERE}") and line.endswith(f"It is left out; {two[0].url} goes on.")
    assert servers.count == 1


def test_the_last_ones_end_is_an_error(miniature, tokens):
    lines = []
    servers = Servers([Connection(NOWHERE), Connection("http://127.0.0.1:10")], miniature, lines.append)
    with pytest.raises(ServerLost, match="start it, or give its URL"):
        ask(servers, tokens)
    assert len(lines) == 1


def test_before_any_work_those_that_answer_are_kept(two):
    lines = []
    alive = those_alive([Connection(NOWHERE), Connection(two[1].url)], lines.append)
    assert [each.url for each in alive] == [two[1].url] and len(lines) == 1
    with pytest.raises(ServerLost):
        those_alive([Connection(NOWHERE)], lines.append)


@pytest.fixture
def aot(miniature_folder, tmp_path, capsys, monkeypatch):
    """aot batch of four clips, answered by servers; gives code, rows and errors."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    for i in range(4):
        write_clip(tmp_path / "clips" / f"{i}.mp4", frames=5)

    def aot(*words):
        options = ["--frames", "2", "--model", str(miniature_folder), "--out", "out"]
        code = main(["batch", "clips", "Who?", *options, *words])
        rows = tmp_path / "out" / "rows.jsonl"
        found = [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []
        return code, found, capsys.readouterr().err

    return aot


def test_a_batch_is_answered_by_all_of_them(two, aot):
    code, rows, err = aot("--server", NOWHERE, *(word for each in two for word in ("--server", each.url)))
    assert code == 0 and err.count("It is left out") == 1
    assert sorted(row["id"] for row in rows) == [f"{i}.mp4" for i in range(4)]
    assert {row["answer"] for row in rows} <= {"one", "two"} and two[0].asked + two[1].asked == 4


def test_a_batch_without_a_server_ends_in_a_line_and_goes_on_later(two, aot):
    words = ("--server", two[0].url, "--batch", "1")
    two[0].gate.clear()

    def die():
        two[0].came.wait(60)
        two[0].gate.set()
        two[0].shutdown()
        two[0].server_close()

    killer = threading.Thread(target=die)
    killer.start()
    code, rows, err = aot(*words)
    killer.join()
    assert code == 2 and len(rows) < 4 and two[0].url in err and "Traceback" not in err
    code, rows, _ = aot("--server", two[1].url)
    assert code == 0 and sorted(row["id"] for row in rows) == [f"{i}.mp4" for i in range(4)]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--server", NOWHERE, "--stages", "fastv:layer=1"], "leave --server out, or that stage"),
        (["--server", NOWHERE, "--server", f"{NOWHERE}/"], "names one of them twice"),
        (["--server", "ftp://host"], "The server's URL is"),
        (["--server", NOWHERE], f"No server at {NOWHERE}"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(aot, words, line):
    code, _, err = aot(*words)
    assert code == 2 and line in err and err.strip().count("\n") == 0
