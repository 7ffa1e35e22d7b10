"""Keeps the chunks that were found lately, so that a search need not read the log."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Final

from vector_search.core.knowledge import Chunk
from vector_search.core.ports import Log

OVERHEAD_BYTES: Final = 400
"""What a chunk takes besides its text, about."""
BYTES_A_CHARACTER: Final = 2
"""Python takes 1, 2 or 4, by the text's widest character."""


class ChunkCache:
    """Chunks by row, the least recently read dropped first. A row is never used again, so no entry is ever wrong.

    Used by the event loop's thread alone.
    """

    def __init__(self, source: Log, readers: Executor, most_bytes: int) -> None:
        """Take the log, the threads that read it, and how much to keep."""
        self._log = source
        self._readers = readers
        self._free = most_bytes
        self._kept: OrderedDict[int, Chunk] = OrderedDict()

    async def read(self, rows: Sequence[int]) -> dict[int, Chunk]:
        """Return the chunks of these rows; rows that are gone from the log may be left out."""
        found: dict[int, Chunk] = {}
        unknown: list[int] = []
        for row in rows:
            chunk = self._kept.get(row)
            if chunk is None:
                unknown.append(row)
            else:
                self._kept.move_to_end(row)
                found[row] = chunk
        if unknown:
            loop = asyncio.get_running_loop()
            passages = await loop.run_in_executor(self._readers, self._log.passages, unknown)
            for row, passage in passages.items():
                found[row] = passage.chunk
                self._keep(row, passage.chunk)
        return found

    def _keep(self, row: int, chunk: Chunk) -> None:
        if row in self._kept:
            return
        self._kept[row] = chunk
        self._free -= _size(chunk)
        while self._free < 0:
            _, dropped = self._kept.popitem(last=False)
            self._free += _size(dropped)


def _size(chunk: Chunk) -> int:
    return OVERHEAD_BYTES + BYTES_A_CHARACTER * len(chunk.text)
