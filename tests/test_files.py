"""Files are whole or not there, and a folder that cannot be made is a user's mistake."""

import pytest

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.files import make_folder, whole


def test_a_file_is_there_when_the_block_has_ended(tmp_path):
    path = tmp_path / "table.md"
    with whole(path) as temporary:
        temporary.write_text("all of it")
        assert not path.exists()
    assert path.read_text() == "all of it"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / "table.md"
    path.write_text("before")

    def stop_halfway():
        with whole(path) as temporary:
            temporary.write_text("half of")
            raise KeyError

    with pytest.raises(KeyError):
        stop_halfway()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere.*cannot be written"), whole(tmp_path / "nowhere" / "a") as temporary:
        temporary.write_text("x")


def test_a_folder_is_made_with_those_it_lies_in(tmp_path):
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be made"):
        make_folder(tmp_path / "file" / "folder")
