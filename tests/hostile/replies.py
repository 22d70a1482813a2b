"""Replies of a server that speaks HTTP and says anything."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from hypothesis import strategies as st

from comfyui_aot.aot.answering import vllm_server
from comfyui_aot.aot.answering.generation import Generation
from comfyui_aot.aot.answering.vllm_server import Connection
from comfyui_aot.tests.hostile.values import RAW, TEXTS, Damage, Kind, damaged, damages, hurt, hurts

MODELS = {"object": "list", "data": [{"id": "small", "object": "model", "owned_by": "vllm", "max_model_len": 4096}]}
EVENT = {
    "id": "c",
    "object": "text_completion",
    "model": "small",
    "choices": [{"index": 0, "text": "yes", "stop": None}],
}
ERROR = {"error": {"message": "no such model", "type": "NotFoundError", "code": 404}}
WHOLE = b"HTTP/1.1 %d Said\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s"
STATUSES = (100, 200, 204, 206, 299, 400, 401, 403, 404, 418, 501, 599, 999)


@dataclass(frozen=True)
class Case:
    """A reply: its status, its body, and what is done to all its bytes."""

    asks_models: bool
    status: int
    body: bytes
    damages: tuple[Damage, ...] = ()


def stream(*events: bytes, done: bytes = b"data: [DONE]\n\n") -> bytes:
    """A body of server-sent events."""
    return b"".join(b"data: " + event + b"\n\n" for event in events) + done


bodies = (
    hurts.map(lambda how: hurt(MODELS, how))
    | hurts.map(lambda how: hurt(ERROR, how))
    | st.lists(hurts.map(lambda how: hurt(EVENT, how)), max_size=3).map(lambda events: stream(*events))
    | st.binary(max_size=60)
    | damages.map(lambda changes: damaged(stream(json.dumps(EVENT).encode()), changes))
)
cases = st.builds(
    Case, st.booleans(), st.just(200) | st.sampled_from(STATUSES), bodies, st.just(()) | damages.map(tuple)
)
table = (
    *(Case(True, 200, json.dumps({"data": [{"id": text}]}).encode()) for text in TEXTS),
    *(Case(False, 200, stream(json.dumps({"choices": [{"text": text}]}).encode())) for text in TEXTS),
    *(Case(False, 200, stream(json.dumps({"error": {"message": text}}).encode())) for text in TEXTS),
    *(Case(False, 400, json.dumps({"message": text}).encode()) for text in TEXTS),
    *(Case(asks, status, body) for asks in (True, False) for status in (200, 400) for body in RAW),
    *(Case(False, 200, stream(body)) for body in RAW),
    *(Case(asks, status, b"{}") for asks in (True, False) for status in STATUSES),
    Case(False, 200, b": a comment\n\n" + stream(json.dumps(EVENT).encode())),
    Case(False, 200, stream(json.dumps(EVENT).encode(), done=b"")),
)


@contextmanager
def serving(reply: bytes) -> Iterator[str]:
    """A server's URL, which gives these bytes to everyone."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    try:
                        _read_request(connection)
                        connection.sendall(reply)
                    except OSError:
                        continue

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)


def _read_request(connection: socket.socket) -> None:
    content = b""
    while b"\r\n\r\n" not in content:
        content += connection.recv(65536)
    head, _, body = content.partition(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
    while len(body) < length:
        body += connection.recv(65536)


def run(case: Case, whole: Path, folder: Path) -> None:
    """Ask for the models, or for an answer."""
    reply = damaged(WHOLE % (case.status, len(case.body), case.body), case.damages)
    with serving(reply) as url:
        connection = Connection(url, timeout=3)
        if case.asks_models:
            assert isinstance(connection.model_name(), str)
            return
        pieces = list(connection.complete(torch.zeros(2, 4), "small", Generation(4)))
        assert all(isinstance(piece, str) for piece in pieces)
        "".join(pieces).encode()


def prepare(whole: Path) -> None:
    """No pauses before a server is asked again."""
    vllm_server.PAUSES = (0.0,)


KIND = Kind("server replies", table, cases, prepare, run)
