"""Nodes that turn a video or images into AOT_FRAMES, and AOT_FRAMES into images."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from ..aot.errors import InputError
from ..aot.evaluation.drawn_clip import NAME as DRAWN
from ..aot.evaluation.drawn_clip import load_drawn_clip
from ..aot.pictures.strip import strip
from ..aot.text import shown
from ..aot.video.frame_source import FrameSource
from ..aot.video.frames import Frames, resample
from ..aot.video.sampling import MODES, Sampling
from ..aot.video.sizes import require_components_fit
from ..aot.video.video_source import decoded, load_video
from .comfy import advanced, io, list_input_files, resolve_file, schema, ui
from .progress_text import Said
from .sockets import AOTVLLM, AOTFrames
from .workflow.requirements import Kind

if TYPE_CHECKING:
    from .models import Loaded

CATEGORY = "AOT/video"


def clip_input() -> Any:
    """The widget that names a clip: the drawn one or a video in the input folder, which is preferred."""
    files = list_input_files()
    return io.Combo.Input(
        "video",
        options=[DRAWN, *files],
        default=files[0] if files else DRAWN,
        upload=io.UploadType.video,
        tooltip="A video in ComfyUI's input folder; the button below uploads one. 'drawn clip' needs no file: eight "
        "seconds of moving shapes, drawn on the spot.",
    )


def require_clip(name: str) -> None:
    """Raise an InputError if a clip is neither the drawn one nor a file in ComfyUI's folders.

    Args:
        name: the widget's value.
    """
    if name != DRAWN:
        resolve_file(name)


def clip_state(name: str) -> tuple[int, int]:
    """Changes when the clip does: modification time in nanoseconds and bytes of its file.

    Args:
        name: the widget's value.

    Raises:
        InputError: there is no such file.
    """
    if name == DRAWN:
        return 0, 0
    status = resolve_file(name).stat()
    return status.st_mtime_ns, status.st_size


def load_clip(name: str, sampling: Sampling, size: int) -> Frames:
    """The chosen frames of a clip.

    Args:
        name: the widget's value.
        sampling: which frames.
        size: of the shorter side in pixels; 0 leaves it as it is.

    Raises:
        InputError: there is no such file, or it cannot be read so.
    """
    if name == DRAWN:
        return load_drawn_clip(sampling, size or None)
    return load_video(resolve_file(name), sampling, size or None)


CLIP = Kind("clip", lambda name, _: resolve_file(name), without=(DRAWN,))
"""What a workflow with that widget needs."""


def sampling_inputs() -> list[Any]:
    """The widgets that choose frames, the same on every node that has them."""
    return [
        io.Combo.Input(
            "sampling",
            options=list(MODES),
            default="uniform",
            tooltip="uniform: evenly spread from start to end, as the paper's evaluation does. fps: one frame every "
            "1/fps seconds. every: every k-th frame.",
        ),
        io.Int.Input(
            "frames",
            default=16,
            min=1,
            max=4096,
            tooltip="uniform: this many frames. fps and every: at most this many, evenly spread.",
        ),
        io.Float.Input(
            "fps",
            default=1.0,
            min=0.01,
            max=240.0,
            step=0.1,
            round=0.01,
            tooltip="Frames a second, for sampling fps.",
        ),
        io.Int.Input("every", default=1, min=1, max=100_000, tooltip="k, for sampling every."),
        io.Float.Input("start", default=0.0, min=0.0, max=1e6, step=0.5, round=0.01, tooltip="Seconds to start at."),
        io.Float.Input(
            "end",
            default=0.0,
            min=0.0,
            max=1e6,
            step=0.5,
            round=0.01,
            tooltip="Seconds to end at; 0 reads to the last frame.",
        ),
    ]


def makers_input() -> Any:
    """The link by which a model's makers choose the frames."""
    return AOTVLLM.Input(
        "vllm",
        optional=True,
        tooltip="A model: the frames that its makers take, where they have a rule, in place of those chosen here.",
    )


def fewer_input(*, default: bool = False) -> Any:
    """The widget by which a video of fewer frames than asked for gives all of them.

    Args:
        default: whether it is on.
    """
    return advanced(
        io.Boolean.Input(
            "fewer",
            default=default,
            optional=True,
            tooltip="On: a video that has fewer frames than asked for gives all of them. Off: it is refused.",
        )
    )


def sampling_of(
    sampling: str,
    frames: int,
    fps: float,
    every: int,
    start: float,
    end: float,
    vllm: Loaded | None = None,
    fewer: bool = False,
) -> Sampling:
    """The library's sampling from the widgets' values.

    Args:
        sampling: one of the library's modes.
        frames: how many, or at most how many.
        fps: frames a second.
        every: k of every k-th frame.
        start: seconds.
        end: seconds; 0 is the last frame.
        vllm: a model whose makers choose, where they have a rule.
        fewer: whether a video of fewer frames gives all of them.
    """
    cap = None if sampling == "uniform" or vllm is not None else frames
    makers = vllm.model.makers if vllm else None
    return Sampling(sampling, frames, fps, every, start, end or None, cap, makers, fewer)


def check_sampling(sampling: str | None) -> bool | str:
    """True, or what is wrong with the mode: ComfyUI does not check a combo's value itself.

    Args:
        sampling: the mode; None is a linked value, not known yet.
    """
    if sampling is None or sampling in MODES:
        return True
    return f"sampling is {sampling!r}; choose one of {', '.join(MODES)}."


def summary(frames: Frames) -> str:
    """One line about frames, for the node and its text output.

    Args:
        frames: one or more.
    """
    first, last = float(frames.timestamps[0]), float(frames.timestamps[-1])
    return (
        f"{shown(frames.source)}: {frames.count} frames of {frames.width}x{frames.height}, {first:.2f} to "
        f"{last:.2f} s, {frames.pixels.numel() / 2**20:.0f} MiB"
    )


class AOTLoadVideo(io.ComfyNode):
    """Frames of a file in the input folder, or of the drawn clip."""

    NEEDS = MappingProxyType({"video": CLIP})

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Its inputs and outputs."""
        return schema(
            node_id="AOTLoadVideo",
            display_name="Load Video (AOT)",
            category=CATEGORY,
            description="Decode the chosen frames, and no others, of a video in the input folder, or draw a clip.",
            search_aliases=["open video", "video file", "upload video", "decode video", "sample frames"],
            inputs=[
                clip_input(),
                *sampling_inputs(),
                io.Int.Input(
                    "size",
                    default=0,
                    min=0,
                    max=8192,
                    step=2,
                    tooltip="Length of the shorter side in pixels; proportions stay. 0 leaves the size as it is.",
                ),
                makers_input(),
                fewer_input(),
            ],
            outputs=[
                AOTFrames.Output(display_name="frames", tooltip="The frames with their timestamps."),
                io.String.Output(display_name="info", tooltip="Number of frames, size, seconds and memory."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        video: str,
        sampling: str,
        frames: int,
        fps: float,
        every: int,
        start: float,
        end: float,
        size: int,
        vllm: Loaded | None = None,
        fewer: bool = False,
    ) -> io.NodeOutput:
        """Decode."""
        Said(cls.hidden).say(f"{'drawing' if video == DRAWN else 'decoding'} frames")
        loaded = load_clip(video, sampling_of(sampling, frames, fps, every, start, end, vllm, fewer), size)
        shown = ui.PreviewImage(strip(loaded), cls=cls).as_dict()["images"]
        return io.NodeOutput(loaded, summary(loaded), ui={"text": (summary(loaded),), "aot_strip": shown})

    @classmethod
    def validate_inputs(cls, video: str) -> bool | str:
        """Check before the run that the file is there. ComfyUI reports one cause once for every input named here."""
        try:
            if video is not None:
                require_clip(video)
        except InputError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, video: str, **settings: Any) -> tuple[int, int]:
        """Changes when the file does."""
        return clip_state(video)


class AOTFramesFromImages(io.ComfyNode):
    """Frames of IMAGE, from VideoHelperSuite's loader, core nodes or any other."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Its inputs and outputs."""
        return schema(
            node_id="AOTFramesFromImages",
            display_name="Frames from Images (AOT)",
            category=CATEGORY,
            description="Take a batch of images, from VideoHelperSuite or any other node, as the frames of a video.",
            search_aliases=["image batch", "images to video", "VideoHelperSuite", "VHS"],
            inputs=[
                io.Image.Input("images", tooltip="The frames, in order."),
                io.Float.Input(
                    "fps",
                    default=24.0,
                    min=0.01,
                    max=240.0,
                    step=1.0,
                    round=0.01,
                    tooltip="Frames a second of these images. It gives every frame its time.",
                ),
                io.Int.Input(
                    "frames",
                    default=0,
                    min=0,
                    max=4096,
                    optional=True,
                    tooltip="At most this many of the images, evenly spread; 0 takes all of them.",
                ),
                makers_input(),
            ],
            outputs=[AOTFrames.Output(display_name="frames", tooltip="The frames with their timestamps.")],
        )

    @classmethod
    def execute(cls, images: torch.Tensor, fps: float, frames: int = 0, vllm: Loaded | None = None) -> io.NodeOutput:
        """Round to 8 bits and add times."""
        taken = Frames.from_images(images, fps)
        count = min(frames or taken.count, taken.count)
        if vllm is not None or count < taken.count:
            taken = resample(taken, sampling_of("uniform", count, 1.0, 1, 0.0, 0.0, vllm))
        return io.NodeOutput(taken, ui={"text": (summary(taken),)})


class AOTFramesFromVideo(io.ComfyNode):
    """Frames of ComfyUI's own VIDEO, within its trim."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Its inputs and outputs."""
        return schema(
            node_id="AOTFramesFromVideo",
            display_name="Frames from Video (AOT)",
            category=CATEGORY,
            description="Choose frames of ComfyUI's own VIDEO, within its trim. ComfyUI decodes the whole video for "
            "this; Load Video (AOT) decodes only the chosen frames.",
            search_aliases=["video to frames", "native video", "sample frames"],
            inputs=[
                io.Video.Input("video", tooltip="A VIDEO of any core node."),
                *sampling_inputs(),
                makers_input(),
                fewer_input(),
            ],
            outputs=[AOTFrames.Output(display_name="frames", tooltip="The frames with their timestamps.")],
        )

    @classmethod
    def execute(
        cls,
        video: Any,
        sampling: str,
        frames: int,
        fps: float,
        every: int,
        start: float,
        end: float,
        vllm: Loaded | None = None,
        fewer: bool = False,
    ) -> io.NodeOutput:
        """Let ComfyUI decode, then choose."""
        require_components_fit(video.get_dimensions(), video.get_duration())
        parts = video.get_components()
        decoded = Frames.from_images(parts.images, float(parts.frame_rate), "video")
        picked = resample(decoded, sampling_of(sampling, frames, fps, every, start, end, vllm, fewer))
        return io.NodeOutput(picked, ui={"text": (summary(picked),)})

    @classmethod
    def validate_inputs(cls, sampling: str) -> bool | str:
        """Whether the mode is known."""
        return check_sampling(sampling)


class AOTFramesToImages(io.ComfyNode):
    """Frames as IMAGE, for any other node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Its inputs and outputs."""
        return schema(
            node_id="AOTFramesToImages",
            display_name="Frames to Images (AOT)",
            category=CATEGORY,
            description="Turn frames into a batch of images.",
            search_aliases=["video to images", "frames to batch", "image batch"],
            inputs=[AOTFrames.Input("frames", tooltip="Frames of any AOT loader.")],
            outputs=[io.Image.Output(display_name="images", tooltip="The frames as images, in order.")],
        )

    @classmethod
    def execute(cls, frames: FrameSource) -> io.NodeOutput:
        """Convert."""
        return io.NodeOutput(decoded(frames).to_images())


NODES = (AOTLoadVideo, AOTFramesFromImages, AOTFramesFromVideo, AOTFramesToImages)
