"""The node that asks the video LLM and shows what it said and what it took."""

from __future__ import annotations

from ..aot.answering import Answer, Generation, answer
from ..aot.streaming import Stream
from ..aot.tokens import VideoTokens
from .comfy import interrupted, io, progress, send_text
from .models import CATEGORY, Loaded, ready
from .sockets import AOTVLLM, AOTAnswerType, AOTTokens


def figures(said: Answer) -> str:
    """The answer's figures in a few short lines, as the node shows them."""
    stages = " + ".join(said.stages) or "none"
    return "\n".join(
        (
            f"tokens: {said.tokens_kept} of {said.tokens_full} ({said.retention:.1%}), reduction: {stages}",
            f"encode {said.encode_s:.2f} s, reduce {said.reduce_s:.3f} s, first token {said.prefill_s:.2f} s, "
            f"rest {said.decode_s:.2f} s ({said.new_tokens} tokens)",
            f"prefill about {said.prefill_flops / 1e12:.3g} TFLOPs, KV cache {said.kv_cache_bytes / 2**20:.1f} MiB, "
            f"peak memory {said.peak_memory_bytes / 2**20:.0f} MiB",
        )
    )


class AOTAnswer(io.ComfyNode):
    """Tokens and a question to an answer."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Its inputs and outputs."""
        return io.Schema(
            node_id="AOTAnswer",
            display_name="Answer (AOT)",
            category=CATEGORY,
            description="Ask the video LLM about the video. Shows the answer as it is written, then the tokens, "
            "times and memory it took.",
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
            ],
            outputs=[
                io.String.Output(display_name="text", tooltip="The answer."),
                AOTAnswerType.Output(display_name="answer", tooltip="The answer with all its figures."),
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
    ) -> io.NodeOutput:
        """Generate, streaming onto the node."""
        tokens = ready(tokens)
        bar = progress(max_new_tokens)

        def on_token(count: int) -> None:
            interrupted()
            bar.update_absolute(count, max_new_tokens)

        said = answer(
            vllm.ready(),
            tokens,
            question,
            Generation(max_new_tokens, temperature, top_p, seed),
            on_text=lambda text: send_text(cls.hidden.unique_id, text),
            on_token=on_token,
        )
        return io.NodeOutput(said.text, said, ui={"text": (said.text, figures(said))})


NODES = (AOTAnswer,)
