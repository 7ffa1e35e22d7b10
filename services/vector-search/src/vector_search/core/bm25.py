"""A BM25 index over the chunks of one knowledge base, in memory."""

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

K1: Final = 1.5
B: Final = 0.75
LEAST_DEAD_TO_COMPACT: Final = 1_024

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]


@dataclass(slots=True)
class _Postings:
    """Where a term occurs: slots in growing order, and how often in each."""

    slots: "array[int]" = field(default_factory=lambda: array("i"))
    counts: "array[int]" = field(default_factory=lambda: array("i"))


class Bm25:
    """Scores chunks by Okapi BM25 (k1 1.5, b 0.75) with Lucene's idf, ln(1 + (N - n + 0.5) / (n + 0.5)).

    A chunk has a slot; a removed chunk's slot is dead and counts nowhere, and is given back when too many are dead.
    Not safe for use by two threads at once.
    """

    def __init__(self) -> None:
        self._postings: dict[str, _Postings] = {}
        self._rows = array("q")
        self._documents = array("q")
        self._lengths = array("i")
        self._alive = bytearray()
        self._slots: dict[int, int] = {}
        self._total_length = 0
        self._norm: Floats | None = None

    def __len__(self) -> int:
        return len(self._slots)

    def add(self, row: int, document: int, terms: Sequence[str]) -> None:
        """Add a chunk under its row; a row that is there already is replaced."""
        if row in self._slots:
            self.remove([row])
        slot = len(self._rows)
        self._slots[row] = slot
        self._rows.append(row)
        self._documents.append(document)
        self._lengths.append(len(terms))
        self._alive.append(1)
        self._total_length += len(terms)
        for term, count in Counter(terms).items():
            postings = self._postings.get(term)
            if postings is None:
                postings = self._postings[term] = _Postings()
            postings.slots.append(slot)
            postings.counts.append(count)
        self._norm = None

    def remove(self, rows: Iterable[int]) -> None:
        """Forget chunks; unknown rows are ignored."""
        for row in rows:
            slot = self._slots.pop(row, None)
            if slot is not None:
                self._alive[slot] = 0
                self._total_length -= self._lengths[slot]
        self._norm = None
        dead = len(self._rows) - len(self._slots)
        if dead > max(LEAST_DEAD_TO_COMPACT, len(self._slots)):
            self._compact()

    def document(self, row: int) -> int | None:
        """Return the number of a chunk's document, or None when the chunk is gone."""
        slot = self._slots.get(row)
        return None if slot is None else self._documents[slot]

    def search(self, terms: Sequence[str], limit: int, documents: Numbers | None = None) -> list[tuple[int, float]]:
        """Return at most `limit` (row, score), best first, ties by row; with `documents` only chunks of those."""
        if not self._slots:
            return []
        scores = self._scores(terms)
        if documents is not None:
            scores[~np.isin(np.frombuffer(self._documents, np.int64), documents)] = 0.0
        found = np.flatnonzero(scores)
        values = scores[found]
        if found.size > limit:
            best = np.flatnonzero(values >= np.partition(values, found.size - limit)[found.size - limit])
            found, values = found[best], values[best]
        rows = np.frombuffer(self._rows, np.int64)[found]
        order = np.lexsort((rows, -values))[:limit]
        return list(zip(rows[order].tolist(), values[order].tolist(), strict=True))

    def _scores(self, terms: Sequence[str]) -> Floats:
        """Return the score of every slot, 0 for the dead; the terms' postings are worked on as one array."""
        postings = [found for term in terms if (found := self._postings.get(term)) is not None]
        if not postings:
            return np.zeros(len(self._rows))
        slots = np.frombuffer(b"".join(found.slots for found in postings), np.int32)
        counts = np.frombuffer(b"".join(found.counts for found in postings), np.int32)
        sizes = [len(found.slots) for found in postings]
        containing = sizes
        alive: npt.NDArray[np.bool_] | None = None
        if len(self._slots) < len(self._rows):
            alive = np.frombuffer(self._alive, np.bool_)[slots]
            containing = np.add.reduceat(alive, np.cumsum([0, *sizes[:-1]]), dtype=np.int64).tolist()
        total = len(self._slots)
        idf = np.repeat([math.log(1 + (total - n + 0.5) / (n + 0.5)) for n in containing], sizes)
        weights = idf * (K1 + 1) * counts / (counts + self._length_norm()[slots])
        return np.asarray(
            np.bincount(slots, weights if alive is None else weights * alive, len(self._rows)), np.float64
        )

    def _length_norm(self) -> Floats:
        """k1 (1 - b + b length / average length), by slot."""
        if self._norm is None:
            average = max(self._total_length / len(self._slots), 1e-9)
            lengths = np.frombuffer(self._lengths, np.int32).astype(np.float64)
            self._norm = np.asarray(K1 * (1 - B + B * lengths / average), np.float64)
        return self._norm

    def _compact(self) -> None:
        """Give the dead slots back; the order of the living stays."""
        alive = np.frombuffer(self._alive, np.bool_)
        moved = np.cumsum(alive, dtype=np.int32) - 1
        for term, postings in list(self._postings.items()):
            slots, counts = np.frombuffer(postings.slots, np.int32), np.frombuffer(postings.counts, np.int32)
            kept = alive[slots]
            if not kept.any():
                del self._postings[term]
                continue
            self._postings[term] = _Postings(
                array("i", moved[slots[kept]].tobytes()), array("i", counts[kept].tobytes())
            )
        self._rows = array("q", np.frombuffer(self._rows, np.int64)[alive].tobytes())
        self._documents = array("q", np.frombuffer(self._documents, np.int64)[alive].tobytes())
        self._lengths = array("i", np.frombuffer(self._lengths, np.int32)[alive].tobytes())
        self._slots = {row: slot for slot, row in enumerate(self._rows)}
        self._alive = bytearray(b"\x01" * len(self._rows))
