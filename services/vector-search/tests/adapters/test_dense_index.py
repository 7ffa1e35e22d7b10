"""The dense index's promises, kept by Milvus Lite and by the fake alike."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from vector_search.adapters.milvus import MilvusIndex
from vector_search.core.ports import DenseIndex, Selection
from vector_search_fakes import DIMENSIONS, FakeDenseIndex

ROWS = 300
VECTORS = np.random.default_rng(7).normal(size=(ROWS, DIMENSIONS)).astype(np.float32)
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)
PASSAGES = [(row, row // 3) for row in range(1, ROWS + 1)]


@pytest.fixture(params=["milvus", "fake"])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DenseIndex]:
    if request.param == "fake":
        yield FakeDenseIndex()
        return
    with MilvusIndex(tmp_path / "index.db") as opened:
        yield opened


def nearest(rows: list[int], question: int, limit: int) -> list[int]:
    return sorted(rows, key=lambda row: -float(VECTORS[row - 1] @ VECTORS[question]))[:limit]


def test_is_exact_before_and_after_settling(index: DenseIndex) -> None:
    index.create(1, DIMENSIONS)
    index.add(1, PASSAGES, VECTORS)
    every = [row for row, _ in PASSAGES]
    for _ in range(2):
        answers = index.search(1, VECTORS[:4], 10, None)
        assert [[row for row, _ in answer] for answer in answers] == [nearest(every, n, 10) for n in range(4)]
        assert answers[0][0][1] == pytest.approx(1.0, abs=1e-5)
        index.settle(1)


def test_is_exact_within_a_selection_and_after_removal(index: DenseIndex) -> None:
    index.create(1, DIMENSIONS)
    index.add(1, PASSAGES, VECTORS)
    index.settle(1)
    index.remove(1, [1, 2, 3, 999])
    chosen = Selection((1, 2, 50))
    rows = [row for row, document in PASSAGES if document in chosen.documents and row > 3]
    assert [row for row, _ in index.search(1, VECTORS[:1], 20, chosen)[0]] == nearest(rows, 0, 20)
    others = [row for row, document in PASSAGES if document not in chosen.documents and row > 3]
    found = index.search(1, VECTORS[:1], 20, Selection(chosen.documents, excluded=True))[0]
    assert [row for row, _ in found] == nearest(others, 0, 20)


def test_bases_share_nothing(index: DenseIndex) -> None:
    for base in (1, 2):
        index.create(base, DIMENSIONS)
        index.create(base, DIMENSIONS)
    index.add(1, PASSAGES[:10], VECTORS[:10])
    assert index.rows(1) == {row for row, _ in PASSAGES[:10]}
    assert index.rows(2) == set()
    assert index.search(2, VECTORS[:1], 5, None) == [[]]
    index.drop(1)
    index.drop(1)
    assert index.bases() == {2}


def test_a_row_added_again_is_there_once(index: DenseIndex) -> None:
    index.create(1, DIMENSIONS)
    index.add(1, PASSAGES[:5], VECTORS[:5])
    index.settle(1)
    index.add(1, PASSAGES[:5], VECTORS[5:10])
    assert index.rows(1) == {1, 2, 3, 4, 5}
    assert index.search(1, VECTORS[5:6], 1, None)[0][0][0] == 1


def test_milvus_can_be_searched_after_a_restart(tmp_path: Path) -> None:
    with MilvusIndex(tmp_path / "index.db") as index:
        index.create(1, DIMENSIONS)
        index.add(1, PASSAGES, VECTORS)
    with MilvusIndex(tmp_path / "index.db") as index:
        index.create(1, DIMENSIONS)
        assert index.rows(1) == {row for row, _ in PASSAGES}
        assert index.search(1, VECTORS[:1], 1, None)[0][0][0] == 1
