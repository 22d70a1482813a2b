"""Many videos through one model: decoding, encoding and answering overlap.

Threads decode videos ahead. Others compute: each takes what is ready, a batch of reduced videos to answer or a decoded
one to encode, so that none waits while there is work. On a CPU the cores are shared out among a few such threads, which
is faster than all cores on one small operation after another; elsewhere one encodes while another answers. The caller's
thread gets the rows as they come.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import psutil
import torch

from ..answering.answer import Answer
from ..answering.together import AskedVideo, TogetherAnswerer
from ..errors import InputError, readable
from .questions import Asking
from .videos import DecodedVideo, Recipe, open_asked, reduced_tokens

WORKERS = 4
"""Threads that compute on a CPU, at most: each has a video, and keys and values, of its own in memory."""

DECODERS = 2
"""Threads that decode, where the caller names no number."""

AHEAD = 4
"""Videos that are decoded ahead, at most."""

SHARE = 4
"""Decoded frames of all videos take no more than the free memory over this, but for a single video's."""

PATIENCE = 10.0
"""Seconds that a thread may take to end: one that waits for a network ends with the process."""


class Stopped(Exception):
    """Ends the work of a thread; nobody sees it."""


@dataclass(frozen=True)
class Result:
    """What became of a question about a video.

    Args:
        asking: the question.
        sha256: of the video's file; None if it could not be read.
        answer: None if there is none.
        error: why, in a line; None if there is an answer.
    """

    asking: Asking
    sha256: str | None
    answer: Answer | None = None
    error: str | None = None


@dataclass(frozen=True)
class _Encoded:
    """A video that is ready to be asked about: each of its tokens with the questions about them."""

    sha256: str
    askings: tuple[tuple[Asking, ...], ...]
    videos: tuple[AskedVideo, ...]


@contextmanager
def run(
    recipe: Recipe, asked: Sequence[Sequence[Asking]], *, batch: int = 8, decoders: int = DECODERS
) -> Iterator[Iterator[Result]]:
    """Answer questions about videos. The block gets the results as they come; leaving it stops what is at work.

    Args:
        recipe: how.
        asked: for each video its questions, at least one.
        batch: videos that are answered together, at most.
        decoders: threads that decode ahead.

    Raises:
        InputError: fewer than one of a batch or of decoders.
    """
    if batch < 1 or decoders < 1:
        raise InputError(f"A batch of {batch} videos and {decoders} decoders; give 1 or more of each.")
    line = _Line(recipe, asked, batch)
    before, (workers, threads) = torch.get_num_threads(), _share_out(recipe)
    on_cpu = recipe.model.device.type == "cpu"
    works = [line.decode] * decoders + [partial(line.compute, threads)] * workers
    pool = [threading.Thread(target=line.guarded, args=(work,), name="aot-batch", daemon=True) for work in works]
    try:
        if on_cpu:
            torch.set_num_threads(threads)
        for thread in pool:
            thread.start()
        yield line.results()
    finally:
        line.stop()
        for thread in pool:
            if thread.ident is not None:
                thread.join(PATIENCE)
        if on_cpu:
            torch.set_num_threads(before)


def _share_out(recipe: Recipe) -> tuple[int, int]:
    """Threads that compute, and torch's own threads of each.

    Stages that work inside the tower or the LLM, and an assistant, need the model to themselves.
    """
    cores = torch.get_num_threads()
    if recipe.needs_model_alone:
        return 1, cores
    if recipe.model.device.type != "cpu":
        return 2, cores
    workers = min(cores, WORKERS)
    return workers, cores // workers


class _Line:
    """The line that videos go through, and the threads that work at it. All state is behind one condition."""

    def __init__(self, recipe: Recipe, asked: Sequence[Sequence[Asking]], batch: int) -> None:
        self._recipe, self._batch = recipe, batch
        self._changed = threading.Condition()
        self._pending = deque(asked)
        self._decoded: deque[DecodedVideo] = deque()
        self._encoded: deque[_Encoded] = deque()
        self._decoding = self._encoding = self._answering = 0
        self._bytes, self._room = 0, psutil.virtual_memory().available // SHARE
        self._stopped = False
        self._left = len(asked)
        self._out: queue.SimpleQueue[list[Result] | BaseException] = queue.SimpleQueue()
        one_each = recipe.model.device.type != "cpu"
        self._most_encoding = self._most_answering = 1 if one_each else WORKERS

    def results(self) -> Iterator[Result]:
        """The results, until every video has its own."""
        while self._left:
            results = self._out.get()
            if isinstance(results, BaseException):
                raise results
            self._left -= 1
            yield from results

    def stop(self) -> None:
        """Have every thread end soon, and drop what was decoded."""
        with self._changed:
            self._stopped = True
            self._pending.clear()
            for video in self._decoded:
                video.close()
            self._decoded.clear()
            self._changed.notify_all()

    def guarded(self, work: Callable[[], None]) -> None:
        """Do the work of a thread; what it does not expect is raised where results are waited for.

        Args:
            work: of the thread.
        """
        try:
            work()
        except Stopped:
            return
        except BaseException as error:
            self._out.put(error)

    def decode(self) -> None:
        """Decode the next video, again and again, until there is none."""
        while (askings := self._next_pending()) is not None:
            taken = 0

            def take(size: int) -> None:
                nonlocal taken
                self._take_room(size)
                taken = size

            try:
                video = open_asked(self._recipe, askings, take)
            except Stopped:
                raise
            except Exception as error:
                self._failed(askings, None, error)
                self._gone("_decoding", taken)
                continue
            with self._changed:
                self._decoding -= 1
                if self._stopped:
                    video.close()
                self._decoded.append(video)
                self._changed.notify_all()

    def compute(self, threads: int) -> None:
        """Encode or answer what is ready, again and again, until there is nothing to come.

        Args:
            threads: torch's own, of this one.
        """
        if self._recipe.model.device.type == "cpu":
            torch.set_num_threads(threads)
        answerer = TogetherAnswerer(self._recipe.model)
        with torch.no_grad():
            while (work := self._next_work()) is not None:
                if isinstance(work, DecodedVideo):
                    self._encode(work)
                else:
                    self._answer(answerer, work)

    def _next_pending(self) -> Sequence[Asking] | None:
        """A video to decode, once there is room for it ahead; None if there is no more."""
        with self._changed:
            self._changed.wait_for(lambda: not self._pending or len(self._decoded) + self._decoding < AHEAD)
            if not self._pending:
                return None
            self._decoding += 1
            return self._pending.popleft()

    def _take_room(self, size: int) -> None:
        """Wait until frames of this size fit beside those of other videos, or are the only ones."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or not self._bytes or self._bytes + size <= self._room)
            if self._stopped:
                raise Stopped
            self._bytes += size

    def _next_work(self) -> DecodedVideo | list[_Encoded] | None:
        """A batch to answer or a video to encode; None if there is nothing to come."""
        with self._changed:
            while True:
                if self._stopped:
                    return None
                if self._answering < self._most_answering and self._is_batch_due():
                    batch = [self._encoded.popleft() for _ in range(min(self._batch, len(self._encoded)))]
                    self._answering += 1
                    return batch
                is_room = len(self._encoded) < 2 * self._batch
                if self._decoded and self._encoding < self._most_encoding and is_room:
                    self._encoding += 1
                    video = self._decoded.popleft()
                    self._changed.notify_all()
                    return video
                if not (self._pending or self._decoding or self._decoded or self._encoding or self._encoded):
                    return None
                self._changed.wait()

    def _is_batch_due(self) -> bool:
        """Whether videos are to be answered now: there are enough, or nothing else to be encoded is ready."""
        if len(self._encoded) >= self._batch:
            return True
        return bool(self._encoded) and not self._decoded and not self._encoding

    def _encode(self, video: DecodedVideo) -> None:
        try:
            with video:
                encoded = self._reduced(video)
        except Stopped:
            raise
        except Exception as error:
            self._failed(video.askings, video.sha256, error)
            self._gone("_encoding", video.bytes)
            return
        with self._changed:
            self._encoded.append(encoded)
        self._gone("_encoding", video.bytes)

    def _reduced(self, video: DecodedVideo) -> _Encoded:
        tokens = reduced_tokens(self._recipe, video, self._go_on)
        askings = [(each,) for each in video.askings] if len(tokens) > 1 else [tuple(video.askings)]
        times = tokens[0].timestamps.tolist()
        asked = [
            AskedVideo(each, [asking.prompt(times) for asking in group])
            for each, group in zip(tokens, askings, strict=True)
        ]
        return _Encoded(video.sha256, tuple(askings), tuple(asked))

    def _answer(self, answerer: TogetherAnswerer, batch: list[_Encoded]) -> None:
        videos = [video for each in batch for video in each.videos]
        recipe = self._recipe
        try:
            answers: Sequence[list[Answer] | Exception] = answerer.answer(
                videos, recipe.generation, system=recipe.system, on_token=self._go_on
            )
        except Stopped:
            raise
        except Exception as error:
            answers = [error] * len(videos)
        found = iter(answers)
        for each in batch:
            results: list[Result] = []
            for group in each.askings:
                said = next(found)
                if isinstance(said, Exception):
                    results += [Result(asking, each.sha256, error=_in_a_line(said)) for asking in group]
                else:
                    results += [Result(*pair, answer) for pair, answer in zip(_with(each, group), said, strict=True)]
            self._out.put(results)
        self._gone("_answering", 0)

    def _failed(self, askings: Sequence[Asking], sha256: str | None, error: Exception) -> None:
        self._out.put([Result(asking, sha256, error=_in_a_line(error)) for asking in askings])

    def _gone(self, count: str, size: int) -> None:
        """A piece of work is done, and its frames are out of memory."""
        with self._changed:
            setattr(self, count, getattr(self, count) - 1)
            self._bytes -= size
            self._changed.notify_all()

    def _go_on(self, *figures: Any) -> None:
        """Called between pieces of work, with their progress."""
        if self._stopped:
            raise Stopped


def _with(encoded: _Encoded, group: Sequence[Asking]) -> list[tuple[Asking, str]]:
    return [(asking, encoded.sha256) for asking in group]


def _in_a_line(error: Exception) -> str:
    """An error as a row has it."""
    return str(error) if isinstance(error, InputError) else readable(f"{type(error).__name__}: {error}", 500)
