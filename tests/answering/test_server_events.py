"""What a server says while it answers is read as the standard of server-sent events has it, however it is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyui_aot.aot.answering.server_events import event_data


@pytest.mark.parametrize(
    ("stream", "data"),
    [
        (b"data: a\n\ndata: b\n\n", ["a", "b"]),
        (b"data:a\n\n", ["a"]),
        (b"data:  a \n\n", [" a "]),
        (b": a comment\n\ndata: a\n:\n: another\n\n", ["a"]),
        (b'data: {"x":\ndata: 1}\n\n', ['{"x":\n1}']),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", ["a", "b"]),
        (b"data: a\r\rdata: b\r\r", ["a", "b"]),
        (b"data: a\n\ndata: b", ["a", "b"]),
        (b"data: a\n\ndata: b\n", ["a", "b"]),
        (b"event: x\nid: 7\nretry: 10\ndata: a\nother: y\n\n", ["a"]),
        (b"event: x\n\n\n\n", []),
        (b"data\n\n", [""]),
        (b"data: a\n\n\n\ndata: b\n\n", ["a", "b"]),
        (b"\xef\xbb\xbfdata: a\n\n", ["a"]),
        ("data: \u00e9\u4e2d\n\n".encode(), ["\u00e9\u4e2d"]),
        (b"data: a\xff\n\n", ["a\ufffd"]),
        (b"database: x\n\n", []),
        (b"", []),
    ],
)
def test_streams_of_the_standard(stream, data):
    assert list(event_data([stream])) == data
    assert list(event_data([stream[i : i + 1] for i in range(len(stream))])) == data


@given(st.text(st.sampled_from("data: x\n\r\u00e9:[]")), st.lists(st.integers(1, 5)))
def test_where_a_stream_is_cut_does_not_matter(text, sizes):
    stream = text.encode()
    ends = [0]
    for size in sizes:
        ends.append(ends[-1] + size)
    chunks = [stream[a:b] for a, b in zip(ends, [*ends[1:], len(stream)], strict=True)]
    assert list(event_data(chunks)) == list(event_data([stream]))


def test_an_event_is_given_as_soon_as_it_has_ended():
    seen = []

    def chunks():
        for chunk in (b"data: a\r\n\r", b"\ndata: b\n", b"\n"):
            yield chunk
            seen.append(len(given_so_far))

    given_so_far = []
    for data in event_data(chunks()):
        given_so_far.append(data)
    assert (given_so_far, seen) == (["a", "b"], [1, 1, 2])
