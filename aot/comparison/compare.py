"""One question, several reductions of one encoding: what each kept, took and said, and how near it stays to the full.

`aot compare`, the Sweep node and, as far as answers alone can tell, the Compare node all get their rows here.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..answering.answer import Answer, Generation, answer, answers
from ..answering.fidelity import Fidelity, Reference, fidelity, judged, of_itself, reference
from ..answering.session import Session, ignore_count
from ..errors import InputError
from ..models.base import VideoLLM
from ..stages.chain import FULL, Chain, is_fixed, parse
from ..tokens.video_tokens import VideoTokens


@dataclass(frozen=True)
class Row:
    """One variant of a comparison.

    Args:
        name: of the pipeline.
        answer: what the model said.
        speedup: full tokens' prefill time over this one's.
        fidelity: against the answer about full tokens.
        tokens: what the pipeline left; None where the row was measured before, or is made of an answer alone.
        truth: the right answer, where it is known.
    """

    name: str
    answer: Answer
    speedup: float
    fidelity: Fidelity
    tokens: VideoTokens | None = None
    truth: str | None = None

    @property
    def right(self) -> bool | None:
        """Whether the truth occurs in the answer as whole words, however written; None where it is not known."""
        if self.truth is None:
            return None
        return re.search(rf"\b{re.escape(self.truth.strip())}\b", self.answer.text, re.IGNORECASE) is not None

    @property
    def first_token_s(self) -> float:
        """Seconds from the encoded video to the first token of the answer: reducing and prefilling."""
        return self.answer.reduce_s + self.answer.prefill_s

    @property
    def is_reduced(self) -> bool:
        """Whether fewer tokens were read than there are."""
        return self.answer.tokens_kept < self.answer.tokens_full

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, ``stages`` being the pipeline's name."""
        values = self.answer.to_dict()
        values.pop("question")
        figures = {"stages": self.name, "prefill_speedup": self.speedup}
        known = {} if self.truth is None else {"truth": self.truth, "right": self.right}
        return {**values, **figures, **self.fidelity.to_dict(), **known}


@dataclass(frozen=True)
class Measured:
    """What measuring one pipeline gave.

    Args:
        reference: of the pipeline that the others are held against; None of those others.
    """

    answer: Answer
    fidelity: Fidelity
    reference: Reference | None = None


class Kept(Protocol):
    """Where what was measured is kept, so that it need not be measured again."""

    def get(self, pipeline: Chain, against: Chain) -> Measured | None:
        """What was measured of a pipeline held against another; None where it was not."""

    def put(self, pipeline: Chain, against: Chain, measured: Measured) -> None:
        """Keep it."""


def at_each(chain: str, retentions: Sequence[float]) -> list[Chain]:
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
    model: VideoLLM,
    tokens: VideoTokens,
    question: str,
    pipelines: Sequence[Chain],
    generation: Generation | None = None,
    *,
    on_row: Callable[[str], None] = lambda name: None,
    on_token: Callable[[int], None] = ignore_count,
    on_refused: Callable[[str], None] | None = None,
    kept: Kept | None = None,
) -> Iterator[Row]:
    """Answer with every pipeline in turn; the first is what the others are held against, full tokens mostly.

    Every pipeline reduces the same encoding. One unmeasured token is generated first, so that no variant pays
    for waking the machine up.

    Args:
        on_row: called with a pipeline's name before its turn; raising stops.
        on_token: called between the chunks of a prefill and after every token of an answer; raising stops.
        on_refused: called with what a pipeline says that cannot do with these tokens what it is asked, an EVS under
            one whole frame for instance; it gets no row. Where left out, its error is raised.
        kept: where measurements are looked for, and kept as soon as they are there; None measures everything.
    """
    against = pipelines[0]
    found = {pipeline.name: kept.get(pipeline, against) if kept else None for pipeline in pipelines}
    missing = [pipeline for pipeline in pipelines if found[pipeline.name] is None]
    if missing:
        awake = next(filter(None, (_tried(pipeline, tokens, ignore_refusal) for pipeline in reversed(missing))), tokens)
        answer(model, awake, question, Generation(max_new_tokens=1), on_token=on_token)
    full: Measured | None = None
    for pipeline in pipelines:
        on_row(pipeline.name)
        measured, reduced = found[pipeline.name], None
        if measured is None:
            reduced = _tried(pipeline, tokens, on_refused)
            if reduced is None:
                continue
            measured = measure(model, reduced, question, generation, full, on_token=on_token)
            if kept:
                kept.put(pipeline, against, measured)
        full = full or measured
        speedup = full.answer.prefill_s / measured.answer.prefill_s
        yield Row(pipeline.name, measured.answer, speedup, measured.fidelity, reduced)


def ignore_refusal(said: str) -> None:
    """The callback of whoever passes over pipelines that refuse."""


def _tried(pipeline: Chain, tokens: VideoTokens, on_refused: Callable[[str], None] | None) -> VideoTokens | None:
    """What a pipeline makes of tokens; None where it refuses and somebody is told."""
    try:
        return pipeline(tokens)
    except InputError as error:
        if on_refused is None:
            raise
        on_refused(str(error))
        return None


def measure(
    model: VideoLLM,
    tokens: VideoTokens,
    question: str,
    generation: Generation | None,
    full: Measured | None,
    *,
    on_token: Callable[[int], None] = ignore_count,
) -> Measured:
    """What a model says about tokens, and how near that is to what it says about all of them.

    Args:
        full: what was measured of all of them, its reference with it; None where these are all.
    """
    session = Session(model, tokens)
    (said,) = answers(model, tokens, session, [question], generation, on_token=on_token)
    if full is None or full.reference is None:
        known = reference(model, session, said)
        return Measured(said, of_itself(said, known), known)
    return Measured(said, fidelity(model, session, full.answer, full.reference, said))


def side_by_side(given: Sequence[Answer]) -> list[Row]:
    """Answers that were given elsewhere, each held against the full one among those it can be compared with.

    An answer is compared with those of the same model to the same question, after the same turns; the first of them
    about all tokens stands for the full answer, or the first of them where there is none.
    """
    groups: dict[Any, list[Answer]] = {}
    for each in given:
        groups.setdefault(_asked(each), []).append(each)
    references = {
        key: next((each for each in group if each.tokens_kept == each.tokens_full), group[0])
        for key, group in groups.items()
    }
    rows = []
    for each in given:
        full = references[_asked(each)]
        speedup = full.prefill_s / each.prefill_s if each.prefill_s else 1.0
        rows.append(Row(_name(each), each, speedup, judged(full, each)))
    return rows


def fastest(rows: Sequence[Row]) -> Row:
    """The row whose first token came soonest after the video was encoded."""
    return min(rows, key=lambda row: row.first_token_s)


def closest(rows: Sequence[Row]) -> Row | None:
    """The reduced row that stays nearest to the full answer; None where nothing is reduced.

    The least KL, over the answer where that is known of all and of the first token where only that is; then the larger
    log-probability of the full answer. Of answers from a server: one that says the same.
    """
    reduced = [row for row in rows if row.is_reduced]
    if not reduced:
        return None
    for name in ("kl", "kl_first"):
        if all(getattr(row.fidelity, name) is not None for row in reduced):
            return min(reduced, key=lambda row: (getattr(row.fidelity, name), -(row.fidelity.log_probability or 0.0)))
    return next((row for row in reduced if row.fidelity.same), None)


def _asked(given: Answer) -> Any:
    return given.model, given.turns, given.question


def _name(given: Answer) -> str:
    if not given.stages:
        return FULL
    return f"{'+'.join(given.stages)} {given.retention:.3g}"
