"""Server-sent events, however they are cut."""

import pytest
from inference.adapters.event_stream import EventStream, EventTooLong

BODY = b": comment\r\nevent: message\r\ndata: one\r\n\r\ndata:two\ndata: 2\n\nid: 7\n\ndata: three\r\rdata:\n\n"
EVENTS = [b"one", b"two\n2", b"three", b""]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 1000])
def test_gives_the_same_events_for_every_cut(size: int) -> None:
    stream, events = EventStream(), []
    for start in range(0, len(BODY), size):
        events += stream.feed(BODY[start : start + size])
    assert events == EVENTS


def test_keeps_an_event_back_until_it_is_complete() -> None:
    stream = EventStream()
    assert stream.feed(b"data: a\n") == []
    assert stream.feed(b"\n") == [b"a"]


@pytest.mark.parametrize("body", [b"data: " + b"x" * 100, b"x" * 100, b"data: xxxxx\n" * 20])
def test_refuses_what_is_too_long(body: bytes) -> None:
    stream = EventStream(longest=50)
    with pytest.raises(EventTooLong):
        for byte in body:
            stream.feed(bytes([byte]))
