"""An exact dense index in memory: the product of a question with every vector of a knowledge base."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from servicekit.errors import Unavailable

from vector_search.core.fusion import Ranking
from vector_search.core.knowledge import Vectors
from vector_search.core.ports import Selection

SHORT_PRODUCT: Final = 8_000
"""Rows times questions that take less than 0.3 ms (384 dimensions, one thread)."""
FEW_QUESTIONS: Final = 8
"""Below this a product for each question is cheaper than one for all, for which BLAS copies the matrix first."""
SHORTEST: Final = np.float32(1e-30)
LEAST_ROOM: Final = 64
LEAST_DEAD_TO_COMPACT: Final = 512


class _Matrix:
    """Vectors of length 1 in slots that are filled in order; a removed row's slot is dead.

    A search reads `size` once and sees what was there then, while the one thread that changes it goes on.
    """

    def __init__(self, dimensions: int, capacity: int) -> None:
        self.rows = np.zeros(capacity, np.int64)
        self.documents = np.zeros(capacity, np.int64)
        self.vectors = np.zeros((capacity, dimensions), np.float32)
        self.alive = np.zeros(capacity, np.bool_)
        self.size = 0

    def room(self) -> int:
        return len(self.rows) - self.size

    def living(self) -> int:
        return int(np.count_nonzero(self.alive[: self.size]))

    def append(self, rows: npt.NDArray[np.int64], documents: npt.NDArray[np.int64], vectors: Vectors) -> None:
        filled = slice(self.size, self.size + len(rows))
        self.rows[filled], self.documents[filled], self.vectors[filled] = rows, documents, vectors
        self.alive[filled] = True
        self.size = filled.stop

    def copied(self, room: int) -> "_Matrix":
        """Return a matrix of the living with so much room behind them."""
        kept = np.flatnonzero(self.alive[: self.size])
        grown = _Matrix(self.vectors.shape[1], len(kept) + room)
        grown.append(self.rows[kept], self.documents[kept], self.vectors[kept])
        return grown


class ExactIndex:
    """The dense index of `ports` for knowledge bases that are small enough to be looked at as a whole."""

    def __init__(self) -> None:
        self._matrices: dict[int, _Matrix] = {}

    def bases(self) -> set[int]:
        """Return the numbers of the knowledge bases it has."""
        return set(self._matrices)

    def holds(self, base: int) -> bool:
        """Say whether it has a knowledge base."""
        return base in self._matrices

    def count(self, base: int) -> int:
        """Return how many rows it holds of a knowledge base."""
        return self._matrices[base].living()

    def size_bytes(self) -> int:
        """Return the bytes of all vectors, the room behind them included."""
        return sum(matrix.vectors.nbytes for matrix in list(self._matrices.values()))

    def create(self, base: int, dimensions: int) -> None:
        """Make room for a knowledge base; one that is there is left alone."""
        self._matrices.setdefault(base, _Matrix(dimensions, 0))

    def fill(self, base: int, passages: Sequence[tuple[int, int]], vectors: Vectors) -> None:
        """Show a knowledge base that it did not have, at once and as a whole."""
        matrix = _Matrix(vectors.shape[1], len(passages))
        pairs = np.array(passages, np.int64).reshape(-1, 2)
        matrix.append(pairs[:, 0], pairs[:, 1], _unit(vectors))
        self._matrices[base] = matrix

    def drop(self, base: int) -> None:
        """Forget a knowledge base."""
        self._matrices.pop(base, None)

    def add(self, base: int, passages: Sequence[tuple[int, int]], vectors: Vectors) -> None:
        """Add (row, document number) with their vectors; a row that is there is replaced."""
        pairs = np.array(passages, np.int64).reshape(-1, 2)
        self.remove(base, pairs[:, 0])
        matrix = self._matrices[base]
        if matrix.room() < len(pairs):
            # Filled at once there is no room left over; what grows has an eighth to grow into.
            spare = max(LEAST_ROOM, matrix.size // 8) if matrix.size else 0
            matrix = matrix.copied(len(pairs) + spare)
        matrix.append(pairs[:, 0], pairs[:, 1], _unit(vectors))
        self._matrices[base] = matrix

    def remove(self, base: int, rows: Sequence[int] | npt.NDArray[np.int64]) -> None:
        """Remove rows; unknown ones are no error."""
        matrix = self._matrices[base]
        gone = np.isin(matrix.rows[: matrix.size], np.asarray(rows, np.int64))
        matrix.alive[: matrix.size][gone] = False
        living = matrix.living()
        if matrix.size - living > max(LEAST_DEAD_TO_COMPACT, living):
            self._matrices[base] = matrix.copied(LEAST_ROOM)

    def settle(self, base: int) -> None:
        """Do nothing: what is there is always fast to search."""

    def rows(self, base: int) -> set[int]:
        """Return every row it holds of a knowledge base."""
        matrix = self._matrices[base]
        return set(matrix.rows[: matrix.size][matrix.alive[: matrix.size]].tolist())

    def at_once(self, base: int, questions: int) -> bool:
        """Say whether so many questions take so little that a thread would cost more."""
        matrix = self._matrices.get(base)
        return matrix is not None and matrix.size * questions <= SHORT_PRODUCT

    def search(self, base: int, vectors: Vectors, limit: int, selection: Selection | None) -> list[Ranking]:
        """Return for each vector at most `limit` rows with their cosine, nearest first, ties by row.

        Raises Unavailable when it does not have the knowledge base.
        """
        matrix = self._matrices.get(base)
        if matrix is None:
            raise Unavailable(f"knowledge base {base} is not in memory", reason="index_failed")
        size = matrix.size
        wanted = matrix.alive[:size]
        if selection is not None:
            chosen = np.array(selection.documents, np.int64)
            wanted = wanted & np.isin(matrix.documents[:size], chosen, invert=selection.excluded)
        count = min(limit, int(np.count_nonzero(wanted)))
        unwanted = None if wanted.all() else ~wanted
        answers: list[Ranking] = []
        for scores in _products(matrix.vectors[:size], _unit(vectors)):
            if unwanted is not None:
                scores[unwanted] = -np.inf
            answers.append(_best(matrix.rows[:size], scores, count))
        return answers


def _unit(vectors: Vectors) -> Vectors:
    """Return the vectors with length 1: what callers send may be a hundredth off."""
    lengths = np.sqrt(np.vecdot(vectors, vectors))
    return np.asarray(vectors / np.maximum(lengths, SHORTEST)[:, np.newaxis], np.float32)


def _products(stored: Vectors, questions: Vectors) -> Sequence[Vectors] | Vectors:
    """Return the scores of each question, to be written to."""
    if len(questions) < FEW_QUESTIONS:
        return [stored @ question for question in questions]
    return np.asarray(questions @ stored.T, np.float32)


def _best(rows: npt.NDArray[np.int64], scores: Vectors, count: int) -> Ranking:
    if count == 0:
        return []
    found = np.argpartition(scores, scores.size - count)[scores.size - count :]
    nearest = sorted(zip((-scores[found]).tolist(), rows[found].tolist(), strict=True))
    return [(row, -negative) for negative, row in nearest]
