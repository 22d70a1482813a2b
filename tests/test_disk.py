"""A disk that is full, a folder that is read only, a user without a home: one line, and nothing half-written."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

resource = pytest.importorskip("resource", reason="limits of a process, which this system has not")

NOBODY = 65534
START = """\
import json, os, sys
from pathlib import Path
import torch
from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.files import append_line, whole_file, write_json
from comfyui_aot.aot.benchmarks.clip import write_clip
from comfyui_aot.aot.benchmarks.reduction import random_tokens
from comfyui_aot.aot.evaluation.clip_file import write_mp4
from comfyui_aot.aot.models.embedded.weights import TrainedWeights
from comfyui_aot.aot.pictures import save_png
from comfyui_aot.aot.pictures.explorer import save_frames
from comfyui_aot.aot.tokens.storage import save
from comfyui_aot.aot.video.frames import Frames
from comfyui_aot.nodes.comfy import directories, ui
from comfyui_aot.nodes.comparing import write_csv

folder = Path(sys.argv[1])
noise = torch.randint(0, 256, (16, 256, 256, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
frames = Frames(noise, torch.arange(16, dtype=torch.float64) / 8, "noise")
tokens = random_tokens(2, 64)

def torch_save(path):
    with whole_file(path) as part:
        torch.save(torch.zeros(100_000), part)

def text(path):
    with whole_file(path) as part:
        part.write_text("x" * 100_000)

def preview(path):
    with directories(folder):
        ui.PreviewImage(noise[:1] / 255)

def numbered(path):
    with directories(folder):
        AOTSaveTokens.execute(tokens, "a/b")

WRITERS = {
    "append": lambda path: append_line(path, "x" * 100_000),
    "clip": lambda path: write_clip(path, 25, 256, 256),
    "frames": lambda path: save_frames(frames, path, "frame"),
    "json": lambda path: write_json(path, ["x" * 100_000]),
    "mp4": lambda path: write_mp4(frames, path),
    "numbered": numbered,
    "png": lambda path: save_png(noise[0] / 255, path),
    "preview": preview,
    "text": text,
    "tokens": lambda path: save(tokens, path),
    "torch": torch_save,
    "weights": lambda path: TrainedWeights({"a": torch.zeros(100_000)}, {}, {}).save(path),
}
from comfyui_aot.nodes.storage import AOTSaveTokens

def try_all():
    found = {}
    for name, write in WRITERS.items():
        try:
            write(folder / name)
            found[name] = "written"
        except InputError as error:
            found[name] = str(error)
    print(json.dumps(found))

def warm_up():
    # What is imported late is imported before the rights to read it are given up.
    global folder
    wanted, folder = folder, folder.with_name("warm")
    folder.mkdir()
    try_all()
    folder = wanted
"""
WRITERS = (
    "append",
    "clip",
    "frames",
    "json",
    "mp4",
    "numbered",
    "png",
    "preview",
    "text",
    "tokens",
    "torch",
    "weights",
)


def found_by(code, folder, *words):
    done = subprocess.run([sys.executable, "-c", START + code, folder, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def files_of(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def in_reach():
    """A folder that every user reaches and may write; pytest's own are for one user."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        yield folder


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """What each writer says where no file may grow beyond 4 KiB, and the files that are there after."""
    folder = tmp_path_factory.mktemp("full")
    (folder / "append").write_text("a line\n")
    code = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\ntry_all()"
    return found_by(code, folder), files_of(folder), (folder / "append").read_text()


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_line(full, name):
    line = full[0][name]
    assert "cannot be written (" in line and "; make room there, or give" in line
    assert "\n" not in line and len(line) < 400


def test_a_full_disk_leaves_nothing_half_written(full):
    assert full[1:] == (["append"], "a line\n")


@pytest.fixture(scope="module")
def read_only(in_reach):
    """The same where the folder may not be written, as a user whom that binds."""
    folder = in_reach / "only"
    folder.mkdir()
    folder.chmod(0o555)
    become = f"os.setgid({NOBODY}); os.setuid({NOBODY})\n" if os.getuid() == 0 else ""
    found = found_by(f"warm_up()\n{become}try_all()", folder), files_of(folder)
    folder.chmod(0o755)
    return found


@pytest.mark.parametrize("name", WRITERS)
def test_a_read_only_folder_is_one_line(read_only, name):
    line = read_only[0][name]
    assert "(Permission denied); give a folder that can be" in line
    assert "\n" not in line


def test_a_read_only_folder_stays_as_it_was(read_only):
    assert read_only[1] == []


@pytest.fixture(scope="module")
def homeless(in_reach):
    """What the embedded model, the list of models and the examination say to a user at each home, or without one."""
    code = f"""
from comfyui_aot.aot.cli import examination, main
from comfyui_aot.aot.cli import models as listing
from comfyui_aot.aot.models.embedded import assemble
assemble.require_packages()
examination.examine()
main.main(["models"])
os.environ.pop("XDG_CACHE_HOME", None)
if os.getuid() == 0:
    os.setgroups([]); os.setgid({NOBODY - 1}); os.setuid({NOBODY - 1})
os.chdir(folder)
found = []
for home in (None, *sys.argv[2:]):
    os.environ.pop("HOME", None) if home is None else os.environ.update(HOME=home)
    try:
        assemble.ensure()
        line = "made"
    except InputError as error:
        line = str(error)
    found.append([line, main.main(["models"]), len(examination.examine().checks)])
print(json.dumps(found))
assert '~' not in os.listdir()
"""
    return lambda *homes: found_by(code, in_reach, *homes)


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can become a user without a home")
def test_a_user_without_a_home_is_told_what_to_set(homeless):
    for package in ("onnx", "gguf"):
        pytest.importorskip(package, reason=f"{package}, which the embedded model is assembled with, is not installed")
    homes = ("/nonexistent", "/dev/null")
    (line, code, checks), *others = homeless(*homes)
    assert line == (
        "No home folder is known; set XDG_CACHE_HOME, or HOME, to a folder where the embedded model can be assembled."
    )
    assert code == 0 and checks > 3
    for home, (line, code, checks) in zip(homes, others, strict=True):
        assert line.startswith(f"{home}/.cache/comfyui-aot/embedded/")
        assert "; set XDG_CACHE_HOME, or HOME, to a folder where the embedded model can be assembled." in line
        assert code == 0 and checks > 3
