"""All kinds of input, by name."""

from __future__ import annotations

from comfyui_aot.tests.hostile import (
    caches,
    chains,
    model_folders,
    names,
    question_sets,
    records,
    replies,
    token_files,
    videos,
    workflows,
)

_FILES = (
    videos,
    token_files,
    workflows,
    model_folders,
    question_sets,
    records,
    caches,
    chains,
    replies,
    names,
)
KINDS = {each.KIND.name: each.KIND for each in _FILES}
