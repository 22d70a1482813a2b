"""Answers from a running vLLM server: the reduced tokens go there as prompt embeddings.

The server runs the LLM alone (:func:`export` writes it out of a video LLM) with ``--enable-prompt-embeds``; pixels,
vision tower and reduction stay here. vLLM numbers an embedded prompt's tokens one by one, so only models whose
positions are a plain count can be served like this; those with positions of time, height and width cannot.

Source: vLLM's OpenAI-compatible API, ``POST /v1/completions`` with ``prompt_embeds``.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from ..errors import InputError
from ..models.base import VideoLLM
from ..models.prompt import Turn
from ..tokens.video_tokens import VideoTokens
from .answer import ENCODE, Answer, encode_seconds, reduce_seconds
from .session import Generation, ignore_count, ignore_text, require_context

AT_ONCE = 8
"""Requests that are under way at one time."""

PAUSES = (0.5, 1.0, 2.0)
"""Seconds before each further try where a server cannot be reached or is busy."""

_BUSY = (429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Server:
    """A vLLM server.

    Args:
        url: where it listens, ``http://127.0.0.1:8000`` for instance.
        model: its name there; the only one it serves where empty.
        key: the API key it asks for, if any. It is sent to ``url`` and shown nowhere.
        timeout: seconds to wait for the next sign of life.

    Raises:
        InputError: a URL that is none of http or https.
    """

    url: str
    model: str = ""
    key: str = ""
    timeout: float = 120.0

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"The server's URL is {self.url!r}; give one like http://127.0.0.1:8000.")
        object.__setattr__(self, "url", self.url.rstrip("/").removesuffix("/v1"))

    def __repr__(self) -> str:
        """Without the key."""
        return f"Server({self.url!r}, {self.model!r})"

    def served(self) -> str:
        """The model's name as the server knows it.

        Raises:
            InputError: it cannot be reached, serves no model of that name, or several and none was named.
        """
        names = [each["id"] for each in json.loads(self._open("/v1/models", None).read())["data"]]
        if self.model in names:
            return self.model
        if self.model or len(names) != 1:
            asked = f"no {self.model!r}" if self.model else f"{len(names)} models"
            raise InputError(f"{self.url} serves {asked}; name one of {', '.join(names)}.")
        return str(names[0])

    def complete(self, embeddings: Tensor, model: str, generation: Generation) -> Iterator[str]:
        """What the server says to a prompt, (n, D) embeddings, piece by piece.

        Raises:
            InputError: it cannot be reached, refuses the prompt, or ends in the middle of an answer.
        """
        buffer = io.BytesIO()
        torch.save(embeddings.detach().cpu().contiguous().clone(), buffer)
        body = {
            "model": model,
            "prompt_embeds": base64.b64encode(buffer.getvalue()).decode("ascii"),
            "max_tokens": generation.max_new_tokens,
            "temperature": generation.temperature,
            "top_p": generation.top_p,
            "seed": generation.seed,
            "stream": True,
        }
        ended = False
        try:
            for line in self._open("/v1/completions", body):
                content = line.decode("utf-8").strip().removeprefix("data:").strip()
                if content == "[DONE]":
                    ended = True
                    break
                if content:
                    said = json.loads(content)
                    if "error" in said:
                        raise InputError(f"{self.url} stopped answering: {said['error'].get('message', said['error'])}")
                    yield said["choices"][0]["text"]
        except (OSError, HTTPException, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(self._gone(error)) from error
        if not ended:
            raise InputError(self._gone("its answer breaks off"))

    def _gone(self, reason: object) -> str:
        return f"{self.url} was lost in the middle of an answer ({reason}); see that it runs, and ask again."

    def _open(self, path: str, body: dict[str, Any] | None) -> HTTPResponse:
        """The response to a request, tried again with growing pauses while nobody is there or the server is busy."""
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers)
        for pause in (*PAUSES, None):
            try:
                return urllib.request.urlopen(request, timeout=self.timeout)
            except urllib.error.HTTPError as error:
                if pause is None or error.code not in _BUSY:
                    raise InputError(self._refused(error)) from error
            except (OSError, HTTPException) as error:
                if pause is None:
                    reason = getattr(error, "reason", error)
                    raise InputError(
                        f"No server at {self.url} ({reason}), tried {len(PAUSES) + 1} times; start it, or give its URL."
                    ) from error
            time.sleep(pause)
        raise AssertionError("unreachable")

    def _refused(self, error: urllib.error.HTTPError) -> str:
        said = error.read().decode("utf-8", "replace")
        try:
            content = json.loads(said)
            said = str(content.get("message") or content["error"]["message"])
        except (ValueError, KeyError, TypeError, AttributeError):
            said = said.strip()[:200] or error.reason
        if error.code in (401, 403):
            return f"{self.url} refuses the key (HTTP {error.code}); give the file that holds the server's API key."
        if "hidden_size" in said:
            return (
                f"{self.url} serves another LLM than the tokens were made for ({said}); serve the one that aot export "
                "wrote of this model."
            )
        if "--enable-prompt-embeds" in said:
            return f"{self.url} takes no prompt embeddings ({said}); start vLLM with --enable-prompt-embeds."
        return f"{self.url} refuses the prompt (HTTP {error.code}: {said}); see the server's log."


def read_key(path: Path) -> str:
    """The API key in a file, its only line.

    Raises:
        InputError: no such file, or not one line in it.
    """
    try:
        lines = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The key file {path.name} cannot be read; give a text file that holds the key.") from error
    if len(lines) != 1:
        raise InputError(f"The key file {path.name} holds {len(lines)} words; put the key in it and nothing else.")
    return lines[0]


def answers_from(
    server: Server,
    model: VideoLLM,
    tokens: VideoTokens,
    questions: Sequence[str],
    generation: Generation | None = None,
    *,
    system: str = "",
    turns: Sequence[Turn] = (),
    on_text: Callable[[int, str], None] = ignore_text,
    on_token: Callable[[int], None] = ignore_count,
) -> list[Answer]:
    """Have a server answer several questions about one video, all under way at once.

    Args:
        model: the model that encoded the tokens; its LLM does not run here.
        on_text, on_token: as a session's; they are called between pieces of answers, and may raise to stop.

    Raises:
        InputError: as the server's, and of a model whose positions are more than a count.
    """
    generation = generation or Generation()
    tokens.require_finite()
    if model.axes > 1:
        raise InputError(
            f"{model.name} gives tokens positions of time, height and width, which prompt embeddings cannot carry; "
            "leave the server out and answer with the model itself."
        )
    served = server.served()
    with torch.no_grad():
        prompts = [model.prompt_inputs(tokens, each, system=system, turns=turns).inputs_embeds for each in questions]
    require_context(model, tokens, max(map(len, prompts)), generation.max_new_tokens)
    on_token(0)
    said = [_Said(len(prompt)) for prompt in prompts]

    def ask(number: int) -> None:
        for piece in server.complete(prompts[number], served, generation):
            said[number].add(piece)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        waiting = [pool.submit(ask, number) for number in range(len(prompts))]
        try:
            shown = [""] * len(said)
            while not all(each.done() for each in waiting):
                wait(waiting, timeout=0.05, return_when=FIRST_EXCEPTION)
                for number, each in enumerate(said):
                    if each.text != shown[number]:
                        shown[number] = each.text
                        on_text(number, each.text)
                on_token(min(generation.max_new_tokens, max(each.pieces for each in said)))
                for each in waiting:
                    if each.done():
                        each.result()
        except BaseException:
            for each in said:
                each.stopped = True
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        for each in waiting:
            each.result()
    return [each.answer(model, tokens, question, tuple(turns)) for each, question in zip(said, questions, strict=True)]


class _Said:
    """One answer on its way."""

    def __init__(self, read: int) -> None:
        self.read, self.text, self.pieces, self.stopped = read, "", 0, False
        self.start = time.perf_counter()
        self.first = self.last = 0.0

    def add(self, piece: str) -> None:
        if self.stopped:
            raise InputError("stopped")
        self.last = time.perf_counter()
        self.first = self.first or self.last
        self.pieces += 1
        self.text += piece

    def answer(self, model: VideoLLM, tokens: VideoTokens, question: str, turns: tuple[Turn, ...]) -> Answer:
        return Answer(
            question=question,
            text=self.text.strip(),
            model=model.name,
            stages=tuple(record.name for record in tokens.history if record.name != ENCODE),
            tokens_full=tokens.tokens_full,
            tokens_kept=tokens.tokens_kept,
            retention=tokens.retention,
            prompt_tokens=self.read,
            new_tokens=self.pieces,
            encode_s=encode_seconds(tokens),
            reduce_s=reduce_seconds(tokens),
            prefill_s=self.first - self.start,
            decode_s=self.last - self.first,
            prefill_flops=model.language.prefill_flops(tokens.tokens_kept),
            kv_cache_bytes=model.language.kv_cache_bytes(self.read + self.pieces, model.dtype.itemsize),
            peak_memory_bytes=0,
            turns=turns,
        )


def export(model: VideoLLM, folder: Path) -> None:
    """Write a video LLM's LLM as a model of its own, for a server: safetensors, config and tokenizer.

    Args:
        folder: must not exist yet; it is there when it is whole.

    Raises:
        InputError: the folder exists or cannot be made.
    """
    if folder.exists():
        raise InputError(f"{folder} exists already; give the name of a folder to be made.")
    if getattr(model.hf_model, "is_quantized", False):
        raise InputError("A quantized LLM is not written out; export it with quantization none.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}.", suffix=".part"))
    except OSError as error:
        raise InputError(f"{folder.parent} cannot be written ({error.strerror}); give another folder.") from error
    try:
        config = model.hf_model.config.get_text_config()
        with torch.device("meta"):
            plain = AutoModelForCausalLM.from_config(config)
        tensors = {f"model.{name}": tensor for name, tensor in model.language_model.state_dict().items()}
        tensors["lm_head.weight"] = model.hf_model.lm_head.weight
        plain.load_state_dict(tensors, assign=True)
        plain.tie_weights()
        plain.generation_config = model.hf_model.generation_config
        plain.save_pretrained(part)
        model.save_tokenizer(part)
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
