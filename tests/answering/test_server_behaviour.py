"""Servers that are silent, drip, lie, flood, cut off or answer errors: one line, in bounded time and bytes."""

import functools
import re
import socket
import threading
import time
from contextlib import ExitStack, contextmanager, suppress

import pytest
import torch

from comfyui_aot.aot.answering import vllm_server
from comfyui_aot.aot.answering.generation import Generation
from comfyui_aot.aot.answering.vllm_server import LARGEST, OF_A_TOKEN, Connection
from comfyui_aot.aot.errors import InputError

OK = b"HTTP/1.1 200 OK\r\n"
STREAM = OK + b"Content-Type: text/event-stream\r\n\r\n"
YES, DONE = b'data: {"choices": [{"text": "yes"}]}\n\n', b"data: [DONE]\n\n"
SILENT = "was silent for 0.5 s; see that it runs and is not too busy, and ask again."
TIMEOUT, WITHIN = 0.5, 4.0
LONG = 60.0
"""Seconds that nothing takes which ends by its bytes, however busy the machine is."""
TOKENS = 4
BUFFERED = 2**23
"""Bytes that the system may take from a server before anybody has read them."""


class Server:
    """A server on loopback that reads a request and then does as it likes; `sent` counts bytes, `asked` requests."""

    def __init__(self, behave):
        self._behave, self._listening = behave, socket.create_server(("127.0.0.1", 0))
        self._last, self._threads = socket.socket(), [threading.Thread(target=self._accept, daemon=True)]
        self._last.bind(("127.0.0.1", 0))
        self.sent, self.asked, self.is_over = 0, 0, False
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._threads[0].start()

    def _accept(self):
        while True:
            connected, address = self._listening.accept()
            if address == self._last.getsockname():
                return connected.close()
            self._threads.append(threading.Thread(target=self._serve, args=(connected,), daemon=True))
            self._threads[-1].start()

    def _serve(self, connected):
        with suppress(OSError), connected:
            head, _, body = self._until_body(connected)
            length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length")), 0)
            while len(body) < length:
                body += self._more(connected)
            self.asked += 1
            self._behave(self, connected)

    def _until_body(self, connected):
        content = b""
        while b"\r\n\r\n" not in content:
            content += self._more(connected)
        return content.partition(b"\r\n\r\n")

    def _more(self, connected):
        content = connected.recv(2**16)
        if not content:
            raise OSError("the request ends before its end")
        return content

    def send(self, connected, content):
        connected.sendall(content)
        self.sent += len(content)

    def close(self):
        """Read what was sent to it, however late its threads get to it, and end."""
        self.is_over = True
        with self._last, self._listening:
            self._last.connect(self._listening.getsockname())
            for thread in self._threads:
                thread.join(LONG)
                assert not thread.is_alive()


@contextmanager
def serving(behave):
    server = Server(behave)
    try:
        yield server
    finally:
        server.close()


def gives(*parts, every=0.0):
    """A server that sends parts, perhaps with pauses, and closes the connection."""

    def behave(server, connected):
        for part in parts:
            server.send(connected, part)
            time.sleep(every)

    return behave


def without_end(start, part, every=0.0):
    """A server that never stops to send something."""

    def behave(server, connected):
        server.send(connected, start)
        while not server.is_over:
            server.send(connected, part)
            time.sleep(every)

    return behave


def silent(start=b""):
    """A server that says no more."""

    def behave(server, connected):
        server.send(connected, start)
        while not server.is_over:
            time.sleep(0.05)

    return behave


def ask(server, on_wait=lambda: None, timeout=LONG):
    """The pieces of an answer."""
    connection, pieces = Connection(server.url, key="secret", timeout=timeout), []
    prompt, generation = torch.zeros(2, 3), Generation(TOKENS)
    connection.run([lambda watch: pieces.extend(connection.complete(prompt, "m", generation, watch=watch))], on_wait)
    return pieces


def names(server, on_wait=lambda: None, timeout=LONG):
    return Connection(server.url, key="secret", timeout=timeout).model_name(on_wait)


def refused(behave, how=ask, within=WITHIN):
    """The line that a server's behaviour ends in, and the server."""
    start = time.monotonic()
    with serving(behave) as server, pytest.raises(InputError) as raised:
        how(server)
    assert time.monotonic() - start < within
    line = str(raised.value)
    assert "\n" not in line and "secret" not in line and len(line) < 600
    return line, server


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(vllm_server, "PAUSES", (0.0, 0.0))


@pytest.mark.parametrize("how", [ask, names])
@pytest.mark.parametrize(
    "behave",
    [
        silent(),
        silent(OK),
        silent(STREAM),
        without_end(b"HTTP/1.1 200 OK\r\nX: ", b"x", 0.05),
        without_end(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.001),
        without_end(STREAM, b": still there\n\n", 0.05),
        without_end(STREAM, b"x", 0.05),
        without_end(b"HTTP/1.1 400 Bad\r\n\r\n", b"x", 0.05),
        without_end(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n:\r\n", 0.05),
    ],
    ids=["nothing", "head", "no-event", "drip-head", "continue", "comments", "drip-body", "drip-error", "drip-chunks"],
)
def test_a_server_that_gives_nothing_in_time_is_asked_once(behave, how):
    line, server = refused(behave, functools.partial(how, timeout=TIMEOUT))
    assert line.endswith(SILENT)
    assert server.asked == 1


def test_a_server_that_answers_slowly_but_does_is_waited_for():
    with serving(gives(STREAM, YES, b": still there\n\n", YES, YES, DONE, every=0.4)) as server:
        assert ask(server, timeout=1.5) == ["yes"] * 3


def test_a_server_that_goes_silent_in_the_middle():
    assert refused(silent(STREAM + YES), functools.partial(ask, timeout=TIMEOUT))[0].endswith(SILENT)


@pytest.mark.parametrize(
    "flood",
    [
        without_end(STREAM, b"x" * 2**16),
        without_end(STREAM, b"data: " + b"x" * 2**16 + b"\n"),
        without_end(STREAM, b": a comment\n\n" * 2**12),
        without_end(STREAM, b"\n" * 2**16),
        without_end(STREAM, b'data: {"choices": []}\n\n' * 2**12),
    ],
    ids=["line", "data", "comments", "blank", "empty"],
)
def test_a_flood_ends_after_the_bytes_that_an_answer_can_take(flood):
    line, server = refused(flood, within=LONG)
    assert line.endswith("(more bytes than its tokens can take); give the URL of a vLLM server.")
    assert server.sent < LARGEST + OF_A_TOKEN * TOKENS + BUFFERED


@pytest.mark.parametrize("text", [b"yes", b""])
def test_more_tokens_than_were_asked_for_end_it(text):
    line, _ = refused(without_end(STREAM, b'data: {"choices": [{"text": "' + text + b'"}]}\n\n', 0.001))
    assert "(more than the 4 tokens asked for)" in line


def test_a_flood_of_names_or_of_words_about_an_error_is_not_read_to_its_end():
    line, server = refused(without_end(OK + b"\r\n", b"x" * 2**16), names)
    assert "lists its models in another way than vLLM (more than 1 MiB)" in line
    assert server.sent < LARGEST + BUFFERED
    line, server = refused(without_end(b"HTTP/1.1 400 Bad\r\n\r\n", b"x" * 2**16))
    assert "refuses the prompt (HTTP 400: xxx" in line
    assert server.sent < LARGEST + BUFFERED
    assert "tried 3 times" in refused(without_end(OK, b"X: y\r\n" * 2**10))[0]


LIES = {
    "no JSON": b"data: hello\n\n",
    "a page": b"<html>It works!</html>",
    "another text": b'data: {"choices": [{"text": 5}]}\n\n',
    "half a character": b'data: {"choices": [{"text": "\\ud800"}]}\n\n',
    "no text": b'data: {"choices": [{"delta": {}}]}\n\n',
    "no choices": b"data: {}\n\n",
    "other choices": b'data: {"choices": 5}\n\n',
    "an object": b'data: {"choices": {"text": "a"}}\n\n',
    "a list": b"data: []\n\n",
    "a number": b"data: 1\n\n",
    "nothing": b"data: null\n\n",
    "deep": b"data: " + b"[" * 100_000 + b"\n\n",
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_server_that_answers_something_else_is_one_line(lie):
    line, server = refused(gives(STREAM, lie, DONE))
    assert "answers in another way than vLLM (" in line or "its answer breaks off" in line
    assert server.asked == 1


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b'{"data": 5}', b'{"data": [5]}', b'{"data": [{"id": 5}]}', b"[" * 100_000]
)
def test_a_server_that_lists_something_else_is_one_line(content):
    line, _ = refused(gives(OK + b"\r\n", content), names)
    assert "lists its models in another way than vLLM (" in line


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ((STREAM, YES), "its answer breaks off"),
        ((STREAM, YES, b'data: {"choi'), "answers in another way than vLLM"),
        ((OK + b"Content-Length: 5000\r\n\r\n", YES), "its answer breaks off"),
        ((OK + b"Content-Length: 20\r\n\r\n", YES, DONE), "answers in another way than vLLM"),
        ((OK + b"Transfer-Encoding: chunked\r\n\r\n", b"500\r\n" + YES), "was lost in the middle of an answer"),
        ((OK + b"Transfer-Encoding: chunked\r\n\r\n", b"zz\r\n" + YES), "was lost in the middle of an answer"),
        (
            (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"-5\r\n" + YES),
            "was lost in the middle|another way|breaks off",
        ),
        ((b"",), "tried 3 times; start it, or give its URL"),
        ((b"hello\r\n\r\n",), "tried 3 times; start it, or give its URL"),
        ((OK,), "breaks off|tried 3 times"),
    ],
)
def test_a_server_that_cuts_off_is_one_line(parts, says):
    line, _ = refused(gives(*parts))
    assert re.search(says, line)


@pytest.mark.parametrize(
    ("status", "asked", "says"),
    [
        (b"400 Bad Request", 1, "refuses the prompt (HTTP 400: no such thing); see the server's log."),
        (b"401 Unauthorized", 1, "refuses the key (HTTP 401)"),
        (b"404 Not Found", 1, "(HTTP 404: no such thing)"),
        (b"429 Too Many Requests", 3, "(HTTP 429: no such thing)"),
        (b"500 Internal Server Error", 3, "(HTTP 500: no such thing)"),
        (b"503 Service Unavailable", 3, "(HTTP 503: no such thing)"),
        (b"504 Gateway Timeout", 1, "(HTTP 504: no such thing)"),
    ],
)
def test_errors_are_told_and_only_what_may_pass_is_tried_again(status, asked, says):
    content = b'{"error": {"message": "no such thing"}}'
    line, server = refused(gives(b"HTTP/1.1 " + status + b"\r\n\r\n", content))
    assert says in line
    assert server.asked == asked


@pytest.mark.parametrize(
    "error", [b'{"error": "no"}', b'{"error": {"message": "no"}}', b'{"error": {"message": "no"}, "choices": []}']
)
def test_an_error_in_the_middle_is_told(error):
    assert "stopped answering: no; see" in refused(gives(STREAM, YES, b"data: " + error + b"\n\n"))[0]


@pytest.mark.parametrize(
    "parts",
    [
        (b": hello\n\n", YES, b":\n", YES, DONE),
        (YES.replace(b"\n", b"\r\n"), YES.replace(b"\n", b"\r"), DONE.replace(b"\n", b"\r\n")),
        (b'id: 1\nevent: x\ndata: {"choices":\ndata: [{"text": "yes"}]}\n\n', YES, DONE),
        (YES, b'data: {"choices": [], "usage": {}}\n\n', YES, b"data: [DONE]"),
        tuple(bytes([each]) for each in YES + YES + DONE),
    ],
    ids=["comments", "line-ends", "many-lines", "no-last-line", "bytes"],
)
def test_every_legal_stream_is_read(parts):
    with serving(gives(STREAM, *parts)) as server:
        assert ask(server) == ["yes", "yes"]
    chunks = [b"%x\r\n%s\r\n" % (len(part), part) for part in parts]
    with serving(gives(OK + b"Transfer-Encoding: chunked\r\n\r\n", *chunks, b"0\r\n\r\n")) as server:
        assert ask(server) == ["yes", "yes"]


class Stop(Exception):
    pass


@pytest.fixture
def full():
    """The URL of a server that accepts no more connections: whoever connects waits."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        address = listening.getsockname()
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        yield f"http://127.0.0.1:{address[1]}"


@pytest.mark.parametrize("how", [ask, names])
@pytest.mark.parametrize(
    "behave",
    [silent(), silent(STREAM), without_end(OK + b"X: ", b"x", 0.05), without_end(STREAM, b": x\n", 0.01)],
    ids=["silent", "no-event", "drip-head", "comments"],
)
def test_an_interrupt_ends_it_at_once(behave, how):
    began = time.monotonic()

    def on_wait():
        if time.monotonic() - began > 0.3:
            raise Stop

    with serving(behave) as server, pytest.raises(Stop):
        how(server, on_wait, 60)
    assert time.monotonic() - began < 2


def test_an_interrupt_while_connecting_ends_it_at_once(full):
    began = time.monotonic()

    def on_wait():
        if time.monotonic() - began > 0.3:
            raise Stop

    with pytest.raises(Stop):
        Connection(full).model_name(on_wait)
    assert time.monotonic() - began < 2


def test_a_connection_that_is_not_taken_is_given_up_in_time(full):
    began = time.monotonic()
    with pytest.raises(InputError, match=r"was silent for 0\.5 s"):
        Connection(full, timeout=0.5).model_name()
    assert time.monotonic() - began < WITHIN


def test_the_first_failure_ends_all_requests_and_their_threads():
    def behave(server, connected):
        if server.asked == 2:
            server.send(connected, STREAM + b"data: nonsense\n\n")
        else:
            silent(STREAM)(server, connected)

    with serving(behave) as server:
        connection = Connection(server.url, timeout=60)

        def request(watch):
            list(connection.complete(torch.zeros(2, 3), "m", Generation(TOKENS), watch=watch))

        before = threading.active_count()
        with pytest.raises(InputError, match="another way than vLLM"):
            connection.run([request] * 5, lambda: None)
    end = time.monotonic() + WITHIN
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.05)
    assert threading.active_count() <= before
