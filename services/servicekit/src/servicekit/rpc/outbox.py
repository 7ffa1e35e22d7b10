"""What waits to go out on a stream: everything that is there at a time goes as one message."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

PER_CALL_S: Final = 0.00006
SHORTEST_S: Final = 0.0005
LONGEST_S: Final = 0.002
"""How long an item waits on a busy stream: for each call under way, up to the longest, and never below the shortest."""

PATIENCE_S: Final = 0.008
LARGEST_BATCH_BYTES: Final = 1024 * 1024
"""A message is closed at this size; only a single larger item exceeds it."""


class Outbox:
    """Collects items and writes them in batches, in order."""

    def __init__(
        self, write: Callable[[Any], Awaitable[None]], pack: Callable[[list[Any]], Any], calls: Callable[[], int]
    ) -> None:
        """Take what writes a message, what makes one of items, and what tells how many calls the stream carries now."""
        self._write = write
        self._pack = pack
        self._calls = calls
        self._items: deque[tuple[Any, int]] = deque()
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()
        self._emptied.set()
        self._urgent = False

    def put(self, item: Any, size: int) -> None:
        """Send an item of about `size` bytes with the next message."""
        self._items.append((item, size))
        if not self._urgent:
            self._urgent = True
            self._filled.set()
            self._emptied.clear()

    def put_patiently(self, item: Any) -> None:
        """Send a small item with the next message, or after PATIENCE_S seconds if nothing else is sent."""
        if not self._items:
            asyncio.get_running_loop().call_later(PATIENCE_S, self._filled.set)
        self._items.append((item, 0))
        self._emptied.clear()

    async def empty(self) -> None:
        """Return when everything is written."""
        await self._emptied.wait()

    async def send(self) -> None:
        """Write what comes, until cancelled or until the stream breaks.

        On a stream that is busy an item waits a moment for others, the longer the more calls there are to wait for: a
        message costs as much as the work on a short item.
        """
        written_s = 0.0
        while True:
            await self._filled.wait()
            while self._items:
                wait_s = min(self._calls() * PER_CALL_S, LONGEST_S)
                if wait_s >= SHORTEST_S and time.monotonic() - written_s < wait_s:
                    await asyncio.sleep(wait_s)
                await self._write(self._pack(self._batch()))
                written_s = time.monotonic()
            self._urgent = False
            self._filled.clear()
            self._emptied.set()

    def _batch(self) -> list[Any]:
        item, total = self._items.popleft()
        batch = [item]
        while self._items and total + self._items[0][1] <= LARGEST_BATCH_BYTES:
            item, size = self._items.popleft()
            batch.append(item)
            total += size
        return batch
