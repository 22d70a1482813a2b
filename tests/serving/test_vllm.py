"""A real vLLM serves the embedded model's LLM on loopback; ``make serving-env`` builds what it runs in."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from comfyui_aot.aot.answering.answerer import ask
from comfyui_aot.aot.answering.export import export
from comfyui_aot.aot.answering.generation import Generation
from comfyui_aot.aot.answering.vllm_server import Connection, VllmServer
from comfyui_aot.aot.cli.main import main
from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.evaluation.shapes_set import shapes_set
from comfyui_aot.aot.stages.chain import parse

PYTHON = Path(sys.prefix) / "serving" / "bin" / "python"
ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}
STARTS_WITHIN = 300
KEY = "secret"

pytestmark = pytest.mark.skipif(not PYTHON.is_file(), reason="no vLLM environment: make serving-env builds it")


@contextlib.contextmanager
def serving(folder: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen]]:
    """A server of the LLM in ``folder``, its URL and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", folder, "--served-model-name", "small"]
    command += ["--enforce-eager", "--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--max-model-len", "4096", *options]
    environment = {**os.environ, **ENVIRONMENT}
    environment.pop("PYTHONPATH", None)
    log = folder.parent / f"{port}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        wait_until_up(port, process, log)
        yield f"http://127.0.0.1:{port}", process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until_up(port: int, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.5)
    raise RuntimeError(f"vLLM did not start:\n{log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def llm(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "llm"
    export(model, folder)
    return folder


@pytest.fixture(scope="module")
def url(llm):
    with serving(llm, "--enable-prompt-embeds", "--api-key", KEY) as (url, _):
        yield url


@pytest.fixture(scope="module")
def asked():
    """A drawn clip's frames, and questions about it."""
    chosen = shapes_set("test", 1, frames=8)
    return chosen.frames(chosen.questions[0].clip, 8), [each.text for each in chosen.questions][:8]


@pytest.mark.parametrize("chain", ["full", "aot:retention=0.1"])
def test_answers_are_those_of_the_local_path(model, url, asked, chain):
    frames, questions = asked
    tokens = parse(chain)(model.encode(frames))
    settings = Generation(max_new_tokens=6)
    served = VllmServer(Connection(url, key=KEY), model).answer(tokens, questions, settings)
    local = [ask(model, tokens, each, settings) for each in questions]
    assert [each.text for each in served] == [each.text for each in local]
    assert [each.prompt_tokens for each in served] == [each.prompt_tokens for each in local]
    assert min(each.prefill_s for each in served) > 0


def test_eight_at_once_are_all_answered_each_its_own(model, url, asked):
    frames, questions = asked
    assert len(set(questions)) == 8
    tokens = parse("aot:retention=0.1")(model.encode(frames))
    server, settings, seen = Connection(url, "small", KEY), Generation(max_new_tokens=6), {}
    together = VllmServer(server, model).answer(tokens, questions, settings, on_text=seen.__setitem__)
    alone = [VllmServer(server, model).answer(tokens, [each], settings)[0] for each in questions]
    assert [each.text for each in together] == [each.text for each in alone]
    assert [each.question for each in together] == questions
    assert {number: text.strip() for number, text in seen.items()} == dict(enumerate(each.text for each in together))


def test_the_command_hands_the_tokens_over(url, bunny, tmp_path, capsys):
    (tmp_path / "key").write_text(f"{url}\n{KEY}\n")
    arguments = ["answer", str(bunny), "What colour is it?", "--frames", "4", "--retention", "0.25"]
    said = []
    for more in ([], ["--server", url, "--key-file", str(tmp_path / "key")]):
        assert main([*arguments, *more]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] != ""


def test_what_the_server_refuses_is_one_line_that_says_what_to_do(model, url, encoded):
    settings = Generation(max_new_tokens=2)
    for server, says in (
        (Connection(url, key="wrong"), "refuses the key"),
        (Connection(url, "large", KEY), "serves no 'large'; name one of small"),
    ):
        with pytest.raises(InputError, match=says):
            VllmServer(server, model).answer(encoded, ["What?"], settings)
    with pytest.raises(InputError, match=r"another LLM .*hidden_size 100 .* serve the one that aot export wrote"):
        list(Connection(url, key=KEY).complete(torch.zeros(4, 100), "small", settings))
    with pytest.raises(InputError, match=r"refuses the prompt \(HTTP 400: .*maximum context length"):
        list(Connection(url, key=KEY).complete(torch.zeros(5000, 576), "small", settings))


class Stop(Exception):
    pass


def test_a_run_that_is_stopped_leaves_the_server_to_others(model, url, encoded):
    def stop(count):
        raise Stop

    with pytest.raises(Stop):
        VllmServer(Connection(url, key=KEY), model).answer(encoded, ["What?"], on_token=stop)
    assert VllmServer(Connection(url, key=KEY), model).answer(encoded, ["What?"], Generation(max_new_tokens=2))


def test_a_server_killed_in_the_middle_is_one_clear_error(llm, monkeypatch):
    usual = Connection._open
    endless = {"ignore_eos": True}
    monkeypatch.setattr(
        Connection, "_open", lambda self, path, body, watch: usual(self, path, body and body | endless, watch)
    )
    with serving(llm, "--enable-prompt-embeds") as (url, process):
        noise = 0.05 * torch.randn(64, 576, generator=torch.Generator().manual_seed(0))
        pieces = Connection(url, timeout=20).complete(noise, "small", Generation(2000))
        assert len(list(itertools.islice(pieces, 3))) == 3
        os.killpg(process.pid, signal.SIGKILL)
        with pytest.raises(InputError, match=r"was lost in the middle of an answer .* ask again") as raised:
            list(pieces)
    assert "\n" not in str(raised.value)


def test_a_server_without_the_option_says_what_it_lacks(llm):
    with serving(llm) as (url, _), pytest.raises(InputError, match="start vLLM with --enable-prompt-embeds"):
        list(Connection(url).complete(torch.zeros(4, 576), "small", Generation(max_new_tokens=2)))
