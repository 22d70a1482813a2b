"""aot doctor: what works here, told on a page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from comfyui_aot.aot.cli import examination as doctor
from comfyui_aot.aot.cli.main import main


def page(capsys, *options):
    code = main(["doctor", *options])
    return code, capsys.readouterr().out


def test_it_tells_what_works_here(capsys):
    code, out = page(capsys, "--json")
    told = json.loads(out.splitlines()[-1])
    works = {check["name"]: check["works"] for check in told["checks"]}
    assert code == 0 and told["healthy"]
    assert works["reduce tokens"] and works["read a video with PyAV"] and works["read a video with decord"]
    assert told["facts"]["packages"]["torch"] == doctor.version("torch")
    assert all(check["text"] for check in told["checks"])


def test_the_name_of_the_home_folder_is_not_told(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "somebody")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "somebody" / ".cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "somebody"))
    assert "somebody" not in page(capsys)[1]


def test_a_package_below_its_floor_is_named_with_the_remedy(capsys, monkeypatch):
    versions = {"transformers": "4.40.0", "av": None}
    real = doctor.version
    monkeypatch.setattr(doctor, "version", lambda name: versions.get(name, real(name)))
    code, out = page(capsys)
    line = next(line for line in out.splitlines() if "at their floors" in line)
    assert code == 1
    assert line.strip().startswith("NO")
    assert "transformers>=4.57 (4.40.0)" in line and "av>=15 (not installed)" in line
    assert "pip install -r requirements.txt" in line


def test_two_packages_imported_as_decord_are_told(monkeypatch):
    monkeypatch.setattr(doctor, "version", lambda name: "1.0")
    found = doctor._one_decord()
    assert isinstance(found, doctor.Unmet)
    assert "uninstall them all" in found.text


def test_what_breaks_is_a_line_and_not_a_traceback(capsys, monkeypatch):
    def broken(backend):
        raise OSError("no such library\nlibav.so")

    monkeypatch.setattr(doctor, "_read", broken)
    code, out = page(capsys)
    assert code == 1
    assert "OSError: no such library libav.so" in out


@pytest.mark.parametrize("missing", ["version", "main"])
def test_a_comfyui_around_the_pack_is_found(missing, monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "PACK", tmp_path / "custom_nodes" / "aot")
    monkeypatch.chdir(tmp_path)
    if missing != "main":
        (tmp_path / "main.py").touch()
    if missing != "version":
        (tmp_path / "comfyui_version.py").write_text('__version__ = "0.3.64"\n')
    assert doctor._comfyui()["version"].startswith("none")
    (tmp_path / "main.py").touch()
    (tmp_path / "comfyui_version.py").write_text('__version__ = "0.3.64"\n')
    assert doctor._comfyui()["version"] == "0.3.64"
    assert doctor._comfyui()["this pack"] == "in its custom_nodes"


def test_a_cache_that_cannot_be_written_is_told_where_the_model_is_not_there_yet(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/nothing")
    monkeypatch.setattr("comfyui_aot.aot.models.embedded.assemble.require_packages", lambda: None)
    # Of a user who is root, everything can be.
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    found = doctor._embedded()
    assert isinstance(found, doctor.Unmet)
    assert "XDG_CACHE_HOME" in found.text
