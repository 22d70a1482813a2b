"""What servers, files and models say is shown without control characters, and ordinary text as it is."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from comfyui_aot.aot.answering.generation import Generation
from comfyui_aot.aot.answering.vllm_server import Connection
from comfyui_aot.aot.cli.run import run_file
from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.tables import aligned, as_csv, markdown
from comfyui_aot.aot.text import all_shown, shown
from comfyui_aot.aot.tokens.storage import load, save
from comfyui_aot.nodes.comfy import HAS_COMFYUI

ESCAPES = "\x1b[2J\x1b]0;title\x07\x00\x08\x9b31m\u202egnp.exe\u2066\x7f\ufff9"


@pytest.mark.parametrize(
    "text",
    [
        "plain", "two\nlines\tand a tab", "", "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd",
        "e\u0301 \u65e5\u672c", "a\u200eb\u200f", "no\u00a0break", "\ufffd",
        "\U0001f469\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f \U0001f3f4\U000e0067\U000e0062\U000e007f",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    ],
)  # fmt: skip
def test_ordinary_text_stays_as_it_is(text):
    assert shown(text) == text


def acts(text):
    """Whether a text has a character that acts on a terminal or reorders a line."""
    return any(
        (each not in "\t\n" and (ord(each) < 32 or 127 <= ord(each) < 160 or each in "\u202a\u202b\u202c\u202d\u202e"))
        or 0x2066 <= ord(each) <= 0x2069 or 0xD800 <= ord(each) < 0xE000
        for each in text
    )  # fmt: skip


def test_what_acts_is_replaced_and_can_be_written():
    assert acts(ESCAPES)
    assert not acts(shown(ESCAPES))
    assert shown("a\x1b[31mb") == "a\ufffd[31mb"
    assert shown("a\r\nb\rc\u2028d") == "a\nbc\nd"
    assert shown("\ud800x").encode() == "\ufffdx".encode()
    every = "".join(map(chr, range(0x3000)))
    assert not acts(shown(every))
    assert all_shown({ESCAPES: [ESCAPES, 1, None, {"a": True}]}) == {
        shown(ESCAPES): [shown(ESCAPES), 1, None, {"a": True}]
    }


def test_an_error_shows_none():
    assert not acts(str(InputError(f"It says {ESCAPES}; do this.")))


def test_a_table_shows_none():
    rows = [[ESCAPES, "1"]]
    assert not acts(aligned([ESCAPES, "n"], rows))
    assert not acts(markdown([ESCAPES, "n"], rows))
    assert not acts(markdown([ESCAPES, "n"], rows, padded=True))
    assert not acts(as_csv([{"a": ESCAPES, "n": 1}]))


def test_a_model_shows_none(model, monkeypatch):
    monkeypatch.setattr(type(model._tokenizer), "decode", lambda *given, **more: ESCAPES)
    assert not acts(model.decode([1]))


def test_a_file_of_tokens_shows_none(encoded, tmp_path):
    path = tmp_path / "t.safetensors"
    save(encoded, path)
    with safe_open(path, "pt") as stored:
        tensors, about = {name: stored.get_tensor(name) for name in stored.keys()}, stored.metadata()  # noqa: SIM118
    history = json.loads(about["history"])
    history[0]["name"] = history[0]["settings"]["source"] = ESCAPES
    save_file(tensors, path, about | {"model": ESCAPES, "history": json.dumps(history)})
    tokens = load(path)
    assert not acts(tokens.model + tokens.history[0].name + tokens.history[0].settings["source"])
    assert torch.equal(tokens.features, encoded.features)


class Saying(BaseHTTPRequestHandler):
    """Answers with what acts, in its words and in its errors."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        refuses = body["model"] == "none"
        event = json.dumps({"choices": [{"text": f"yes {ESCAPES}"}]})
        content = json.dumps({"message": f"no {ESCAPES}"}) if refuses else f"data: {event}\n\ndata: [DONE]\n\n"
        self.send_response(400 if refuses else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content.encode())

    def log_message(self, *args):
        pass


def test_a_server_shows_none():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Saying)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    connection = Connection(f"http://127.0.0.1:{server.server_port}")
    try:
        assert [shown(f"yes {ESCAPES}")] == list(connection.complete(torch.zeros(2, 4), "m", Generation(2)))
        with pytest.raises(InputError, match="refuses the prompt") as refused:
            list(connection.complete(torch.zeros(2, 4), "none", Generation(2)))
        assert not acts(str(refused.value))
    finally:
        server.shutdown()


@pytest.mark.skipif(HAS_COMFYUI, reason="the stand-in is not used where ComfyUI can be imported")
def test_a_workflow_shows_none_in_what_a_run_prints(tmp_path, capsys):
    images = {"class_type": "AOTFramesToImages", "inputs": {"frames": ["1", 0]}}
    inputs = {"video": "drawn clip", "sampling": "uniform", "frames": 2, "fps": 1.0, "every": 1, "start": 0.0}
    clip = {"class_type": "AOTLoadVideo", "inputs": {**inputs, "end": 0.0, "size": 64}, "_meta": {"title": ESCAPES}}
    preview = {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}}
    (tmp_path / "w.json").write_text(json.dumps({"1": clip, "2": images, "3": preview}))
    report = run_file(tmp_path / "w.json", [], tmp_path)
    assert report["nodes"][0]["title"] == shown(ESCAPES)
    assert not acts(capsys.readouterr().out)
