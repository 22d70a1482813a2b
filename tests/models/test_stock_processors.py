"""Prompt, pixels and grid are those of the family's own processor."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

from comfyui_aot.aot.models import load
from comfyui_aot.tests.support.small_models import is_there, save
from comfyui_aot.tests.support.stock_inputs import QUESTION, random_frames, stock_inputs

TORCHVISION = Path(sys.prefix) / "torchvision"
FAMILIES = (
    "llava_onevision",
    "qwen2_5_vl",
    "qwen3_vl",
    "internvl",
    "smolvlm",
    "glm4v",
    "glm46v",
    "qwen3_5",
    "video_llama_3",
)
COMPARED = {"pixel_values", "pixel_values_videos", "video_grid_thw", "video_token_pooling", "video_grids"}
SIZES = ((120, 180), (92, 52), (400, 700))


@pytest.mark.skipif(not TORCHVISION.is_dir(), reason=f"no {TORCHVISION}, which make test fills: no stock processors")
@pytest.mark.parametrize("family", FAMILIES)
def test_prompt_and_pixels_are_the_stock_processors_own(family, tmp_path, embedded_folder):
    if not is_there(family):
        pytest.skip(f"this transformers has no {family}")
    save(tmp_path / "model", family, embedded_folder)
    small = load(tmp_path / "model")
    clips = [random_frames(frames, *size) for size in SIZES for frames in (4, 5)]
    given = [{"pixels": clip.pixels, "seconds": 0.5, "question": QUESTION} for clip in clips]
    torch.save(given, tmp_path / "given.pt")
    script = Path(__file__).parents[1] / "support" / "stock_processors.py"
    paths = [str(TORCHVISION), *filter(None, [os.environ.get("PYTHONPATH")])]
    subprocess.run(
        [sys.executable, script, family, tmp_path / "model", tmp_path / "given.pt", tmp_path / "found.pt"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        check=True,
    )
    for clip, found in zip(clips, torch.load(tmp_path / "found.pt"), strict=True):
        ours = stock_inputs(small, small.encode(clip), clip)
        if family in ("qwen3_vl", "qwen3_5") and transformers.__version__.startswith("5"):
            # 5 leaves the template's own pair of markers around the video, which the model was not trained with.
            config = small.hf_model.config
            found["input_ids"] = without_outer_markers(found["input_ids"], config)
        assert torch.equal(found["input_ids"], ours["input_ids"])
        if family == "gemma4":
            # The processor adds patches of nothing, up to as many as a frame may have.
            patches = ours["pixel_values_videos"].shape[1]
            assert not found["pixel_values_videos"][:, patches:].any()
            assert (found["video_position_ids"][:, patches:] == -1).all()
            assert torch.equal(found["video_position_ids"][:, :patches], ours["video_position_ids"])
            found["pixel_values_videos"] = found["pixel_values_videos"][:, :patches]
        for name in ours.keys() & found.keys() & COMPARED:
            if family == "smolvlm" and transformers.__version__.startswith("4"):
                # 4 has the bicubic filter in place of Lanczos', which the model was trained with.
                assert float((found[name] - ours[name]).abs().mean()) < 0.05
                continue
            torch.testing.assert_close(found[name], ours[name], atol=1e-5, rtol=0)
        if family == "qwen2_5_vl":
            assert torch.as_tensor(found["second_per_grid_ts"]).tolist() == [1.0]


def without_outer_markers(ids, config):
    first = (ids[0] == config.vision_start_token_id).nonzero()[0]
    last = (ids[0] == config.vision_end_token_id).nonzero()[-1]
    kept = torch.ones_like(ids[0], dtype=torch.bool)
    kept[[int(first), int(last)]] = False
    return ids[:, kept]
