"""Several vLLM servers with the same LLM: each video goes to the one that has the fewest requests under way.

A server that is lost is left out with a line, and its videos are asked of the others, as long as there is one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from ..errors import InputError
from ..models.base import VideoLLM
from ..models.prompt import Turn
from ..stages.base import Place
from ..stages.chain import Chain
from ..tokens.video_tokens import VideoTokens
from .answer import Answer
from .generation import CountCallback, Generation, TextCallback, ignore_count, ignore_text
from .vllm_server import Connection, ServerLost, VllmServer


class Servers:
    """Answers with whichever server is least busy. Threads may share it.

    Args:
        connections: how to reach each server; at least one.
        model: encodes the video; every server runs its LLM.
        on_lost: called with a line for every server that is left out.
    """

    def __init__(
        self, connections: Sequence[Connection], model: VideoLLM, on_lost: Callable[[str], None] = lambda line: None
    ) -> None:
        self._model, self._on_lost = model, on_lost
        self._lock = threading.Lock()
        self._alive = [VllmServer(each, model) for each in connections]
        self._under_way = dict.fromkeys(self._alive, 0)
        self._urls = {server: each.url for server, each in zip(self._alive, connections, strict=True)}

    @property
    def model(self) -> VideoLLM:
        """The model that encodes the video."""
        return self._model

    @property
    def count(self) -> int:
        """Servers that are not left out."""
        return len(self._alive)

    def require(self, tokens: VideoTokens) -> None:
        """Refuse tokens with a stage that acts inside the LLM; see :meth:`VllmServer.require`.

        Args:
            tokens: of any stage.

        Raises:
            InputError: there is one.
        """
        self._alive[0].require(tokens)

    def answer(
        self,
        tokens: VideoTokens,
        questions: Sequence[str],
        generation: Generation | None = None,
        *,
        system: str = "",
        turns: Sequence[Turn] = (),
        on_text: TextCallback = ignore_text,
        on_token: CountCallback = ignore_count,
    ) -> list[Answer]:
        """Answer several questions about one video, all by one server; see :meth:`VllmServer.answer`.

        Raises:
            InputError: as a server's.
            ServerLost: the last of them is lost.
        """
        settings = {"system": system, "turns": turns, "on_text": on_text, "on_token": on_token}
        while True:
            server = self._take(len(questions))
            try:
                return server.answer(tokens, questions, generation, **settings)
            except ServerLost as error:
                self._leave_out(server, error)
            finally:
                with self._lock:
                    self._under_way[server] -= len(questions)

    def _take(self, requests: int) -> VllmServer:
        """The least busy server, the first of several, which is busier from now on."""
        with self._lock:
            server = min(self._alive, key=self._under_way.__getitem__)
            self._under_way[server] += requests
            return server

    def _leave_out(self, server: VllmServer, error: ServerLost) -> None:
        """Ask a server no more. The last one stays, and its error is raised."""
        with self._lock:
            if server not in self._alive:
                return
            if len(self._alive) == 1:
                raise error
            self._alive.remove(server)
            left = ", ".join(self._urls[each] for each in self._alive)
        self._on_lost(f"{error} It is left out; {left} goes on.")


def those_alive(connections: Sequence[Connection], on_lost: Callable[[str], None]) -> list[Connection]:
    """The servers that answer now, before any work is done for them.

    Args:
        connections: at least one.
        on_lost: called with a line for every server that does not.

    Raises:
        InputError: one is no vLLM, or has no model of that name.
        ServerLost: none answers.
    """
    alive, lost = [], []
    for each in connections:
        try:
            each.model_name()
            alive.append(each)
        except ServerLost as error:
            lost.append(error)
    if not alive:
        raise lost[0]
    for error in lost:
        on_lost(f"{error} It is left out.")
    return alive


def require_served(chain: Chain) -> None:
    """Refuse a chain that acts inside the LLM: a server's LLM cannot be acted in.

    Args:
        chain: of stages.

    Raises:
        InputError: it does.
    """
    inside = [stage.title for stage in chain.stages if stage.acts is Place.LLM]
    if inside:
        raise InputError(
            f"{inside[0]} acts inside the LLM, which a server does not let it; leave --server out, or that stage."
        )
