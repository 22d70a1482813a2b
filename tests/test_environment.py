"""What is installed is what is locked, and what is locked is what the project asks for."""

from __future__ import annotations

import re
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info < (3, 11):
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")
else:
    import tomllib

CHECKOUT = Path(__file__).parents[1]
UNLOCKED = {"pip", "comfyui-aot"}
"""What brings the rest, and what it is brought for."""


def requirements(name: str) -> list[Requirement]:
    lines = (line.split("#")[0].strip() for line in (CHECKOUT / name).read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line]


def pins(*names: str) -> dict[str, str]:
    """Versions of the requirements that hold for this Python and system."""
    return {
        canonicalize_name(each.name): next(iter(each.specifier)).version
        for name in names
        for each in requirements(name)
        if each.marker is None or each.marker.evaluate()
    }


def asked_for() -> list[Requirement]:
    extras = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
    return requirements("requirements.txt") + [Requirement(each) for group in extras.values() for each in group]


@pytest.mark.locked
@pytest.mark.skipif(
    Path(sys.prefix) != CHECKOUT / ".venv", reason=f"{sys.prefix} is not the one that make builds: nothing is locked"
)
def test_what_is_installed_is_what_is_locked():
    locked = pins("constraints.txt", "requirements-embedded.txt", "requirements-lmms-eval.txt")
    installed = {canonicalize_name(each.name): each.version.split("+")[0] for each in distributions(path=[_packages()])}
    differ = {
        name: f"{version} where {locked.get(name, 'nothing')} is locked"
        for name, version in installed.items()
        if name not in UNLOCKED and locked.get(name) != version
    }
    assert not differ, "make clean, then make test, builds the environment anew"


def _packages() -> str:
    return next(path for path in sys.path if path.startswith(sys.prefix) and path.endswith("site-packages"))


def test_what_is_locked_is_what_the_project_asks_for():
    locked = pins("constraints.txt")
    unmet = [
        str(each)
        for each in asked_for()
        if canonicalize_name(each.name) not in locked or locked[canonicalize_name(each.name)] not in each.specifier
    ]
    assert not unmet, "make lock pins it anew"


def test_the_floors_that_are_tried_are_those_of_the_requirements():
    tried = pins("tests/floors.txt")
    for each in requirements("requirements.txt"):
        assert tried[canonicalize_name(each.name)] in each.specifier
        floor = re.search(r">=([^,]+)", str(each.specifier))
        assert floor, f"{each} has no floor"
        # The lowest release there is, where the floor itself was never released.
        assert tried[canonicalize_name(each.name)].startswith(floor[1])


@pytest.mark.parametrize(
    "name",
    [
        "constraints.txt",
        "tests/cluster/constraints.txt",
        "tests/comfyui/constraints.txt",
        "tests/serving/constraints.txt",
    ],
)
def test_everything_locked_is_one_version(name):
    assert all([each.operator for each in item.specifier] == ["=="] for item in requirements(name))
