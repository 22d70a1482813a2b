"""Files and folders are complete or not there, and a JSON file that cannot be read is an error of one line."""

import json

import pytest

from comfyui_aot.aot.errors import LONGEST, InputError
from comfyui_aot.aot.files import (
    LARGEST_JSON,
    make_folder,
    read_json,
    whole_file,
    whole_folder,
    write_json,
)
from comfyui_aot.aot.names import require_name, within


def test_a_file_is_there_when_the_block_has_ended(tmp_path):
    path = tmp_path / "table.md"
    with whole_file(path) as temporary:
        temporary.write_text("all of it")
        assert not path.exists()
    assert path.read_text() == "all of it"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / "table.md"
    path.write_text("before")

    def stop_halfway():
        with whole_file(path) as temporary:
            temporary.write_text("half of")
            raise KeyError

    with pytest.raises(KeyError):
        stop_halfway()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_named(tmp_path):
    path = tmp_path / "nowhere" / "a"
    with pytest.raises(InputError, match=r"nowhere.*cannot be written"), whole_file(path) as temporary:
        temporary.write_text("x")


def test_a_folder_is_made_with_those_it_lies_in(tmp_path):
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be made"):
        make_folder(tmp_path / "file" / "folder")


def fill(folder, **options):
    """Write one file into a folder."""
    with whole_folder(folder, **options) as part:
        (part / "new").write_text("x")


def fail(folder, **options):
    """Write one file into a folder, then fail."""
    with whole_folder(folder, **options) as part:
        (part / "half").write_text("x")
        raise KeyError


def test_a_folder_is_there_when_the_block_has_ended(tmp_path):
    folder = tmp_path / "a" / "b"
    with whole_folder(folder) as part:
        (part / "file").write_text("x")
        assert not folder.exists()
    assert [path.name for path in folder.iterdir()] == ["file"]
    assert list(folder.parent.iterdir()) == [folder]


def test_an_error_leaves_no_folder(tmp_path):
    with pytest.raises(KeyError):
        fail(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_folder_can_be_resumed(tmp_path):
    folder = tmp_path / "a"
    with pytest.raises(KeyError):
        fail(folder, resume=True)
    assert not folder.exists()
    fill(folder, resume=True)
    assert {path.name for path in folder.iterdir()} == {"half", "new"}
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_that_exists_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(InputError, match="exists already; give another folder"):
        fill(tmp_path / "a")


@pytest.mark.parametrize("complete", [True, False])
def test_a_complete_folder_stays_and_a_damaged_one_is_replaced(tmp_path, complete):
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "old").write_text("x")
    fill(folder, is_complete=lambda each: complete)
    assert [path.name for path in folder.iterdir()] == ["old" if complete else "new"]
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_in_the_place_of_a_files_child_names_the_remedy(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"file cannot be written .*; set HOME\.$"):
        fill(tmp_path / "file" / "folder", remedy="set HOME")


def test_json_is_read_as_it_was_written(tmp_path):
    write_json(tmp_path / "a.json", {"x": [1, 2.5, "three"]})
    assert read_json(tmp_path / "a.json", "The note") == {"x": [1, 2.5, "three"]}
    (tmp_path / "b.json").write_text("\ufeff[1]", encoding="utf-8")
    assert read_json(tmp_path / "b.json", "The note", kind=list) == [1]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        (b"{", "no valid JSON"),
        (b"\xff", "no valid JSON"),
        (b"[" * 100_000, "nested deeper than 100"),
        (b'{"a":' * 101 + b"1" + b"}" * 101, "nested deeper than 100"),
        (b'{"x": 1e999}', "a number that is not finite"),
        (b'{"x": NaN}', "a number that is not finite"),
        (b'{"x": 1' + b"0" * 400 + b"}", "a number that is not finite"),
        (b'{"x": "a\\ud800"}', "half a character"),
        (b" " * (LARGEST_JSON + 1), "larger than 64 MiB"),
        (b"[1]", "it holds a list, not a dict"),
        (b"{}", "it has no x, y"),
    ],
)
def test_json_that_cannot_be_read_is_one_line(tmp_path, content, reason):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_json(path, "The note", keys=("x", "y"), remedy="write it again")
    line = str(error.value)
    assert line.startswith(f"The note {path} cannot be read (")
    assert reason in line
    assert line.endswith("; write it again.")
    assert "\n" not in line


def test_json_is_written_in_the_form_that_people_read(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    assert (tmp_path / "a.json").read_text() == json.dumps({"x": 1}, indent=2) + "\n"


@pytest.mark.parametrize("name", ["clip.mp4", "sub/clip.mp4", "sub\\clip.mp4", "..clip", "a..b/c", "[x]*.mp4"])
def test_a_name_inside_a_folder_is_a_path_there(tmp_path, name):
    for links in (True, False):
        assert within(tmp_path, name, links=links) == tmp_path / name


@pytest.mark.parametrize(
    "name",
    [
        "", " ", "..", "../x", "a/../../x", "a/..", "..\\x", "a\\..\\..\\x", "/etc/passwd", "//server/x",
        "\\\\server\\x", "\\x", "C:\\x", "C:x", "c:/x", "x\0.mp4",
    ],
)  # fmt: skip
def test_a_name_that_leads_out_of_a_folder_is_none(tmp_path, name):
    assert within(tmp_path / "a", name) is None


def test_links_on_the_disk_lead_out_where_they_may(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "link").symlink_to(tmp_path)
    (tmp_path / "a" / "here").symlink_to(tmp_path / "a")
    assert within(tmp_path / "a", "link/x") == tmp_path / "a" / "link" / "x"
    assert within(tmp_path / "a", "link/x", links=False) is None
    assert within(tmp_path / "a", "here/x", links=False) == tmp_path / "a" / "here" / "x"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a\0b", "without control characters"),
        ("a\nb", "without control characters"),
        ("a\ud800", "halves of characters"),
        ("x" * 256, "at most 255 bytes"),
        ("\u00e9" * 128, "at most 255 bytes"),
        ("a/" * 1500, "at most 255 bytes"),
        (["a"], " text"),
    ],
)
def test_a_name_that_no_file_can_have_is_one_line(name, said):
    with pytest.raises(InputError, match=f"The prefix is .*; give a.*{said}") as refused:
        require_name(name, "The prefix")
    assert len(str(refused.value)) < 250


@pytest.mark.parametrize("name", ["a b", "\u30d3\u30c7\u30aa.mp4", "x" * 255, "a/b/c", "\U0001f600", "bytes\udcff"])
def test_a_name_that_a_file_can_have_passes(name):
    assert require_name(name, "The prefix") == name


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_a_file_of_such_a_name_is_one_line_to_write_or_read(tmp_path, name):
    for use in (lambda path: whole_file(path).__enter__(), make_folder, lambda path: read_json(path, "The note")):
        with pytest.raises(InputError, match="; give a name"):
            use(tmp_path / name)


def test_a_message_has_a_length_that_can_be_read_and_keeps_its_remedy():
    message = str(InputError("the name is " + "x" * 50_000 + "\x1b[2J\n\tlong; give another."))
    assert len(message) == LONGEST and message.isprintable()
    assert message.startswith("the name is xxx") and " ... " in message
    assert message.endswith("x\N{REPLACEMENT CHARACTER}[2J long; give another.")
