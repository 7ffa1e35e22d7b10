"""Messages are put together from any pieces; timeouts and statuses survive the way."""

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from servicekit.http2 import header_blocks
from servicekit.landed import Message
from servicekit.rpc import CallFailed, framing
from servicekit.rpc.framing import LARGEST_MESSAGE_BYTES, Messages
from servicekit.testing import Place

CODES = st.sampled_from([code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])


@given(st.lists(st.binary(max_size=100), max_size=10), st.lists(st.integers(1, 30), max_size=100), st.booleans())
def test_messages_are_put_together_from_any_pieces(sent: list[bytes], cuts: list[int], views: bool) -> None:
    messages, got = Messages(), list[bytes]()
    stream = b"".join(map(framing.pack, sent))
    pieces = []
    for cut in cuts:
        pieces.append(stream[:cut])
        stream = stream[cut:]
    for piece in (*pieces, stream):
        got += messages.feed(memoryview(piece) if views else piece)
    assert got == sent
    assert not messages.broken_off


@given(
    st.lists(st.binary(max_size=100), max_size=10),
    st.lists(st.integers(1, 30), max_size=100),
    st.integers(0, 3),
)
def test_large_messages_land_where_there_is_room_from_any_pieces(
    sent: list[bytes], cuts: list[int], rooms: int
) -> None:
    places: list[Place] = []

    def land(size: int) -> Place | None:
        assert size >= 20
        if len(places) == rooms:
            return None
        places.append(Place(size))
        return places[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(framing, "LEAST_LANDED_BYTES", 20)
        messages, got = Messages(), list[Message]()
        messages.land = land
        stream = b"".join(map(framing.pack, sent))
        for cut in cuts:
            got += messages.feed(stream[:cut])
            stream = stream[cut:]
        got += messages.feed(stream)
    assert list(map(bytes, got)) == sent
    assert [each for each in got if not isinstance(each, bytes)] == places


def test_what_is_missing_is_known_when_a_message_has_begun() -> None:
    messages = Messages()
    assert not messages.feed(framing.pack(bytes(1_000))[:105])
    assert (messages.missing, messages.broken_off) == (900, True)
    assert not Messages().feed(b"\0\0")


@pytest.mark.parametrize(
    ("head", "code"),
    [
        (b"\1\0\0\0\1x", grpc.StatusCode.UNIMPLEMENTED),
        (b"\0" + (LARGEST_MESSAGE_BYTES + 1).to_bytes(4, "big"), grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
def test_a_message_that_cannot_be_taken_is_refused_by_its_head(head: bytes, code: grpc.StatusCode) -> None:
    with pytest.raises(CallFailed) as raised:
        Messages().feed(head)
    assert raised.value.code is code


@given(st.floats(1e-6, 1e9))
def test_a_timeout_survives_the_way(seconds: float) -> None:
    written = framing.write_timeout(seconds)
    assert len(written) <= 9
    assert framing.read_timeout(written) == pytest.approx(min(seconds, 99_999_999), rel=1e-2, abs=1e-6)


@pytest.mark.parametrize("value", [b"", b"5", b"m", b"-1m", b"1.5S", b"123456789m", b"5x", b" 5m"])
def test_a_timeout_that_is_none_is_refused(value: bytes) -> None:
    with pytest.raises(CallFailed, match="grpc-timeout"):
        framing.read_timeout(value)


@given(CODES, st.text(max_size=50), st.binary(max_size=50))
def test_a_status_survives_the_way(code: grpc.StatusCode, message: str, details: bytes) -> None:
    headers = dict(framing.write_status(CallFailed(code, message, details)))
    assert all(32 <= octet < 127 for value in headers.values() for octet in value)
    failed = framing.read_status(dict(header_blocks.Reader().read(header_blocks.write(headers.items()))))
    assert failed is not None
    assert (failed.code, failed.details) == (code, details)
    assert failed.message == message.encode("utf-8", "replace").decode("utf-8", "replace")


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, grpc.StatusCode.UNKNOWN),
        ({b":status": b"503"}, grpc.StatusCode.UNAVAILABLE),
        ({b":status": b"404"}, grpc.StatusCode.UNIMPLEMENTED),
        ({b"grpc-status": b"nonsense"}, grpc.StatusCode.UNKNOWN),
        ({b"grpc-status": b"99"}, grpc.StatusCode.UNKNOWN),
        ({b"grpc-status": b"5", b"grpc-status-details-bin": b"!!!"}, grpc.StatusCode.NOT_FOUND),
    ],
)
def test_an_end_without_a_proper_status_is_a_failure(headers: dict[bytes, bytes], code: grpc.StatusCode) -> None:
    failed = framing.read_status(headers)
    assert failed is not None
    assert (failed.code, failed.details) == (code, b"")
