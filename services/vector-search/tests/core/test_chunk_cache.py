"""What is read from the log, and what is not read again."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from vector_search.core.chunk_cache import ChunkCache
from vector_search.core.knowledge import KnowledgeBase, Passage
from vector_search.core.ports import BaseCreated, DocumentPut
from vector_search_fakes import ENCODER, FakeLog, entry_of


class CountingLog(FakeLog):
    """Keeps which rows were read."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[list[int]] = []
        base = KnowledgeBase(1, "acme", "kb", ENCODER, 1, datetime(2026, 1, 1, tzinfo=UTC))
        entry = entry_of("d", "red fox", "blue hen", "x" * 10_000).numbered(1, 1)
        self.commit([BaseCreated(base), DocumentPut(base, 2, entry, None)])

    def passages(self, rows: Sequence[int]) -> dict[int, Passage]:
        self.read.append(list(rows))
        return super().passages(rows)


async def test_only_what_is_not_there_is_read() -> None:
    log = CountingLog()
    with ThreadPoolExecutor(1) as readers:
        cache = ChunkCache(log, readers, 10_000)
        assert {row: chunk.text for row, chunk in (await cache.read([1, 99])).items()} == {1: "red fox"}
        assert {row: chunk.text for row, chunk in (await cache.read([2, 1])).items()} == {1: "red fox", 2: "blue hen"}
        assert log.read == [[1, 99], [2]]


async def test_the_least_recently_read_makes_room() -> None:
    log = CountingLog()
    with ThreadPoolExecutor(1) as readers:
        cache = ChunkCache(log, readers, 1_000)
        for row in (1, 2, 1, 3):
            assert row in await cache.read([row])
        assert log.read == [[1], [2], [3]]
        await cache.read([3])
        assert log.read[3:] == [[3]], "it is larger than the cache"
