"""Video Folder and Save Captions: a graph goes through a folder, reads nothing outside it, and loses no caption."""

import os
from pathlib import Path

import pytest
import torch

from comfyui_aot.aot.cli.main import main
from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.video.frames import Frames
from comfyui_aot.aot.video.sampling import Sampling
from comfyui_aot.aot.video.video_source import VideoSource, decoded, load_video
from comfyui_aot.nodes import NODES
from comfyui_aot.nodes.comfy import HAS_COMFYUI, directories
from comfyui_aot.nodes.folders import CAPTIONS, DRAWN, DRAWN_CLIPS, AOTSaveCaptions, AOTVideoFolder
from comfyui_aot.nodes.permissions import FOLDERS, permitted
from comfyui_aot.nodes.pictures import AOTTokenMap
from comfyui_aot.nodes.places import folder_choices
from comfyui_aot.nodes.video import AOTFramesToImages
from comfyui_aot.nodes.workflow.graph import to_graph
from comfyui_aot.nodes.workflow.requirements import needs
from comfyui_aot.nodes.workflow.runner import check, registry, run
from comfyui_aot.tests.support.videos import write_clip

pytestmark = pytest.mark.skipif(HAS_COMFYUI, reason="the stand-in is not used where ComfyUI can be imported")

WORKFLOWS = Path(__file__).parents[2] / "workflows"
LISTING = {"pattern": "", "subfolders": True, "skip": 0, "limit": 0, "skip_captioned": False, "captions": CAPTIONS}
SAMPLING = {"sampling": "uniform", "frames": 4, "fps": 1.0, "every": 1, "start": 0.0, "end": 0.0, "size": 0}
WRITING = {"folder": CAPTIONS, "prefix": "", "suffix": "", "existing": "keep"}


@pytest.fixture
def base(tmp_path):
    """ComfyUI's folders, with five clips in input/clips, a file that is no video, and a caption."""
    clips = tmp_path / "base" / "input" / "clips"
    (clips / "day 1").mkdir(parents=True)
    for name in ("b.mp4", "clip 10.mp4", "clip 2.mp4", "day 1/a.mp4", "short.mp4"):
        write_clip(clips / name, frames=3 if name == "short.mp4" else 8)
    (clips / "broken.mp4").write_bytes(b"no video at all")
    (clips / "b.txt").write_text("by hand\n")
    (tmp_path / "base" / "user").mkdir()
    with directories(tmp_path / "base"):
        yield tmp_path / "base"


NAMES = ["clips/b.mp4", "clips/clip 2.mp4", "clips/clip 10.mp4", "clips/day 1/a.mp4", "clips/short.mp4"]


def opened(folder="input/clips", **changes):
    """What Video Folder gives: frames, names, and its report."""
    return AOTVideoFolder.execute(folder=folder, **{**LISTING, **SAMPLING, **changes}).args


def names(folder="input/clips", **changes):
    return opened(folder, **changes)[1]


def saved(texts, clips, **changes):
    """What Save Captions shows."""
    settings = {name: [value] for name, value in {**WRITING, **changes}.items()}
    return AOTSaveCaptions.execute(text=texts, name=clips, **settings).ui["text"]


def graph(folder, listing=(), writing=()):
    """A graph that captions a folder with the embedded model."""
    nodes = {
        "folder": ("AOTVideoFolder", {"folder": folder, **LISTING, **SAMPLING, **dict(listing)}),
        "model": ("AOTLoadVLLM", {"model": "embedded", "dtype": "auto", "device": "auto", "attention": "auto"}),
        "encode": ("AOTEncodeVideo", {"vllm": ["model", 0], "frames": ["folder", 0], "streaming": True}),
        "answer": (
            "AOTAnswer",
            {
                "vllm": ["model", 0], "tokens": ["encode", 0], "question": "What is it?", "max_new_tokens": 2,
                "temperature": 0.0, "top_p": 1.0, "seed": 0,
            },
        ),
        "save": ("AOTSaveCaptions", {"text": ["answer", 0], "name": ["folder", 1], **WRITING, **dict(writing)}),
    }  # fmt: skip
    return to_graph(
        {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in nodes.items()}, registry(NODES)
    )


def test_the_clips_of_a_folder_come_in_the_order_people_count_in(base):
    clips, listed, info = opened()
    assert listed == NAMES
    assert len(clips) == 5
    assert info.splitlines()[0] == "5 clips of input/clips; 1 cannot be read and are left out"
    assert info.splitlines()[1].startswith("clips/broken.mp4: broken.mp4 cannot be read as a video")


def test_frames_stay_in_their_files_until_a_node_looks_at_them(base):
    clips, listed, _ = opened()
    assert all(isinstance(clip, VideoSource) for clip in clips)
    at_once = load_video(base / "input" / listed[0], Sampling(frames=4))
    assert torch.equal(decoded(clips[0]).pixels, at_once.pixels)
    assert decoded(clips[0]).clock is not None
    (images,) = AOTFramesToImages.execute(clips[0]).args
    assert torch.equal(images, at_once.to_images())


def test_a_picture_is_drawn_of_frames_that_are_still_in_their_file(base, model):
    (clip, *_), _, _ = opened(frames=2)
    tokens = model.encode(clip)
    (lazy,), (whole,) = (AOTTokenMap.execute(tokens, frames, width=320).args for frames in (clip, decoded(clip)))
    assert torch.equal(lazy, whole)


def test_which_clips_are_taken_can_be_chosen(base):
    assert names(subfolders=False) == [NAMES[i] for i in (0, 1, 2, 4)]
    assert names(pattern="clip*.mp4, day 1/*") == NAMES[1:4]
    assert names(skip=1, limit=2) == NAMES[1:3]
    assert names("input/clips/day 1") == ["clips/day 1/a.mp4"]
    assert names("input") == NAMES


def test_a_limit_counts_clips_that_can_be_read(base):
    (base / "input" / "clips" / "0.mp4").write_bytes(b"no video either")
    assert names(limit=1) == NAMES[:1]


def test_a_short_clip_gives_the_frames_it_has_or_is_left_out_when_that_is_asked(base):
    assert opened()[0][4].count == 3
    _, listed, info = opened(fewer=False)
    assert listed == NAMES[:4]
    assert "4 frames asked of short.mp4, which has 3" in info


def test_a_file_that_is_damaged_inside_is_left_out_beforehand(base, bunny):
    content = bytearray(bunny.read_bytes())
    end = len(content) - 100_000
    content[200_000:end] = bytes(end - 200_000)
    (base / "input" / "clips" / "c.mp4").write_bytes(content)
    assert "clips/c.mp4" not in names()
    clips, listed, _ = opened(check=False)
    assert "clips/c.mp4" in listed
    with pytest.raises(InputError, match=r"c\.mp4"):
        decoded(clips[listed.index("clips/c.mp4")])


def test_captioned_clips_can_be_left_out_so_that_each_run_does_the_next_ones(base):
    beside = {"skip_captioned": True, "captions": ""}
    assert names(**beside) == NAMES[1:]
    assert names(**beside, limit=2) == NAMES[1:3]
    saved(["one", "two"], NAMES[1:3], folder="")
    assert names(**beside, limit=2) == NAMES[3:]
    assert names(skip_captioned=True) == NAMES
    saved(["x"] * 5, NAMES)
    with pytest.raises(InputError, match=r"None of 1 clips can be read\. clips/broken\.mp4"):
        names(skip_captioned=True)
    (base / "input" / "clips" / "broken.mp4").unlink()
    with pytest.raises(InputError, match="All 5 clips of input/clips have a caption; nothing is left to do"):
        names(skip_captioned=True)


def test_the_node_runs_again_when_files_or_captions_come_go_or_change(base):
    clips = base / "input" / "clips"

    def state(**changes):
        return AOTVideoFolder.fingerprint_inputs(folder="input/clips", **{**LISTING, **SAMPLING, **changes})

    states = [state()]
    write_clip(clips / "new.mp4")
    states.append(state())
    os.utime(clips / "new.mp4", (1, 1))
    states.append(state())
    (clips / "new.mp4").unlink()
    assert len(set(states)) == 3
    assert state() == states[0]
    before = state(skip_captioned=True, captions="")
    (clips / "short.txt").write_text("new\n")
    assert state() == states[0]
    assert state(skip_captioned=True, captions="") != before


def test_five_clips_are_drawn_where_there_is_no_folder(base):
    clips, listed, _ = opened(DRAWN)
    assert listed == [*DRAWN_CLIPS]
    assert all(isinstance(clip, Frames) and clip.count == 4 for clip in clips)
    assert len({clip.pixels.sum().item() for clip in clips}) == 5
    assert names(DRAWN, skip=1, limit=2) == ["drawn clip 2", "drawn clip 3"]
    assert torch.equal(opened(DRAWN, skip=1)[0][0].pixels, clips[1].pixels)


def test_folders_with_videos_are_offered(base):
    (base / "output" / "video").mkdir(parents=True)
    write_clip(base / "output" / "video" / "made.mp4")
    assert folder_choices() == [
        "input", "input/clips", "input/clips/day 1", "output", "output/video",
    ]  # fmt: skip
    assert names("output/video") == ["video/made.mp4 [output]"]
    (widget,) = (each for each in AOTVideoFolder.GET_SCHEMA().inputs if each.id == "folder")
    assert (widget.options[0], widget.default) == (DRAWN, "input")


@pytest.mark.parametrize("folder", ["input/../..", "clips", "temp", "", "output/..\\..", "input/C:\\x", "//host/share"])
def test_a_folder_elsewhere_is_refused_before_the_run(base, folder):
    said = AOTVideoFolder.validate_inputs(folder=folder)
    assert isinstance(said, str)
    assert "give input or output" in said or "have not allowed" in said
    with pytest.raises(InputError):
        opened(folder)


def test_links_lead_nowhere_else(base, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    write_clip(outside / "secret.mp4")
    (base / "input" / "linked").symlink_to(outside, target_is_directory=True)
    (base / "input" / "clips" / "link.mp4").symlink_to(outside / "secret.mp4")
    assert names() == NAMES
    with pytest.raises(InputError, match="give input or output"):
        opened("input/linked")
    with pytest.raises(InputError, match="only files inside ComfyUI's input folder"):
        saved(["no"], ["linked/secret.mp4"], folder="")
    assert [each.name for each in outside.iterdir()] == ["secret.mp4"]


def test_a_folder_that_the_user_has_allowed_is_read_and_captioned(base, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "in").mkdir(parents=True)
    clip = write_clip(elsewhere / "in" / "a.mp4")
    with pytest.raises(InputError) as refused:
        opened(str(elsewhere))
    assert f"you have not allowed; add the line {elsewhere} to {base / 'user' / FOLDERS}" in str(refused.value)
    (base / "user" / FOLDERS).write_text(f"# mine\n{elsewhere}\n")
    assert names(str(elsewhere)) == names(str(elsewhere / "in")) == [clip.as_posix()]
    assert folder_choices()[-2:] == [elsewhere.as_posix(), (elsewhere / "in").as_posix()]
    saved(["first"], [clip.as_posix()], folder="")
    saved(["second"], [clip.as_posix()], folder="", existing="overwrite")
    assert (elsewhere / "in" / "a.txt").read_text() == "second\n"
    saved(["out"], [clip.as_posix()])
    assert (base / "output" / CAPTIONS / "in" / "a.txt").read_text() == "out\n"
    (base / "user" / FOLDERS).write_text("clips\n")
    with pytest.raises(InputError, match="'clips', which is no full path"):
        opened(str(elsewhere))


def test_an_option_of_aot_run_allows_a_folder_in_place_of_the_list(base, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write_clip(elsewhere / "a.mp4")
    with permitted(), pytest.raises(InputError, match=f"give --allow-folder {elsewhere}"):
        opened(str(elsewhere))
    with permitted(folders=[elsewhere]):
        assert len(names(str(elsewhere))) == 1


def test_a_caption_is_a_text_beside_its_clip_or_in_the_output_folder(base):
    summary, lines = saved(["A  grey\nbox", "b", "c"], NAMES[1:4], prefix="aot, ", suffix=".")
    assert summary == "3 captions written, output/captions"
    assert lines.splitlines()[0] == "clip 2.txt: A grey box"
    written = base / "output" / CAPTIONS / "clips"
    assert (written / "clip 2.txt").read_bytes() == b"aot, A  grey\nbox.\n"
    assert (written / "day 1" / "a.txt").read_text() == "aot, c.\n"
    saved(["d"], ["clips/day 1/a.mp4"], folder="")
    assert (base / "input" / "clips" / "day 1" / "a.txt").read_text() == "d\n"
    saved(["e"], ["drawn clip 1"], folder="a/b")
    assert (base / "output" / "a" / "b" / "drawn clip 1.txt").read_text() == "e\n"


def test_a_caption_that_is_there_stays_unless_it_may_be_replaced(base):
    by_hand = base / "input" / "clips" / "b.txt"
    assert "1 not" in saved(["new"], NAMES[:1], folder="")[0]
    _, lines = saved(["new"], NAMES[:1], folder="", existing="overwrite")
    assert f"kept; to have it replaced, add the line {by_hand.parent} to {base / 'user' / FOLDERS}" in lines
    assert by_hand.read_text() == "by hand\n"
    (base / "user" / FOLDERS).write_text(f"{base / 'input'}\n")
    saved(["new"], NAMES[:1], folder="", existing="overwrite")
    assert by_hand.read_text() == "new\n"
    for existing, text in (("keep", "one"), ("keep", "one"), ("overwrite", "two")):
        saved([text], NAMES[:1], existing=existing)
        assert (base / "output" / CAPTIONS / "clips" / "b.txt").read_text() == f"{text}\n"


def test_an_empty_text_is_no_caption(base):
    assert saved([" \n"], NAMES[1:2]) == (
        "0 captions written, output/captions; 1 not",
        "clips/clip 2.mp4: nothing written, since the text is empty",
    )
    assert not (base / "output" / CAPTIONS).exists()


def test_lists_that_do_not_match_are_refused_so_that_no_clip_gets_anothers_caption(base):
    with pytest.raises(InputError, match="There are 2 texts for 5 clips"):
        saved(["a", "b"], NAMES)
    assert not (base / "output").exists()


def test_what_can_be_written_is_written_before_the_rest_is_told(base):
    write_clip(base / "input" / "clips" / "b.mov")
    with pytest.raises(InputError) as told:
        saved(["a", "b", "c", "d"], ["clips/b.mp4", "clips/b.mov", "gone.mp4", "clips/short.mp4"], folder="")
    assert "1 captions written, beside the clips; 1 not; 2 could not be." in str(told.value)
    assert "clips/b.mov: clips/b.mp4 has the same caption file; rename one of the clips" in str(told.value)
    assert "gone.mp4: There is no file 'gone.mp4'" in str(told.value)
    assert (base / "input" / "clips" / "short.txt").read_text() == "d\n"


@pytest.mark.parametrize(
    "name", ["../a.mp4", "/etc/a.mp4", "C:\\a.mp4", "a/../../../b.mp4", "clips/b.txt", "a\x00.mp4"]
)
def test_a_clips_name_leads_nowhere_else(base, name):
    for folder in ("", *([] if name == "clips/b.txt" else [CAPTIONS])):
        with pytest.raises(InputError, match="1 could not be"):
            saved(["x"], [name], folder=folder, existing="overwrite")
    assert (base / "input" / "clips" / "b.txt").read_text() == "by hand\n"


@pytest.mark.parametrize("folder", ["..", "/tmp/x", "a/../../b", "C:\\x"])
def test_a_folder_of_captions_outside_the_output_folder_is_refused_before_the_run(base, folder):
    wanted = "inside ComfyUI's output folder, without '..'"
    assert wanted in AOTSaveCaptions.validate_inputs(folder=[folder])
    problems = [str(each) for each in check(graph("input/clips", writing={"folder": folder}))]
    assert len(problems) == 1
    assert wanted in problems[0]


def test_a_graph_captions_a_folder_clip_by_clip(base, miniature_embedded):
    found = graph("input/clips", writing={"folder": "", "prefix": "aot, "})
    assert [(need.kind, need.name) for need in needs(found)] == [("folder", "input/clips"), ("model", "embedded")]
    with torch.inference_mode():
        results = run(found)
    texts = results["answer"].outputs[0]
    clips = base / "input" / "clips"
    assert len(texts) == 5
    for name, text in list(zip(NAMES, texts, strict=True))[1:]:
        path = (clips.parent / name).with_suffix(".txt")
        if text.strip():
            assert path.read_text() == f"aot, {text}\n"
    assert (clips / "b.txt").read_text() == "by hand\n"
    assert not (clips / "broken.txt").exists()


def test_aot_run_goes_through_a_folder_that_is_typed(base, tmp_path, miniature_embedded, capsys):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("a.mp4", "b.mp4"):
        write_clip(elsewhere / name)
    (workflow,) = WORKFLOWS.glob("* Caption a folder.json")
    typed = [f"AOTVideoFolder.folder={elsewhere}", "AOTVideoFolder.frames=2", "AOTAnswer.max_new_tokens=2"]
    options = [word for setting in typed for word in ("--set", setting)]
    assert main(["run", str(workflow), "--base", str(base), *options]) == 0
    printed = capsys.readouterr().out
    assert f"needs folder {elsewhere}" in printed
    assert f"2 clips of {elsewhere}" in printed
