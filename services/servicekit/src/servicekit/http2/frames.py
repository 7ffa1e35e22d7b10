"""Frames of HTTP/2 as bytes (RFC 9113, section 6)."""

from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD: Final = Struct(">HBBBL")
"""What every frame begins with: its length in two parts, kind, flags, stream."""

FRAME_HEAD_BYTES: Final = HEAD.size

DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

ACK: Final = 0x1
END_STREAM: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITISED: Final = 0x20

ENABLE_PUSH: Final = 2
MAX_CONCURRENT_STREAMS: Final = 3
INITIAL_WINDOW_SIZE: Final = 4
MAX_FRAME_SIZE: Final = 5

NO_ERROR: Final = 0
PROTOCOL_ERROR: Final = 1
INTERNAL_ERROR: Final = 2
FLOW_CONTROL_ERROR: Final = 3
FRAME_SIZE_ERROR: Final = 6
REFUSED_STREAM: Final = 7
CANCEL: Final = 8
COMPRESSION_ERROR: Final = 9
ENHANCE_YOUR_CALM: Final = 11
INADEQUATE_SECURITY: Final = 12

DEFAULT_WINDOW: Final = 65_535
LARGEST_WINDOW: Final = 2**31 - 1
SMALLEST_FRAME_LIMIT: Final = 16_384
LARGEST_FRAME_LIMIT: Final = 2**24 - 1


class Http2Error(Exception):
    """The other side broke the protocol: the connection is over."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return a frame."""
    size = len(payload)
    return HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def data_head(size: int, flags: int, stream: int) -> bytes:
    """Return what precedes `size` bytes of data."""
    return HEAD.pack(size >> 8, size & 0xFF, DATA, flags, stream)


def header_frames(stream: int, block: bytes, limit: int, *, end: bool) -> Iterator[bytes]:
    """Yield the frames of a header block, none of them above `limit` bytes."""
    kind, flags = HEADERS, END_STREAM if end else 0
    while len(block) > limit:
        yield frame(kind, flags, stream, block[:limit])
        kind, flags, block = CONTINUATION, 0, block[limit:]
    yield frame(kind, flags | END_HEADERS, stream, block)


def settings(pairs: Sequence[tuple[int, int]]) -> bytes:
    """Return a frame of settings, each a number and its value."""
    return frame(SETTINGS, 0, 0, b"".join(key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in pairs))


def read_settings(payload: bytes) -> Iterator[tuple[int, int]]:
    """Yield number and value of each setting."""
    if len(payload) % 6:
        raise Http2Error(FRAME_SIZE_ERROR, "settings are cut off")
    for at in range(0, len(payload), 6):
        yield int.from_bytes(payload[at : at + 2], "big"), int.from_bytes(payload[at + 2 : at + 6], "big")


def window_update(stream: int, increment: int) -> bytes:
    """Return leave to send so many bytes more; stream 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


def reset(stream: int, code: int) -> bytes:
    """Return the end of a stream that is no longer wanted."""
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def go_away(last_stream: int, code: int) -> bytes:
    """Return that no stream after `last_stream` will be served."""
    return frame(GOAWAY, 0, 0, last_stream.to_bytes(4, "big") + code.to_bytes(4, "big"))


def exactly(payload: bytes, size: int) -> bytes:
    """Return a payload that has to have `size` bytes."""
    if len(payload) != size:
        raise Http2Error(FRAME_SIZE_ERROR, f"a frame has {len(payload)} bytes where {size} belong")
    return payload


def unpadded(payload: bytes) -> bytes:
    """Return a payload without its padding."""
    if not payload or payload[0] >= len(payload):
        raise Http2Error(PROTOCOL_ERROR, "a frame is nothing but padding")
    return payload[1 : len(payload) - payload[0]]
