"""What several tests of the evaluation share."""

from __future__ import annotations

from pathlib import Path

import pytest

from comfyui_aot.tests.evaluation.tiny import tiny_model


@pytest.fixture(scope="session")
def model_folder(embedded_folder, tmp_path_factory) -> Path:
    """The tiny model as a user's would lie on disk."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny = tiny_model(embedded_folder, cells=27)
    tiny.model.save_pretrained(folder)
    tiny._tokenizer.save_pretrained(folder)
    return folder
