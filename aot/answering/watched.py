"""Requests to a server in threads of their own: one that is silent for too long is given up, and all can be stopped.

A thread that waits for a server cannot be stopped, but its connection can be shut from outside, which ends the wait.
One that is still connecting is left to itself and ends by its own limit. Neither holds up the end of the process.
"""

from __future__ import annotations

import http.client
import queue
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress

from ..errors import InputError

_PAUSE = 0.05
"""Seconds between two looks at the requests."""


class Watch:
    """What is known of a request from outside its thread."""

    def __init__(self) -> None:
        self._lock, self._socket = threading.Lock(), None
        self.is_stopped = False
        self.heard_at: float | None = None

    def hear(self) -> None:
        """Called in the request's thread at every sign of life: the time to wait for the next one begins anew.

        Raises:
            InputError: nobody waits for this request any more.
        """
        if self.is_stopped:
            raise InputError("This request was stopped.")
        self.heard_at = time.monotonic()

    def attach(self, connected: socket.socket) -> None:
        """Take note of the request's connection.

        Args:
            connected: to the server.
        """
        with self._lock:
            self._socket = connected
        if self.is_stopped:
            self.stop()
        self.hear()

    def stop(self) -> None:
        """End the request: whatever its thread waits for fails now."""
        self.is_stopped = True
        with self._lock, suppress(OSError):
            if self._socket is not None:
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def handlers(self) -> tuple[urllib.request.BaseHandler, ...]:
        """What has an opener of URLs use connections that this watches."""
        return _Plain(self), _Secure(self)


class _Watched:
    """A connection that its watch knows."""

    watch: Watch

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        self.watch.attach(self.sock)  # type: ignore[attr-defined]

    def getresponse(self) -> http.client.HTTPResponse:
        self.watch.hear()  # The request is sent, which may have taken its time.
        return super().getresponse()  # type: ignore[misc]


class _Plain(urllib.request.HTTPHandler):
    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._kind = type("Connection", (_Watched, http.client.HTTPConnection), {"watch": watch})

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._kind, req)


class _Secure(urllib.request.HTTPSHandler):
    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._kind = type("Connection", (_Watched, http.client.HTTPSConnection), {"watch": watch})

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._kind, req)


def run_watched(
    requests: Sequence[Callable[[Watch], None]],
    at_once: int,
    timeout: float,
    silent: InputError,
    on_wait: Callable[[], None],
) -> None:
    """Run requests, some at once, until all are done.

    Args:
        requests: called in other threads, with what watches them.
        at_once: how many.
        timeout: seconds without a sign of life after which a request is given up.
        silent: the error then.
        on_wait: called here meanwhile, many times a second, and once at the end; may raise to stop all requests.

    Raises:
        InputError: a request was silent for too long.
        Exception: the first that a request raised.
    """
    watches = [Watch() for _ in requests]
    ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
    left, taking = iter(zip(requests, watches, strict=True)), threading.Lock()

    def work() -> None:
        while True:
            with taking:
                request, watch = next(left, (None, None))
            if request is None or watch is None:
                return
            try:
                watch.hear()
                request(watch)
                ended.put(None)
            except BaseException as error:
                ended.put(error)
                return
            finally:
                watch.heard_at = None

    try:
        for _ in range(min(at_once, len(requests))):
            threading.Thread(target=work, daemon=True).start()
        done = 0
        while done < len(requests):
            on_wait()
            with suppress(queue.Empty):
                error = ended.get(timeout=_PAUSE)
                if error is not None:
                    raise error
                done += 1
            now = time.monotonic()
            if any(heard is not None and now - heard > timeout for heard in [each.heard_at for each in watches]):
                raise silent
        on_wait()
    finally:
        for watch in watches:
            watch.stop()
