"""Loading as ComfyUI users expect: room that is counted beforehand, downloads only where they are asked for."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.files import alone
from comfyui_aot.aot.models import families_in, load
from comfyui_aot.aot.models.check import check
from comfyui_aot.aot.models.download import PUBLISHED, download, folder_name
from comfyui_aot.aot.models.weights import weight_bytes
from comfyui_aot.nodes.comfy import HAS_COMFYUI, directories
from comfyui_aot.nodes.models import AOTLoadVLLM, choices
from comfyui_aot.tests.support.small_models import save

REPOSITORY = "Qwen/Qwen3-VL-2B-Instruct"


@pytest.fixture(scope="module")
def published(tmp_path_factory, embedded_folder):
    """A small Qwen3-VL as its files would be published, with things beside it that nobody should fetch."""
    folder = tmp_path_factory.mktemp("hub") / "files"
    save(folder, "qwen3_vl", embedded_folder)
    (folder / "modeling_evil.py").write_text("raise SystemExit")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    return folder


class Hub(BaseHTTPRequestHandler):
    """As much of huggingface.co's interface as a download takes; notes (file, first byte) of what is asked for."""

    def __init__(self, *args, folder, asked, **kwargs):
        self.folder, self.asked = folder, asked
        super().__init__(*args, **kwargs)

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        if self.path.startswith("/api/models/"):
            if "Qwen3" not in self.path:
                return self.give(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            files = sorted(path for path in self.folder.iterdir() if path.is_file())
            listed = [{"rfilename": path.name, "size": path.stat().st_size} for path in files]
            content = {"id": REPOSITORY, "sha": "0" * 40, "siblings": listed, "tags": [], "downloads": 0}
            return self.give(200, json.dumps(content).encode(), {"Content-Type": "application/json"})
        name = self.path.rpartition("/")[2].partition("?")[0]
        content = (self.folder / name).read_bytes()
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": "0" * 40,
            "Accept-Ranges": "bytes",
        }
        first = int(re.sub(r"\D", "", self.headers.get("Range", "0").partition("-")[0]) or 0)
        if self.command == "GET":
            self.asked.append((name, first))
        return self.give(206 if first else 200, content[first:], headers)

    def give(self, status, content, headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.wfile.write(content)


@pytest.fixture
def hub(published, monkeypatch):
    asked = []
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, folder=published, asked=asked))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()


def test_a_published_model_is_fetched_into_its_folder_without_anything_executable(hub, tmp_path):
    endpoint, asked = hub
    seen = []
    folder = download(REPOSITORY, tmp_path, endpoint=endpoint, on_progress=lambda *each: seen.append(each))
    assert folder == tmp_path / folder_name(REPOSITORY)
    fetched = {name for name, _ in asked}
    assert "model.safetensors" in fetched
    assert not {"modeling_evil.py", "pytorch_model.bin"} & fetched
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} <= {".json", ".safetensors", ".jinja", ".txt"}
    assert seen[-1][0] == seen[-1][1] > 100_000
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert load(folder).family == "qwen3_vl"


def test_a_broken_download_leaves_no_model_and_goes_on_where_it_stopped(hub, tmp_path):
    endpoint, asked = hub

    class Stop(Exception):
        pass

    def stop_midway(done, total):
        if done > total / 2:
            raise Stop

    with pytest.raises(Stop):
        download(REPOSITORY, tmp_path, endpoint=endpoint, on_progress=stop_midway)
    assert families_in(tmp_path) == {}
    # huggingface_hub before 1.0 reports between files only, so that none is broken off.
    whole = {path.name for path in tmp_path.glob("*/*") if path.is_file()}
    before = {name for name, _ in asked}
    asked.clear()
    folder = download(REPOSITORY, tmp_path, endpoint=endpoint)
    assert len(whole) > 2
    assert before - whole <= {name for name, _ in asked}
    assert not {name for name, _ in asked} & whole
    assert list(families_in(tmp_path).values()) == [folder]


def test_no_such_model_and_no_connection_are_one_line_each(hub, tmp_path):
    endpoint, _ = hub
    for repository, where in (("nobody/nothing", endpoint), (REPOSITORY, "http://127.0.0.1:9")):
        with pytest.raises(InputError, match=f"{repository} cannot be downloaded .* put its files in"):
            download(repository, tmp_path, endpoint=where)
    assert families_in(tmp_path) == {}


@pytest.mark.skipif(HAS_COMFYUI, reason="the stand-in is not used where ComfyUI can be imported")
def test_a_download_that_another_process_is_at_is_left_to_it(tmp_path):
    with (
        alone(tmp_path / folder_name(REPOSITORY)),
        pytest.raises(InputError, match=r"Another process is at work on .*; wait until it is done"),
    ):
        download(REPOSITORY, tmp_path, endpoint="http://127.0.0.1:9")
    assert list(tmp_path.iterdir()) == []


def test_the_node_names_the_folder_and_downloads_nothing_unasked(tmp_path):
    settings = {"dtype": "auto", "device": "cpu", "attention": "sdpa"}
    with directories(tmp_path):
        assert set(PUBLISHED) <= set(choices())
        assert AOTLoadVLLM.validate_inputs(model=REPOSITORY) is True
        with pytest.raises(InputError, match="switch download on") as refused:
            AOTLoadVLLM.execute(model=REPOSITORY, **settings)
        assert str(tmp_path / "models" / "VLLM" / "Qwen3-VL-2B-Instruct") in str(refused.value)
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.skipif(HAS_COMFYUI, reason="the stand-in is not used where ComfyUI can be imported")
def test_a_published_model_that_is_there_is_found_in_any_of_the_folders(tmp_path, published):
    for category in ("LLM", "text_encoders"):
        home = tmp_path / category
        there = home / "models" / category / "maker" / folder_name(REPOSITORY)
        there.parent.mkdir(parents=True)
        there.symlink_to(published)
        with directories(home):
            assert REPOSITORY not in choices()
            assert f"maker/{folder_name(REPOSITORY)}" in choices()
            settings = {"dtype": "auto", "device": "cpu", "attention": "sdpa"}
            (loaded,) = AOTLoadVLLM.execute(model=REPOSITORY, **settings).args
        assert loaded.model.family == "qwen3_vl"


def test_a_model_larger_than_memory_is_refused_with_the_figures(published):
    need = weight_bytes(published, "files", torch.float32)
    with pytest.raises(InputError, match=r"takes 0\.0 GiB and cpu has 0\.0 GiB for it; choose a smaller dtype"):
        load(published, room=lambda device: need - 1)
    assert load(published, room=lambda device: need).family == "qwen3_vl"


def test_the_bytes_counted_are_those_loaded(published):
    model = load(published).hf_model
    assert weight_bytes(published, "files", torch.float32) == 4 * sum(each.numel() for each in model.parameters())
    assert weight_bytes(published, "files", torch.bfloat16) * 2 == weight_bytes(published, "files", torch.float32)
    four, eight = (weight_bytes(published, "files", torch.bfloat16, bits) for bits in ("4-bit", "8-bit"))
    assert four < eight < weight_bytes(published, "files", torch.bfloat16)


@pytest.mark.parametrize("family", ["qwen3_vl", "llava_onevision (lmms-lab)"])
def test_a_file_that_transformers_does_not_read_is_neither_counted_nor_read(tmp_path, embedded_folder, family):
    folder = tmp_path / "model"
    save(folder, family, embedded_folder)
    need = weight_bytes(folder, "model", torch.float32)
    save_file({"a.weight": torch.ones(100_000)}, folder / "consolidated.safetensors")
    assert weight_bytes(folder, "model", torch.float32) == need
    assert check(folder).memory["float32"] == need
    assert load(folder, room=lambda device: need).name == "model"


@pytest.mark.parametrize("damage", ["short", "noise"])
def test_damaged_weights_are_refused_before_they_are_loaded(published, tmp_path, damage):
    content = (published / "model.safetensors").read_bytes()
    (tmp_path / "config.json").write_text((published / "config.json").read_text())
    broken = content[:-100] if damage == "short" else b"\xff" * 64
    Path(tmp_path / "model.safetensors").write_bytes(broken)
    with pytest.raises(InputError, match=r"model\.safetensors is (cut short|damaged).* download it again"):
        load(tmp_path)


def test_a_quantization_that_is_not_installed_says_what_to_run(published, monkeypatch):
    monkeypatch.setattr("comfyui_aot.aot.models.folder.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install bitsandbytes accelerate, or choose none"):
        load(published, quantization="4-bit")
    with pytest.raises(InputError, match="quantization is '2-bit'; give one of none, 8-bit, 4-bit"):
        load(published, quantization="2-bit")
