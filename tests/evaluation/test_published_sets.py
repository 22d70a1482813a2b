"""The published sets on miniatures in their layouts: questions, families, clips, scores, and what is said of faults."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from PIL import Image

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.evaluation.published import SETS, open_set, write_submission
from comfyui_aot.aot.evaluation.published.mvbench import TASKS
from comfyui_aot.tests.support.miniatures import (
    MVBENCH_PART,
    MVBENCH_ROW,
    write_egoschema,
    write_egoschema_json,
    write_longvideobench,
    write_mvbench,
    write_videomme,
)


@pytest.fixture
def put_clip(make_clip, tmp_path):
    """put_clip("folder/name.mp4", frames=10): a clip under tmp_path whose frame i has brightness 20 + 8 * i."""

    def put(relative, **options):
        (tmp_path / relative).parent.mkdir(parents=True, exist_ok=True)
        return make_clip(relative, **options)

    return put


@pytest.fixture
def videomme(tmp_path):
    """VideoMME's annotations, its videos still to be put."""
    pytest.importorskip("pyarrow")
    return write_videomme(tmp_path)


@pytest.fixture
def street(tmp_path):
    """LongVideoBench's questions, all about the clip street.mp4, which is still to be put."""
    return open_set("longvideobench", write_longvideobench(tmp_path))


def shown(source):
    """Which frames of a clip of `put_clip` a source shows, by their brightness."""
    (frames,) = source.parts(source.count)
    return np.rint((frames.pixels[:, 32, 80, 0].double().numpy() - 20) / 8).astype(int).tolist()


def refused(call, *words):
    """`call` is refused in one line that holds each of `words`."""
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


# Questions


def test_mvbench_has_a_family_for_each_of_its_twenty_tasks(tmp_path):
    questions = open_set("mvbench", write_mvbench(tmp_path)).questions
    assert [question.family for question in questions] == list(TASKS)
    assert len(TASKS) == 20
    assert {question.answer for question in questions} == {"B"}


def test_videomme_has_the_durations_as_families_and_three_questions_a_clip(videomme):
    questions = open_set("videomme", videomme).questions
    assert [question.family for question in questions] == ["short"] * 3 + ["medium"] * 3 + ["long"] * 3
    assert [question.clip for question in questions[:4]] == ["clip0_id"] * 3 + ["clip1_id"]
    assert [question.answer for question in questions[:3]] == ["A", "B", "C"]


def test_longvideobench_has_the_papers_groups_of_durations_as_families(tmp_path):
    questions = open_set("longvideobench", write_longvideobench(tmp_path)).questions
    assert [question.family for question in questions] == ["8-15 s", "15-60 s", "180-600 s", "900-3600 s"]
    assert [question.answer for question in questions] == ["A", "B", "C", "D"]


def test_egoschemas_subset_has_answers_and_all_of_it_has_none(tmp_path):
    pytest.importorskip("pyarrow")
    folder = write_egoschema(tmp_path)
    assert [question.answer for question in open_set("egoschema", folder).questions] == ["A", "B"]
    assert [question.answer for question in open_set("egoschema", folder, split="full").questions] == ["", "", ""]


@pytest.mark.parametrize("split", ["subset", "full"])
def test_egoschemas_own_files_ask_the_same_as_the_parquet_files(tmp_path, split):
    pytest.importorskip("pyarrow")
    parquet = open_set("egoschema", write_egoschema(tmp_path / "parquet"), split=split)
    own = open_set("egoschema", write_egoschema_json(tmp_path / "own"), split=split)
    assert own.questions == parquet.questions
    assert own.identity == parquet.identity


@pytest.mark.parametrize("name", SETS)
def test_every_question_has_an_id_of_its_own_and_the_same_identity_again(tmp_path, name):
    if name == "videomme":
        pytest.importorskip("pyarrow")
    writers = (write_mvbench, write_videomme, write_egoschema_json, write_longvideobench)
    folder = dict(zip(SETS, writers, strict=True))[name](tmp_path)
    questions = open_set(name, folder)
    assert len({question.id for question in questions.questions}) == len(questions.questions)
    assert json.loads(json.dumps(dict(questions.identity))) == open_set(name, folder).identity


def test_another_question_is_another_identity(tmp_path):
    before = open_set("mvbench", write_mvbench(tmp_path / "a"))
    changed = MVBENCH_ROW | {"question": "What else does the person lift?"}
    after = open_set("mvbench", write_mvbench(tmp_path / "b", action_count=[changed]))
    assert before.identity != after.identity


def test_another_part_of_the_video_is_another_identity(tmp_path):
    (tmp_path / "a" / "video").mkdir(parents=True)
    (tmp_path / "b" / "video").mkdir(parents=True)
    before = open_set("mvbench", write_mvbench(tmp_path / "a"))
    after = open_set("mvbench", write_mvbench(tmp_path / "b", action_sequence=[MVBENCH_PART | {"end": 1.3}]))
    assert before.identity != after.identity


def test_families_can_be_chosen(street, tmp_path):
    chosen = open_set("longvideobench", tmp_path, families=("15-60 s", "8-15 s"))
    assert {question.family for question in chosen.questions} == {"8-15 s", "15-60 s"}
    assert chosen.identity != street.identity


# Clips


def test_a_clip_shows_frames_evenly_from_its_first_to_its_last(street, put_clip):
    put_clip("videos/street.mp4", frames=11)
    source = street.frames("street.mp4", 4)
    assert shown(source) == [0, 3, 6, 10]
    assert source.timestamps.tolist() == pytest.approx([0, 0.3, 0.6, 1.0])


@pytest.mark.parametrize("suffix", ["MP4", "mkv"])
def test_videomme_finds_videos_under_other_suffixes(videomme, put_clip, suffix):
    put_clip(f"data/clip0_id.{suffix}", frames=4)
    assert open_set("videomme", videomme).frames("clip0_id", 2).count == 2


def test_a_clip_of_fewer_frames_shows_them_again_at_later_times(street, put_clip):
    put_clip("videos/street.mp4", frames=3)
    source = street.frames("street.mp4", 8)
    assert shown(source) == [0, 0, 0, 0, 1, 1, 1, 2]
    assert (source.timestamps.diff() > 0).all()
    assert source.timestamps[-1] == pytest.approx(0.2)


def test_a_clip_of_one_frame_is_shown_for_a_second(street, put_clip):
    put_clip("videos/street.mp4", frames=1)
    source = street.frames("street.mp4", 5)
    assert shown(source) == [0] * 5
    assert source.timestamps.tolist() == pytest.approx([0, 0.25, 0.5, 0.75, 1])


def test_mvbenchs_main_branch_shows_the_part_that_is_asked_about(tmp_path, put_clip):
    put_clip("video/star/Charades_v1_480/kettle.mp4", frames=20)
    questions = open_set("mvbench", write_mvbench(tmp_path), families=["action_sequence"])
    assert shown(questions.frames(questions.questions[0].clip, 4)) == [5, 7, 9, 12]


def test_two_parts_of_a_video_are_two_clips(tmp_path, put_clip):
    put_clip("video/star/Charades_v1_480/kettle.mp4", frames=20)
    write_mvbench(tmp_path, action_sequence=[MVBENCH_PART, MVBENCH_PART | {"start": 1.0, "end": 1.5}])
    questions = open_set("mvbench", tmp_path, families=["action_sequence"])
    assert [shown(questions.frames(question.clip, 2)) for question in questions.questions] == [[5, 12], [10, 15]]


def test_a_video_that_two_tasks_ask_about_is_one_clip(tmp_path):
    questions = open_set("mvbench", write_mvbench(tmp_path), families=["moving_count", "moving_attribute"])
    assert len({question.clip for question in questions.questions}) == 1


def test_an_episode_is_a_folder_of_three_pictures_a_second(tmp_path):
    pictures = tmp_path / "video" / "tvqa" / "frames_fps3_hq" / "kettle"
    pictures.mkdir(parents=True)
    for i in range(12):
        Image.fromarray(np.full((64, 96, 3), 20 + 8 * i, np.uint8)).save(pictures / f"{i + 1:05d}.jpg", quality=95)
    row = MVBENCH_ROW | {"video": "kettle", "start": 1.0, "end": 3.0}
    questions = open_set("mvbench", write_mvbench(tmp_path, episodic_reasoning=[row]), families=["episodic_reasoning"])
    source = questions.frames(questions.questions[0].clip, 3)
    assert shown(source) == [3, 6, 9]
    assert source.timestamps.tolist() == pytest.approx([1, 2, 3])
    assert len(shown(questions.frames(questions.questions[0].clip, 16))) == 16


@pytest.mark.parametrize("name", ["kettle.mp4", "kettle.mkv", "kettle_0.5_1.2.mp4"])
def test_mvbenchs_branch_of_cut_clips_shows_them_whole(tmp_path, put_clip, name):
    put_clip(f"star/Charades_segment/{name}", frames=7)
    questions = open_set("mvbench", write_mvbench(tmp_path), families=["action_sequence"])
    assert shown(questions.frames(questions.questions[0].clip, 3)) == [0, 3, 6]


@pytest.mark.parametrize("root", ["", "video/"])
def test_mvbench_finds_what_came_later(tmp_path, put_clip, root):
    put_clip(f"{root}data0613/clevrer/video_validation/kettle.mp4", frames=4)
    questions = open_set("mvbench", write_mvbench(tmp_path), families=["moving_count"])
    assert questions.frames(questions.questions[0].clip, 2).count == 2


# Scores


def test_a_right_letter_is_1_and_a_wrong_or_empty_answer_0(tmp_path):
    questions = open_set("mvbench", write_mvbench(tmp_path))
    scores = [questions.score(questions.questions[0], said) for said in ("(B) A kettle", "b.", "A", "")]
    assert scores == [1.0, 1.0, 0.0, 0.0]


def test_without_a_published_answer_there_is_no_score(tmp_path):
    questions = open_set("egoschema", write_egoschema_json(tmp_path), split="full")
    assert questions.score(questions.questions[0], "A") is None


@pytest.mark.parametrize(
    ("name", "write"), [("egoschema", write_egoschema_json), ("longvideobench", write_longvideobench)]
)
def test_no_letter_is_a_guess_that_never_changes(tmp_path, name, write):
    questions = open_set(name, write(tmp_path))
    guesses = [[questions.choice(question, said) for question in questions.questions] for said in ("", "no idea")]
    assert guesses[0] == guesses[1]
    assert set(guesses[0]) <= set("ABCDE")


# EgoSchema's submission file


def test_the_submission_file_has_the_index_of_every_choice(tmp_path):
    questions = open_set("egoschema", write_egoschema_json(tmp_path), split="full")
    write_submission(questions, {"uid-0": "E", "uid-1": "(B) C knits.", "uid-2": "C."}, tmp_path / "choices.json")
    assert json.loads((tmp_path / "choices.json").read_text()) == {"uid-0": 4, "uid-1": 1, "uid-2": 2}


def test_a_submission_file_needs_every_answer(tmp_path):
    questions = open_set("egoschema", write_egoschema_json(tmp_path), split="full")
    refused(lambda: write_submission(questions, {"uid-0": "E"}, tmp_path / "choices.json"), "2 of", "3", "uid-1")
    assert not (tmp_path / "choices.json").exists()


def test_other_sets_have_no_submission_file(tmp_path):
    questions = open_set("mvbench", write_mvbench(tmp_path))
    refused(lambda: write_submission(questions, {}, tmp_path / "choices.json"), "MVBench", "EgoSchema")


# What cannot be


def test_an_unknown_set_split_family_or_folder_is_refused(tmp_path):
    write_egoschema_json(tmp_path)
    refused(lambda: open_set("mvbanch", tmp_path), "'mvbanch'", "mvbench")
    refused(lambda: open_set("egoschema", tmp_path, split="test"), "'test'", "subset, full")
    refused(lambda: open_set("egoschema", tmp_path, families=["short"]), "'short'", "all")
    refused(lambda: open_set("egoschema", tmp_path / "nowhere"), "nowhere", "egoschema")


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("mvbench", "json/action_sequence.json"),
        ("videomme", "videomme/test-00000-of-00001.parquet"),
        ("egoschema", "Subset/test-00000-of-00001.parquet"),
        ("longvideobench", "lvb_val.json"),
    ],
)
def test_missing_annotations_are_named_with_folder_and_layout(tmp_path, name, wanted):
    refused(lambda: open_set(name, tmp_path), wanted, str(tmp_path), "lay the folder out as")


def test_a_missing_video_is_named_with_folder_and_layout(street, tmp_path):
    refused(lambda: street.frames("street.mp4", 4), "videos/street.mp4", str(tmp_path), "videos.tar.part.*")


@pytest.mark.parametrize("outside", ["../street.mp4", "a/../../street.mp4", "..\\street.mp4"])
def test_a_video_outside_of_the_sets_folder_is_not_opened(tmp_path, put_clip, outside):
    folder = write_longvideobench(tmp_path / "set")
    put_clip("street.mp4")
    put_clip("set/street.mp4")
    rows = json.loads((folder / "lvb_val.json").read_text())
    (folder / "lvb_val.json").write_text(json.dumps([row | {"video_path": outside} for row in rows]))
    named = open_set("longvideobench", folder)
    refused(lambda: named.frames(outside, 4), "names a video 'videos/", "not inside", "download its questions again")
    refused(lambda: named.require([outside]), "not inside")


def test_missing_videos_can_be_asked_for_before_a_long_run(street, put_clip):
    refused(lambda: street.require(["street.mp4"]), "videos/street.mp4")
    put_clip("videos/street.mp4", frames=2)
    street.require(["street.mp4"])


def test_a_clip_of_another_set_is_refused(street):
    for call in (lambda: street.frames("kettle", 4), lambda: street.require(["kettle"])):
        refused(call, "'kettle'", "LongVideoBench")


def test_no_frames_at_all_are_refused(street, put_clip):
    put_clip("videos/street.mp4", frames=2)
    refused(lambda: street.frames("street.mp4", 0), "frames is 0")


def test_a_part_after_the_end_of_the_video_is_refused(tmp_path, put_clip):
    put_clip("video/star/Charades_v1_480/kettle.mp4", frames=5)
    write_mvbench(tmp_path, action_sequence=[MVBENCH_PART | {"start": 9, "end": 11}])
    questions = open_set("mvbench", tmp_path, families=["action_sequence"])
    refused(lambda: questions.frames(questions.questions[0].clip, 4), "start is 9", "kettle.mp4")


@pytest.mark.parametrize(
    "row",
    [MVBENCH_ROW | {"answer": "A spoon"}, {"question": "What?"}, MVBENCH_ROW | {"candidates": None}, "What?", None],
    ids=["no such candidate", "fields missing", "no candidates", "a string", "nothing"],
)
def test_a_question_that_is_not_as_published_is_named(tmp_path, row):
    write_mvbench(tmp_path, action_count=[MVBENCH_ROW, row])
    refused(lambda: open_set("mvbench", tmp_path), "json/action_count.json", "number 1", "download it again")


def test_mvbenchs_main_branch_needs_the_part_that_is_asked_about(tmp_path):
    (tmp_path / "video").mkdir()
    write_mvbench(tmp_path, action_sequence=[MVBENCH_ROW])
    refused(lambda: open_set("mvbench", tmp_path), "json/action_sequence.json", "number 0", "'start'")


def test_egoschemas_own_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "questions.json").write_text('[{"q_uid": "uid-0"}]', encoding="utf-8")
    refused(lambda: open_set("egoschema", tmp_path, split="full"), "questions.json", "number 0", "'option 0'")


def test_annotations_that_do_not_parse_are_refused(tmp_path):
    (tmp_path / "lvb_val.json").write_text('[{"id": ', encoding="utf-8")
    refused(lambda: open_set("longvideobench", tmp_path), "lvb_val.json", "download it again")


def test_a_parquet_file_of_something_else_is_refused(tmp_path, videomme):
    (videomme / "videomme" / "test-00000-of-00001.parquet").write_bytes(b"PK")
    refused(lambda: open_set("videomme", videomme), "test-00000-of-00001.parquet", "download it again")


def test_a_set_without_a_question_is_refused(tmp_path):
    folder = write_egoschema_json(tmp_path)
    (folder / "questions.json").write_text("[]", encoding="utf-8")
    refused(lambda: open_set("egoschema", folder, split="full"), "no question of egoschema", str(folder))


def test_an_empty_folder_of_pictures_is_refused(tmp_path):
    (tmp_path / "video" / "tvqa" / "frames_fps3_hq" / "kettle").mkdir(parents=True)
    write_mvbench(tmp_path, episodic_reasoning=[MVBENCH_PART | {"video": "kettle"}])
    questions = open_set("mvbench", tmp_path, families=["episodic_reasoning"])
    refused(lambda: questions.frames(questions.questions[0].clip, 4), "no pictures", "kettle")


def test_without_pyarrow_the_line_says_how_to_get_it(tmp_path, monkeypatch):
    path = tmp_path / "videomme" / "test-00000-of-00001.parquet"
    path.parent.mkdir()
    path.touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused(lambda: open_set("videomme", tmp_path), "pip install pyarrow")
