"""Where videos come from: folders, lists and URLs, and the one door of what a list names."""

import json
import os

import pytest

from comfyui_aot.aot.batch.captions import Captions, require_places
from comfyui_aot.aot.batch.questions import ask_each, fill
from comfyui_aot.aot.batch.remote import require_allowed, without_keys
from comfyui_aot.aot.batch.sources import Clip, Listed, clips_of
from comfyui_aot.aot.errors import InputError

HERE = "Row 2 of list.csv"


@pytest.fixture
def folder(tmp_path):
    for name in (
        "b.mp4",
        "a.MKV",
        "day 1/c.webm",
        "day 1/.hidden.mp4",
        ".cache/d.mp4",
        "notes.txt",
        "day 1/c.txt",
        "other",
    ):
        path = tmp_path / "clips" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path / "clips"


def test_a_folder_gives_its_videos_and_those_of_folders_in_it(folder):
    clips = clips_of(str(folder))
    assert [clip.id for clip in clips] == ["a.MKV", "b.mp4", "day 1/c.webm"]
    assert clips[2].place == str(folder / "day 1" / "c.webm")
    assert dict(clips[2].columns) == {"id": "day 1/c.webm", "name": "c", "folder": "day 1"}


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["*.mp4"], ["b.mp4"]),
        (["day 1/*.w*"], ["day 1/c.webm"]),
        (["b.*", "a.*"], ["a.MKV", "b.mp4"]),
        (["day 1/*"], ["day 1/c.webm"]),
        (["day 1/*.txt", "b*"], ["b.mp4", "day 1/c.txt"]),
        (["other"], ["other"]),
    ],
)
def test_patterns_choose_files_by_name_or_by_path(folder, patterns, names):
    assert [clip.id for clip in clips_of(str(folder), patterns)] == names


def test_a_folder_without_videos_and_a_source_that_is_not_there_are_refused(folder, tmp_path):
    with pytest.raises(InputError, match=r"holds no video with \*\.avi"):
        clips_of(str(folder), ["*.avi"])
    with pytest.raises(InputError, match=r"There is no .*nowhere"):
        clips_of(str(tmp_path / "nowhere"))


def write_list(folder, kind, rows):
    path = folder / f"list.{kind}"
    if kind == "txt":
        path.write_text("\n".join(row["video"] for row in rows) + "\n\n", encoding="utf-8")
    elif kind == "csv":
        lines = [",".join(rows[0]), *(",".join(f'"{value}"' for value in row.values()) for row in rows)]
        path.write_text("\n".join(lines), encoding="utf-8-sig")
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pytest.importorskip("pyarrow").Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("kind", ["txt", "csv", "jsonl", "parquet"])
def test_every_kind_of_list_names_videos_beside_it(folder, kind):
    rows = [{"video": "b.mp4", "question": "Wer, wann?"}, {"video": "day 1/c.webm", "question": "W\u00fcrfel?"}]
    clips = clips_of(str(write_list(folder, kind, rows)))
    assert [clip.place for clip in clips] == [str(folder / "b.mp4"), str(folder / "day 1/c.webm")]
    assert [clip.id for clip in clips] == ["b.mp4", "day 1/c.webm"]
    if kind != "txt":
        asked = ask_each(clips, [])
        assert [[each.question for each in video] for video in asked] == [["Wer, wann?"], ["W\u00fcrfel?"]]


def test_columns_may_have_other_names(folder):
    path = write_list(folder, "csv", [{"file": "b.mp4", "key": "one", "ask": "Who?"}])
    (clip,) = clips_of(str(path), listed=Listed(video="file", id="key"))
    assert clip.id == "one" and ask_each([clip], [], column="ask")[0][0].question == "Who?"
    with pytest.raises(InputError, match="has no column 'video', but file, key, ask; give --video-column"):
        clips_of(str(path))
    with pytest.raises(InputError, match="has no 'nope'"):
        clips_of(str(path), listed=Listed(video="file", id="nope"))


def test_two_videos_with_one_id_are_refused_and_one_video_in_two_rows_is_one(folder):
    rows = [{"id": "x", "video": "b.mp4", "question": "Who?"}, {"id": "x", "video": "b.mp4", "question": "What?"}]
    clips = clips_of(str(write_list(folder, "jsonl", rows)))
    assert [[each.question for each in video] for video in ask_each(clips, [])] == [["Who?", "What?"]]
    with pytest.raises(InputError, match="two videos with the id 'x'"):
        clips_of(str(write_list(folder, "jsonl", [rows[0], {**rows[1], "video": "a.MKV"}])))


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_list_that_is_none_is_refused_in_a_line(folder, kind):
    path = folder / f"list.{kind}"
    path.write_bytes(b"\xff\xfe\x00nonsense")
    with pytest.raises(InputError, match=r"cannot be read|no column"):
        clips_of(str(path))


@pytest.mark.parametrize(
    "name", ["../secret.mp4", "/etc/passwd", "day 1/../../secret.mp4", "C:\\secret.mp4", "\\\\host\\x.mp4"]
)
def test_a_list_names_nothing_outside_its_folder(folder, name):
    path = write_list(folder, "jsonl", [{"video": "b.mp4"}, {"video": name}])
    with pytest.raises(InputError, match=r"Row 2 of list\.jsonl names the video .* not inside .*--videos FOLDER"):
        clips_of(str(path))


def test_a_list_may_name_videos_of_the_folder_that_is_given_by_their_whole_path(folder, tmp_path):
    path = write_list(tmp_path, "txt", [{"video": str(folder / "b.mp4")}])
    assert clips_of(str(path))[0].place == str(folder / "b.mp4")
    other = tmp_path / "elsewhere"
    with pytest.raises(InputError, match="not inside"):
        clips_of(str(path), listed=Listed(videos=other))
    write_list(tmp_path, "txt", [{"video": f"{folder}{os.sep}..{os.sep}secret.mp4"}])
    with pytest.raises(InputError, match="not inside"):
        clips_of(str(path), listed=Listed(videos=folder))


@pytest.mark.parametrize(
    "allowed",
    [
        "https://host/a/",
        "https://host/a",
        "https://host",
        "https://host:443/a/",
        "https://HOST/a/",
        "https://host/a/b.mp4",
    ],
)
def test_a_url_that_the_user_allows_may_be_listed(allowed):
    require_allowed("https://host/a/b.mp4", [allowed], HERE)


@pytest.mark.parametrize(
    "url",
    [
        "https://host/ab/c.mp4",
        "https://host/a/../b.mp4",
        "https://host/a/%2e%2e/b.mp4",
        "https://host/a/%252e%252e/b.mp4",
        "https://host.evil/a/b.mp4",
        "https://host:8443/a/b.mp4",
        "http://host/a/b.mp4",
        "https://host@evil/a/b.mp4",
        "https://user:key@host/a/b.mp4",
        "s3://host/a/b.mp4",
        "file:///a/b.mp4",
        "simplecache::https://host/a/b.mp4",
        "https://host/a/b.mp4::file:///etc/passwd",
        "https://host\\@evil/a/b.mp4",
    ],
)
def test_any_other_url_in_a_list_is_refused(url, folder):
    with pytest.raises(InputError):
        require_allowed(url, ["https://host/a/"], HERE)
    with pytest.raises(InputError):
        clips_of(str(write_list(folder, "txt", [{"video": url}])), listed=Listed(allowed=["https://host/a/"]))


def test_what_may_be_a_key_in_a_url_is_in_no_name_of_a_video(folder):
    url = "https://host/a/b.mp4"
    path = write_list(folder, "csv", [{"video": f"{url}?key=secret", "question": "Is it {x}?"}])
    (clip,) = clips_of(str(path), listed=Listed(allowed=["https://host/"]))
    assert (clip.id, clip.place) == (url, f"{url}?key=secret") and "secret" not in str(clip.columns)
    path = write_list(folder, "txt", [{"video": f"{url}?v=1"}, {"video": f"{url}?v=2"}])
    with pytest.raises(InputError, match=f"two videos with the id '{url}'; give each an id of its own"):
        clips_of(str(path), listed=Listed(allowed=["https://host/"]))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no URL? None.", "no URL? None."),
        ("403, url=URL('https://host/a.mp4?key=b%20c&d')", "403, url=URL('https://host/a.mp4"),
        ("https://host/a.mp4?name=clip(1)&key=b is gone", "https://host/a.mp4 is gone"),
        ("s3://a/b?c d, http://e?f", "s3://a/b d, http://e"),
    ],
)
def test_messages_are_without_what_may_be_a_key(text, shown):
    assert without_keys(text) == shown


def test_a_url_that_is_not_allowed_says_what_would_allow_it(folder):
    path = write_list(folder, "txt", [{"video": "https://host/a/b.mp4"}])
    with pytest.raises(InputError, match=r"give --allow-url https://host/a/"):
        clips_of(str(path))


def test_templates_take_the_rows_columns_and_nothing_else():
    assert fill("Is {a} {{x}} near {b c}?", {"a": "{b c}", "b c": "1"}, "clip") == "Is {b c} {x} near 1?"
    for template in ("{nope}", "{a.__class__}", "{0}", "{}"):
        with pytest.raises(InputError, match="has no such column, but a"):
            fill(template, {"a": "1"}, "clip")


def test_presets_are_asked_with_every_question():
    clip = Clip("a", "a.mp4", {"id": "a"})
    (asked,) = ask_each([clip], ["Hats?", "Hats?"], ["describe", "tags"])
    assert [(each.preset, each.question) for each in asked] == [("describe", "Hats?"), ("tags", "Hats?")]
    assert asked[0].prompt(()).startswith("Describe") and asked[0].alone == "Hats?"
    (asked,) = ask_each([clip], [], ["caption"])
    assert asked[0].question == "" and asked[0].alone.startswith("Write a caption")


@pytest.mark.parametrize(
    ("questions", "presets", "line"),
    [
        ([], [], "There is no question"),
        (["Who?"], ["multiple choice"], "a: A multiple choice"),
        ([""], ["nope"], "nope"),
    ],
)
def test_questions_that_cannot_be_asked_are_refused_before_any_work(questions, presets, line):
    with pytest.raises(InputError, match=line):
        ask_each([Clip("a", "a.mp4", {"id": "a"})], questions, presets)


def test_captions_stay_unless_they_are_to_be_replaced(tmp_path):
    clip = Clip("a.mp4", str(tmp_path / "a.mp4"), {})
    assert Captions("in my style, ", "!").write(clip, "a cube")
    assert (tmp_path / "a.txt").read_text() == "in my style, a cube!\n"
    assert not Captions().write(clip, "other") and "cube" in (tmp_path / "a.txt").read_text()
    assert Captions(replace=True).write(clip, "other") and (tmp_path / "a.txt").read_text() == "other\n"


def test_captions_have_a_file_of_their_own_each():
    one, other = Clip("a.mp4", "x/a.mp4", {}), Clip("a.mov", "x/a.mov", {})
    require_places([one, Clip("b", "y/a.mp4", {}), one])
    with pytest.raises(InputError, match="the same caption file"):
        require_places([one, other])
    with pytest.raises(InputError, match="written beside files"):
        require_places([Clip("c", "s3://bucket/c.mp4", {})])
