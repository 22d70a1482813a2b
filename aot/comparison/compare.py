"""One question, several reductions of one encoding: each answer, its cost, and how near it is to the full answer.

`aot compare` and the Sweep node get their rows here, and so does the Compare node, as far as answers alone show them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ..answering.answer import Answer
from ..answering.answerer import Answerer, LocalAnswerer
from ..answering.fidelity import Fidelity, Reference, fidelity, from_answers, of_itself, reference
from ..answering.generation import CountCallback, Generation, ignore_count
from ..answering.session import Session
from ..errors import InputError
from ..models.progress import Progress, ignore_progress
from ..stages.chain import FULL
from ..tokens.video_tokens import VideoTokens
from ..video.frame_source import FrameSource
from .starts import Start, Starts
from .variants import ANOTHER, Variant

if TYPE_CHECKING:
    from ..models.relevance_model import RelevanceModel

ROAD = ("file_s", "was_read", "first_token_s", "reduced_for")
"""Keys of an answer that came later than a row's own, and are printed after them."""


@dataclass(frozen=True)
class Row:
    """One variant of a comparison.

    Args:
        name: of the variant.
        answer: about its tokens.
        speedup: full tokens' prefill time over this one's.
        fidelity: against the answer about full tokens.
        tokens: the variant's; None if the row was measured before, or is made of an answer alone.
        truth: the right answer; None if it is not known.
        label: of the variant, the same at every retention.
        first_token_speedup: full tokens' time from the file to the first token over this one's.
        retention: that the variant was set to; None where its own settings say what it keeps.
        is_control: whether it is fewer or smaller frames alone, which any method has to be better than.
        reinvest: how many times as many frames it saw.
    """

    name: str
    answer: Answer
    speedup: float
    fidelity: Fidelity
    tokens: VideoTokens | None = None
    truth: str | None = None
    label: str = ""
    first_token_speedup: float = 1.0
    retention: float | None = None
    is_control: bool = False
    reinvest: int = 1

    @property
    def right(self) -> bool | None:
        """Whether the truth occurs in the answer as whole words, in any case of letters; None if it is not known."""
        if self.truth is None:
            return None
        return re.search(rf"\b{re.escape(self.truth.strip())}\b", self.answer.text, re.IGNORECASE) is not None

    @property
    def is_reduced(self) -> bool:
        """Whether tokens were left out, before the LLM or inside it."""
        return self.answer.tokens_kept < self.answer.tokens_full or bool(self.answer.layer_tokens)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, ``stages`` being the variant's name."""
        values = self.answer.to_dict()
        values.pop("question")
        road = {name: values.pop(name) for name in ROAD}
        figures = {"stages": self.name, "prefill_speedup": self.speedup}
        known = {} if self.truth is None else {"truth": self.truth, "right": self.right}
        chosen_for = road.pop("reduced_for")
        last = {**road, "first_token_speedup": self.first_token_speedup, "reduced_for": chosen_for}
        return {**values, **figures, **self.fidelity.to_dict(), **known, **last}


@dataclass(frozen=True)
class Measured:
    """The figures of one variant.

    Args:
        answer: about its tokens.
        fidelity: against the full answer.
        reference: the full answer's distributions; None for every other variant, and if a server answered.
    """

    answer: Answer
    fidelity: Fidelity
    reference: Reference | None = None


class Cache(Protocol):
    """Keeps figures, so that they are not measured again."""

    def get(self, variant: Variant, against: Variant) -> Measured | None:
        """The figures of a variant against another; None if there are none.

        Args:
            variant: measured before, perhaps.
            against: the variant whose answer counts as the full one.
        """

    def put(self, variant: Variant, against: Variant, measured: Measured) -> None:
        """Keep figures.

        Args:
            variant: that was measured.
            against: the variant whose answer counts as the full one.
            measured: the figures.
        """


def compare(
    answerer: Answerer,
    tokens: VideoTokens,
    question: str,
    variants: Sequence[Variant],
    generation: Generation | None = None,
    *,
    on_row: Callable[[str], None] = lambda name: None,
    on_token: CountCallback = ignore_count,
    on_refused: Callable[[str], None] | None = None,
    cache: Cache | None = None,
    frames: FrameSource | None = None,
    file_pixels: bool = False,
    on_progress: Progress = ignore_progress,
    relevance_model: RelevanceModel | None = None,
) -> Iterator[Row]:
    """Answer with every variant in turn, each against the first, which is full tokens mostly.

    Every variant reduces the same encoding, but for those that choose frames: they share one with those that choose the
    same. One token is generated before the first measurement, so that no variant
    pays for the first use of the hardware. Only a local answerer gives the figures that need the model's
    distributions.

    Args:
        answerer: the LLM of the model itself, or a server.
        tokens: fresh from the encoder.
        question: about the video.
        variants: at least one, each with a chain.
        generation: how answers are generated; greedy, 64 tokens at most, if None.
        on_row: called with a variant's name before its turn; may raise to stop.
        on_token: called between the chunks of a prefill and after every token of an answer; may raise to stop.
        on_refused: called with the reason when a chain cannot run on these tokens (EVS under one whole frame, for
            instance); the variant gets no row. If None, its error is raised.
        cache: keeps figures from one run to the next; None measures everything.
        frames: that the tokens are of, for variants that choose among them, or see more of the video.
        file_pixels: see :meth:`~..models.base.VideoLLM.frame_size`.
        on_progress: called with (done, total) frames of such a variant's encoding.
        relevance_model: for chains that need what a CLIP says of every place; it looks at ``frames``.
    """
    encodings = Starts(
        answerer.model,
        tokens,
        frames,
        file_pixels=file_pixels,
        on_progress=on_progress,
        relevance_model=relevance_model,
    )
    starts = encodings.plan(variants)
    against = variants[0]
    known = {
        start.variant.name: cache.get(start.variant, against) if cache else None
        for start in starts
        if isinstance(start, Start)
    }
    missing = [start for start in starts if isinstance(start, Start) and known[start.variant.name] is None]
    if missing:
        ready = [start for start in reversed(missing) if start.frames is None]
        smallest = next(
            filter(None, (_reduced(answerer, encodings, each, question, ignore_refusal) for each in ready)), tokens
        )
        measure(answerer, smallest, question, Generation(max_new_tokens=1), None, on_token=on_token)
    full: Measured | None = None
    first: dict[str, Answer] = {}
    for asked, start in zip(variants, starts, strict=True):
        on_row(asked.name)
        if isinstance(start, InputError):
            if on_refused is None:
                raise start
            on_refused(str(start))
            continue
        variant = start.variant
        measured, reduced = known[variant.name], None
        if measured is None:
            reduced = _reduced(answerer, encodings, start, question, on_refused)
            if reduced is not None:
                measured = measure(answerer, reduced, question, generation, full, on_token=on_token)
                if cache:
                    cache.put(variant, against, measured)
        encodings.done(start)
        if measured is None:
            continue
        full = full or measured
        # Variants that see the same frames share one encoding; those from a cache may have been measured after several.
        same = first.setdefault(variant.frames, measured.answer)
        answer = dataclasses.replace(measured.answer, file_s=same.file_s, encode_s=same.encode_s)
        if variant.reinvest > 1:  # of the tokens that it has to make do with
            share = answer.tokens_kept / full.answer.tokens_full
            answer = dataclasses.replace(answer, tokens_full=full.answer.tokens_full, retention=share)
        yield Row(
            variant.name,
            answer,
            full.answer.prefill_s / answer.prefill_s,
            measured.fidelity,
            reduced,
            label=variant.label,
            first_token_speedup=full.answer.first_token_s / answer.first_token_s,
            retention=variant.retention,
            is_control=variant.is_control,
            reinvest=variant.reinvest,
        )


def ignore_refusal(reason: str) -> None:
    """The refusal callback that does nothing."""


def _reduced(
    answerer: Answerer, starts: Starts, start: Start, question: str, on_refused: Callable[[str], None] | None
) -> VideoTokens | None:
    """The tokens that a variant leaves; None if its chain refuses and ``on_refused`` has the reason."""
    if start.variant.chain is None:
        return starts.reduced(start)
    starts.tokens(start)  # what the encoder refuses is no refusal of the chain
    try:
        reduced = starts.reduced(start, question)
        if reduced.inner:
            answerer.require(reduced)
        return reduced
    except InputError as error:
        if on_refused is None:
            raise
        on_refused(str(error))
        return None


def measure(
    answerer: Answerer,
    tokens: VideoTokens,
    question: str,
    generation: Generation | None,
    full: Measured | None,
    *,
    on_token: CountCallback = ignore_count,
) -> Measured:
    """Answer about tokens, and measure how near the answer is to the full one.

    Args:
        answerer: the LLM of the model itself, or a server.
        tokens: of the encoder or of any stage.
        question: about the video.
        generation: how the answer is generated; greedy, 64 tokens at most, if None.
        full: the figures of all tokens; None if these are all.
        on_token: see :data:`~..answering.generation.CountCallback`.
    """
    if not isinstance(answerer, LocalAnswerer):
        (answer,) = answerer.answer(tokens, [question], generation, on_token=on_token)
        return Measured(answer, from_answers(full.answer if full else answer, answer))
    # A session of its own: the video that the answerer keeps for the next question stays in its cache.
    session = Session(answerer.model, tokens)
    (answer,) = session.answer([question], generation, on_token=on_token)
    if full is None or full.reference is None:
        known = reference(session, answer)
        return Measured(answer, of_itself(answer, known), known)
    return Measured(answer, fidelity(session, full.answer, full.reference, answer))


def side_by_side(answers: Sequence[Answer], *, reinvest: bool = False) -> list[Row]:
    """Rows of answers from elsewhere, each against the full answer among those it can be compared with.

    An answer is compared with those of the same model to the same question, after the same turns. The full answer is
    the first of them about all tokens; if there is none, the first of them.

    Args:
        answers: any number.
        reinvest: whether answers about more frames are measured by the tokens of the fewest.
    """
    if reinvest:
        answers = _by_the_fewest(answers)
    groups: dict[Any, list[Answer]] = {}
    for answer in answers:
        groups.setdefault(_group(answer), []).append(answer)
    references = {
        key: next((each for each in group if each.tokens_kept == each.tokens_full and not each.layer_tokens), group[0])
        for key, group in groups.items()
    }
    rows = []
    for answer in answers:
        full = references[_group(answer)]
        speedup = full.prefill_s / answer.prefill_s if answer.prefill_s else 1.0
        sooner = full.first_token_s / answer.first_token_s if answer.first_token_s else 1.0
        rows.append(Row(_name(answer), answer, speedup, from_answers(full, answer), first_token_speedup=sooner))
    return rows


def _by_the_fewest(answers: Sequence[Answer]) -> list[Answer]:
    """Answers with the full tokens, and the retention, of the one among those that they are compared with that has
    fewest."""
    least: dict[Any, int] = {}
    for each in answers:
        least[_group(each)] = min(each.tokens_full, least.get(_group(each), each.tokens_full))
    fulls = [least[_group(each)] for each in answers]
    return [
        dataclasses.replace(each, tokens_full=full, retention=each.tokens_kept / full)
        for each, full in zip(answers, fulls, strict=True)
    ]


def fastest(rows: Sequence[Row]) -> Row:
    """The row with the earliest first token, counted from the file."""
    return min(rows, key=lambda row: row.answer.first_token_s)


def closest(rows: Sequence[Row]) -> Row | None:
    """The reduced row that is nearest to the full answer; None if nothing is reduced.

    That is the one of least KL: over the whole answer if all rows have that, of the first token otherwise. Of equal
    ones it is the one under which the full answer is likelier. Of a server's answers it is one with the same text.
    """
    reduced = [row for row in rows if row.is_reduced]
    if not reduced:
        return None
    for name in ("kl", "kl_first"):
        if all(getattr(row.fidelity, name) is not None for row in reduced):
            return min(reduced, key=lambda row: (getattr(row.fidelity, name), -(row.fidelity.log_probability or 0.0)))
    return next((row for row in reduced if row.fidelity.same), None)


def no_closer(rows: Sequence[Row]) -> list[Row]:
    """The rows that are no closer to full than a control, fewer or smaller frames, at the same retention.

    Args:
        rows: of one question and model.
    """
    worse = []
    for row in rows:
        controls = [each for each in rows if each.is_control and each.retention == row.retention]
        if row.retention is not None and not row.is_control and controls and closest([*controls, row]) is not row:
            worse.append(row)
    return worse


def _group(answer: Answer) -> Any:
    return answer.model, answer.turns, answer.question


def _name(answer: Answer) -> str:
    if not answer.stages:
        return FULL
    chain = "+".join(answer.stages)
    return f"{chain}{ANOTHER if answer.of_another_question else ''} {answer.retention:.3g}"
