"""A real ComfyUI goes through a folder of clips by its own mapping of lists, and writes a caption for each."""

import copy
import shutil
from pathlib import Path

import pytest

from comfyui_aot.aot.evaluation.drawn_clip import NUMBER, load_drawn_clip
from comfyui_aot.aot.video.sampling import Sampling
from comfyui_aot.tests.comfyui.conftest import api_form
from comfyui_aot.tests.support.comfyui_client import Refused
from comfyui_aot.tests.support.videos import write_video

WORKFLOW = Path(__file__).parents[2] / "workflows" / "16 Caption a folder.json"
CLIPS = ["clip 1.mp4", "clip 2.mp4", "clip 10.mp4", "sub/clip 3.mp4", "sub/clip 4.mp4"]
"""In the order in which they are listed."""


@pytest.fixture
def folder(server):
    """Five drawn clips in the input folder, a file that is no video, and a caption that was there before."""
    clips = server.base / "input" / "folder"
    (clips / "sub").mkdir(parents=True)
    for i, name in enumerate(CLIPS):
        write_video(clips / name, load_drawn_clip(Sampling(frames=8), 126, NUMBER + i).pixels.numpy())
    (clips / "broken.mp4").write_bytes(b"no video at all")
    (clips / "clip 2.txt").write_text("by hand\n")
    yield clips
    shutil.rmtree(clips)


@pytest.fixture
def prompt():
    """The bundled workflow over that folder, with captions beside the clips, on two frames and with short answers."""
    return changed(
        changed(
            changed(api_form(WORKFLOW), "AOTVideoFolder", folder="input/folder", frames=2),
            "AOTAnswer",
            max_new_tokens=4,
        ),
        "AOTSaveCaptions",
        folder="",
    )


def the(prompt, kind):
    (key,) = [key for key, node in prompt.items() if node["class_type"] == kind]
    return key


def changed(prompt, kind, **values):
    copied = copy.deepcopy(prompt)
    copied[the(copied, kind)]["inputs"].update(values)
    return copied


def captions(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*.txt")}


def test_every_clip_gets_its_own_answer_and_what_was_there_stays(server, folder, prompt):
    run = server.client.run(prompt)
    assert run.ended == "execution_success"
    info, names = run.text(the(prompt, "AOTVideoFolder"))
    assert info.startswith("5 clips of input/folder; 1 cannot be read and are left out\nfolder/broken.mp4: ")
    assert names.split("\n") == [f"folder/{name}" for name in CLIPS]
    answers = run.text(the(prompt, "AOTAnswer"))[::2]
    assert len(answers) == 5
    written = {
        str(Path(name).with_suffix(".txt")): f"yellow circle: {text}\n"
        for name, text in zip(CLIPS, answers, strict=True)
    }
    assert captions(folder) == {**written, "clip 2.txt": "by hand\n"}
    assert run.text(the(prompt, "AOTSaveCaptions"))[0] == "4 captions written, beside the clips; 1 not"

    # What is new alone is answered where captioned clips are left out, and a second run has nothing to do.
    prompt = changed(prompt, "AOTVideoFolder", skip_captioned=True, captions="")
    (folder / "sub" / "clip 4.txt").unlink()
    run = server.client.run(prompt)
    assert run.ended == "execution_success"
    assert len(run.text(the(prompt, "AOTAnswer"))) == 2
    assert captions(folder)["sub/clip 4.txt"] == written["sub/clip 4.txt"]


def test_names_that_lead_elsewhere_are_refused_before_the_run(server, folder, prompt):
    for value, wanted in (("input/../..", "give input or output"), ("/", "which you have not allowed")):
        with pytest.raises(Refused, match=wanted):
            server.client.run(changed(prompt, "AOTVideoFolder", folder=value))
    # ComfyUI runs what else has an output, and keeps the answers for a run with another folder.
    wrong = changed(prompt, "AOTSaveCaptions", folder="../captions")
    queued = server.client.post("/prompt", {"prompt": wrong, "client_id": server.client.id})
    (error,) = queued["node_errors"][the(prompt, "AOTSaveCaptions")]["errors"]
    assert "inside ComfyUI's output folder" in error["details"]
    server.client.run(changed(prompt, "AOTSaveCaptions", folder="elsewhere"))
    assert not (server.base / "captions").exists()
    assert len(list((server.base / "output" / "elsewhere").glob("**/*.txt"))) == 5
