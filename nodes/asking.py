"""The nodes that take a question to tokens, and a video and a question to an answer.

Ask Video works by the nodes it expands into.

ComfyUI keeps what each of those gave, as it does for nodes on the canvas: another question about the same video loads
and encodes nothing again, and what is kept goes when ComfyUI lets it go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, cast

from ..aot.answering.presets import OWN, PRESETS, apply_preset
from ..aot.answering.relevance import agreement_with_unrelated, in_words
from ..aot.errors import InputError
from ..aot.models import EMBEDDED, QUANTIZATIONS
from ..aot.models.prompt import require_question
from ..aot.stages.methods.anchor_ot.both_phases import AnchorOT
from ..aot.stages.methods.anchor_ot.settings import CLIP_LENGTH
from ..aot.streaming import Stream
from ..aot.tokens.video_tokens import VideoTokens
from ..aot.video.frame_source import FrameSource
from .answering import AOTAnswer
from .comfy import GraphBuilder, advanced, io, raw_link, schema, stoppable
from .models import CATEGORY, MODEL_WORDS, AOTEncodeVideo, AOTLoadVLLM, Loaded, choices, ready
from .permissions import require_download
from .relevance import LoadedRelevance
from .sockets import AOTVLLM, AOTAnswerType, AOTFrames, AOTRelevance, AOTTokens
from .video import AOTFramesFromImages, AOTFramesFromVideo, AOTLoadVideo, clip_input

AOT_STAGE = cast(str, AnchorOT.node_id)
FULL = 1.0
"""The retention at which nothing is reduced."""

MAKERS, FRAMES, MOST_FRAMES = 0, 16, 4096
"""Frames: the value that leaves them to the model's makers, as many where these have no rule, and the most."""

WORDS = (
    "ask", "video question", "VQA", "describe", "caption", "summarise", "optimal transport", "prune", "merge",
    "compress", "reduce", "token",
)  # fmt: skip
"""What people who look for this node type into the search."""


def _video_there(name: str, inputs: Any) -> None:
    if not (inputs.get("clip") or inputs.get("images")):
        AOTLoadVideo.NEEDS["video"].find(name, inputs)


def _model_there(name: str, inputs: Any) -> None:
    if not inputs.get("vllm"):
        AOTLoadVLLM.NEEDS["model"].find(name, inputs)


def _to_download(on: Any, inputs: Mapping[str, Any]) -> str:
    return "" if inputs.get("vllm") else AOTLoadVLLM.NEEDS["download"].named(on, inputs)


def _rarely_changed() -> list[Any]:
    return [
        io.Float.Input(
            "fps",
            default=24.0,
            min=0.01,
            max=240.0,
            step=1.0,
            round=0.01,
            optional=True,
            tooltip="Frames a second of the images. It gives every frame its time.",
        ),
        io.Float.Input(
            "start",
            default=0.0,
            min=0.0,
            max=1e6,
            step=0.5,
            round=0.01,
            optional=True,
            tooltip="Seconds to start at, in a file or a clip.",
        ),
        io.Float.Input(
            "end",
            default=0.0,
            min=0.0,
            max=1e6,
            step=0.5,
            round=0.01,
            optional=True,
            tooltip="Seconds to end at, in a file or a clip; 0 reads to the last frame.",
        ),
        io.Int.Input(
            "clip_length",
            default=CLIP_LENGTH.default,
            min=1,
            max=4096,
            optional=True,
            tooltip=CLIP_LENGTH.help,
        ),
        io.Combo.Input(
            "preset",
            options=list(PRESETS),
            default=OWN,
            optional=True,
            tooltip="Words around your question: describe, summarise and timestamps need none.",
        ),
        io.String.Input(
            "system",
            default="",
            optional=True,
            tooltip="System prompt; empty leaves the model's own.",
        ),
        io.Combo.Input(
            "quantization",
            options=list(QUANTIZATIONS),
            default="none",
            optional=True,
            tooltip="8-bit or 4-bit weights of the LLM, where bitsandbytes is installed.",
        ),
        io.Boolean.Input(
            "download",
            default=False,
            optional=True,
            tooltip="Fetch a published model that is not there from huggingface.co into models/VLLM, "
            "many gigabytes, once its name is in user/aot_downloads.txt. Off: nothing is ever downloaded.",
        ),
        io.Boolean.Input(
            "unload",
            default=False,
            optional=True,
            tooltip="Move the model off the GPU once it has answered.",
        ),
        io.Float.Input(
            "sample_fps",
            default=0.0,
            min=0.0,
            max=240.0,
            step=0.5,
            round=0.01,
            optional=True,
            tooltip="Frames a second to look at, in a file or a clip; frames is then the most of them. 0: by frames.",
        ),
        io.Boolean.Input(
            "fewer",
            default=False,
            optional=True,
            tooltip="On: a video that has fewer frames than asked for gives all of them. Off: it is refused, unless "
            "frames is 0.",
        ),
    ]


class AOTAskVideo(io.ComfyNode):
    """A video and a question to an answer."""

    NEEDS = MappingProxyType(
        {
            "video": replace(AOTLoadVideo.NEEDS["video"], find=_video_there),
            "model": replace(AOTLoadVLLM.NEEDS["model"], find=_model_there),
            "download": replace(AOTLoadVLLM.NEEDS["download"], named=_to_download),
        }
    )

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Its inputs and outputs."""
        return schema(
            node_id="AOTAskVideo",
            display_name="Ask Video (AOT)",
            category=CATEGORY,
            description="Ask a video LLM (VLM) a question about a video, or have it describe or caption it, in one "
            "node: it encodes the video, reduces its tokens by optimal transport and answers. The next question, or "
            "another retention, costs only itself.",
            search_aliases=[*WORDS, *MODEL_WORDS],
            essentials_category="Video Tools",
            inputs=[
                clip_input(),
                io.String.Input(
                    "question",
                    default="What happens in this video?",
                    multiline=True,
                    tooltip="What you want to know about the video.",
                ),
                io.Float.Input(
                    "retention",
                    default=0.25,
                    min=0.01,
                    max=FULL,
                    step=0.01,
                    round=0.001,
                    display_mode=io.NumberDisplay.slider,
                    tooltip="Share of the video's tokens that the LLM reads. 1 asks with all of them.",
                ),
                io.Combo.Input(
                    "model",
                    options=choices(),
                    default=EMBEDDED,
                    tooltip="'embedded' knows drawn shapes, for trying it out. Others are folders under models/VLLM, "
                    "text encoders in single files, or published models that are not there yet.",
                ),
                io.Int.Input(
                    "frames",
                    default=MAKERS,
                    min=MAKERS,
                    max=MOST_FRAMES,
                    tooltip="Frames to look at, evenly spread over the video. 0 takes those that the model's makers "
                    f"take, or {FRAMES} where they have no rule.",
                ),
                io.Int.Input("max_new_tokens", default=64, min=1, max=4096, tooltip="Longest answer, in LLM tokens."),
                raw_link(io.Video.Input("clip", optional=True, tooltip="ComfyUI's own VIDEO, in place of the file.")),
                raw_link(
                    io.Image.Input("images", optional=True, tooltip="A batch of images, in place of the file; set fps.")
                ),
                raw_link(
                    AOTVLLM.Input(
                        "vllm", optional=True, tooltip="A model of Load Video LLM, in place of the one chosen here."
                    )
                ),
                *map(advanced, _rarely_changed()),
            ],
            outputs=[
                io.String.Output(display_name="text", tooltip="The answer."),
                AOTTokens.Output(display_name="tokens", tooltip="The reduced tokens, for pictures and other answers."),
                io.String.Output(display_name="figures", tooltip="Tokens, times and memory, as the node shows them."),
                AOTAnswerType.Output(display_name="answer", tooltip="The answer with all its figures, for Compare."),
                AOTFrames.Output(display_name="frames", tooltip="The frames that were looked at, for pictures."),
            ],
            is_output_node=True,
            enable_expand=True,
        )

    @classmethod
    def execute(
        cls,
        video: str,
        question: str,
        retention: float,
        model: str,
        frames: int,
        max_new_tokens: int,
        clip: Any = None,
        images: Any = None,
        vllm: Any = None,
        fps: float = 24.0,
        start: float = 0.0,
        end: float = 0.0,
        clip_length: int = CLIP_LENGTH.default,
        preset: str = OWN,
        system: str = "",
        quantization: str = "none",
        download: bool = False,
        unload: bool = False,
        sample_fps: float = 0.0,
        fewer: bool = False,
    ) -> io.NodeOutput:
        """Check what can be checked at once, then expand into the nodes that do the work."""
        if clip and images:
            raise InputError("Both clip and images are linked; unlink one of them.")
        apply_preset(preset, question, ())
        graph = GraphBuilder()
        if not vllm:
            _model_there(model, {"download": download})
            if _to_download(download, {"model": model}):
                require_download(model)
            settings = {"dtype": "auto", "device": "auto", "attention": "auto"}
            loader = graph.node(
                AOTLoadVLLM.__name__, model=model, quantization=quantization, download=download, **settings
            )
            vllm = loader.out(0)
        sampling: dict[str, Any] = {
            "sampling": "uniform", "frames": frames, "fps": 1.0, "every": 1, "start": start, "end": end,
        }  # fmt: skip
        if sample_fps:
            sampling |= {"sampling": "fps", "fps": sample_fps, "frames": frames or MOST_FRAMES}
        elif frames == MAKERS:
            sampling |= {"frames": FRAMES, "vllm": vllm, "fewer": True}
        elif fewer:
            sampling |= {"fewer": True}
        if clip:
            shown = graph.node(AOTFramesFromVideo.__name__, video=clip, **sampling).out(0)
        elif images:
            taken: dict[str, Any] = {"vllm": vllm, "frames": FRAMES} if frames == MAKERS else {"frames": frames}
            shown = graph.node(AOTFramesFromImages.__name__, images=images, fps=fps, **taken).out(0)
        else:
            shown = graph.node(AOTLoadVideo.__name__, video=video, size=0, **sampling).out(0)
        tokens = graph.node(AOTEncodeVideo.__name__, vllm=vllm, frames=shown).out(0)
        if retention < FULL:
            reduction = {"retention": retention, "clip_length": clip_length}
            tokens = graph.node(AOT_STAGE, tokens=tokens, **reduction).out(0)
        greedy = {"temperature": 0.0, "top_p": 1.0, "seed": 0}
        answer = graph.node(
            AOTAnswer.__name__, vllm=vllm, tokens=tokens, question=question, max_new_tokens=max_new_tokens,
            preset=preset, system=system, unload=unload, **greedy,
        )  # fmt: skip
        return io.NodeOutput(answer.out(0), tokens, answer.out(2), answer.out(1), shown, expand=graph.finalize())

    @classmethod
    def validate_inputs(cls, video: str, clip: Any = None, images: Any = None) -> bool | str:
        """Check before the run that the file is there, unless something linked takes its place."""
        return True if clip or images else AOTLoadVideo.validate_inputs(video=video)

    @classmethod
    def fingerprint_inputs(cls, video: str, clip: Any = None, images: Any = None, **settings: Any) -> Any:
        """Changes when the file does."""
        return 0 if clip or images else AOTLoadVideo.fingerprint_inputs(video=video)


class AOTAskAbout(io.ComfyNode):
    """Tokens and a question to tokens that know it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Its inputs and outputs."""
        return schema(
            node_id="AOTAskAbout",
            display_name="Ask About (AOT)",
            category=CATEGORY,
            description="Tell the stages after this one what will be asked, for those that choose tokens by the "
            "question (CDPruner, SemVID, DART, DyToK). Other stages keep what they keep without it. Link one question "
            "to this node and to Answer: tokens chosen for a question are for that question.",
            search_aliases=["question", "query", "prompt", "question-aware", "CDPruner", "SemVID", "DART", "DyToK"],
            inputs=[
                AOTVLLM.Input("vllm", tooltip="The model that encoded the video."),
                AOTTokens.Input("tokens", tooltip="Tokens of Encode Video."),
                io.String.Input(
                    "question",
                    default="What happens in this video?",
                    multiline=True,
                    tooltip="The question alone, without instructions around it.",
                ),
                AOTVLLM.Input(
                    "assistant",
                    optional=True,
                    tooltip="For DyToK Budgets: a model that reads all tokens and the question first, to say which "
                    "frames matter. Link the same model, or a smaller one with its own tokens.",
                ),
                AOTTokens.Input(
                    "assistant_tokens",
                    optional=True,
                    tooltip="The same frames, encoded by the assistant. Nothing linked: it reads the tokens above.",
                ),
                AOTRelevance.Input(
                    "relevance_model",
                    optional=True,
                    tooltip="For CDPruner with relevance clip, as released: a CLIP with both halves, which looks at "
                    "the frames below. Of Load Relevance Model.",
                ),
                AOTFrames.Input(
                    "frames",
                    optional=True,
                    tooltip="The frames that went into Encode Video, for the relevance model to look at.",
                ),
            ],
            outputs=[AOTTokens.Output(display_name="tokens", tooltip="The same tokens, with the question.")],
        )

    @classmethod
    def execute(
        cls,
        vllm: Loaded,
        tokens: VideoTokens | Stream,
        question: str,
        assistant: Loaded | None = None,
        assistant_tokens: VideoTokens | Stream | None = None,
        relevance_model: LoadedRelevance | None = None,
        frames: FrameSource | None = None,
    ) -> io.NodeOutput:
        """Put the question on the tokens, and say whether its words tell it from an unrelated one."""
        require_question(question)
        if isinstance(tokens, Stream):
            if assistant is not None:
                raise InputError(
                    "An assistant reads all tokens of a video, and these are streamed; switch streaming off on Encode "
                    "Video, or unlink the assistant."
                )
            if relevance_model is not None:
                raise InputError(
                    "A relevance model looks at a video that is encoded whole, and this one is streamed; switch "
                    "streaming off on Encode Video, or unlink the relevance model."
                )
            return io.NodeOutput(tokens.about(question), ui={"text": ("asked when tokens are needed",)})
        if relevance_model is not None and frames is None:
            raise InputError(
                f"{relevance_model.model.name} looks at frames themselves; link those that went into Encode Video."
            )
        model = vllm.ready()
        with stoppable(model.device):
            helper = None if assistant is None else assistant.ready()
            read = None if assistant_tokens is None else ready(assistant_tokens)
            looks = None if relevance_model is None else relevance_model.ready()
            asked = model.about(
                tokens,
                question,
                assistant=helper,
                assistant_tokens=read,
                relevance_model=looks,
                frames=frames,
            )
            agreement = agreement_with_unrelated(model, asked)
        words, seconds = (len(asked.question.words), asked.question.seconds) if asked.question is not None else (0, 0.0)
        line = f"{words} words; {in_words(agreement)}"
        named = {"assistant": assistant, "relevance model": relevance_model}
        who = " and ".join(name for name, linked in named.items() if linked is not None)
        return io.NodeOutput(asked, ui={"text": (f"{line}\n{who}: {seconds:.2f} s" if seconds else line,)})


NODES = (AOTAskVideo, AOTAskAbout)
