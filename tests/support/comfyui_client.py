"""A small client of ComfyUI's server: what its own page does over HTTP and the websocket."""

from __future__ import annotations

import json
import struct
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import websocket

TEXT = 3
"""Type of the binary websocket message that carries a node's streamed text."""


class Refused(Exception):
    """The server answered with an HTTP error; `body` is what it said."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(f"HTTP {status}: {body}")
        self.status, self.body = status, body


@dataclass(frozen=True)
class Message:
    """A websocket message: its kind and data; streamed text has the kind `text` and the keys node and text."""

    kind: str
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A run that ended: its messages, and its entry in the history."""

    messages: tuple[Message, ...]
    history: dict[str, Any]

    @property
    def ended(self) -> str:
        """`execution_success`, `execution_error` or `execution_interrupted`."""
        return next(m.kind for m in self.messages if m.kind in Client.ENDS)

    def text(self, node: str) -> list[str]:
        """What a node reported as text."""
        return self.history["outputs"][node]["text"]

    def streamed(self, node: str) -> list[str]:
        """What a node streamed while it ran."""
        return [m.data["text"] for m in self.messages if m.kind == "text" and m.data["node"] == node]


class Client:
    """Talks to the server at `address` (host:port)."""

    ENDS = ("execution_success", "execution_error", "execution_interrupted")

    def __init__(self, address: str) -> None:
        self.address, self.id = address, uuid.uuid4().hex

    def get(self, path: str) -> Any:
        """The JSON at `path`."""
        return self._request(path)

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON answer, None for an empty one, to a POST."""
        return self._request(path, json.dumps(body or {}).encode())

    def _request(self, path: str, data: bytes | None = None) -> Any:
        headers = {"Content-Type": "application/json"} if data is not None else {}
        request = urllib.request.Request(f"http://{self.address}{path}", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                body = response.read()
        except urllib.error.HTTPError as error:
            raise Refused(error.code, json.loads(error.read() or b"null")) from None
        return json.loads(body) if body else None

    def queue(self, prompt: dict[str, Any]) -> str:
        """Queues an API-format prompt; its id. Raises Refused where the server does not take it."""
        return self.post("/prompt", {"prompt": prompt, "client_id": self.id})["prompt_id"]

    def run(
        self, prompt: dict[str, Any], timeout: float = 180, on_message: Callable[[Message], None] | None = None
    ) -> Run:
        """Queues a prompt and waits for its end, passing every message on as it comes."""
        messages = []
        url = f"ws://{self.address}/ws?clientId={self.id}"
        with closing(websocket.create_connection(url, timeout=timeout)) as socket:
            number = self.queue(prompt)
            for message in self._messages(socket, time.monotonic() + timeout):
                messages.append(message)
                if on_message is not None:
                    on_message(message)
                if message.data.get("prompt_id") == number and message.kind in self.ENDS:
                    break
        return Run(tuple(messages), self._history(number))

    def _history(self, number: str) -> dict[str, Any]:
        # The entry is written just after the last message is sent.
        for _ in range(100):
            if number in (found := self.get(f"/history/{number}")):
                return found[number]
            time.sleep(0.05)
        raise TimeoutError(f"The history has no entry for prompt {number}.")

    @staticmethod
    def _messages(socket: websocket.WebSocket, deadline: float) -> Iterator[Message]:
        while time.monotonic() < deadline:
            received = socket.recv()
            if isinstance(received, str):
                message = json.loads(received)
                yield Message(message["type"], message["data"])
            elif struct.unpack(">I", received[:4])[0] == TEXT:
                end = 8 + struct.unpack(">I", received[4:8])[0]
                yield Message("text", {"node": received[8:end].decode(), "text": received[end:].decode()})
        raise TimeoutError("The run did not end in time.")
