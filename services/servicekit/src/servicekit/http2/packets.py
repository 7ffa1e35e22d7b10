"""What is written on a connection, gathered into packets: one costs both sides as much as a short call."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

WAIT_PER_STREAM_S: Final = 0.00006
SHORTEST_S: Final = 0.0005
LONGEST_S: Final = 0.002
"""How long frames wait for others on a busy connection: for each stream, up to the longest; a shorter wait is none."""

LARGEST_BYTES: Final = 64 * 1024
"""More does not wait for others."""


class Packets:
    """Collects frames, and writes what has come together, in order."""

    def __init__(self, streams: Callable[[], int]) -> None:
        """Take what tells how many streams there are to wait for; a lone caller waits for nothing."""
        self._streams = streams
        self._transport: Any = None
        self._frames: list[bytes] = []
        self._size = 0
        self._flushing: asyncio.Handle | None = None
        self._flushed_s = 0.0

    def go_to(self, transport: Any) -> None:
        """Take where packets go."""
        self._transport = transport

    def write(self, frames: bytes) -> None:
        """Send frames, now or in a moment."""
        self._frames.append(frames)
        self._size += len(frames)
        if self._size >= LARGEST_BYTES:
            self.hurry()
        elif self._flushing is None:
            self._flushing = self._soon()

    def write_now(self, data: memoryview) -> None:
        """Send what was written, and then a large piece as it is."""
        self.hurry()
        self._transport.write(data)

    def hurry(self) -> None:
        """Send what was written, and wait for no more."""
        if self._flushing is not None:
            self._flushing.cancel()
        self._flush()

    def _soon(self) -> asyncio.Handle:
        loop = asyncio.get_running_loop()
        wait_s = min(self._streams() * WAIT_PER_STREAM_S, LONGEST_S)
        if wait_s < SHORTEST_S or loop.time() - self._flushed_s >= wait_s:
            return loop.call_soon(self._flush)
        return loop.call_later(wait_s, self._flush)

    def _flush(self) -> None:
        self._flushing = None
        if self._frames:
            packet = self._frames[0] if len(self._frames) == 1 else b"".join(self._frames)
            self._frames, self._size = [], 0
            self._transport.write(packet)  # where the connection is gone, nothing comes of it
            self._flushed_s = asyncio.get_running_loop().time()
