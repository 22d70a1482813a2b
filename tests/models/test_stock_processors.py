"""Prompt, pixels and grid are those of the family's own processor, on the same pixels and on the same file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

from comfyui_aot.aot.models import load, makers_choice
from comfyui_aot.aot.video.sampling import Sampling
from comfyui_aot.aot.video.video_source import load_video
from comfyui_aot.tests.support.qwen_vl_utils import NTSC, PART, READ, WHOLE, published_settings
from comfyui_aot.tests.support.small_models import is_there, save
from comfyui_aot.tests.support.stock_inputs import QUESTION, random_frames, stock_inputs

TORCHVISION = Path(sys.prefix) / "torchvision"
QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")
FAMILIES = (
    "llava_onevision",
    *QWEN,
    "internvl",
    "smolvlm",
    "glm4v",
    "glm46v",
    "qwen3_5",
    "video_llama_3",
    "gemma4",
    "molmo2",
    "minicpmv4_6",
)
CHOOSING = ("smolvlm", "glm4v", "glm46v", "video_llama_3", "gemma4", "molmo2", "minicpmv4_6")
"""Families whose makers choose frames as their processor in transformers does."""

LENGTHS = (
    (1, 25.0), (8, 30.0), (20, 30.0), (31, 25.0), (45, 30.0), (61, NTSC), (132, 25.0), (250, 25.0), (300, 29.97),
    (719, 24000 / 1001), (900, NTSC), (930, 30.0), (1500, 25.0), (3990, 30.0), (9000, 30.0), (9300, 30.0), (500, 10.0),
    (7800, 10.0), (400, 1.0), (54_000, 30.0), (150_000, 50.0), (100, 2.0), (4001, 29.97),
)  # fmt: skip
"""Frames and frames a second of videos, from one frame to fifty minutes."""
COMPARED = {"pixel_values", "pixel_values_videos", "video_grid_thw", "video_token_pooling", "video_grids"}
COMPARED |= {"target_sizes_videos"}
SIZES = ((120, 180), (92, 52), (400, 700))


@pytest.fixture(scope="module")
def processors():
    """A process that has torchvision, and with it the stock processors."""
    script = Path(__file__).parents[1] / "support" / "stock_processors.py"
    paths = [str(TORCHVISION), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, script], env=environment, **pipes) as process:
        yield process


@pytest.fixture
def processed(processors, tmp_path):
    """processed(family, contents): what the stock processor makes of clips and questions."""

    def process(family, contents):
        given, found = tmp_path / "given.pt", tmp_path / "found.pt"
        torch.save(contents, given)
        processors.stdin.write(json.dumps([family, str(tmp_path / "model"), str(given), str(found)]) + "\n")
        processors.stdin.flush()
        assert any(line == "written\n" for line in processors.stdout), "the process has ended; its error is above"
        return torch.load(found)

    return process


@pytest.mark.skipif(not TORCHVISION.is_dir(), reason=f"no {TORCHVISION}, which make test fills: no stock processors")
@pytest.mark.parametrize("family", FAMILIES)
def test_prompt_and_pixels_are_the_stock_processors_own(family, tmp_path, embedded_folder, processed, record_property):
    if not is_there(family):
        pytest.skip(f"this transformers has no {family}")
    save(tmp_path / "model", family, embedded_folder)
    small = load(tmp_path / "model")
    clips = [random_frames(frames, *size) for size in SIZES for frames in (4, 5)]
    given = [{"pixels": clip.pixels, "seconds": 0.5, "question": QUESTION} for clip in clips]
    for clip, found in zip(clips, processed(family, given), strict=True):
        ours = stock_inputs(small, small.encode(clip, file_pixels=True), clip, file_pixels=True)
        assert torch.equal(prompt_of(found, small), ours["input_ids"])
        apart = same_pixels_and_grids(family, found, ours)
        record_property("pixels apart", f"{apart:.0e}")
        if family == "qwen2_5_vl":
            assert torch.as_tensor(found["second_per_grid_ts"]).tolist() == [1.0]


@pytest.mark.skipif(not TORCHVISION.is_dir(), reason=f"no {TORCHVISION}, which make test fills: no stock processors")
@pytest.mark.parametrize("family", CHOOSING)
def test_frames_are_those_that_the_stock_processor_chooses(family, tmp_path, embedded_folder, processed):
    if not is_there(family):
        pytest.skip(f"this transformers has no {family}")
    save(tmp_path / "model", family, embedded_folder)
    makers = makers_choice(tmp_path / "model")
    for (frames, fps), found in zip(LENGTHS, processed(family, list(LENGTHS)), strict=True):
        ours = sorted(set(makers(frames, fps, frames / fps)))
        # Gemma 4's refuses fewer frames than it takes, and GLM-4.6V's takes none of a moment.
        short = list(range(frames)) if found is None else [0]
        assert ours == (sorted(set(found or ())) or short), (frames, fps)


@pytest.mark.skipif(not TORCHVISION.is_dir(), reason=f"no {TORCHVISION}, which make test fills: no stock processors")
@pytest.mark.parametrize("family", CHOOSING)
def test_a_file_is_told_of_as_the_stock_processor_tells_of_it(
    family, tmp_path, embedded_folder, processed, bikes, carphone
):
    if not is_there(family):
        pytest.skip(f"this transformers has no {family}")
    save(tmp_path / "model", family, embedded_folder)
    small = load(tmp_path / "model")
    clips = [load_video(path, Sampling(makers=small.makers), size=64) for path in (bikes, carphone)]
    given = []
    for clip in clips:
        clock = clip.clock
        of_file = {"total_num_frames": clock.frames, "fps": clock.fps, "duration": clock.duration}
        of_file |= {"frames_indices": clock.numbers.tolist()}
        given.append({"pixels": clip.pixels, "seconds": 1.0, "question": QUESTION, "of_file": of_file})
    for clip, found in zip(clips, processed(family, given), strict=True):
        ours = stock_inputs(small, small.encode(clip), clip)
        assert torch.equal(found["input_ids"], ours["input_ids"])
        same_pixels_and_grids(family, found, ours)


@pytest.mark.skipif(not TORCHVISION.is_dir(), reason=f"no {TORCHVISION}, which make test fills: no stock processors")
@pytest.mark.parametrize("family", QWEN)
def test_a_file_is_read_as_qwen_vl_utils_and_the_stock_processor_read_it(
    family, tmp_path, embedded_folder, processed, bikes, square_carphone
):
    """The frames and sizes that the package gave are in test_qwen_vl_utils; they are taken from there, not from us."""
    save(tmp_path / "model", family, embedded_folder)
    (tmp_path / "model" / "video_preprocessor_config.json").write_text(json.dumps(published_settings(family)))
    small, patch = load(tmp_path / "model"), 16 if "3" in family else 14
    clips, given = [], []
    for file, path, windows in (("bikes", bikes, [PART]), ("carphone", square_carphone, [WHOLE, PART])):
        for window in windows:
            read = READ[file][window]
            clips.append(load_video(path, Sampling(start=window[0], end=window[1], makers=small.sampling)))
            of_file = {"total_num_frames": read.window, "fps": read.fps, "frames_indices": read.indices}
            size = {"size": read.sizes[patch]}
            given.append({"pixels": clips[-1].pixels, "seconds": 1.0, "question": QUESTION, "of_file": of_file, **size})
    for clip, content, found in zip(clips, given, processed(family, given), strict=True):
        assert clip.clock is not None
        assert clip.clock.numbers.tolist() == content["of_file"]["frames_indices"]
        tokens = small.encode(clip)
        ours = stock_inputs(small, tokens, clip)
        assert torch.equal(prompt_of(found, small), ours["input_ids"])
        assert torch.equal(found["video_grid_thw"], ours["video_grid_thw"])
        torch.testing.assert_close(found["pixel_values_videos"], ours["pixel_values_videos"], atol=1e-5, rtol=0)
        if family == "qwen2_5_vl":
            seconds = float(torch.as_tensor(found["second_per_grid_ts"])[0])
            assert small.time_step(tokens) == pytest.approx(2 * seconds, rel=1e-6)


def same_pixels_and_grids(family, found, ours):
    """Compare what the processor made with what our model is given, but for the ids; how far pixels are apart."""
    if family == "gemma4":
        # The processor adds patches of nothing, up to as many as a frame may have.
        patches = ours["pixel_values_videos"].shape[1]
        assert not found["pixel_values_videos"][:, patches:].any()
        assert (found["video_position_ids"][:, patches:] == -1).all()
        assert torch.equal(found["video_position_ids"][:, :patches], ours["video_position_ids"])
        found["pixel_values_videos"] = found["pixel_values_videos"][:, :patches]
    apart = 0.0
    for name in ours.keys() & found.keys() & COMPARED:
        if family == "smolvlm" and transformers.__version__.startswith("4"):
            # 4 has the bicubic filter in place of Lanczos', which the model was trained with.
            assert float((found[name] - ours[name]).abs().mean()) < 0.05
            continue
        apart = max(apart, float((found[name] - ours[name]).abs().max()))
        torch.testing.assert_close(found[name], ours[name], atol=1e-5, rtol=0)
    return apart


def prompt_of(found, small):
    """The processor's ids; 5 leaves the template's own pair of markers around Qwen3-VL's video, unlike in training."""
    if small.family.startswith("qwen3") and transformers.__version__.startswith("5"):
        return without_outer_markers(found["input_ids"], small.hf_model.config)
    return found["input_ids"]


def without_outer_markers(ids, config):
    first = (ids[0] == config.vision_start_token_id).nonzero()[0]
    last = (ids[0] == config.vision_end_token_id).nonzero()[-1]
    kept = torch.ones_like(ids[0], dtype=torch.bool)
    kept[[int(first), int(last)]] = False
    return ids[:, kept]
