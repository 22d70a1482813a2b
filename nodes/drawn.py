"""A drawn clip with a question whose answer is known: for a graph that needs neither footage nor a large model."""

from __future__ import annotations

from ..aot.errors import InputError
from ..aot.evaluation.drawn_clip import NUMBER
from ..aot.evaluation.shapes_set import FAMILIES, SPLITS, shapes_set
from .comfy import io, schema
from .sockets import AOTFrames
from .video import CATEGORY


class AOTDrawnClip(io.ComfyNode):
    """A clip of Shapes: its frames, one question, and the truth."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Its inputs and outputs."""
        return schema(
            node_id="AOTDrawnClip",
            display_name="Drawn Clip (AOT)",
            category=CATEGORY,
            description="Draw a clip of moving shapes and ask a question about it whose answer is known. The embedded "
            "model was trained on such clips, not on these.",
            search_aliases=["example video", "test video", "drawn shapes", "quiz", "video question"],
            inputs=[
                io.Int.Input(
                    "clip",
                    default=NUMBER,
                    min=0,
                    max=2**31 - 1,
                    tooltip="Number of the clip; the same number is always the same clip. The embedded model was "
                    f"trained on numbers under {SPLITS['dev']}.",
                ),
                io.Combo.Input(
                    "family",
                    options=list(FAMILIES),
                    default="motion",
                    tooltip="What the question is about. Not every clip has every kind; the error names those it has.",
                ),
                io.Int.Input(
                    "frames", default=16, min=4, max=1024, tooltip="Frames of the clip, spread over eight seconds."
                ),
            ],
            outputs=[
                AOTFrames.Output(display_name="frames", tooltip="The frames with their timestamps."),
                io.String.Output(display_name="question", tooltip="For the question of Answer."),
                io.String.Output(display_name="truth", tooltip="The right answer."),
            ],
        )

    @classmethod
    def execute(cls, clip: int, family: str, frames: int) -> io.NodeOutput:
        """Draw the clip and choose its question of the family."""
        drawn = shapes_set("any", clips=1, seed=clip, frames=frames)
        questions = {question.family: question for question in drawn.questions}
        if family not in questions:
            raise InputError(f"Clip {clip} has no question of the family {family!r}; it has {', '.join(questions)}.")
        question = questions[family]
        report = f"{question.text} {question.answer.capitalize()}."
        return io.NodeOutput(drawn.frames(str(clip), frames), question.text, question.answer, ui={"text": (report,)})


NODES = (AOTDrawnClip,)
