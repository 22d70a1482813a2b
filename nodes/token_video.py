"""The node that saves a clip with its tokens over it, to share."""

from __future__ import annotations

from ..aot.answering.answer import Answer
from ..aot.errors import InputError
from ..aot.pictures.token_video import Overlay, token_video
from ..aot.streaming import Stream
from ..aot.tokens.video_tokens import VideoTokens
from ..aot.video.frame_source import FrameSource
from ..aot.video.video_source import decoded
from .comfy import (
    io,
    output_directory,
    progress,
    schema,
    stoppable,
    ui,
    unused_output,
    video_from_file,
    workflow_metadata,
)
from .models import ready
from .pictures import CATEGORY, width_input
from .sockets import AOTAnswerType, AOTFrames, AOTTokens


def overlay(tokens: VideoTokens | Stream, answer: Answer | None, name: str) -> Overlay:
    """Tokens with what was answered about them.

    Args:
        tokens: of any stage.
        answer: about these tokens; None if nobody asked.
        name: of the answer's socket, for the error.

    Raises:
        InputError: the answer is about other tokens.
    """
    tokens = ready(tokens)
    if answer is None:
        return Overlay(tokens)
    if (answer.tokens_kept, answer.tokens_full) != (tokens.tokens_kept, tokens.tokens_full):
        raise InputError(
            f"{name} is about {answer.tokens_kept} of {answer.tokens_full} tokens, and its tokens are "
            f"{tokens.tokens_kept} of {tokens.tokens_full}; connect the answer about these tokens."
        )
    return Overlay(tokens, answer.question, answer.text)


class AOTTokenMapVideo(io.ComfyNode):
    """The clip itself with what became of every cell, as a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Its inputs and outputs."""
        return schema(
            node_id="AOTTokenMapVideo",
            display_name="Token Map Video (AOT)",
            category=CATEGORY,
            description="Save the clip as an mp4 to share, with its tokens over every encoded frame, in the colours of "
            "Token Map, and the budget, question and answer below. With tokens_b linked, two variants play side by "
            "side. The file holds the workflow: drop it on ComfyUI to open it.",
            search_aliases=[
                "mp4",
                "share",
                "save video",
                "token video",
                "heat map",
                "visualise tokens",
                "side by side",
            ],
            inputs=[
                AOTTokens.Input("tokens", tooltip="Tokens of any stage."),
                AOTFrames.Input("frames", tooltip="The frames that were encoded."),
                AOTAnswerType.Input("answer", optional=True, tooltip="Answer's answer about these tokens."),
                AOTTokens.Input(
                    "tokens_b", optional=True, tooltip="Other tokens of the same frames, to play to the right."
                ),
                AOTAnswerType.Input("answer_b", optional=True, tooltip="Answer's answer about tokens_b."),
                io.String.Input(
                    "filename_prefix",
                    default="aot_videos/token_map",
                    optional=True,
                    tooltip="Folder and start of the file name, inside ComfyUI's output folder. A number is added.",
                ),
                io.Float.Input(
                    "seconds",
                    default=0.0,
                    min=0.0,
                    max=3600.0,
                    step=1.0,
                    round=0.01,
                    optional=True,
                    tooltip="Length of the video. 0 plays the clip at its own speed, in 5 seconds at least and 30 at "
                    "most.",
                ),
                width_input(1280),
            ],
            outputs=[
                io.Video.Output(display_name="video", tooltip="The video, for core nodes that take one."),
                io.String.Output(display_name="file", tooltip="The file's name in the output folder."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        tokens: VideoTokens | Stream,
        frames: FrameSource,
        answer: Answer | None = None,
        tokens_b: VideoTokens | Stream | None = None,
        answer_b: Answer | None = None,
        filename_prefix: str = "aot_videos/token_map",
        seconds: float = 0.0,
        width: int = 1280,
    ) -> io.NodeOutput:
        """Draw, save, and play on the node."""
        if tokens_b is None and answer_b is not None:
            raise InputError("answer_b has no tokens; connect the tokens it is about to tokens_b.")
        overlays = [overlay(tokens, answer, "answer")]
        if tokens_b is not None:
            overlays.append(overlay(tokens_b, answer_b, "answer_b"))
        with (
            unused_output(filename_prefix, ".mp4") as path,
            stoppable(overlays[0].tokens.features.device),
        ):
            token_video(
                overlays,
                decoded(frames),
                path,
                width=width,
                seconds=seconds or None,
                metadata=workflow_metadata(cls.hidden),
                on_progress=progress(frames.count).update_absolute,
            )
        file = path.relative_to(output_directory().resolve())
        folder = "" if file.parent == file.parents[-1] else file.parent.as_posix()
        saved = {"filename": file.name, "subfolder": folder, "type": "output"}
        return io.NodeOutput(video_from_file(path), file.as_posix(), ui=ui.PreviewVideo([saved]))


NODES = (AOTTokenMapVideo,)
