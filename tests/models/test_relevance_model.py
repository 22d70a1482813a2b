"""What a CLIP's two halves say of a video's places: stock models, small and random, saved to a folder and loaded."""

import dataclasses
import json
import shutil

import pytest
import torch
from torch.nn import functional
from transformers import AutoTokenizer, CLIPModel

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.models.relevance_model import RelevanceModel
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.aot.stages.methods.cdpruner import of_clip
from comfyui_aot.aot.tokens.video_tokens import Layout
from comfyui_aot.aot.video.frames import Frames
from comfyui_aot.tests.support.clips import CELLS, MEAN, SIDE, STD, saved

QUESTION = "Which way does the yellow circle move?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, embedded_folder):
    return saved(tmp_path_factory.mktemp("clips") / "tiny-clip", "clip", embedded_folder)


@pytest.fixture(scope="module")
def clip(folder):
    return RelevanceModel.load(folder)


def video(frames=3, side=SIDE, seed=0):
    pixels = torch.randint(0, 256, (frames, side, side, 3), dtype=torch.uint8, generator=torch.manual_seed(seed))
    return Frames(pixels, torch.arange(frames, dtype=torch.float64), "noise")


def layout(frames=3, grid=(CELLS, CELLS)):
    return Layout(frames, grid, "none", "none")


def as_released(folder, pictures, question):
    """By the stock model alone, layer by layer: places and question in the joint space, and their mean cosine."""
    model, tokenizer = CLIPModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    tower = model.vision_model
    levels = pictures.permute(0, 3, 1, 2).float() / 255
    pixels = (levels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    with torch.no_grad():
        inside = []
        hooks = [tower.encoder.layers[1].register_forward_hook(lambda module, given, output: inside.append(output))]
        tower(pixel_values=pixels)
        for hook in hooks:
            hook.remove()
        states = inside[0][0] if isinstance(inside[0], tuple) else inside[0]
        places = model.visual_projection(tower.post_layernorm(states[:, 1:]))
        ids = tokenizer(question, return_tensors="pt").input_ids
        text = model.get_text_features(input_ids=ids)
        text = text if isinstance(text, torch.Tensor) else text.pooler_output
    return functional.cosine_similarity(places, text[:, None], dim=-1)


def test_a_cells_relevance_is_the_released_cosine_of_its_patch(clip, folder):
    frames = video()
    ours = clip.places(frames, QUESTION, layout())
    assert ours.shape == (3, CELLS * CELLS)
    torch.testing.assert_close(ours, as_released(folder, frames.pixels, QUESTION), atol=1e-5, rtol=1e-5)
    assert float(ours.std()) > 0.01


def test_parts_of_a_video_are_seen_as_the_whole(clip):
    frames = video(11)
    every = clip.places(frames, QUESTION, layout(11))
    one = Frames(frames.pixels[9:10], frames.timestamps[9:10], "noise")
    torch.testing.assert_close(every[9:10], clip.places(one, QUESTION, layout(1)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("grid", [(8, 8), (2, 2), (3, 5)])
def test_another_grid_is_interpolated_and_covers_the_whole_frame(clip, grid):
    frames = video()
    own = clip.places(frames, QUESTION, layout()).reshape(3, 1, CELLS, CELLS)
    other = clip.places(frames, QUESTION, layout(3, grid))
    expected = functional.interpolate(own, grid, mode="bilinear", antialias=True)
    torch.testing.assert_close(other, expected.flatten(1))
    assert float((other.mean() - own.mean()).abs()) < 0.1


def test_pictures_that_are_taken_together_have_the_mean_of_theirs(clip):
    frames = video(5)
    alone = clip.places(frames, QUESTION, layout(5))
    pairs = clip.places(frames, QUESTION, layout(3))
    torch.testing.assert_close(pairs, torch.stack((alone[:2].mean(0), alone[2:4].mean(0), alone[4])))


def test_a_long_question_is_read_in_parts_of_which_the_first_says_nothing(clip):
    long = "yellow circle square left right up down " * 8
    words = clip.words(long)
    assert len(words) > 2
    other = clip.words(long.replace("circle", "star"))
    torch.testing.assert_close(words[0], clip.words(long)[0])
    assert not torch.allclose(words[1:], other[1:]) or len(other) != len(words)
    assert len(clip.words("Red?")) == 1


def test_a_siglips_patches_go_through_its_head_alone(tmp_path, embedded_folder):
    folder = saved(tmp_path / "tiny-siglip", "siglip", embedded_folder)
    ours = RelevanceModel.load(folder)
    assert not ours.is_clip
    frames = video(2)
    found = ours.places(frames, QUESTION, layout(2))
    model = ours.hf_model
    levels = frames.pixels.permute(0, 3, 1, 2).float() / 255
    pixels = (levels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    with torch.no_grad():
        states = model.vision_model(pixel_values=pixels).last_hidden_state
        alone = torch.stack([model.vision_model.head(states[1, i][None, None])[0] for i in range(CELLS * CELLS)])
    torch.testing.assert_close(
        found[1], functional.cosine_similarity(alone, ours.words(QUESTION)), atol=1e-5, rtol=1e-5
    )


def test_other_frames_than_the_tokens_are_refused(clip):
    with pytest.raises(InputError, match="look at 2 frames, and the tokens are of 3"):
        clip.places(video(2), QUESTION, layout(3))


def test_about_puts_it_on_the_tokens_and_cdpruner_takes_it(clip, model, frames, encoded):
    with pytest.raises(InputError, match="give those that were encoded"):
        model.about(encoded, QUESTION, relevance_model=clip)
    asked = model.about(encoded, QUESTION, relevance_model=clip, frames=frames)
    places = asked.question.places["clip"]
    assert places.shape == (encoded.layout.frames, encoded.layout.cells)
    torch.testing.assert_close(places, clip.places(frames, QUESTION, encoded.layout))
    assert asked.question.seconds > 0
    reduced = parse("cdpruner:relevance=clip,retention=0.1")(asked)
    assert reduced.history[-1].milliseconds > 1e3 * asked.question.seconds
    relevance = of_clip(places)
    assert 0 < float(relevance.min()) < 1e-4 < float(relevance.max())
    other = dataclasses.replace(asked.question, places={"clip": -places})
    assert not torch.equal(
        reduced.place, parse("cdpruner:relevance=clip,retention=0.1")(dataclasses.replace(asked, question=other)).place
    )


def test_the_fingerprint_knows_the_weights_and_the_colours(folder, clip, tmp_path):
    assert RelevanceModel.load(folder).fingerprint == clip.fingerprint
    changed = shutil.copytree(folder, tmp_path / "other")
    (changed / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.1] * 3, "image_std": STD}))
    assert RelevanceModel.load(changed).fingerprint != clip.fingerprint


def broken(tmp_path, folder, change):
    copy = shutil.copytree(folder, tmp_path / "broken")
    change(copy)
    return copy


def config(**changes):
    def change(folder):
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (config(model_type="clip_vision_model"), "of family 'clip_vision_model'.*both halves"),
        (config(backbone="elsewhere/model"), "looked for outside of its folder"),
        (config(projection_dim=9), "not those of its config.json"),
        (lambda folder: (folder / "config.json").unlink(), "No model in"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no .safetensors file"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "no settings of its processor"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "tokenizer of broken cannot be read"),
    ],
)
def test_a_folder_that_is_something_else_or_broken_ends_in_one_line(tmp_path, folder, change, message):
    with pytest.raises(InputError, match=message) as error:
        RelevanceModel.load(broken(tmp_path, folder, change))
    assert "\n" not in str(error.value)


def test_nothing_is_downloaded(tmp_path):
    with pytest.raises(InputError, match="No model in"):
        RelevanceModel.load("openai/clip-vit-base-patch32")
