"""The node that asks the video LLM, and shows the answer and its cost."""

from __future__ import annotations

from collections.abc import Sequence

from ..aot.answering.answer import Answer
from ..aot.answering.answerer import Answerer
from ..aot.answering.generation import Generation
from ..aot.answering.memory_advice import CHUNK
from ..aot.answering.presets import OWN, PRESETS, apply_preset, split
from ..aot.answering.thoughts import growing
from ..aot.answering.vllm_server import Connection, VllmServer
from ..aot.streaming import Stream
from ..aot.tokens.video_tokens import VideoTokens
from .comfy import advanced, interrupted, io, progress, schema, send_text, stoppable
from .models import CATEGORY, Loaded, ready
from .progress_text import Said
from .sockets import AOTVLLM, AOTAnswerType, AOTServerType, AOTTokens


def figures(answer: Answer) -> str:
    """The answer's figures in a few short lines, as the node shows them; the last is its thoughts, if it has any."""
    stages = " + ".join(answer.stages) or "none"
    return "\n".join(
        (
            f"tokens: {answer.size.replace(' tokens', '', 1)}, reduction: {stages}",
            answer.road,
            f"rest {answer.decode_s:.2f} s ({answer.new_tokens} tokens)",
            f"prefill about {answer.prefill_flops / 1e12:.3g} TFLOPs, KV cache {answer.kv_cache_bytes / 2**20:.1f} "
            f"MiB, peak memory {answer.peak_memory_bytes / 2**20:.0f} MiB",
            *((f"reduced for another question: {answer.reduced_for}",) if answer.of_another_question else ()),
            *((f"thoughts: {answer.thoughts}",) if answer.thoughts else ()),
        )
    )


def joined(questions: Sequence[str], texts: Sequence[str]) -> str:
    """The answers as the node shows them: a single one alone, each of several after its question."""
    if len(questions) == 1:
        return texts[0]
    return "\n".join(f"{question} {text}" for question, text in zip(questions, texts, strict=True))


class AOTAnswer(io.ComfyNode):
    """Tokens and a question to an answer."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Its inputs and outputs."""
        return schema(
            node_id="AOTAnswer",
            display_name="Answer (AOT)",
            category=CATEGORY,
            description="Ask the video LLM (VLM) a question about the video, or have it describe or caption it. Shows "
            "the answer as it is written, then the tokens, times and memory it took.",
            search_aliases=["ask", "video question", "VQA", "describe", "caption", "summarise", "chat", "VLM"],
            inputs=[
                AOTVLLM.Input("vllm", tooltip="The model that encoded the video."),
                AOTTokens.Input("tokens", tooltip="Tokens of Encode Video, reduced or not."),
                io.String.Input(
                    "question",
                    default="What happens in this video?",
                    multiline=True,
                    tooltip="What you want to know about the video.",
                ),
                io.Int.Input("max_new_tokens", default=64, min=1, max=4096, tooltip="Longest answer, in LLM tokens."),
                io.Float.Input(
                    "temperature",
                    default=0.0,
                    min=0.0,
                    max=5.0,
                    step=0.05,
                    round=0.01,
                    tooltip="0 takes the likeliest token every time (greedy); above 0 samples.",
                ),
                io.Float.Input(
                    "top_p",
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.05,
                    round=0.01,
                    tooltip="Share of the probability mass to sample from, for a temperature above 0.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**32 - 1,
                    tooltip="Of the sampling, for a temperature above 0.",
                ),
                io.Combo.Input(
                    "preset",
                    options=list(PRESETS),
                    default=OWN,
                    optional=True,
                    tooltip="Words around your question: describe, summarise and timestamps need none; multiple choice "
                    "takes the question and its choices on lines of their own, and asks for a letter.",
                ),
                io.Boolean.Input(
                    "a_line_each",
                    default=False,
                    optional=True,
                    tooltip="Ask every line as a question of its own: the video is read once for all of them, and the "
                    "answers come as lists.",
                ),
                advanced(
                    io.String.Input(
                        "system",
                        default="",
                        multiline=True,
                        optional=True,
                        tooltip="System prompt; empty leaves the model's own.",
                    )
                ),
                advanced(
                    io.Boolean.Input(
                        "unload",
                        default=False,
                        optional=True,
                        tooltip="Move the model off the GPU once it has answered. Otherwise ComfyUI does so when "
                        "another model needs the room.",
                    )
                ),
                AOTAnswerType.Input(
                    "earlier",
                    optional=True,
                    tooltip="An answer about the same video that this question follows up: it and what came before "
                    "it are in the prompt.",
                ),
                AOTServerType.Input(
                    "server", optional=True, tooltip="A vLLM server that answers in place of the local LLM."
                ),
                advanced(
                    io.Float.Input(
                        "repetition_penalty",
                        default=0.0,
                        min=0.0,
                        max=2.0,
                        step=0.05,
                        round=0.01,
                        optional=True,
                        tooltip="Above 1, words that the prompt or the answer has already are less likely. 1 is none; "
                        "0 takes the model's own, as its makers do.",
                    )
                ),
            ],
            outputs=[
                io.String.Output(display_name="text", tooltip="The answer.", is_output_list=True),
                AOTAnswerType.Output(
                    display_name="answer", tooltip="The answer with all its figures.", is_output_list=True
                ),
                io.String.Output(
                    display_name="figures",
                    tooltip="Tokens, times and memory, as the node shows them.",
                    is_output_list=True,
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        vllm: Loaded,
        tokens: VideoTokens | Stream,
        question: str,
        max_new_tokens: int,
        temperature: float,
        top_p: float,
        seed: int,
        preset: str = OWN,
        a_line_each: bool = False,
        system: str = "",
        unload: bool = False,
        earlier: Answer | None = None,
        server: Connection | None = None,
        repetition_penalty: float = 0.0,
    ) -> io.NodeOutput:
        """Generate, streaming onto the node."""
        tokens = ready(tokens)
        questions = [apply_preset(preset, each, tokens.timestamps.tolist()) for each in split(question, a_line_each)]
        texts = [""] * len(questions)
        bar = progress(max_new_tokens)

        def on_text(number: int, text: str) -> None:
            thoughts, answer = growing(text, vllm.model.opens_thoughts)
            texts[number] = answer or (f"thinking: {thoughts}" if thoughts else "")
            send_text(cls.hidden.unique_id, joined(questions, texts))

        said = Said(cls.hidden)
        chunks = 0

        def on_token(count: int) -> None:
            nonlocal chunks
            interrupted()
            bar.update_absolute(count, max_new_tokens)
            if not count and not any(texts):
                read = min(tokens.tokens_kept, chunks * CHUNK)
                said.step(f"reading {tokens.tokens_kept} video tokens", read, tokens.tokens_kept, now=True)
                chunks += 1

        generation = Generation(max_new_tokens, temperature, top_p, seed, repetition_penalty)
        turns = earlier.conversation if earlier is not None else ()
        if server is not None:
            answerer: Answerer = VllmServer(server, vllm.model)
        else:
            vllm.ready()
            answerer = vllm.answerer
        with stoppable(vllm.model.device):
            answers = answerer.answer(
                tokens, questions, generation, system=system, turns=turns, on_text=on_text, on_token=on_token
            )
        if unload:
            vllm.unload()
        texts = [answer.text for answer in answers]
        costs = [figures(answer) for answer in answers]
        shown = [answer.shown if answer.thoughts else answer.text for answer in answers]
        return io.NodeOutput(texts, answers, costs, ui={"text": (joined(questions, shown), costs[0])})


NODES = (AOTAnswer,)
