"""One process at a time, whatever becomes of the others: what is locked, what waits, and what a killed one leaves."""

import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager

import pytest

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.files import alone, claimed, make_folder, scratch_folder, whole_file, whole_folder
from comfyui_aot.aot.locks import LOCK, lock, tried

START = """\
import sys, time
from pathlib import Path
from comfyui_aot.aot.files import *
from comfyui_aot.aot.locks import *
path = Path(sys.argv[1])
"""


@contextmanager
def another(path, code):
    """Another process that runs code about a path, once it has printed a line; killed when the block ends."""
    with subprocess.Popen([sys.executable, "-c", START + code, path], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


REST = "print('ready', flush=True); time.sleep(60)"
WRITE = f"with whole_file(path) as part: part.write_text('half of'); {REST}"
FILL = f"with whole_folder(path) as part: (part / 'a').write_text('half'); {REST}"
WORK = f"with alone(path): {REST}"


def test_a_lock_is_one_processs_and_ends_with_it(tmp_path):
    path = tmp_path / "file"
    with another(path, f"with lock(path, wait=1): {REST}") as process:
        with tried(path) as ours:
            assert not ours
        with pytest.raises(InputError, match=r"Another process is at work on .*file; wait until it is done"):
            lock(path, wait=0.1).__enter__()
        process.kill()
        process.wait()
        with tried(path) as ours:
            assert ours
    assert list(tmp_path.iterdir()) == []


def test_whoever_waits_can_stop(tmp_path):
    path = tmp_path / "file"

    def stop():
        raise KeyboardInterrupt

    with another(path, WORK), pytest.raises(KeyboardInterrupt):
        alone(path, wait=60, on_wait=stop).__enter__()


def test_a_second_writer_waits_for_the_first(tmp_path):
    path = tmp_path / "file"
    code = WRITE.replace("60", "0.5")
    with another(path, code) as process:
        with whole_file(path) as part:
            assert path.read_text() == "half of"
            part.write_text("mine")
        assert process.wait() == 0
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


def test_a_second_maker_of_a_folder_is_told_at_once_and_makes_none(tmp_path):
    folder = tmp_path / "folder"
    with another(folder, FILL), pytest.raises(InputError, match="Another process is at work on"):
        whole_folder(folder).__enter__()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="processes are killed in another way there")
@pytest.mark.parametrize("code", [WRITE, FILL, WORK], ids=["file", "folder", "work"])
def test_the_next_that_writes_in_a_folder_sweeps_what_a_killed_process_left(tmp_path, code):
    theirs = tmp_path / ".other.part"
    theirs.write_text("another program's")
    with another(tmp_path / "first", code) as process:
        during = set(tmp_path.iterdir())
        with whole_file(tmp_path / "second") as part:
            part.write_text("x")
        assert set(tmp_path.iterdir()) == {*during, tmp_path / "second"}, "what is being written stays"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert set(tmp_path.iterdir()) > {theirs, tmp_path / "second"}
    make_folder(tmp_path)
    assert set(tmp_path.iterdir()) == {theirs, tmp_path / "second"}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="processes are killed in another way there")
def test_whenever_a_process_is_killed_its_files_are_whole_and_the_rest_is_swept(tmp_path):
    code = """
print('ready', flush=True)
for number in range(10**9):
    make_folder(path)
    with alone(path / 'work'):
        with whole_file(path / 'file') as part, part.open('w') as file:
            for _ in range(100):
                file.write(f'{number} ')
                file.flush()
        with whole_folder(path / f'folder {number % 5}', is_complete=lambda folder: False) as part:
            for name in 'abc':
                (part / name).write_text(name)
"""
    folder = tmp_path / "folder"
    for number in range(8):
        with another(folder, code) as process:
            time.sleep(0.2 + 0.0137 * number)
            process.send_signal(signal.SIGKILL)
            process.wait()
        make_folder(folder)
        assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]
        words = (folder / "file").read_text().split()
        assert len(words) == 100 and len(set(words)) == 1
        made = [sorted(path.name for path in each.iterdir()) for each in folder.glob("folder *")]
        assert made and made == [["a", "b", "c"]] * len(made)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """An empty folder for temporary files, of this process and of those that it starts."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def test_a_scratch_folder_is_its_users_alone_and_goes_with_the_block(temporary):
    with scratch_folder() as folder, scratch_folder() as other:
        assert folder != other and {folder.parent, other.parent} == {temporary}
        assert folder.stat().st_mode & 0o077 == 0 or sys.platform == "win32"
        (folder / "a").write_text("x")
    with pytest.raises(KeyError), scratch_folder() as folder:
        raise KeyError
    assert list(temporary.iterdir()) == []


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="processes are killed in another way there")
def test_the_next_scratch_folder_sweeps_those_of_killed_processes_and_no_others(temporary):
    code = f"with scratch_folder() as folder: (folder / 'a').write_text('x'); {REST}"
    theirs = temporary / "tmpabcd"
    theirs.mkdir()
    with another(temporary, code) as alive, another(temporary, code) as killed:
        assert len(list(temporary.glob(".*/a"))) == 2
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert len(list(temporary.glob(".*/a"))) == 2
        with scratch_folder():
            assert len(list(temporary.glob(".*/a"))) == 1
        assert alive.poll() is None
    with scratch_folder() as folder:
        assert {path for path in temporary.iterdir() if path.is_dir()} == {theirs, folder}
    assert list(temporary.iterdir()) == [theirs]


def test_no_folder_for_temporary_files_is_one_line(tmp_path, monkeypatch):
    def nowhere():
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    with pytest.raises(
        InputError, match=r"A temporary folder cannot be written \(No usable .*; set TMPDIR to a folder"
    ):
        scratch_folder().__enter__()


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_lock_follows_no_link_that_somebody_put_in_its_place(temporary, tmp_path):
    (temporary / f".x{LOCK}").symlink_to(tmp_path / "elsewhere")
    (temporary / ".x.01234567.aot.part").mkdir()
    (temporary / ".y.01234567.aot.part").mkdir()
    with scratch_folder():
        assert not (tmp_path / "elsewhere").exists()
        assert not (temporary / ".y.01234567.aot.part").exists(), "the others are swept"


def test_a_download_that_was_killed_is_not_swept(tmp_path):
    folder = tmp_path / "model"
    code = FILL.replace("whole_folder(path)", "whole_folder(path, resume=True)")
    with another(folder, code) as process:
        process.kill()
        process.wait()
    with whole_folder(folder, resume=True) as part:
        assert (part / "a").read_text() == "half"
    assert list(tmp_path.iterdir()) == [folder]


def test_threads_exclude_each_other_too(tmp_path):
    path, inside, most = tmp_path / "file", [], []

    def work():
        with alone(path, wait=60):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 8
    assert list(tmp_path.iterdir()) == []


def test_processes_that_number_their_files_take_different_numbers(tmp_path):
    code = """
from comfyui_aot.nodes.comfy import directories, unused_output
print('ready', flush=True)
sys.stdin.readline()
for _ in range(30):
    with directories(path), unused_output('a/b', '.txt') as file, whole_file(file) as part:
        part.write_text('x')
"""
    command = [sys.executable, "-c", START + code, tmp_path]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    assert len(list((tmp_path / "output" / "a").iterdir())) == 60


def test_a_claim_that_another_has_is_no_error(tmp_path):
    with claimed(tmp_path / "a") as first, claimed(tmp_path / "a") as second, claimed(tmp_path / "b") as third:
        assert (first, second, third) == (True, False, True)
        assert len(list(tmp_path.iterdir())) == 2
    assert list(tmp_path.iterdir()) == []


def test_without_locks_of_the_file_system_everybody_has_one_but_nothing_is_swept(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def unsupported(*args):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    (tmp_path / ".a.01234567.aot.part").write_text("another's, who knows")
    with whole_file(tmp_path / "b") as first, whole_file(tmp_path / "b") as second:
        first.write_text("x")
        second.write_text("y")
    assert (tmp_path / "b").read_text() == "x"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.01234567.aot.part", "b"]
    assert not list(tmp_path.glob(f"*{LOCK}"))
