"""make comfyui: sources from a checkout in use, from a repository, and from one that lacks a file."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from comfyui_aot.tests.comfyui.install import sources


def git(*words: object) -> str:
    ran = subprocess.run(["git", *map(str, words)], check=True, capture_output=True, text=True)
    return ran.stdout.strip()


@pytest.fixture
def repository(tmp_path) -> Path:
    """A bare repository with two files and a folder called models, as ComfyUI has one in its code."""
    work, bare = tmp_path / "work", tmp_path / "bare"
    for name, text in (("main.py", "print(1)\n"), ("comfy/models/unet.py", "pass\n"), ("tokenizer.json", "{}\n")):
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text(text)
    git("init", "--quiet", work)
    git("-C", work, "add", ".")
    git("-C", work, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message", "all")
    git("clone", "--quiet", "--bare", work, bare)
    return bare


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_all_of_a_bare_repository_is_there(repository, tmp_path):
    sources(str(repository), "HEAD", tmp_path / "into", "main.py")
    assert files(tmp_path / "into") == {"main.py", "comfy/models/unet.py", "tokenizer.json"}


def test_what_a_repository_lacks_is_left_out_and_named(repository, tmp_path, capsys):
    blob = git("-C", repository, "rev-parse", "HEAD:tokenizer.json")
    (repository / "objects" / blob[:2] / blob[2:]).unlink()
    sources(str(repository), "HEAD", tmp_path / "into", "main.py")
    assert files(tmp_path / "into") == {"main.py", "comfy/models/unet.py"}
    assert "tokenizer.json" in capsys.readouterr().out


def test_of_a_folder_in_use_its_owners_files_stay_behind(tmp_path):
    used = tmp_path / "used"
    for name in ("main.py", "comfy/models/unet.py", "models/big.safetensors", "output/mine.png", ".venv/bin/python"):
        (used / name).parent.mkdir(parents=True, exist_ok=True)
        (used / name).touch()
    sources(str(used), "HEAD", tmp_path / "into", "main.py")
    assert files(tmp_path / "into") == {"main.py", "comfy/models/unet.py"}


def test_another_folder_is_refused_in_a_line(tmp_path):
    with pytest.raises(SystemExit, match=r"neither a checkout nor a repository; give a folder that holds main\.py"):
        sources(str(tmp_path), "HEAD", tmp_path / "into", "main.py")
