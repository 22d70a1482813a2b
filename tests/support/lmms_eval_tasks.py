"""lmms-eval's own prompts and scoring, for tests to compare with; absent, those tests are skipped."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

import pytest
import yaml

VERSION = "0.7.3"


def utils(task: str) -> ModuleType:
    """The module that builds a task's prompts and scores its answers."""
    try:
        found = version("lmms-eval")
    except PackageNotFoundError:
        pytest.skip("lmms-eval is not installed: pip install --no-deps lmms-eval==0.7.3")
    if found != VERSION:
        pytest.skip(f"lmms-eval {found} is installed; prompts and scores are those of {VERSION}")
    with pytest.MonkeyPatch.context() as patch:
        if importlib.util.find_spec("cv2") is None:  # VideoMME's subtitles read frame rates with it, and only they
            patch.setitem(sys.modules, "cv2", ModuleType("cv2"))
        try:
            return importlib.import_module(f"lmms_eval.tasks.{task}.utils")
        except ImportError as error:
            pytest.skip(f"lmms-eval lacks what it imports: {error}")


def settings(task: str, file: str) -> dict:
    """What a task's file says, its functions left out."""
    path = Path(utils(task).__file__).with_name(file)
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if "!function" not in line]
    return yaml.safe_load("\n".join(lines))
