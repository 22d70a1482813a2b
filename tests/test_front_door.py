"""What `import comfyui_aot` gives: every public name, and nothing loaded before it is asked for."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import comfyui_aot
from comfyui_aot.aot.stages import stages
from comfyui_aot.aot.stages.chain import parse

PUBLIC = comfyui_aot._PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_name_is_there(name):
    assert getattr(comfyui_aot, name) is not None
    assert name in dir(comfyui_aot)


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(comfyui_aot.__file__).read_text(encoding="utf-8"))
    (guarded,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.asname or alias.name for node in guarded.body for alias in node.names}
    assert seen == set(PUBLIC) == set(comfyui_aot.__all__)


def test_every_stage_is_among_them():
    missing = {kind.__name__ for kind in stages().values()} - set(PUBLIC)
    assert not missing, f"{', '.join(missing)}: add it to __init__.py, to __all__, _PUBLIC and the imports for types"


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'NODE_CLASS_MAPPINGS'"):
        comfyui_aot.NODE_CLASS_MAPPINGS  # noqa: B018


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, comfyui_aot; print({'torch', 'transformers', 'numpy', 'av'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


def test_a_chain_of_objects_is_the_chain_of_its_text():
    chain = comfyui_aot.Chain([comfyui_aot.IntraFrame(retention=0.2), comfyui_aot.InterFrame(retention=0.1)])
    assert chain.name == "intra:retention=0.2+inter:retention=0.1"
    assert parse(chain.name) == chain
    assert comfyui_aot.Chain() == parse("full")


def test_a_chain_of_something_else_is_refused_in_a_line():
    with pytest.raises(comfyui_aot.InputError, match="made of stages, not of 3"):
        comfyui_aot.Chain([3])


def test_the_reference_describes_every_name():
    pdoc = pytest.importorskip("pdoc.doc", reason="pdoc is in the environment that make builds")
    for name in comfyui_aot.__all__:
        getattr(comfyui_aot, name)
    members = pdoc.Module(comfyui_aot).members
    assert [name for name in comfyui_aot.__all__ if not members[name].docstring] == []
