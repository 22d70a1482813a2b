"""One question, several reductions of one encoding: what each kept, took and said."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .answering import Answer, Generation, answer
from .models.base import VideoLLM
from .pipeline import Pipeline, is_fixed, parse
from .tokens import VideoTokens


@dataclass(frozen=True)
class Row:
    """One variant of a comparison.

    Args:
        name: of the pipeline.
        tokens: what it left.
        answer: what the model said.
        speedup: full tokens' prefill time over this one's, both measured in this run.
    """

    name: str
    tokens: VideoTokens
    answer: Answer
    speedup: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, ``stages`` being the pipeline's name."""
        values = self.answer.to_dict()
        values.pop("question")
        return {**values, "stages": self.name, "prefill_speedup": self.speedup}


def at_each(chain: str, retentions: Sequence[float]) -> list[Pipeline]:
    """A chain at each of ``retentions``; once and as it is where it settles what it keeps.

    Raises:
        InputError: an unknown stage or setting, or a chain whose last stage has no retention.
    """
    pipeline = parse(chain)
    if is_fixed(chain):
        return [pipeline]
    return [
        dataclasses.replace(pipeline.at_retention(retention), name=f"{chain} {retention:g}") for retention in retentions
    ]


def compare(
    vllm: VideoLLM,
    tokens: VideoTokens,
    question: str,
    pipelines: Sequence[Pipeline],
    generation: Generation | None = None,
    *,
    on_row: Callable[[str], None] = lambda name: None,
) -> Iterator[Row]:
    """Answer with every pipeline in turn; the first is what the others' speed-up is measured against.

    Every pipeline reduces the same encoding. One unmeasured token is generated first, so that no variant pays
    for waking the machine up.
    """
    answer(vllm, pipelines[-1](tokens), question, Generation(max_new_tokens=1))
    reference: float | None = None
    for pipeline in pipelines:
        on_row(pipeline.name)
        reduced = pipeline(tokens)
        said = answer(vllm, reduced, question, generation)
        reference = reference or said.prefill_s
        yield Row(pipeline.name, reduced, said, reference / said.prefill_s)
