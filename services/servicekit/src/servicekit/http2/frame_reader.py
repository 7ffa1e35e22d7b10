"""Cuts what a socket gives into frames; of data it keeps none back, however large the frame."""

from collections.abc import Callable
from typing import Final

from servicekit.http2 import frames
from servicekit.http2.frames import Http2Error

FRAME_LIMIT: Final = 256 * 1024
"""The largest frame we take; only data comes near it, and that is taken as it comes, not as a whole."""

LARGEST_HEADERS: Final = 64 * 1024
MOST_CONTINUATIONS: Final = 16
WHOLE_AND_PLAIN: Final = frames.END_HEADERS | frames.PADDED | frames.PRIORITISED

Part = bytes | memoryview
"""A piece of data: a view of what was received where copying it would cost more than keeping that alive."""

LEAST_VIEWED_BYTES: Final = 8 * 1024

TakeFrame = Callable[[int, int, int, bytes], None]
"""Takes kind, flags, stream and payload of a frame that is no data; a header block comes as one, whatever its parts."""

TakeData = Callable[[int, Part, int, bool], None]
"""Takes the stream, a part of its data, how much of the window that uses, and whether the stream ends with it."""


class FrameReader:
    """Reads one side of a connection."""

    def __init__(self, expected: bytes, take: TakeFrame, take_data: TakeData) -> None:
        """Take what has to come before the first frame, and what takes the frames."""
        self._expected = expected
        self._take = take
        self._take_data = take_data
        self._rest = b""
        self._stream, self._left, self._ends = 0, 0, False
        self._block: tuple[int, int, list[bytes]] | None = None

    def feed(self, data: bytes) -> None:
        """Take what came; raise Http2Error for what is no frame."""
        if self._rest:
            data, self._rest = self._rest + data, b""
        at, size = 0, len(data)
        if self._expected:
            at = len(self._expected)
            if not self._expected.startswith(data[:at]):
                raise Http2Error(frames.PROTOCOL_ERROR, "this is not HTTP/2")
            if size < at:
                self._rest = data
                return
            self._expected = b""
        while at < size:
            following = self._data(data, at, size) if self._left else self._frame(data, at, size)
            if following == at:
                self._rest = data[at:]
                return
            at = following

    def _data(self, data: bytes, at: int, size: int) -> int:
        """Hand on as much of a frame of data as is there; return where it ends."""
        end = min(size, at + self._left)
        self._left -= end - at
        part = memoryview(data)[at:end] if end - at >= LEAST_VIEWED_BYTES else data[at:end]
        self._take_data(self._stream, part, end - at, self._ends and not self._left)
        return end

    def _frame(self, data: bytes, at: int, size: int) -> int:
        """Take a frame, or the head of one with data; return where it ends, or `at` when there is too little yet."""
        start = at + frames.FRAME_HEAD_BYTES
        if start > size:
            return at
        high, low, kind, flags, stream = frames.HEAD.unpack_from(data, at)
        length: int = high << 8 | low
        stream &= frames.LARGEST_WINDOW
        if length > FRAME_LIMIT:
            raise Http2Error(frames.FRAME_SIZE_ERROR, "a frame is too large")
        if self._block is not None and (kind != frames.CONTINUATION or stream != self._block[0]):
            raise Http2Error(frames.PROTOCOL_ERROR, "a header block was interrupted")
        if kind == frames.DATA and length and not flags & frames.PADDED:
            self._stream, self._left, self._ends = stream, length, bool(flags & frames.END_STREAM)
            return start
        end = start + length
        if end > size:
            return at
        payload = data[start:end]
        if kind == frames.DATA:
            rest = frames.unpadded(payload) if flags & frames.PADDED else payload
            self._take_data(stream, rest, length, bool(flags & frames.END_STREAM))
        elif kind in (frames.HEADERS, frames.CONTINUATION):
            self._headers(kind, flags, stream, payload)
        else:
            self._take(kind, flags, stream, payload)
        return end

    def _headers(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == frames.HEADERS and flags & WHOLE_AND_PLAIN == frames.END_HEADERS and len(payload) <= LARGEST_HEADERS:
            self._take(frames.HEADERS, flags, stream, payload)
            return
        if kind == frames.HEADERS:
            if flags & frames.PADDED:
                payload = frames.unpadded(payload)
            if flags & frames.PRIORITISED:
                payload = payload[5:]
            self._block = stream, flags, []
        if self._block is None:
            raise Http2Error(frames.PROTOCOL_ERROR, "a header block goes on that never began")
        _, first_flags, parts = self._block
        parts.append(payload)
        if sum(map(len, parts)) > LARGEST_HEADERS or len(parts) > MOST_CONTINUATIONS:
            raise Http2Error(frames.ENHANCE_YOUR_CALM, "the headers are too large")
        if flags & frames.END_HEADERS:
            self._block = None
            self._take(frames.HEADERS, first_flags, stream, parts[0] if len(parts) == 1 else b"".join(parts))
