"""Which URLs are a server's, and that a key goes to the server it belongs to, by no redirect and no proxy elsewhere."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from comfyui_aot.aot.answering.generation import Generation
from comfyui_aot.aot.answering.server_address import is_this_machine, origin, read_key, require_url
from comfyui_aot.aot.answering.vllm_server import Connection
from comfyui_aot.aot.errors import InputError

KEY = "sk-secret"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("HTTP://Host.Example:80/v1/", "http://host.example"),
        ("https://host:443/a/v1", "https://host"),
        ("https://host:8443", "https://host:8443"),
        ("http://[0:0:0:0:0:0:0:1]:9", "http://[::1]:9"),
        ("http://my_server:9", "http://my_server:9"),
    ],
)
def test_an_origin_has_one_spelling(url, expected):
    assert origin(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "", "host", "127.0.0.1:8000", "file:///etc/passwd", "ftp://host", "http://", "http://:8000", "http:///x",
        "http://user@host", "http://user:pass@host", "http://127.0.0.1:8000@evil.example", "http://host\0",
        "http://127.0.0.1\\@evil.example", "http://127.0.0.1\\evil.example", "http://host?x=1", "http://host/?",
        "http://host#x", "http://host/#", "http://host:port", "http://host:99999", "http://ho st", "http://host/\t",
        "http://host\n.evil.example", "http://h\u043est", "http://host/../x", "http://host/%2e%2e/x", "http://[::1",
        "http://[host]", "http://-host",
    ],
)  # fmt: skip
def test_what_is_no_servers_url_is_refused(url):
    for use in (require_url, origin, is_this_machine, Connection):
        with pytest.raises(InputError, match=r"give one (like|without)"):
            use(url)


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:8000", True),
        ("http://127.9.9.9", True),
        ("http://localhost:1", True),
        ("http://[::1]:1", True),
        ("http://LOCALHOST", True),
        ("http://localhost.evil.example", False),
        ("http://127.0.0.1.evil.example", False),
        ("http://0.0.0.0", False),
        ("http://192.168.1.2", False),
        ("http://2130706433", False),
        ("http://host", False),
        ("http://[::ffff:10.0.0.1]", False),
    ],
)
def test_this_machine_is_what_loopback_reaches(url, here):
    assert is_this_machine(url) is here


def test_a_key_is_read_for_its_server(tmp_path):
    (tmp_path / "key").write_text(f"https://Host.Example:443/v1\n{KEY}\n")
    assert read_key(tmp_path / "key", "https://host.example") == KEY


@pytest.mark.parametrize(
    "url", ["http://host.example", "https://host.example:444", "https://host.example.evil", "http://127.0.0.1"]
)
def test_a_key_is_read_for_no_other_server(tmp_path, url):
    (tmp_path / "key").write_text(f"https://host.example\n{KEY}\n")
    with pytest.raises(
        InputError, match=r"The key in key belongs to https://host\.example and is not sent to"
    ) as error:
        read_key(tmp_path / "key", url)
    assert KEY not in str(error.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (KEY, "does not say whose key it is; put the address of its server on a line above the key"),
        ("", "does not hold two words"),
        ("http://127.0.0.1:8000", "does not hold two words"),
        (f"http://127.0.0.1:8000\n{KEY}\nmore", "does not hold two words"),
        ("http://127.0.0.1:8000\nk\u00e9y", "does not hold two words"),
        ("http://127.0.0.1:8000\nk\x1by", "does not hold two words"),
        (f"host\n{KEY}", "first line of the key file key is no server's address"),
        (b"\xff\xfe", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_key_file_says_whose_key_it_is(tmp_path, content, words):
    if content is not None:
        (tmp_path / "key").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=words) as error:
        read_key(tmp_path / "key", "http://127.0.0.1:8000")
    assert KEY not in str(error.value)


@pytest.fixture
def listening():
    """Makes servers that note the headers of every request, and answer as they are told."""
    servers = []

    def start(status, **headers):
        seen = []

        class Noting(BaseHTTPRequestHandler):
            def do_GET(self):
                seen.append((self.path, dict(self.headers)))
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                content = f"denied to {KEY}".encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_GET

            def log_message(self, *args):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Noting)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}", seen

    yield start
    for server in servers:
        server.shutdown()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(listening, status):
    elsewhere, seen = listening(200)
    url, asked = listening(status, Location=f"{elsewhere}/v1/models")
    connection = Connection(url, key=KEY)
    with pytest.raises(InputError, match=rf"sends on to another address \(HTTP {status}\), which is not followed"):
        connection.model_name()
    with pytest.raises(InputError, match="sends on to another address"):
        list(connection.complete(torch.zeros(2, 4), "m", Generation(2)))
    assert [headers["Authorization"] for _, headers in asked] == [f"Bearer {KEY}"] * 2
    assert seen == []


def test_no_proxy_sees_what_is_sent_to_this_machine_nor_what_is_not_encrypted(listening, monkeypatch):
    proxy, seen = listening(502)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    url, asked = listening(400)
    with pytest.raises(InputError, match="HTTP 400"):
        Connection(url, key=KEY).model_name()
    with pytest.raises(InputError, match=r"No server at http://server\.invalid"):
        Connection("http://server.invalid", key=KEY).model_name()
    assert len(asked) == 1
    assert seen == []


def test_a_key_that_a_server_repeats_is_not_shown(listening):
    url, _ = listening(400)
    with pytest.raises(InputError, match=r"denied to \*\*\*") as error:
        Connection(url, key=KEY).model_name()
    assert KEY not in str(error.value)
