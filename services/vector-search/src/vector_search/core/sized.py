"""Chooses by size where a knowledge base is searched: a small one in memory, a large one in the large index."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from servicekit.errors import Unavailable
from servicekit.telemetry.metrics import counter, gauge

from vector_search.core.exact import ExactIndex
from vector_search.core.fusion import Ranking
from vector_search.core.knowledge import Vectors
from vector_search.core.ports import DenseIndex, Log, Selection

KEPT_S: Final = 60.0
"""What was searched so lately is not put out for another one; reading it again costs more than a search elsewhere."""

BYTES = gauge("penstock_vector_search_exact_bytes", "Bytes of vectors in memory")
LOADED = counter("penstock_vector_search_exact_loads", "Times a knowledge base's vectors were read into memory")


@dataclass(frozen=True, slots=True)
class Limits:
    """How many rows a knowledge base in memory may have (0: none is), and the bytes of the vectors of all."""

    rows: int
    size_bytes: int


class SizedIndex:
    """The dense index of `ports` over two others. The large one has everything; memory is filled from the log.

    Every change reaches memory too, after it is in the log, so that memory has what the log has whether or not the
    large index took the change.
    """

    def __init__(
        self, large: DenseIndex, source: Log, limits: Limits, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Take the index of everything, the log, the limits of memory, and a clock in seconds."""
        self._large = large
        self._log = source
        self._limits = limits
        self._clock = clock
        self._exact = ExactIndex()
        self._lock = threading.Lock()
        self._counts: dict[int, int] = {}
        self._dimensions: dict[int, int] = {}
        self._used: dict[int, float] = {}

    def bases(self) -> set[int]:
        """Return the numbers of the knowledge bases of the large index."""
        return self._large.bases()

    def create(self, base: int, dimensions: int) -> None:
        """Make room in the large index."""
        with self._lock:
            self._counts.pop(base, None)
            self._dimensions[base] = dimensions
        self._large.create(base, dimensions)

    def drop(self, base: int) -> None:
        """Forget a knowledge base in both."""
        with self._lock:
            self._counts.pop(base, None)
            self._dimensions.pop(base, None)
            self._put_out(base)
        self._large.drop(base)

    def add(self, base: int, passages: Sequence[tuple[int, int]], vectors: Vectors) -> None:
        """Add to both; a knowledge base that has outgrown memory leaves it."""
        with self._lock:
            if base in self._counts:
                self._counts[base] += len(passages)
            if self._exact.holds(base):
                self._exact.add(base, passages, vectors)
                self._counts[base] = self._exact.count(base)
                if not self._fits(base):
                    self._put_out(base)
                BYTES.set(self._exact.size_bytes())
        self._large.add(base, passages, vectors)

    def remove(self, base: int, rows: Sequence[int]) -> None:
        """Remove from both."""
        with self._lock:
            if base in self._counts:
                self._counts[base] -= len(rows)
            if self._exact.holds(base):
                self._exact.remove(base, rows)
        self._large.remove(base, rows)

    def settle(self, base: int) -> None:
        """Settle the large index."""
        self._large.settle(base)

    def rows(self, base: int) -> set[int]:
        """Return every row of the large index, which is the one that may have lost some."""
        return self._large.rows(base)

    def at_once(self, base: int, questions: int) -> bool:
        """Say whether it is in memory and small."""
        return self._exact.at_once(base, questions)

    def search(self, base: int, vectors: Vectors, limit: int, selection: Selection | None) -> list[Ranking]:
        """Search memory, which is filled at the first search, or the large index."""
        if self._exact.holds(base) or self._load(base):
            self._used[base] = self._clock()
            try:
                return self._exact.search(base, vectors, limit, selection)
            except Unavailable:  # put out a moment ago
                pass
        return self._large.search(base, vectors, limit, selection)

    def _load(self, base: int) -> bool:
        """Read a knowledge base into memory if it fits and there is room; say whether it is there."""
        if not self._limits.rows:
            return False
        with self._lock:
            if self._exact.holds(base):
                return True
            if base not in self._dimensions:  # dropped a moment ago
                return False
            if base not in self._counts:
                self._counts[base] = len(self._log.rows(base))
            if not self._fits(base) or not self._make_room(self._bytes(base)):
                return False
            read = list(self._log.vectors(base, self._log.rows(base)))
            if not read:
                return False
            passages = [(passage.row, passage.document) for part, _ in read for passage in part]
            self._exact.fill(base, passages, np.concatenate([part for _, part in read]))
            LOADED.inc()
            BYTES.set(self._exact.size_bytes())
            return True

    def _fits(self, base: int) -> bool:
        return self._counts[base] <= self._limits.rows and self._bytes(base) <= self._limits.size_bytes

    def _bytes(self, base: int) -> int:
        return self._counts[base] * self._dimensions[base] * np.dtype(np.float32).itemsize

    def _make_room(self, wanted: int) -> bool:
        """Put out the least recently searched until there is room; say whether there is."""
        free = self._limits.size_bytes - self._exact.size_bytes()
        for base in sorted(self._exact.bases(), key=lambda held: self._used.get(held, 0.0)):
            if free >= wanted or self._clock() - self._used.get(base, 0.0) < KEPT_S:
                break
            self._put_out(base)
            free = self._limits.size_bytes - self._exact.size_bytes()
        return free >= wanted

    def _put_out(self, base: int) -> None:
        self._exact.drop(base)
        self._used.pop(base, None)
        BYTES.set(self._exact.size_bytes())
