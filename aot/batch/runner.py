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
from ..answering.generation import Generation
from ..answering.together import AskedVideo, TogetherAnswerer
from ..answering.vllm_server import ServerLost
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


_Out = queue.SimpleQueue[list[Result] | BaseException]
"""What a caller waits at for the results of a video, or for what ended all work."""


@dataclass(frozen=True)
class _Encoded:
    """A video that is ready to be asked about: each of its tokens with the questions about them."""

    out: _Out
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
        ServerLost: of the results, where servers answer and the last is lost.
    """
    with line(recipe, batch=batch, decoders=decoders) as results:
        yield results(asked)


@contextmanager
def line(
    recipe: Recipe, *, batch: int = 8, decoders: int = DECODERS
) -> Iterator[Callable[[Sequence[Sequence[Asking]]], Iterator[Result]]]:
    """A line that stays open for more videos: the block gets a function from videos to their results.

    Threads may call it at the same time. What one asks for is decoded while the last of another's is answered.

    Args:
        recipe: see :func:`run`, as the others.
        batch: of videos.
        decoders: threads.

    Raises:
        InputError: fewer than one of a batch or of decoders.
    """
    if batch < 1 or decoders < 1:
        raise InputError(f"A batch of {batch} videos and {decoders} decoders; give 1 or more of each.")
    served = recipe.servers is not None
    work = _Line(recipe, batch)
    before, (workers, threads) = torch.get_num_threads(), _share_out(recipe)
    on_cpu = recipe.model.device.type == "cpu"
    works = [work.decode] * decoders + [partial(work.compute, threads, not served)] * workers
    if recipe.servers is not None:
        works += [work.ask_servers] * (batch * recipe.servers.count)
    pool = [threading.Thread(target=work.guarded, args=(each,), name="aot-batch", daemon=True) for each in works]
    try:
        if on_cpu:
            torch.set_num_threads(threads)
        for thread in pool:
            thread.start()
        yield work.results
    finally:
        work.stop()
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

    def __init__(self, recipe: Recipe, batch: int) -> None:
        self._recipe, self._batch = recipe, batch
        self._changed = threading.Condition()
        self._pending: deque[tuple[Sequence[Asking], _Out]] = deque()
        self._decoded: deque[tuple[DecodedVideo, _Out]] = deque()
        self._encoded: deque[_Encoded] = deque()
        self._decoding = self._encoding = self._answering = 0
        self._bytes, self._room = 0, psutil.virtual_memory().available // SHARE
        self._stopped = False
        self._waiting: list[_Out] = []
        self._failure: BaseException | None = None
        one_each = recipe.model.device.type != "cpu"
        self._most_encoding = self._most_answering = 1 if one_each else WORKERS

    def results(self, asked: Sequence[Sequence[Asking]]) -> Iterator[Result]:
        """The results of some videos as they come, until each has its own. Work begins at once.

        Args:
            asked: for each video its questions, at least one.
        """
        out: _Out = queue.SimpleQueue()
        with self._changed:
            self._waiting.append(out)
            if self._failure is not None:
                out.put(self._failure)
            self._pending.extend((askings, out) for askings in asked)
            self._changed.notify_all()
        return self._until_all(out, len(asked))

    def _until_all(self, out: _Out, left: int) -> Iterator[Result]:
        try:
            while left:
                results = out.get()
                if isinstance(results, BaseException):
                    raise results
                left -= 1
                yield from results
        finally:
            with self._changed:
                self._waiting.remove(out)

    def stop(self) -> None:
        """Have every thread end soon, and drop what was decoded."""
        with self._changed:
            self._stopped = True
            self._pending.clear()
            for video, _ in self._decoded:
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
            with self._changed:
                self._failure = error
                for out in self._waiting:
                    out.put(error)

    def decode(self) -> None:
        """Decode the next video, again and again."""
        while True:
            askings, out = self._next_pending()
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
                self._failed(out, askings, None, error)
                self._gone("_decoding", taken)
                continue
            with self._changed:
                self._decoding -= 1
                if self._stopped:
                    video.close()
                self._decoded.append((video, out))
                self._changed.notify_all()

    def compute(self, threads: int, answers: bool) -> None:
        """Encode or answer what is ready, again and again.

        Args:
            threads: torch's own, of this one.
            answers: whether it answers too; servers have threads of their own that wait for them.
        """
        if self._recipe.model.device.type == "cpu":
            torch.set_num_threads(threads)
        answerer = TogetherAnswerer(self._recipe.model) if answers else None
        with torch.no_grad():
            while True:
                work = self._next_work(answerer is not None)
                if isinstance(work, list) and answerer is not None:
                    self._answer(work, answerer.answer)
                elif isinstance(work, tuple):
                    self._encode(*work)

    def ask_servers(self) -> None:
        """Ask a server about a video, again and again; how many do so at once is how many requests are under way."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._encoded)
                if self._stopped:
                    raise Stopped
                video = self._encoded.popleft()
                self._answering += 1
                self._changed.notify_all()
            self._answer([video], self._served)

    def _served(self, videos: Sequence[AskedVideo], generation: Generation, **settings: Any) -> list[list[Answer]]:
        assert self._recipe.servers is not None
        return [self._recipe.servers.answer(each.tokens, each.questions, generation, **settings) for each in videos]

    def _next_pending(self) -> tuple[Sequence[Asking], _Out]:
        """A video to decode, once there is one and room for it ahead."""

        def is_next() -> bool:
            return self._stopped or bool(self._pending and len(self._decoded) + self._decoding < AHEAD)

        with self._changed:
            self._changed.wait_for(is_next)
            if self._stopped:
                raise Stopped
            self._decoding += 1
            return self._pending.popleft()

    def _take_room(self, size: int) -> None:
        """Wait until frames of this size fit beside those of other videos, or are the only ones."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or not self._bytes or self._bytes + size <= self._room)
            if self._stopped:
                raise Stopped
            self._bytes += size

    def _next_work(self, answers: bool) -> tuple[DecodedVideo, _Out] | list[_Encoded]:
        """A batch to answer or a video to encode, once there is one."""
        with self._changed:
            while True:
                if self._stopped:
                    raise Stopped
                if answers and self._answering < self._most_answering and self._is_batch_due():
                    batch = [self._encoded.popleft() for _ in range(min(self._batch, len(self._encoded)))]
                    self._answering += 1
                    return batch
                is_room = len(self._encoded) < 2 * self._batch
                if self._decoded and self._encoding < self._most_encoding and is_room:
                    self._encoding += 1
                    work = self._decoded.popleft()
                    self._changed.notify_all()
                    return work
                self._changed.wait()

    def _is_batch_due(self) -> bool:
        """Whether videos are to be answered now: there are enough, or nothing else to be encoded is ready."""
        if len(self._encoded) >= self._batch:
            return True
        return bool(self._encoded) and not self._decoded and not self._encoding

    def _encode(self, video: DecodedVideo, out: _Out) -> None:
        try:
            with video:
                encoded = self._reduced(video, out)
        except Stopped:
            raise
        except Exception as error:
            self._failed(out, video.askings, video.sha256, error)
            self._gone("_encoding", video.bytes)
            return
        with self._changed:
            self._encoded.append(encoded)
        self._gone("_encoding", video.bytes)

    def _reduced(self, video: DecodedVideo, out: _Out) -> _Encoded:
        tokens = reduced_tokens(self._recipe, video, self._go_on)
        askings = [(each,) for each in video.askings] if len(tokens) > 1 else [tuple(video.askings)]
        times = tokens[0].timestamps.tolist()
        asked = [
            AskedVideo(each, [asking.prompt(times) for asking in group])
            for each, group in zip(tokens, askings, strict=True)
        ]
        return _Encoded(out, video.sha256, tuple(askings), tuple(asked))

    def _answer(self, batch: list[_Encoded], answer: Callable[..., Sequence[list[Answer] | InputError]]) -> None:
        found = iter(self._answers([video for each in batch for video in each.videos], answer))
        for each in batch:
            results: list[Result] = []
            for group in each.askings:
                said = next(found)
                if isinstance(said, Exception):
                    results += [Result(asking, each.sha256, error=_in_a_line(said)) for asking in group]
                else:
                    results += [Result(*pair, answer) for pair, answer in zip(_with(each, group), said, strict=True)]
            each.out.put(results)
        self._gone("_answering", 0)

    def _answers(
        self, videos: Sequence[AskedVideo], answer: Callable[..., Sequence[list[Answer] | InputError]]
    ) -> Sequence[list[Answer] | Exception]:
        """Of each video its answers or its error. One that nobody foresaw is of the video that has it also alone."""
        recipe = self._recipe
        try:
            return answer(videos, recipe.generation, system=recipe.system, on_token=self._go_on)
        except (Stopped, ServerLost):
            raise
        except Exception as error:
            if len(videos) == 1:
                return [error]
        return [each for video in videos for each in self._answers([video], answer)]

    def _failed(self, out: _Out, askings: Sequence[Asking], sha256: str | None, error: Exception) -> None:
        out.put([Result(asking, sha256, error=_in_a_line(error)) for asking in askings])

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
