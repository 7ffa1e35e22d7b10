"""One fake per port, and what tests build documents from."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from servicekit.errors import Unavailable
from servicekit.testing import eventually
from vector_search.core.chunk_cache import ChunkCache
from vector_search.core.corpus import Library
from vector_search.core.fusion import Ranking
from vector_search.core.knowledge import Chunk, Document, Encoder, Entry, KnowledgeBase, Passage, Scalar, Vectors
from vector_search.core.ports import BaseCreated, BaseDeleted, Change, DenseIndex, DocumentPut, Log, Numbers, Selection
from vector_search.core.searcher import Question, Searcher
from vector_search.core.store import KnowledgeStore
from vector_search.core.writer import Writer

DIMENSIONS = 8
ENCODER = Encoder("tiny", "1", "sha256:" + "a" * 64, DIMENSIONS, "mean", 128)
OTHER_ENCODER = Encoder("tiny", "2", "sha256:" + "b" * 64, DIMENSIONS, "mean", 128)


def vector_of(text: str) -> Vectors:
    """A unit vector that depends on the text alone."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
    vector = np.random.default_rng(seed).normal(size=DIMENSIONS)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


def entry_of(
    document_id: str,
    *texts: str,
    metadata: dict[str, Scalar] | None = None,
    title: str = "",
    vectors: Vectors | None = None,
) -> Entry:
    """A document whose vectors are those of its texts."""
    content_hash = "sha256:" + hashlib.sha256("\n".join(texts).encode()).hexdigest()
    document = Document(
        0, document_id, title, content_hash, metadata or {}, len(texts), datetime(2026, 1, 1, tzinfo=UTC)
    )
    chunks = [Chunk(index, text, 0, len(text)) for index, text in enumerate(texts)]
    return Entry(document, chunks, np.stack([vector_of(text) for text in texts]) if vectors is None else vectors)


class FakeLog:
    """A log in memory; `full` makes it refuse, `commits` counts what it took."""

    def __init__(self) -> None:
        self.full = False
        self.commits = 0
        self._numbers = Numbers()
        self._bases: dict[int, KnowledgeBase] = {}
        self._entries: dict[int, tuple[int, Entry]] = {}
        self._retired: dict[tuple[str, str], int] = {}

    def commit(self, changes: Sequence[Change]) -> None:
        if self.full:
            raise Unavailable("full", reason="storage_full")
        self.commits += 1
        for change in changes:
            self._store(change)

    def _store(self, change: Change) -> None:
        base = change.base
        if isinstance(change, BaseCreated):
            self._bases[base.number] = base
            self._numbers = Numbers(base.number, self._numbers.document, self._numbers.row)
            return
        if isinstance(change, BaseDeleted):
            self._retired[base.tenant, base.name] = self._bases.pop(base.number).revision
            self._entries = {number: kept for number, kept in self._entries.items() if kept[0] != base.number}
            return
        gone = change.replaced if isinstance(change, DocumentPut) else change.document
        if gone is not None:
            del self._entries[gone.number]
        if isinstance(change, DocumentPut):
            self._entries[change.entry.document.number] = (base.number, change.entry)
            self._numbers = Numbers(self._numbers.base, change.entry.document.number, change.entry.rows[-1])
        self._recount(base.number, change.revision)

    def _recount(self, number: int, revision: int) -> None:
        base, entries = self._bases[number], self._of(number)
        self._bases[number] = KnowledgeBase(
            base.number, base.tenant, base.name, base.encoder, revision, base.created_at,
            len(entries), sum(len(entry.chunks) for entry in entries),
        )  # fmt: skip

    def _of(self, base: int) -> list[Entry]:
        return [entry for owner, entry in self._entries.values() if owner == base]

    def numbers(self) -> Numbers:
        return self._numbers

    def bases(self) -> list[KnowledgeBase]:
        return list(self._bases.values())

    def last_revision(self, tenant: str, name: str) -> int:
        return self._retired.get((tenant, name), 0)

    def rows(self, base: int) -> list[int]:
        return sorted(row for entry in self._of(base) for row in entry.rows)

    def texts(self, base: int) -> Iterator[tuple[Document, int, list[str]]]:
        for entry in self._of(base):
            yield entry.document, entry.first_row, [chunk.text for chunk in entry.chunks]

    def vectors(self, base: int, rows: Sequence[int]) -> Iterator[tuple[list[Passage], Vectors]]:
        wanted = set(rows)
        for entry in self._of(base):
            kept = [position for position, row in enumerate(entry.rows) if row in wanted]
            if kept:
                number = entry.document.number
                yield (
                    [Passage(entry.rows[position], number, entry.chunks[position]) for position in kept],
                    entry.vectors[kept],
                )

    def passages(self, rows: Sequence[int]) -> dict[int, Passage]:
        wanted = set(rows)
        return {
            row: Passage(row, entry.document.number, chunk)
            for _, entry in list(self._entries.values())
            for row, chunk in zip(entry.rows, entry.chunks, strict=True)
            if row in wanted
        }

    def chunks(self, document: int) -> list[Chunk]:
        return list(self._entries[document][1].chunks) if document in self._entries else []

    def documents(self, base: int, after: str, limit: int) -> list[Document]:
        found = sorted((entry.document for entry in self._of(base)), key=lambda document: document.id)
        return [document for document in found if document.id > after][:limit]

    def size_bytes(self) -> int:
        return len(self._entries)


class FakeDenseIndex:
    """An exact index in memory; `broken` makes every change fail, `asked` keeps the size of each batch.

    `short` lets its searches be made on the event loop.
    """

    def __init__(self) -> None:
        self.broken = False
        self.short = False
        self.asked: list[int] = []
        self._rows: dict[int, dict[int, tuple[int, Vectors]]] = {}

    def bases(self) -> set[int]:
        return set(self._rows)

    def create(self, base: int, dimensions: int) -> None:
        self._check()
        self._rows.setdefault(base, {})

    def drop(self, base: int) -> None:
        self._check()
        self._rows.pop(base, None)

    def add(self, base: int, passages: Sequence[tuple[int, int]], vectors: Vectors) -> None:
        self._check()
        for (row, document), vector in zip(passages, vectors, strict=True):
            self._rows[base][row] = (document, vector)

    def remove(self, base: int, rows: Sequence[int]) -> None:
        self._check()
        for row in rows:
            self._rows[base].pop(row, None)

    def settle(self, base: int) -> None:
        self._check()

    def rows(self, base: int) -> set[int]:
        return set(self._rows[base])

    def at_once(self, base: int, questions: int) -> bool:
        return self.short

    def search(self, base: int, vectors: Vectors, limit: int, selection: Selection | None) -> list[Ranking]:
        self.asked.append(len(vectors))
        found = [
            (row, vector)
            for row, (document, vector) in self._rows[base].items()
            if (selection is None or (document in selection.documents) is not selection.excluded)
        ]
        return [
            sorted(((row, float(vector @ question)) for row, vector in found), key=lambda hit: -hit[1])[:limit]
            for question in vectors
        ]

    def _check(self) -> None:
        if self.broken:
            raise Unavailable("broken", reason="index_failed")


@dataclass(frozen=True, slots=True)
class Running:
    """A store at work, and what it stands on."""

    store: KnowledgeStore
    log: Log
    index: DenseIndex


@asynccontextmanager
async def running(log: Log, index: DenseIndex, chunk_cache_bytes: int = 10_000) -> AsyncIterator[Running]:
    """Run a store on a log and an index until the block ends; wait until it is ready."""
    library = Library()
    with ThreadPoolExecutor(2) as readers:
        writer = Writer(library, log, index)
        searcher = Searcher(index, ChunkCache(log, readers, chunk_cache_bytes), readers)
        store = KnowledgeStore(library, log, writer, searcher, readers)
        work = asyncio.create_task(writer.run())
        try:
            await eventually(lambda: library.loading is None or work.done(), 20)
            yield Running(store, log, index)
        finally:
            work.cancel()
            with suppress(asyncio.CancelledError):
                await work


def question_of(text: str, /, **changes: Any) -> Question:
    """A question whose vector is that of a chunk with the same text."""
    return replace(Question(text, vector_of(text), ENCODER, 5), **changes)
