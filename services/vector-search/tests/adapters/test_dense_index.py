"""The dense index's promises, kept by Milvus Lite, in memory and by the fake alike."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from vector_search.adapters.milvus import MilvusIndex
from vector_search.core.exact import ExactIndex
from vector_search.core.ports import DenseIndex, Selection
from vector_search_fakes import DIMENSIONS, FakeDenseIndex

ROWS = 300
VECTORS = np.random.default_rng(7).normal(size=(ROWS, DIMENSIONS)).astype(np.float32)
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)
PASSAGES = [(row, row // 3) for row in range(1, ROWS + 1)]


@pytest.fixture(params=["milvus", "exact", "fake"])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DenseIndex]:
    if request.param == "fake":
        yield FakeDenseIndex()
        return
    if request.param == "exact":
        yield ExactIndex()
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


def test_memory_answers_what_milvus_answers(tmp_path: Path) -> None:
    """The same rows with scores within 1e-5, for vectors that are a little off length 1, alone and many together."""
    exact = ExactIndex()
    off = VECTORS * np.linspace(0.991, 1.009, ROWS, dtype=np.float32)[:, np.newaxis]
    with MilvusIndex(tmp_path / "index.db") as milvus:
        for index in (milvus, exact):
            index.create(1, DIMENSIONS)
            index.add(1, PASSAGES[:200], off[:200])
            index.add(1, PASSAGES[200:], off[200:])
            index.remove(1, range(20, 60))
            index.settle(1)
        for selection in (None, Selection((1, 2, 50, 51)), Selection((1, 2, 50, 999), excluded=True)):
            for questions in (off[:1], off[:20]):
                answers = zip(*(index.search(1, questions, 20, selection) for index in (milvus, exact)), strict=True)
                for theirs, ours in answers:
                    assert [row for row, _ in ours] == [row for row, _ in theirs]
                    assert [score for _, score in ours] == pytest.approx([score for _, score in theirs], abs=1e-5)
