"""Ctrl-C from the first instant on: exit code 130, a line, and no traceback; SIGTERM likewise, with 143."""

import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from comfyui_aot.aot.cli.main import main

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are sent in another way there")

DELAYS = (0.0, 0.02, 0.04, 0.06, 0.1, 0.2, 0.5, 1.0, 2.0)
AGAIN = 30
"""Seconds after which a signal is sent once more."""
CHECKOUT = Path(__file__).parents[2]
OURS = rf"{re.escape(str(CHECKOUT))}/(aot|nodes)/|__main__\.py\", line \d+, in main"
"""In a traceback of this pack's own work."""


def stopped(words, delay, number=signal.SIGINT):
    """A command that is sent a signal after some seconds: exit code, standard error, seconds that it took to end.

    Python drops an interrupt that comes while a module's import lock is taken down ("Exception ignored in"): where
    nothing has come of it, it is sent again, as a user does.
    """
    command = [sys.executable, "-m", "comfyui_aot", *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(delay)
        process.send_signal(number)
        sent = time.monotonic()
        try:
            _, error = process.communicate(timeout=AGAIN)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            _, error = process.communicate(timeout=60 - AGAIN)
            assert "Exception ignored in" in error
    return process.returncode, error, time.monotonic() - sent


@pytest.mark.parametrize(
    "words",
    [
        ("stages",),
        ("answer", "BUNNY", "What?"),
        ("bench", "reduce", "--frames", "512"),
    ],
    ids=lambda words: words[0],
)
def test_a_command_is_stopped_at_any_time(words, bunny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [str(bunny) if word == "BUNNY" else word for word in words]
    ends = [stopped(words, delay) for delay in DELAYS]
    line = f"aot {words[0]}: stopped.\n"
    ours = [end for end in ends if end[1] == line]
    assert all(code == 130 for code, _, _ in ours), ours
    # Until this pack's first line runs, Python answers the signal itself; and at its very end.
    others = [(code, error) for code, error, _ in ends if error != line]
    assert all(code in (-2, 0, 1, 130) and not re.search(OURS, error) for code, error in others), others
    assert len(ours) >= 3


def test_a_command_is_terminated_as_it_is_interrupted(bunny):
    code, error, _ = stopped(["answer", str(bunny), "What?"], 1.5, signal.SIGTERM)
    assert (code, error) == (143, "aot answer: stopped.\n")


@pytest.mark.parametrize(
    "words", [("bench", "answer", "--shape", "small", "--frames", "64"), ("doctor",)], ids=lambda words: words[0]
)
def test_the_next_command_sweeps_the_temporary_files_of_one_that_was_killed(words, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-m", "comfyui_aot", *words], **silent) as process:
        while process.poll() is None and not list(tmp_path.glob(".*/*")):
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert list(tmp_path.glob(".*/*"))
    main(["doctor"])
    assert list(tmp_path.iterdir()) == []


def test_a_signal_that_is_to_be_ignored_is_ignored():
    command = [sys.executable, "-m", "comfyui_aot", "stages"]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.communicate()[1] == ""
    assert process.returncode == 0


def test_a_server_that_is_silent_does_not_hold_a_command_up(bunny):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        command = [sys.executable, "-m", "comfyui_aot", "answer", str(bunny), "What?", "--server", url]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            connected, _ = listening.accept()
            with connected:
                connected.recv(2**16)
                process.send_signal(signal.SIGINT)
                sent = time.monotonic()
                _, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (130, "aot answer: stopped.\n")
    assert time.monotonic() - sent < 2
