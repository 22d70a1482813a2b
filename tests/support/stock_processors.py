"""What a family's own processor makes of a prompt and a video; run as a script, since it needs torchvision.

torchvision's wheel is linked to CUDA; with the schemas of its two operators defined first, it imports beside a torch
for the CPU. That is why it is kept out of the tests' own process.

A clip that brings a "size" is first resized as `qwen-vl-utils` does, and left at that by the processor where the model
card says so. A content that is the length of a video asks which of its frames the processor chooses.

Usage: python stock_processors.py, with a line of JSON on standard input for every batch of clips: the family, its
folder, INPUT.pt and OUTPUT.pt. Once OUTPUT.pt is written, a line on standard output says so.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

_OPERATORS = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _OPERATORS.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import transformers  # noqa: E402 (behind the operators)
from torchvision.transforms import InterpolationMode, functional  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402
from transformers.video_utils import VideoMetadata  # noqa: E402

WRITTEN = "written"
"""The line that follows each batch."""

PROCESSORS = {
    "llava_onevision": ("LlavaOnevisionProcessor", "LlavaOnevisionVideoProcessor", "LlavaOnevisionImageProcessor"),
    "qwen2_5_vl": ("Qwen2_5_VLProcessor", "Qwen2VLVideoProcessor", "Qwen2VLImageProcessor"),
    "qwen3_vl": ("Qwen3VLProcessor", "Qwen3VLVideoProcessor", "Qwen2VLImageProcessor"),
    "qwen3_vl_moe": ("Qwen3VLProcessor", "Qwen3VLVideoProcessor", "Qwen2VLImageProcessor"),
    "qwen2_vl": ("Qwen2VLProcessor", "Qwen2VLVideoProcessor", "Qwen2VLImageProcessor"),
    "internvl": ("InternVLProcessor", "InternVLVideoProcessor", "GotOcr2ImageProcessor"),
    "glm4v": ("Glm4vProcessor", "Glm4vVideoProcessor", "Glm4vImageProcessor"),
    "glm46v": ("Glm46VProcessor", "Glm46VVideoProcessor", "Glm46VImageProcessor"),
    "qwen3_5": ("Qwen3VLProcessor", "Qwen3VLVideoProcessor", "Qwen2VLImageProcessor"),
    "video_llama_3": ("VideoLlama3Processor", "VideoLlama3VideoProcessor", "VideoLlama3ImageProcessor"),
    "gemma4": ("Gemma4Processor", "Gemma4VideoProcessor", "Gemma4ImageProcessor"),
    "molmo2": ("Molmo2Processor", "Molmo2VideoProcessor", "Molmo2ImageProcessor"),
    "minicpmv4_6": ("MiniCPMV4_6Processor", "MiniCPMV4_6VideoProcessor", "MiniCPMV4_6ImageProcessor"),
    "smolvlm": ("SmolVLMProcessor", "SmolVLMVideoProcessor", "SmolVLMImageProcessor"),
}
ROLES = {
    "internvl": {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    },
    "minicpmv4_6": {
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "image_start_token": "<image>",
        "image_end_token": "</image>",
        "slice_start_token": "<slice>",
        "slice_end_token": "</slice>",
        "image_id_start_token": "<image_id>",
        "image_id_end_token": "</image_id>",
    },
    "gemma4": {
        "image_token": "<|image|>",
        "boi_token": "<|image>",
        "eoi_token": "<image|>",
        "audio_token": "<|audio|>",
        "boa_token": "<|audio>",
        "eoa_token": "<audio|>",
    },
}
"""By family: the names that its processor has for tokens."""


def main(family: str, folder: Path, given: Path, found: Path) -> None:
    """Process every clip and question in ``given``; write ids, pixels and grids to ``found``."""
    processor, video, image = (getattr(transformers, name) for name in PROCESSORS[family])
    settings = json.loads((folder / "video_preprocessor_config.json").read_text())
    roles = {"extra_special_tokens": ROLES[family]} if family in ROLES else {}
    # transformers 4 insists on the family's own class, which 5 no longer tells from the general one.
    own = family.startswith("qwen") and transformers.__version__.startswith("4")
    tokenizer = (transformers.Qwen2TokenizerFast if own else AutoTokenizer).from_pretrained(folder, **roles)
    extra = {}
    if family == "llava_onevision":
        extra = {"num_image_tokens": 81, "vision_feature_select_strategy": "full"}
    if family == "internvl":
        extra = {"image_seq_length": 16}
    if family == "smolvlm":
        extra = {"image_seq_len": 9}
        write_numbers_in_words()
    if family == "gemma4":
        extra = {"feature_extractor": transformers.Gemma4AudioFeatureExtractor()}
    template = json.loads((folder / "chat_template.json").read_text())["chat_template"]
    made = processor(
        tokenizer=tokenizer, video_processor=video(**settings), image_processor=image(), chat_template=template, **extra
    )
    if family == "smolvlm":
        made.chat_template = None  # for a video it takes another than the checkpoint's
    contents = torch.load(given)
    torch.save([chosen(made, *each) if isinstance(each, tuple) else process(made, **each) for each in contents], found)


def chosen(processor: Any, frames: int, fps: float) -> list[int] | None:
    """The frames that a processor takes of a video by default; None where it refuses it as too short.

    Args:
        processor: the family's own.
        frames: of the video.
        fps: frames a second.
    """
    metadata = VideoMetadata(total_num_frames=frames, fps=fps, duration=frames / fps)
    # What the model card of VideoLLaMA3 passes; without it the processor takes every frame.
    options = {"fps": 1} if "VideoLlama3" in type(processor).__name__ else {}
    try:
        return [int(each) for each in processor.video_processor.sample_frames(metadata, **options)]
    except ValueError:
        return None


def write_numbers_in_words() -> None:
    """Give SmolVLM's processor the numbers it takes from num2words, where that is not installed."""
    from transformers.models.smolvlm import processing_smolvlm

    from comfyui_aot.aot.models.smolvlm import in_words

    processing_smolvlm.num2words = processing_smolvlm.num2words or in_words


def process(
    processor: Any,
    pixels: torch.Tensor,
    seconds: float,
    question: str,
    size: tuple[int, int] | None = None,
    of_file: dict[str, Any] | None = None,
) -> dict[str, torch.Tensor]:
    """What the model would be given for a question about frames.

    Args:
        processor: the family's own.
        pixels: (T, H, W, 3) uint8.
        seconds: between frames that are of no file.
        question: about them.
        size: (h, w) that `qwen-vl-utils` makes of them.
        of_file: ``total_num_frames``, ``fps`` and ``frames_indices``, as `qwen-vl-utils` returns them for Qwen's.
    """
    messages = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": question}]}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    count = len(pixels)
    # Without a duration, a prompt that tells it takes the time of the last frame.
    metadata = VideoMetadata(total_num_frames=count, fps=1 / seconds, frames_indices=list(range(count)))
    video, options = pixels.permute(0, 3, 1, 2), {}
    if of_file is not None:
        metadata = VideoMetadata(**of_file)
    if size is not None:
        video = functional.resize(video, list(size), InterpolationMode.BICUBIC, antialias=True).float()
        if isinstance(processor, transformers.Qwen3VLProcessor):
            options["do_resize"] = False
        elif transformers.__version__.startswith("4"):
            options["fps"] = [len(video) / metadata.total_num_frames * metadata.fps]
    videos = [video]
    if "SmolVLM" in type(processor).__name__ and transformers.__version__.startswith("4"):
        videos = [videos]  # a list for each prompt
    output = processor(
        text=[text],
        videos=videos,
        video_metadata=[metadata],
        do_sample_frames=False,
        return_tensors="pt",
        **options,
    )
    tensors = {name: value for name, value in output.items() if isinstance(value, torch.Tensor)}
    if "second_per_grid_ts" in output:
        tensors["second_per_grid_ts"] = torch.as_tensor(output["second_per_grid_ts"])
    return tensors


if __name__ == "__main__":
    for line in sys.stdin:
        family, *paths = json.loads(line)
        main(family, *map(Path, paths))
        print(WRITTEN, flush=True)
