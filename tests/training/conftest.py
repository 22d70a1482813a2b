"""The model that training begins with, made once for all of its tests."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest

from comfyui_aot.aot.models.embedded import assemble
from comfyui_aot.aot.training import learner


@pytest.fixture(scope="session")
def beginning():
    """The untrained model and its tokenizer, which no test changes."""
    return assemble.untrained()


@pytest.fixture(scope="session", autouse=True)
def _copies_for_learners(beginning) -> Iterator[None]:
    """Every learner begins with a copy: taking the model out of its two sources takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner, "untrained", lambda: copy.deepcopy(beginning))
        yield
