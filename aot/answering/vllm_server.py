"""Answers from a running vLLM server: the reduced tokens go there as prompt embeddings.

The server runs the LLM alone (:mod:`.export` writes it out of a video LLM) with ``--enable-prompt-embeds``. Pixels,
vision tower and reduction stay here. vLLM counts the positions of an embedded prompt one by one, so only models whose
positions are a plain count can be served; those with positions of time, height and width cannot. Nor does it know the
words of such a prompt: a repetition penalty counts the answer's tokens only.

Source: vLLM's OpenAI-compatible API, ``POST /v1/completions`` with ``prompt_embeds``.
"""

from __future__ import annotations

import base64
import io
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException, HTTPResponse
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, readable
from ..files import parse_json
from ..models.base import VideoLLM
from ..models.prompt import Turn
from ..text import shown
from ..tokens.video_tokens import VideoTokens
from .answer import Answer
from .generation import CountCallback, Generation, TextCallback, ignore_count, ignore_text
from .server_address import opener, require_url
from .server_events import event_data
from .session import require_context
from .watched import Watch, run_watched

AT_ONCE = 8
"""Requests under way at once."""

PAUSES = (0.5, 1.0, 2.0)
"""Seconds before every further try if a server cannot be reached or is busy. What took too long is not tried again."""

LONGEST_REASON = 300
"""Characters of what a server says of an error."""

LARGEST = 2**20
"""Bytes of a reply that are read, beside those of an answer's tokens."""

OF_A_TOKEN = 2**12
"""Bytes that a server may use to send a token."""

_MORE = 16
"""Pieces of an answer beyond its tokens that a server may send."""

_BUSY = (429, 500, 502, 503)


class ServerLost(InputError):
    """A server that cannot be reached, is silent or too busy: another with the same LLM may answer in its place."""

    __module__ = "builtins"


@dataclass(frozen=True)
class Connection:
    """How to reach a vLLM server. Nothing is sent until it is used.

    Args:
        url: the server's address, ``http://127.0.0.1:8000`` for instance.
        model: the model's name there; empty for the only one it serves.
        key: the API key, if the server needs one. It is sent to ``url`` and shown nowhere.
        timeout: seconds to wait for the server to take a prompt, and then for every piece of its answer.

    Raises:
        InputError: a URL that is neither http nor https, or has more than host, port and path.
        ServerLost: of what asks the server, where it is not there.
    """

    url: str
    model: str = ""
    key: str = ""
    timeout: float = 120.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", require_url(self.url).rstrip("/").removesuffix("/v1"))

    def __repr__(self) -> str:
        """Without the key."""
        return f"Connection({self.url!r}, {self.model!r})"

    def model_name(self, on_wait: Callable[[], None] = lambda: None) -> str:
        """The model's name as the server knows it.

        Args:
            on_wait: called while the server is asked, many times a second; may raise to stop.

        Raises:
            InputError: the server cannot be reached, is none of vLLM, has no model of that name, or has several and
                none was named.
        """
        names: list[str] = []

        def request(watch: Watch) -> None:
            with self._reading(f"{self.url} lists its models in another way than vLLM"):
                with self._open("/v1/models", None, watch) as response:
                    content = response.read(LARGEST + 1)
                if len(content) > LARGEST:
                    raise ValueError(f"more than {LARGEST >> 20} MiB")
                names.extend(_names(content))

        self.run([request], on_wait)
        if self.model in names:
            return self.model
        if self.model or len(names) != 1:
            models = f"no {self.model!r}" if self.model else f"{len(names)} models"
            raise InputError(f"{self.url} serves {models}; name one of {', '.join(names)}.")
        return str(names[0])

    def run(self, requests: Sequence[Callable[[Watch], None]], on_wait: Callable[[], None]) -> None:
        """Run requests to this server, several at once; see :func:`~.watched.run_watched`.

        Args:
            requests: called in other threads, with what watches them.
            on_wait: called meanwhile, many times a second; may raise to stop.
        """
        run_watched(requests, AT_ONCE, self.timeout, ServerLost(self._silent), on_wait)

    def complete(
        self,
        embeddings: Tensor,
        model: str,
        generation: Generation,
        penalty: float = 1.0,
        *,
        watch: Watch | None = None,
    ) -> Iterator[str]:
        """The server's answer to a prompt, piece by piece, without control characters.

        Args:
            embeddings: (n, D), the prompt.
            model: the model's name on the server.
            generation: how the answer is generated.
            penalty: the repetition penalty; 1 is none.
            watch: of this request; None where nobody else looks at it.

        Raises:
            InputError: the server cannot be reached, refuses the prompt, ends in the middle of an answer, or sends
                something else than vLLM does.
        """
        watched = watch or Watch()
        buffer = io.BytesIO()
        torch.save(embeddings.detach().cpu().contiguous().clone(), buffer)
        body = {
            "model": model,
            "prompt_embeds": base64.b64encode(buffer.getvalue()).decode("ascii"),
            "max_tokens": generation.max_new_tokens,
            "temperature": generation.temperature,
            "top_p": generation.top_p,
            "seed": generation.seed,
            "repetition_penalty": penalty,
            "stream": True,
        }
        most, pieces = LARGEST + OF_A_TOKEN * generation.max_new_tokens, 0
        strange = f"{self.url} answers in another way than vLLM"
        with self._reading(strange), self._open("/v1/completions", body, watched) as response:
            for content in event_data(_chunks(response, most)):
                if content.strip() == "[DONE]":
                    return
                for text in self._pieces(content):
                    watched.hear()
                    pieces += 1
                    if pieces > generation.max_new_tokens + _MORE:
                        raise ValueError(f"more than the {generation.max_new_tokens} tokens asked for")
                    yield text
        raise ServerLost(self._lost("its answer breaks off"))

    def _pieces(self, content: str) -> Iterator[str]:
        """The text of an event; none of one without text."""
        event = parse_json(content, kind=dict) if content.strip() else {"choices": []}
        if "error" in event:
            raise InputError(f"{self.url} stopped answering: {_reason(event)}; see the server's log.")
        if event.get("choices") != []:
            yield shown(_piece(event))

    @contextmanager
    def _reading(self, strange: str) -> Iterator[None]:
        """Turn whatever fails on what a server sends into one line."""
        try:
            yield
        except InputError:
            raise
        except TimeoutError as error:
            raise ServerLost(self._silent) from error
        except (OSError, HTTPException) as error:
            raise ServerLost(self._lost(error)) from error
        except ValueError as error:
            raise InputError(f"{strange} ({error}); give the URL of a vLLM server.") from error

    @property
    def _silent(self) -> str:
        return f"{self.url} was silent for {self.timeout:g} s; see that it runs and is not too busy, and ask again."

    def _lost(self, reason: object) -> str:
        return f"{self.url} was lost in the middle of an answer ({reason}); see that it runs, and ask again."

    def _open(self, path: str, body: dict[str, Any] | None, watch: Watch) -> HTTPResponse:
        """The response to a request; while the server is absent or busy, tried again after growing pauses."""
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers)
        opened = opener(self.url, *watch.handlers())
        for pause in (*PAUSES, None):
            watch.hear()
            try:
                return opened.open(request, timeout=self.timeout + 1)  # The watch, if there is one, tells first.
            except urllib.error.HTTPError as error:
                if pause is None or error.code not in _BUSY:
                    kind = ServerLost if error.code in _BUSY else InputError
                    raise kind(self._refused(error)) from error
            except (OSError, HTTPException) as error:
                reason = getattr(error, "reason", error)
                if isinstance(reason, TimeoutError):
                    raise ServerLost(self._silent) from error
                if pause is None:
                    raise ServerLost(
                        f"No server at {self.url} ({reason}), tried {len(PAUSES) + 1} times; start it, or give its URL."
                    ) from error
            time.sleep(pause)
        raise AssertionError("unreachable")

    def _refused(self, error: urllib.error.HTTPError) -> str:
        reason = ""
        with error, suppress(OSError, HTTPException):
            reason = error.read(LARGEST).decode("utf-8", "replace")
        try:
            reason = _reason(parse_json(reason, kind=dict))
        except ValueError:
            reason = readable(reason, LONGEST_REASON) or str(error.reason)
        if self.key:
            reason = reason.replace(self.key, "***")
        if 300 <= error.code < 400:
            return f"{self.url} sends on to another address (HTTP {error.code}), which is not followed; give its own."
        if error.code in (401, 403):
            return f"{self.url} refuses the key (HTTP {error.code}); give the file that holds the server's API key."
        if "hidden_size" in reason:
            return (
                f"{self.url} serves another LLM than the tokens were made for ({reason}); serve the one that aot "
                "export wrote of this model."
            )
        if "--enable-prompt-embeds" in reason:
            return f"{self.url} takes no prompt embeddings ({reason}); start vLLM with --enable-prompt-embeds."
        return f"{self.url} refuses the prompt (HTTP {error.code}: {reason}); see the server's log."


def require_embeddings(model: VideoLLM) -> None:
    """Refuse a model whose prompt is more than its embeddings.

    Args:
        model: encodes the video.

    Raises:
        InputError: it is.
    """
    if beyond := model.beyond_embeddings:
        raise InputError(
            f"{model.name} gives tokens {beyond}, which prompt embeddings cannot carry; leave the server out and "
            "answer with the model itself."
        )


def _names(content: bytes) -> list[str]:
    """The names in a list of models. Raises ValueError for another reply."""
    models = parse_json(content, kind=dict, keys=("data",))["data"]
    names = [each.get("id") for each in models if isinstance(each, dict)] if isinstance(models, list) else []
    texts = [each for each in names if isinstance(each, str)]
    if not texts:
        raise ValueError("its list of models has no names")
    return texts


def _piece(event: Mapping[str, Any]) -> str:
    """The text of an event. Raises ValueError for another event."""
    choices = event.get("choices")
    first = choices[0] if isinstance(choices, list) else None
    text = first.get("text") if isinstance(first, dict) else None
    if not isinstance(text, str):
        raise ValueError("an event has no text")
    return text


def _reason(content: Mapping[str, Any]) -> str:
    """What a server says of an error, as one line."""
    inner = content.get("error")
    reason = content.get("message") or (inner.get("message") if isinstance(inner, dict) else inner)
    return readable(str(reason or dict(content)), LONGEST_REASON)


class VllmServer:
    """Answers with a vLLM server; the LLM of the model does not run here.

    Args:
        connection: how to reach the server.
        model: encodes the video; the server runs its LLM.
    """

    def __init__(self, connection: Connection, model: VideoLLM) -> None:
        self._connection, self._model = connection, model

    @property
    def model(self) -> VideoLLM:
        """The model that encodes the video."""
        return self._model

    def require(self, tokens: VideoTokens) -> None:
        """Refuse tokens with a stage that acts inside the LLM: a server's cannot be acted in.

        Args:
            tokens: of any stage.

        Raises:
            InputError: there is one.
        """
        if tokens.inner:
            raise InputError(
                f"{tokens.inner[0].name} acts inside the LLM, which a server does not let it; leave the server out and "
                "answer with the model itself, or leave the stage out."
            )

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
        """Answer several questions about one video, all requests under way at once; see :meth:`Answerer.answer`.

        Raises:
            InputError: as the connection's, and for a model whose prompt is more than its embeddings.
        """
        model, generation = self._model, generation or Generation()
        tokens.require_finite()
        self.require(tokens)
        require_embeddings(model)
        name, penalty = self._connection.model_name(lambda: on_token(0)), generation.penalty(model)
        with torch.no_grad():
            inputs = [model.prompt_inputs(tokens, each, system=system, turns=turns) for each in questions]
        prompts = [each.inputs_embeds for each in inputs]
        require_context(model, tokens, max(map(len, prompts)), generation.max_new_tokens)
        on_token(0)
        replies = [_Reply(len(prompt)) for prompt in prompts]

        def request(number: int, watch: Watch) -> None:
            for piece in self._connection.complete(prompts[number], name, generation, penalty, watch=watch):
                replies[number].add(piece)

        texts = [""] * len(replies)

        def on_wait() -> None:
            for number, reply in enumerate(replies):
                if reply.text != texts[number]:
                    texts[number] = reply.text
                    on_text(number, reply.text)
            on_token(min(generation.max_new_tokens, max(reply.pieces for reply in replies)))

        self._connection.run([partial(request, number) for number in range(len(prompts))], on_wait)
        return [
            Answer.about(
                model,
                tokens,
                question,
                reply.text.strip(),
                prompt_tokens=reply.prompt_tokens,
                new_tokens=reply.pieces,
                prefill_s=reply.first_at - reply.start,
                decode_s=reply.last_at - reply.first_at,
                peak_memory_bytes=0,
                turns=tuple(turns),
            )
            for question, reply in zip(questions, replies, strict=True)
        ]


def _chunks(response: HTTPResponse, most: int) -> Iterator[bytes]:
    """What comes, as it comes, up to so many bytes."""
    while chunk := response.read1(2**16):
        most -= len(chunk)
        if most < 0:
            raise ValueError("more bytes than its tokens can take")
        yield chunk


class _Reply:
    """One answer on its way."""

    def __init__(self, prompt_tokens: int) -> None:
        self.prompt_tokens, self.text, self.pieces = prompt_tokens, "", 0
        self.start = time.perf_counter()
        self.first_at = self.last_at = 0.0

    def add(self, piece: str) -> None:
        self.last_at = time.perf_counter()
        self.first_at = self.first_at or self.last_at
        self.pieces += 1
        self.text += piece
