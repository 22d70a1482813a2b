"""What is fetched from a URL, and what it is called here."""

import io

import pytest

from comfyui_aot.aot.batch.remote import fetch


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("a%20b%C3%A9.mp4", "a_b\xe9.mp4"),
        ("..%2F..%2Fup.mp4", "up.mp4"),
        (".hidden.mp4", "hidden.mp4"),
        ("%00", "_"),
        ("..", "video"),
        ("", "video"),
        ("x" * 300 + ".mp4", "x" * 59 + ".mp4"),
    ],
)
def test_a_fetched_video_is_named_as_in_its_url(monkeypatch, tmp_path, path, named):
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    monkeypatch.setattr("comfyui_aot.aot.batch.remote._system", lambda scheme: system)
    monkeypatch.setattr(system, "open", lambda *_, **__: io.BytesIO(b"content"))
    file, _ = fetch(f"s3://bucket/{path}", tmp_path)
    assert (file.name, file.parent, file.read_bytes()) == (named, tmp_path, b"content")
