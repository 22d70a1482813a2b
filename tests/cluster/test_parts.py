"""Parts of a result: named by their work, whole or not there, and gone once they are joined."""

import os
import sys
from pathlib import Path

import pytest

from comfyui_aot.aot.batch.on_ray import take_in
from comfyui_aot.aot.batch.rows import COLUMNS, Rows
from comfyui_aot.aot.cli.main import main
from comfyui_aot.aot.cluster.parts import Parts, name_of
from comfyui_aot.aot.cluster.pool import TRIES, Pool, _Worker
from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.models.fingerprint import digest
from comfyui_aot.tests.support.videos import write_clip

pytest.importorskip("pyarrow", reason="pyarrow is missing")
pytest.importorskip("fsspec", reason="pyarrow has no fsspec beside it")

SETTINGS = {"a": 1}


@pytest.fixture
def parts(tmp_path):
    return Parts(str(tmp_path / "parts"))


def row(name, **more):
    given = {"id": name, "preset": "own words", "question": "Who?", "settings": digest(SETTINGS), **more}
    return {column: given.get(column) for column in COLUMNS}


def test_the_same_work_has_the_same_name_and_other_work_another():
    assert name_of([["a", "b"]]) == name_of([["a", "b"]]) != name_of([["a", "c"]])


def test_a_part_is_read_as_it_was_written_and_written_again_in_its_place(parts):
    rows = [row("a", answer="\u00fc\n", new_tokens=3, encode_s=0.5), row("b", error="none")]
    for _ in range(2):
        parts.write("x", rows)
    assert parts.read("x") == rows
    assert (parts.names(), parts.count("x"), parts.count("y")) == (["x"], 2, None)


def test_a_folder_of_parts_that_is_gone_is_removed_already(parts):
    parts.write("x", [row("a", answer="yes")])
    parts.remove(["x"])
    assert not Path(parts.place).exists()
    parts.remove()
    assert parts.names() == []


def test_a_row_with_fewer_columns_takes_none_from_those_after_it(parts):
    parts.write("x", [{"id": "a", "error": "bad"}, {"id": "b", "answer": "yes"}])
    assert [each["answer"] for each in parts.read("x")] == [None, "yes"]


def test_a_part_that_cannot_be_put_in_its_place_is_not_there(parts, monkeypatch):
    def full(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match="No space left on device"):
        parts.write("x", [row("a")])
    assert parts.names() == []


def test_rows_are_taken_in_once_whatever_lies_there(parts, tmp_path):
    rows = Rows(tmp_path, SETTINGS)
    rows.add(row("a", answer="first"))
    parts.write("x", [row("a", answer="again"), row("b", answer="b")])
    parts.write("y", [row("b", answer="again"), row("c", error="bad"), row("d", settings="others")])
    parts.begin("z")
    names = take_in(rows, parts, again=True)
    assert {each["id"]: each["answer"] for each in rows} == {"a": "first", "b": "b"}
    take_in(rows, parts)
    assert [each["id"] for each in rows] == ["a", "b", "c"]
    parts.remove(names)
    assert not (tmp_path / "parts").exists()


class Deadly:
    """Work that ends its worker at one item, as running out of memory would."""

    def __init__(self):
        self.about = {}

    def do(self, items):
        if "bad" in items:
            raise MemoryError
        return [{"id": item} for item in items]

    def give_up(self, item, reason):
        return [{"id": item, "error": reason}]

    def notes(self):
        return []


class Made:
    def __enter__(self):
        return Deadly()

    def __exit__(self, *error):
        pass


def test_an_item_that_kills_its_workers_is_given_up_and_the_others_are_done(parts):
    items, deaths = ["good", "bad", "fine"], 0
    while True:
        worker = _Worker(Made, os.getcwd(), parts.place, {})
        try:
            assert worker._do(items) == 3
            break
        except MemoryError:
            deaths += 1
    assert deaths == 2 * TRIES
    found = {each["id"]: each.get("error") for name in parts.names() for each in parts.read(name)}
    assert found.keys() == {"good", "bad", "fine"} and "died 2 times" in found["bad"]
    assert found["good"] is None


def test_a_worker_that_would_answer_otherwise_says_so(parts):
    worker = _Worker(Made, os.getcwd(), parts.place, {"settings": {"model": "other"}})
    (line,) = worker._result({"items": ["[]"]})["refused"]
    assert "settings.model other elsewhere, None here" in line


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--ray"], "pip install comfyui-aot[ray]"),
        (["--ray-actors", "2"], "give --ray too"),
        (["--ray-actors", "4-2", "--ray"], "give 1 or more, as N or MIN-MAX"),
        (["--ray-actors", "many", "--ray"], "give N or MIN-MAX"),
        (["--ray-cpus", "-1", "--ray"], "give 0 or more"),
        (["--out", "s3://bucket/out"], "is a URL, which is written by --ray"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(words, line, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    write_clip(tmp_path / "a.mp4", frames=5)
    assert main(["batch", str(tmp_path), "Who?", "--out", str(tmp_path / "out"), *words]) == 2
    err = capsys.readouterr().err
    assert line in err and err.strip().count("\n") == 0


def test_numbers_of_workers_are_checked():
    assert Pool(least=2, most=2).most == 2
    with pytest.raises(InputError):
        Pool(least=0)
