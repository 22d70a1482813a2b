"""The client of a vLLM server, as far as it goes without one; tests/serving has the rest."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from comfyui_aot.aot.answering import vllm_server as serving
from comfyui_aot.aot.answering.export import export
from comfyui_aot.aot.answering.generation import Generation
from comfyui_aot.aot.answering.vllm_server import Connection, VllmServer
from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.models import load
from comfyui_aot.tests.support.small_models import is_there, save
from comfyui_aot.tests.support.stock_inputs import random_frames


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(serving, "PAUSES", (0.0, 0.0))


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "file:///etc/passwd", "ftp://host", "http://[::1", "http://a:b"])
def test_a_url_that_is_none_of_http_is_refused(url):
    with pytest.raises(InputError, match="give one like http"):
        Connection(url)


def test_the_key_is_not_shown():
    assert "secret" not in repr(Connection("http://host", key="secret"))
    assert Connection("http://host:1/v1/").url == "http://host:1"


def test_nobody_there_is_one_line(impatient):
    with pytest.raises(InputError, match=r"No server at http://127\.0\.0\.1:9 .* tried 3 times; start it"):
        Connection("http://127.0.0.1:9").model_name()


def test_a_busy_server_is_asked_again(impatient):
    seen = []

    class Busy(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.headers["Authorization"])
            content = b'{"data": [{"id": "small"}]}' if len(seen) > 2 else b"busy"
            self.send_response(200 if len(seen) > 2 else 503)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Busy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert Connection(f"http://127.0.0.1:{server.server_port}", key="k").model_name() == "small"
    finally:
        server.shutdown()
    assert seen == ["Bearer k"] * 3


class Completing(BaseHTTPRequestHandler):
    """A server of one model that says one word; ``bodies`` is given by a subclass."""

    bodies: list

    def do_GET(self):
        self.give(b'{"data": [{"id": "small"}]}')

    def do_POST(self):
        self.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.give(b'data: {"choices": [{"text": "yes"}]}\n\ndata: [DONE]\n\n')

    def give(self, content):
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


def test_a_request_has_the_models_own_repetition_penalty_or_that_of_the_settings(model, encoded, monkeypatch):
    bodies = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Server", (Completing,), {"bodies": bodies}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    answerer = VllmServer(Connection(f"http://127.0.0.1:{server.server_port}"), model)
    monkeypatch.setattr(model.hf_model.generation_config, "repetition_penalty", 1.05)
    try:
        for penalty in (0.0, 1.0, 1.2):
            (answer,) = answerer.answer(encoded.cut(0, 1), ["Why?"], Generation(4, repetition_penalty=penalty))
            assert answer.text == "yes"
    finally:
        server.shutdown()
    assert [body["repetition_penalty"] for body in bodies] == [1.05, 1.0, 1.2]


@pytest.mark.parametrize(
    ("family", "beyond"),
    [
        ("qwen2_vl", "positions of time, height and width"),
        ("gemma4", "embeddings for each of its layers"),
        ("gemma4 (experts, seeing ahead)", "sight of tokens that come later"),
        ("molmo2", "sight of tokens that come later"),
    ],
)
def test_a_model_whose_prompt_is_more_than_its_embeddings_is_neither_served_nor_written(
    family, beyond, tmp_path, embedded_folder
):
    if not is_there(family):
        pytest.skip(f"this transformers has no {family}")
    save(tmp_path / "model", family, embedded_folder)
    other = load(tmp_path / "model")
    with pytest.raises(InputError, match=f"model gives tokens {beyond}, which prompt embeddings cannot carry; leave"):
        VllmServer(Connection("http://127.0.0.1:9"), other).answer(other.encode(random_frames()), ["What?"])
    with pytest.raises(InputError, match=f"model gives tokens {beyond}, which .* to a server; answer with the model"):
        export(other, tmp_path / "llm")
    assert not (tmp_path / "llm").exists()


@torch.no_grad()
def test_the_llm_written_out_is_the_models_own(model, tmp_path):
    export(model, tmp_path / "llm")
    assert [path.name for path in tmp_path.iterdir()] == ["llm"]
    assert "lm_head.weight" not in load_file(tmp_path / "llm" / "model.safetensors")  # tied, so kept once
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "llm", dtype=torch.float32)
    ids = model.prompt("What is it?").after[None]
    assert torch.equal(plain(ids).logits, model.hf_model(input_ids=ids).logits)
    with pytest.raises(InputError, match="exists already"):
        export(model, tmp_path / "llm")


@pytest.fixture
def saying():
    """saying(b"...") is the URL of a server that says that to everything."""
    servers = []

    def serve(content):
        class Saying(Completing):
            def do_GET(self):
                self.give(content)

            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                self.give(content)

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Saying))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield serve
    for server in servers:
        server.shutdown()


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>", b"[]", b'{"data": 3}', b'{"data": [{"id": 3}]}', b"\xff", b"[" * 50_000, b'{"data": []}'],
)
def test_a_list_of_models_of_any_other_kind_is_one_line(saying, content):
    with pytest.raises(
        InputError, match=r"lists its models in another way than vLLM .*; give the URL of a vLLM server"
    ):
        Connection(saying(content)).model_name()


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (b"7", "it holds a int, not a dict"),
        (b"{}", "an event has no text"),
        (b'{"choices": [{"text": 3}]}', "an event has no text"),
        (b'{"choices": {"0": 1}}', "an event has no text"),
        (b'{"choices": [{"text": "\\ud800"}]}', "half a character"),
        (b"[" * 50_000, "nested deeper than 100"),
        (b'{"error": "full"}', "stopped answering: full; see the server's log"),
        (b'{"error": {"message": {"a": 1}}}', "stopped answering: {'a': 1}"),
        (b'{"error": null}', "stopped answering: {'error': None}"),
    ],
)
def test_an_event_of_any_other_kind_is_one_line(saying, event, said):
    connection = Connection(saying(b"data: " + event + b"\n\ndata: [DONE]\n\n"))
    with pytest.raises(InputError, match=re.escape(said)) as refused:
        list(connection.complete(torch.zeros(2, 4), "small", Generation(4)))
    assert len(str(refused.value)) < 500


def test_an_event_that_only_counts_tokens_is_no_text(saying):
    content = b'data: {"choices": [{"text": "yes"}]}\n\ndata: {"choices": [], "usage": {}}\n\ndata: [DONE]\n\n'
    assert "".join(Connection(saying(content)).complete(torch.zeros(2, 4), "small", Generation(4))) == "yes"
