"""What the stock classes are given for a video and a question."""

from __future__ import annotations

import inspect

import torch

from comfyui_aot.aot.video.frames import Frames

QUESTION = "What is it?"


FRAMES = 6


def random_frames(count=FRAMES, height=120, width=180):
    """A noisy picture that changes a little from frame to frame, 2 frames a second."""
    generator = torch.Generator().manual_seed(5)
    still = torch.randint(0, 256, (1, height // 4, width // 4, 3), generator=generator).repeat_interleave(4, 1)
    still = still.repeat_interleave(4, 2)
    noise = torch.randint(-40, 40, (count, height, width, 3), generator=generator)
    pixels = (still + noise).clamp(0, 255).to(torch.uint8)
    return Frames(pixels, torch.arange(count, dtype=torch.float64) / 2, "noise")


@torch.no_grad()
def stock_inputs(small, tokens, clip, question=QUESTION, file_pixels=False):
    """What the stock model is given for the whole video: its own placeholders and pixels."""
    prompt = small.prompt(question, tokens)
    model, layout = small.hf_model, tokens.layout
    text = [*prompt.before, prompt.after]
    if small.family.startswith("llava"):
        slot, count = model.config.video_token_id, tokens.tokens_full + 1
        given = {"pixel_values_videos": small.preprocess(clip)[None]}
    elif small.family == "internvl":
        slot, count = model.config.image_token_id, layout.cells
        given = {"pixel_values": small.preprocess(clip)}
    elif small.family == "video_llama_3":
        slot, count = model.config.video_token_id, layout.cells
        given = {"pixel_values_videos": small.patches(small.preprocess(clip)), "video_grid_thw": small.grids(layout)}
        given["video_merge_sizes"] = torch.tensor([2])
    elif small.family == "gemma4":
        slot, count = model.config.video_token_id, layout.cells
        given = {
            "pixel_values_videos": small.patches(small.preprocess(clip)),
            "video_position_ids": small.places(layout),
        }
        given["num_frames_per_video"] = torch.tensor([layout.frames])
    elif small.family == "molmo2":
        slot, count = model.config.image_patch_id, layout.cells
        given = {"pixel_values_videos": small.patches(small.preprocess(clip))}
        given |= {"video_token_pooling": small.windows(layout.frames)}
        given |= {"video_grids": torch.tensor([[layout.frames, *layout.grid]])}
    elif small.family == "minicpmv4_6":
        slot, count = model.config.video_token_id, layout.cells
        given = {"pixel_values_videos": small.patches(small.preprocess(clip))}
        given |= {"target_sizes_videos": small.grids(layout)}
    elif small.family == "smolvlm":
        slot, count = model.config.image_token_id, layout.cells
        given = {"pixel_values": small.preprocess(clip)[None]}
    else:
        slot, count = small.visual_id, layout.cells * layout.frames // len(prompt.before)
        merge = model.config.vision_config.spatial_merge_size
        grid = [layout.frames, layout.grid[0] * merge, layout.grid[1] * merge]
        given = {
            "pixel_values_videos": small.patches(small.preprocess(clip, file_pixels=file_pixels)),
            "video_grid_thw": torch.tensor([grid]),
        }
        if small.family == "qwen2_5_vl":
            given["second_per_grid_ts"] = torch.tensor([1.0 if clip.clock is None else 2 / clip.clock.sampled_fps])
    pieces = [text[0]]
    for number, piece in enumerate(text[1:]):
        # Molmo2's last place is empty.
        pieces += [torch.full((count if number < layout.frames or not small.frames_apart else 0,), slot), piece]
    ids = torch.cat(pieces)[None]
    if "mm_token_type_ids" in inspect.signature(model.forward).parameters:
        given["mm_token_type_ids"] = 2 * (ids == slot).int()
    if small.family == "molmo2":
        marks = [slot, model.config.frame_start_token_id, model.config.frame_end_token_id]
        given["mm_token_type_ids"] = torch.isin(ids, torch.tensor(marks)).int()
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **given}
