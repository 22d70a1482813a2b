"""Versions of transformers: the cache goes by the name that the installed one takes; a newer one is said to be."""

import re
import warnings
from pathlib import Path

import pytest
import transformers
from packaging.version import Version
from torch import nn

from comfyui_aot.aot.cli.main import main
from comfyui_aot.aot.models import versions
from comfyui_aot.aot.models.versions import NEWEST_TRIED, cache_argument, untried, warn_if_untried

LOCK = Path(__file__).parents[2] / "constraints.txt"


class Before(nn.Module):
    def forward(self, inputs_embeds=None, past_key_values=None):
        """As up to 5.23."""


class After(nn.Module):
    def forward(self, inputs_embeds=None, cache=None, **kwargs):
        """As from 5.24 on, without its warning about the earlier name."""


@pytest.mark.parametrize(("kind", "name"), [(Before, "past_key_values"), (After, "cache")])
def test_the_cache_goes_by_the_name_that_the_llm_takes(kind, name):
    assert cache_argument(kind) == name


def test_what_is_locked_was_tried():
    pinned = [Version(each) for each in re.findall(r"^transformers==(\S+)", LOCK.read_text(), re.MULTILINE)]
    assert pinned and max(pinned).release[:2] <= NEWEST_TRIED.release[:2]
    assert not untried()


def test_a_newer_version_is_said_once_where_a_model_loads_and_by_the_doctor(monkeypatch, capsys):
    later = f"{NEWEST_TRIED.major}.{NEWEST_TRIED.minor + 1}.2"
    line = untried(later)
    assert line.startswith(f"transformers {later} is newer than {NEWEST_TRIED}, ")
    assert untried(f"{NEWEST_TRIED.major + 1}.0.0.dev0") and not untried(f"{NEWEST_TRIED}.9") and not untried("4.57.6")
    monkeypatch.setattr(versions, "untried", lambda installed=transformers.__version__: line)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        for _ in range(3):
            warn_if_untried()
    assert [str(each.message) for each in seen] == [line]
    assert main(["doctor"]) == 0
    assert line in capsys.readouterr().out
