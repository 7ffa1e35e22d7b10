"""Runs a model on many rows that nobody waits for: a few at a time, in order, giving way to all other work."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from servicekit.errors import InvalidInput, PenstockError, TimedOut, Unavailable

USUAL_WINDOW: Final = 8
LARGEST_WINDOW: Final = 64
MOST_BYTES: Final = 64 * 1024 * 1024
"""Rows under way are no more than this together, one aside."""

PATIENCE_S: Final = 600.0
"""How long a row waits for a model that is busy or not there, before it is given up."""

SHORTEST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 5.0
MOST_FAILURES: Final = 3
"""How often a row is tried on backends that fail."""

WAITS_FOR: Final = frozenset({"queue_full", "queue_timeout", "not_loaded", "loading", "rate_limited"})
DRAINING: Final = "draining"

Infer = Callable[[str, bytes], Awaitable[bytes]]
"""Runs a ModelInferRequest on the model of that name; returns the ModelInferResponse."""


@dataclass(frozen=True, slots=True)
class Row:
    """A ModelInferRequest, and where it stands in the caller's data."""

    offset: int
    request: bytes


@dataclass(frozen=True, slots=True)
class Scored:
    """What became of a row: its ModelInferResponse, or why there is none."""

    offset: int
    response: bytes = b""
    failure: PenstockError | None = None


class Scorer:
    """Scores rows with the models of a pool."""

    def __init__(
        self,
        infer: Infer,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take what runs a model, and how to wait."""
        self._infer = infer
        self._sleep = sleep
        self._clock_s = clock_s

    async def score(
        self, model: str, rows: AsyncIterator[Row], from_offset: int = 0, window: int = USUAL_WINDOW
    ) -> AsyncGenerator[Scored, None]:
        """Yield what becomes of each row from `from_offset` on, in order; closing the generator stops what runs.

        A further row is read only while fewer than `window` are under way. Raises InvalidInput for offsets that do not
        rise, Unavailable with reason draining when another pool has to go on, and TimedOut at the caller's deadline.
        """
        line = _Line(_rising(rows, from_offset), window, lambda row: self._row(model, row))
        try:
            while await line.more():
                while (scored := line.take()) is not None:
                    yield scored
        finally:
            await line.close()

    async def _row(self, model: str, row: Row) -> Scored:
        end_s, failures = self._clock_s() + PATIENCE_S, 0
        while True:
            try:
                return Scored(row.offset, await self._infer(model, row.request))
            except Unavailable as error:
                failures += error.reason not in WAITS_FOR
                if error.reason == DRAINING:
                    raise
                if failures >= MOST_FAILURES or self._clock_s() >= end_s:
                    return Scored(row.offset, failure=error)
                pause_s = error.retry_after_s or SHORTEST_PAUSE_S
            except (InvalidInput, TimedOut) as error:
                return Scored(row.offset, failure=error)
            await self._sleep(min(max(pause_s, SHORTEST_PAUSE_S), LONGEST_PAUSE_S))


class _Line:
    """Rows under way, oldest first, and the reading of the next; its tasks end with `close`."""

    def __init__(self, rows: AsyncGenerator[Row, None], window: int, work: Callable[[Row], Awaitable[Scored]]) -> None:
        self._rows = rows
        self._window = min(max(window, 1), LARGEST_WINDOW)
        self._work = work
        self._under_way: deque[tuple[asyncio.Future[Scored], int]] = deque()
        self._bytes = 0
        self._reading: asyncio.Future[Row | None] | None = None
        self._at_end = False

    async def more(self) -> bool:
        """Wait until the oldest row is done or another one is read; return False when all is done."""
        if self._reading is None and not self._at_end and self._has_room():
            self._reading = asyncio.ensure_future(anext(self._rows, None))
        waiting: list[asyncio.Future[Scored] | asyncio.Future[Row | None]] = []
        if self._reading is not None:
            waiting.append(self._reading)
        if self._under_way:
            waiting.append(self._under_way[0][0])
        if not waiting:
            return False
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if self._reading is not None and self._reading.done():
            self._begin(self._reading.result())
        return True

    def take(self) -> Scored | None:
        """Return what became of the oldest row, None while it is under way; raise what ends the whole."""
        if not self._under_way or not self._under_way[0][0].done():
            return None
        done, size = self._under_way.popleft()
        self._bytes -= size
        return done.result()

    async def close(self) -> None:
        """Stop the reading and what is under way."""
        tasks: list[asyncio.Future[Scored] | asyncio.Future[Row | None]] = [task for task, _ in self._under_way]
        if self._reading is not None:
            tasks.append(self._reading)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._rows.aclose()

    def _has_room(self) -> bool:
        return len(self._under_way) < self._window and self._bytes < MOST_BYTES

    def _begin(self, row: Row | None) -> None:
        self._reading = None
        if row is None:
            self._at_end = True
            return
        self._bytes += len(row.request)
        self._under_way.append((asyncio.ensure_future(self._work(row)), len(row.request)))


async def _rising(rows: AsyncIterator[Row], from_offset: int) -> AsyncGenerator[Row, None]:
    last = -1
    async for row in rows:
        if row.offset <= last:
            raise InvalidInput(f"offset {row.offset} comes after {last}; offsets have to rise", field="row.offset")
        last = row.offset
        if row.offset >= from_offset:
            yield row
