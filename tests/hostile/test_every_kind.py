"""A few hundred hostile cases of every kind of input; ``make fuzz`` runs them at length.

Each ends in one readable line or in finite tokens: no traceback, no wait, no flood of memory. The cases are always the
same, and each runs in another process, so that one that dies is known.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytest.importorskip("resource", reason="limits of memory need a Unix")
from comfyui_aot.tests.hostile.every_kind import KINDS

CASES = 100
"""That Hypothesis makes of each kind, and about as many of its table."""


@pytest.fixture(scope="module")
def tallies():
    """What became of every kind's cases."""
    command = [sys.executable, "-W", "ignore", "-m", "comfyui_aot.tests.hostile.fuzz"]
    command += ["--json", "--few", str(CASES), "--jobs", "1"]  # other tests run beside it
    ended = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert ended.stdout, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_input_ends_in_one_line_or_in_finite_tokens(tallies, kind):
    tally = tallies[kind]
    assert tally["cases"] == []
    assert sum(tally.get(each, 0) for each in ("refused", "accepted")) > CASES
