"""The nodes themselves, run as classes: files only from ComfyUI's folders, inputs left alone, models shared."""

import dataclasses
import inspect
import os
import shutil

import pytest
import torch

from comfyui_aot.aot.answering.answerer import LocalAnswerer
from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.evaluation.shapes_set import shapes_set
from comfyui_aot.aot.models import load
from comfyui_aot.aot.streaming import Stream
from comfyui_aot.nodes import NODES
from comfyui_aot.nodes.answering import AOTAnswer, figures
from comfyui_aot.nodes.asking import AOTAskAbout, AOTAskVideo
from comfyui_aot.nodes.comfy import HAS_COMFYUI, directories, io, model_patcher
from comfyui_aot.nodes.drawn import AOTDrawnClip
from comfyui_aot.nodes.models import AOTEncodeVideo, AOTLoadVLLM, Loaded, ready
from comfyui_aot.nodes.pictures import AOTTokenMap
from comfyui_aot.nodes.stages import NODES as STAGES
from comfyui_aot.nodes.video import (
    AOTFramesFromImages,
    AOTFramesFromVideo,
    AOTFramesToImages,
    AOTLoadVideo,
)
from comfyui_aot.tests.support.small_models import save
from comfyui_aot.tests.support.stock_inputs import random_frames

WHOLE = {"sampling": "uniform", "frames": 4, "fps": 1.0, "every": 1, "start": 0.0, "end": 0.0}

pytestmark = pytest.mark.skipif(HAS_COMFYUI, reason="the stand-in is not used where ComfyUI can be imported")


@pytest.fixture
def clip(tmp_path, bunny):
    """ComfyUI's folders with a clip in input."""
    (tmp_path / "input").mkdir()
    shutil.copy(bunny, tmp_path / "input" / "clip.mp4")
    with directories(tmp_path):
        yield tmp_path / "input" / "clip.mp4"


def test_load_video_reads_from_the_input_folder_and_says_what(clip):
    frames, info = AOTLoadVideo.execute(video="clip.mp4", **WHOLE, size=120).args
    assert tuple(frames.pixels.shape) == (4, 120, 213, 3)
    assert info.startswith("clip.mp4: 4 frames of 213x120, 0.00 to 5.24 s")


def test_the_drawn_clip_needs_no_file(tmp_path):
    with directories(tmp_path):
        assert AOTLoadVideo.validate_inputs(video="drawn clip") is True
        state = AOTLoadVideo.fingerprint_inputs(video="drawn clip", **WHOLE, size=0)
        assert state == AOTLoadVideo.fingerprint_inputs(video="drawn clip", **WHOLE, size=0)
        _, info = AOTLoadVideo.execute(video="drawn clip", **{**WHOLE, "start": 2.0, "end": 6.0}, size=200).args
    assert info.startswith("drawn clip: 4 frames of 200x200, 2.00 to 6.00 s")
    assert not (tmp_path / "input").exists()


def video_widget():
    return AOTLoadVideo.GET_SCHEMA().inputs[0]


def test_the_drawn_clip_is_offered_first_and_chosen_where_there_is_no_video(tmp_path):
    with directories(tmp_path):
        assert video_widget().options == ["drawn clip"]
        assert video_widget().default == "drawn clip"


def test_a_video_in_the_folder_is_chosen_and_none_can_be_mistaken_for_the_drawn_clip(clip):
    # A file without a suffix is no video, so that this name is never listed as a file's.
    shutil.copy(clip, clip.with_name("drawn clip"))
    assert video_widget().options == ["drawn clip", "clip.mp4"]
    assert video_widget().default == "clip.mp4"
    frames, _ = AOTLoadVideo.execute(video="drawn clip", **WHOLE, size=0).args
    assert frames.width == 378


@pytest.mark.parametrize("name", ["../clip.mp4", "input/../../x.mp4", "gone.mp4", "C:\\x.mp4", ""])
def test_a_file_outside_the_folders_or_missing_is_refused_before_the_run(clip, name):
    assert "folder" in AOTLoadVideo.validate_inputs(video=name)
    with pytest.raises(InputError, match="folder"):
        AOTLoadVideo.execute(video=name, **WHOLE, size=0)


def test_an_absolute_path_is_refused_even_to_the_right_file(clip):
    assert "not allowed" in AOTLoadVideo.validate_inputs(video=str(clip))


def test_a_changed_file_changes_the_fingerprint(clip):
    before = AOTLoadVideo.fingerprint_inputs(video="clip.mp4", **WHOLE, size=0)
    assert AOTLoadVideo.fingerprint_inputs(video="clip.mp4", **WHOLE, size=0) == before
    os.utime(clip, (1, 1))
    assert AOTLoadVideo.fingerprint_inputs(video="clip.mp4", **WHOLE, size=0) != before


def test_unknown_choices_are_named(clip):
    with pytest.raises(InputError, match="use one of uniform, fps, every"):
        AOTLoadVideo.execute(video="clip.mp4", **{**WHOLE, "sampling": "all"}, size=0)
    assert "choose one of uniform, fps, every" in AOTFramesFromVideo.validate_inputs(sampling="all")
    assert "choose one of embedded" in AOTLoadVLLM.validate_inputs(model="gone")
    with pytest.raises(InputError, match="choose one of auto"):
        AOTLoadVLLM.execute(model="embedded", dtype="float7", device="auto", attention="sdpa")


@pytest.mark.parametrize("kind", NODES, ids=lambda kind: kind.__name__)
def test_one_mistake_is_one_error(kind):
    """ComfyUI repeats what `validate_inputs` returns for every input that it names, a socket's link excepted."""
    if "validate_inputs" in vars(kind):
        named = inspect.signature(kind.validate_inputs).parameters
        linked = {each.id for each in kind.GET_SCHEMA().inputs if not isinstance(each, io.WidgetInput)}
        assert len([name for name in named if name not in {"saved", *linked}]) == 1


def test_the_type_of_an_error_is_shown_without_a_path():
    assert (InputError.__module__, InputError.__qualname__) == ("builtins", "InputError")


def test_images_become_frames_and_images_again():
    images = torch.rand(3, 8, 10, 3)
    before = images.clone()
    (frames,) = AOTFramesFromImages.execute(images=images, fps=2.0).args
    (back,) = AOTFramesToImages.execute(frames=frames).args
    assert torch.equal(images, before)
    assert frames.timestamps.tolist() == [0.0, 0.5, 1.0]
    torch.testing.assert_close(back, images, atol=0.5 / 255 + 1e-6, rtol=0)


def test_images_are_thinned_to_the_number_of_frames_and_fewer_stay_as_they_are():
    images = torch.rand(9, 8, 10, 3)
    (few,) = AOTFramesFromImages.execute(images=images, fps=2.0, frames=3).args
    (all_of_them,) = AOTFramesFromImages.execute(images=images, fps=2.0, frames=30).args
    assert few.timestamps.tolist() == [0.0, 2.0, 4.0]
    assert all_of_them.count == 9


class Trimmed:
    """A VIDEO as ComfyUI gives it: its components are already trimmed."""

    def get_dimensions(self):
        return 10, 8

    def get_duration(self):
        return 3.0

    def get_components(self):
        parts = type("Components", (), {})()
        parts.images, parts.frame_rate = torch.rand(6, 8, 10, 3), 2
        return parts


def test_a_native_video_is_sampled_inside_its_trim():
    (frames,) = AOTFramesFromVideo.execute(video=Trimmed(), **{**WHOLE, "frames": 3}).args
    assert frames.timestamps.tolist() == [0.0, 1.0, 2.5]


def test_a_video_of_fewer_frames_gives_all_of_them_where_that_is_allowed(clip):
    more, many = {**WHOLE, "frames": 7}, {**WHOLE, "frames": 200}
    for node, given, count in ((AOTFramesFromVideo, {"video": Trimmed(), **more}, 6),
                               (AOTLoadVideo, {"video": "clip.mp4", "size": 32, **many}, 132),
                               (AOTLoadVideo, {"video": "drawn clip", "size": 32, **many}, 192)):  # fmt: skip
        with pytest.raises(InputError, match=f"which has {count} .*allow fewer"):
            node.execute(**given)
        with pytest.raises(InputError, match="allow fewer"):
            node.execute(**given, fewer=False)
        assert node.execute(**given, fewer=True).args[0].count == count
        assert node.execute(**{**given, "frames": 3}, fewer=True).args[0].count == 3


def test_whether_fewer_frames_are_allowed_is_the_last_input_and_advanced():
    for node in (AOTLoadVideo, AOTFramesFromVideo, AOTAskVideo):
        last = node.GET_SCHEMA().inputs[-1]
        assert (last.id, last.default, last.optional, last.extra_dict["advanced"]) == ("fewer", False, True, True)


def test_two_loaders_with_equal_settings_share_one_model(miniature_embedded):
    settings = {"model": "embedded", "dtype": "auto", "device": "cpu", "attention": "sdpa"}
    (first,), (second,) = (AOTLoadVLLM.execute(**settings).args for _ in range(2))
    assert first is second


def test_every_stage_and_picture_leaves_its_inputs_alone(clip, frames, miniature_embedded):
    (loaded,) = AOTLoadVLLM.execute(model="embedded", dtype="auto", device="cpu", attention="sdpa").args
    (tokens,) = AOTEncodeVideo.execute(vllm=loaded, frames=frames).args
    (tokens,) = AOTAskAbout.execute(vllm=loaded, tokens=tokens, question="What moves?", assistant=loaded).args
    features, pixels = tokens.features.clone(), frames.pixels.clone()
    for stage in STAGES:
        (reduced,) = stage.execute(tokens=tokens).args
        AOTTokenMap.PREPARE_CLASS_CLONE({}).execute(tokens=reduced, frames=frames)
    assert torch.equal(tokens.features, features)
    assert torch.equal(frames.pixels, pixels)


def test_streaming_gives_the_same_tokens_when_they_are_needed(clip, frames, miniature_embedded):
    (loaded,) = AOTLoadVLLM.execute(model="embedded", dtype="auto", device="cpu", attention="sdpa").args
    whole = AOTEncodeVideo.execute(vllm=loaded, frames=frames, streaming=False)
    promised = AOTEncodeVideo.execute(vllm=loaded, frames=frames, streaming=True)
    assert "when they are needed" in promised.ui["text"][0]
    settings = {"retention": 0.2, "clip_length": 2}
    aot = next(stage for stage in STAGES if stage.__name__ == "AOTAnchorTransport")
    outputs = [aot.execute(tokens=each.args[0], **settings).args[0] for each in (whole, promised)]
    eager, streamed = (ready(tokens) for tokens in outputs)
    assert isinstance(outputs[1], Stream)
    assert torch.equal(eager.place, streamed.place)
    torch.testing.assert_close(eager.features, streamed.features)
    assert ready(outputs[1]) is streamed


@pytest.mark.parametrize("streaming", [False, True])
def test_the_files_own_pixels_are_a_choice_of_encode_video(streaming, tmp_path, embedded_folder):
    save(tmp_path / "small", "qwen3_vl", embedded_folder)
    model, cpu = load(tmp_path / "small"), torch.device("cpu")
    loaded = Loaded(LocalAnswerer(model), model_patcher(model.hf_model, cpu, cpu))
    frames = random_frames(2, 64, 96)
    inputs = {"vllm": loaded, "frames": frames, "streaming": streaming}
    found = [ready(AOTEncodeVideo.execute(**inputs, **more).args[0]) for more in ({}, {"file_pixels": True})]
    expected = [model.layout(frames), model.layout(frames, file_pixels=True)]
    assert [each.layout for each in found] == expected
    assert expected[0].cells > expected[1].cells


def test_a_transport_that_ends_unconverged_says_so_on_its_node(clip, frames, miniature_embedded):
    (loaded,) = AOTLoadVLLM.execute(model="embedded", dtype="auto", device="cpu", attention="sdpa").args
    (tokens,) = AOTEncodeVideo.execute(vllm=loaded, frames=frames).args
    intra = next(stage for stage in STAGES if stage.__name__ == "AOTIntraFrame")
    shown = intra.execute(tokens=tokens, solver="sinkhorn", max_iterations=2).ui["text"][0]
    assert "ended unconverged after 2 iterations: marginal error" in shown


def test_a_model_outside_the_model_folders_is_not_loaded(clip, embedded_folder):
    with pytest.raises(InputError, match="choose one of embedded"):
        AOTLoadVLLM.execute(model=str(embedded_folder), dtype="auto", device="cpu", attention="sdpa")


def test_the_loader_says_what_auto_has_chosen(miniature_embedded):
    settings = {"model": "embedded", "dtype": "auto", "device": "cpu", "attention": "auto"}
    assert AOTLoadVLLM.execute(**settings).ui["text"][0].endswith("float32, on cpu, attention sdpa, decoding eager")


def test_a_graph_on_the_cpu_and_a_decoding_that_is_none_are_one_line_each(miniature_embedded):
    settings = {"model": "embedded", "dtype": "auto", "device": "cpu", "attention": "auto"}
    with pytest.raises(InputError, match="decoding graph needs CUDA"):
        AOTLoadVLLM.execute(**settings, decoding="graph")
    with pytest.raises(InputError, match="one of auto, eager, graph"):
        AOTLoadVLLM.execute(**settings, decoding="fast")


def test_an_attention_that_is_not_installed_is_one_line(clip, miniature_embedded):
    with pytest.raises(InputError, match=r"flash_attention_2 .* choose sdpa"):
        AOTLoadVLLM.execute(model="embedded", dtype="bfloat16", device="cpu", attention="flash_attention_2")


ASK = {"question": "What is it?", "max_new_tokens": 3, "temperature": 0.0, "top_p": 1.0, "seed": 0}


def linked(frames):
    """A loaded model and tokens of few frames, as links carry them."""
    (loaded,) = AOTLoadVLLM.execute(model="embedded", dtype="auto", device="cpu", attention="sdpa").args
    (tokens,) = AOTEncodeVideo.execute(vllm=loaded, frames=frames).args
    (reduced,) = STAGES[0].execute(tokens=tokens).args
    return loaded, reduced


@pytest.fixture
def asked(frames, miniature_embedded):
    return linked(frames)


def ask(loaded, tokens, **changed):
    node = AOTAnswer.PREPARE_CLASS_CLONE({})
    return node.execute(vllm=loaded, tokens=tokens, **{**ASK, **changed})


def test_every_line_is_asked_as_if_it_were_alone(asked):
    lines = "What is it?\n\nIs it day?"
    texts, said, costs = ask(*asked, question=lines, a_line_each=True).args
    assert costs == [figures(each) for each in said]
    assert [each.question for each in said] == ["What is it?", "Is it day?"]
    assert texts == [ask(*asked, question=each.question).args[0][0] for each in said]
    shown = ask(*asked, question=lines, a_line_each=True).ui["text"][0]
    assert shown.splitlines() == [f"{each.question} {each.text}" for each in said]


def test_a_second_question_about_the_same_tokens_does_not_read_the_video_again(frames, embedded_folder):
    loaded, tokens = linked(frames)
    (first,) = ask(loaded, tokens).args[1]
    assert loaded.answerer.last
    (again,) = ask(loaded, tokens, question="Is it day?").args[1]
    loaded.answerer.forget()
    (fresh,) = ask(loaded, tokens, question="Is it day?").args[1]
    assert again.text == fresh.text
    assert again.prefill_s < fresh.prefill_s
    assert first.prompt_tokens > tokens.tokens_kept


def test_one_video_is_kept_at_most_and_unloading_lets_it_go(asked):
    loaded, tokens = asked
    other = dataclasses.replace(tokens)
    for each, system in ((tokens, ""), (other, ""), (other, "Be brief.")):
        ask(loaded, each, system=system)
        last = loaded.answerer.last
        assert last is not None and last.is_about(each, system)
    ask(loaded, tokens, unload=True)
    assert loaded.answerer.last is None
    little = Loaded(LocalAnswerer(loaded.model, keep_bytes=1000), loaded.patcher)
    ask(little, tokens)
    assert little.answerer.last is None


def test_a_follow_up_has_the_earlier_answers_in_its_prompt(asked):
    loaded, tokens = asked
    (first,) = ask(loaded, tokens).args[1]
    (second,) = ask(loaded, tokens, question="Why?", earlier=first).args[1]
    (third,) = ask(loaded, tokens, question="And then?", earlier=second, system="Be brief.").args[1]
    assert [turn.question for turn in third.conversation] == ["What is it?", "Why?", "And then?"]
    assert third.prompt_tokens > second.prompt_tokens > first.prompt_tokens
    assert loaded.model.prompt("x", tokens, turns=second.conversation).after.shape[0] > 10


def test_a_preset_words_the_question(asked):
    (said,) = ask(*asked, question="", preset="describe").args[1]
    assert said.question.startswith("Describe this video")
    with pytest.raises(InputError, match="needs its choices"):
        ask(*asked, preset="multiple choice")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU whose memory could come back")
def test_the_gpus_memory_comes_back_when_the_model_is_unloaded(frames, embedded_folder):
    before = torch.cuda.memory_allocated()
    (loaded,) = AOTLoadVLLM.execute(model="embedded", dtype="auto", device="auto", attention="sdpa").args
    (tokens,) = AOTEncodeVideo.execute(vllm=loaded, frames=frames).args
    ask(loaded, tokens)
    weights = sum(each.numel() * each.element_size() for each in loaded.model.hf_model.parameters())
    assert torch.cuda.memory_allocated() - before > weights
    ask(loaded, tokens, unload=True)
    held = tokens.features.numel() * tokens.features.element_size()
    assert torch.cuda.memory_allocated() - before < held + 2**20


def test_a_drawn_clip_comes_with_a_question_and_its_answer():
    frames, question, truth = AOTDrawnClip.execute(2000002, "after-the-cut", 8).result
    same, _, _ = AOTDrawnClip.execute(2000002, "motion", 8).result
    drawn = shapes_set("any", clips=1, seed=2000002, frames=8)
    (asked,) = (each for each in drawn.questions if each.family == "after-the-cut")
    assert (frames.count, question, truth) == (8, asked.text, asked.answer)
    assert torch.equal(frames.pixels, drawn.frames("2000002", 8).pixels) and torch.equal(frames.pixels, same.pixels)


def test_a_family_a_drawn_clip_lacks_is_refused_with_those_it_has():
    with pytest.raises(InputError, match=r"no question of the family 'flash'; it has colour, shape, .*count"):
        AOTDrawnClip.execute(2000004, "flash", 16)
