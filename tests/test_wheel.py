"""The wheel: it builds, holds what runs and nothing else, and answers from a folder that is not the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
LEFT_OUT = shutil.ignore_patterns(
    ".venv", ".git", "__pycache__", "tests", "demo", "*.egg-info", ".*_cache", ".hypothesis", "build", "dist", "eval-*"
)


def pip(*words: object) -> None:
    ran = subprocess.run([sys.executable, "-m", "pip", "--quiet", *map(str, words)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that nothing is left in the checkout."""
    source, out = tmp_path_factory.mktemp("source") / "pack", tmp_path_factory.mktemp("wheel")
    shutil.copytree(CHECKOUT, source, ignore=LEFT_OUT)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", out, source)
    (built,) = out.glob("*.whl")
    return built


def test_it_holds_what_runs_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for needed in (
        "__init__.py",
        "py.typed",
        "aot/models/embedded/embedded.safetensors",
        "web/js/on_node.js",
        "nodes/__init__.py",
        "subgraphs/Ask Video.json",
    ):
        assert f"comfyui_aot/{needed}" in names
    python = {str(path.relative_to(CHECKOUT)) for room in ("aot", "nodes") for path in (CHECKOUT / room).rglob("*.py")}
    shipped = {name.removeprefix("comfyui_aot/") for name in names}
    assert python - shipped == {name for name in python if name.startswith("aot/training/")}
    assert not [name for name in names if "/tests/" in name]


def test_it_answers_from_a_folder_that_is_not_the_checkout(wheel, bunny, embedded_folder, tmp_path):
    pip("install", "--no-deps", "--target", tmp_path / "site", wheel)
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    where = "import comfyui_aot; print(comfyui_aot.__file__)"
    told = subprocess.run(
        [sys.executable, "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert Path(told.stdout.strip()).is_relative_to(tmp_path)
    question = [bunny, "What is it?", "--frames", "2", "--retention", "0.2", "--max-new-tokens", "2", "--json"]
    ran = subprocess.run(
        [sys.executable, "-m", "comfyui_aot", "answer", *question],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1])["tokens_kept"] == round(0.2 * 392)
