"""The dense index's promises, kept by Milvus Lite, a Milvus server, in memory and by the fake alike.

The server is the one that PENSTOCK_TEST_MILVUS names, such as http://127.0.0.1:19530.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from pydantic_settings import BaseSettings, SettingsConfigDict
from servicekit.errors import InvalidInput, Unavailable
from vector_search.adapters.milvus import ROWS_LISTED_AT_ONCE, MilvusLite, MilvusServer
from vector_search.core.exact import ExactIndex
from vector_search.core.ports import DenseIndex, Selection
from vector_search_fakes import DIMENSIONS, FakeDenseIndex

ROWS = 300
VECTORS = np.random.default_rng(7).normal(size=(ROWS, DIMENSIONS)).astype(np.float32)
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)
PASSAGES = [(row, row // 3) for row in range(1, ROWS + 1)]


class Servers(BaseSettings):
    """Real servers that tests may use: PENSTOCK_TEST_MILVUS is the URL of a Milvus server."""

    model_config = SettingsConfigDict(env_prefix="PENSTOCK_TEST_")
    milvus: str = ""


@contextmanager
def on_a_server() -> Iterator[MilvusServer]:
    """Yield an index of an installation of its own on the server, and remove what it made there."""
    url = Servers().milvus
    if not url:
        pytest.skip("PENSTOCK_TEST_MILVUS names no server")
    with MilvusServer(url, os.urandom(8).hex()) as opened:
        try:
            yield opened
        finally:
            for base in opened.bases():
                opened.drop(base)


@pytest.fixture(params=["lite", "server", "exact", "fake"])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DenseIndex]:
    if request.param == "fake":
        yield FakeDenseIndex()
        return
    if request.param == "exact":
        yield ExactIndex()
        return
    with MilvusLite(tmp_path / "index.db") if request.param == "lite" else on_a_server() as opened:
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
    with MilvusLite(tmp_path / "index.db") as index:
        index.create(1, DIMENSIONS)
        index.add(1, PASSAGES, VECTORS)
    with MilvusLite(tmp_path / "index.db") as index:
        index.create(1, DIMENSIONS)
        assert index.rows(1) == {row for row, _ in PASSAGES}
        assert index.search(1, VECTORS[:1], 1, None)[0][0][0] == 1


def test_memory_answers_what_milvus_answers(tmp_path: Path) -> None:
    """The same rows with scores within 1e-5, for vectors that are a little off length 1, alone and many together."""
    exact = ExactIndex()
    off = VECTORS * np.linspace(0.991, 1.009, ROWS, dtype=np.float32)[:, np.newaxis]
    with MilvusLite(tmp_path / "index.db") as milvus:
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


def test_two_installations_on_a_server_do_not_see_each_other() -> None:
    with on_a_server() as ours, on_a_server() as theirs:
        ours.create(1, DIMENSIONS)
        ours.add(1, PASSAGES[:5], VECTORS[:5])
        assert theirs.bases() == set()
        theirs.create(1, DIMENSIONS)
        theirs.drop(1)
        assert ours.rows(1) == {1, 2, 3, 4, 5}


def test_a_server_lists_every_row_of_a_large_base() -> None:
    count = 2 * ROWS_LISTED_AT_ONCE + 500
    vectors = np.random.default_rng(8).normal(size=(count, DIMENSIONS)).astype(np.float32)
    with on_a_server() as index:
        index.create(1, DIMENSIONS)
        index.add(1, [(row, row) for row in range(1, count + 1)], vectors)
        index.remove(1, range(5, 15))
        assert index.rows(1) == set(range(1, count + 1)) - set(range(5, 15))


def test_a_server_that_is_not_there_is_named_without_the_password() -> None:
    server = MilvusServer("http://root:secret-word@127.0.0.1:1/ours", "x")
    with pytest.raises(Unavailable, match=r"Milvus at http://127\.0\.0\.1:1 cannot be used") as caught:
        server.__enter__()
    assert "secret-word" not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_another_kind_of_address_is_refused() -> None:
    with pytest.raises(InvalidInput, match="HOST:PORT") as caught:
        MilvusServer("milvus:secret-word", "x")
    assert "secret-word" not in str(caught.value)
