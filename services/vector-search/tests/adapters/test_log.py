"""The log's promises, kept by SQLite and by the fake alike."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from servicekit.errors import Unavailable
from vector_search.adapters.sqlite import SchemaTooNew, SqliteLog
from vector_search.core.knowledge import KnowledgeBase
from vector_search.core.ports import BaseCreated, BaseDeleted, DocumentDropped, DocumentPut, Log, Numbers
from vector_search_fakes import ENCODER, FakeLog, entry_of

BASE = KnowledgeBase(1, "acme'; DROP TABLE base; --", "kb", ENCODER, 1, datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture(params=["sqlite", "fake"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Log]:
    if request.param == "fake":
        yield FakeLog()
        return
    with SqliteLog(tmp_path / "log.sqlite") as opened:
        yield opened


def test_gives_back_what_it_took(log: Log) -> None:
    entry = entry_of("d", "red 'fox'", "bläu\x00 hen", metadata={"a": 1.5, "b": True, "c": "x"}).numbered(1, 1)
    log.commit([BaseCreated(BASE), DocumentPut(BASE, 2, entry, None)])
    [base] = log.bases()
    assert (base.tenant, base.encoder, base.revision) == (BASE.tenant, ENCODER, 2)
    assert (base.document_count, base.chunk_count, base.created_at) == (1, 2, BASE.created_at)
    assert log.documents(1, "", 10) == [entry.document]
    assert log.documents(1, "d", 10) == []
    assert log.chunks(1) == list(entry.chunks)
    assert list(log.texts(1)) == [(entry.document, 1, ["red 'fox'", "bläu\x00 hen"])]
    assert log.rows(1) == [1, 2]
    assert log.rows(99) == []
    assert log.passages([2, 99])[2].chunk == entry.chunks[1]
    [(passages, vectors)] = list(log.vectors(1, [2, 99]))
    assert [passage.row for passage in passages] == [2]
    assert np.array_equal(vectors, entry.vectors[1:])
    assert log.numbers() == Numbers(1, 1, 2)


def test_replaces_drops_and_deletes_without_giving_numbers_back(log: Log) -> None:
    first, second = entry_of("d", "red").numbered(1, 1), entry_of("d", "blue", "hen").numbered(2, 2)
    log.commit([BaseCreated(BASE), DocumentPut(BASE, 2, first, None)])
    log.commit([DocumentPut(BASE, 3, second, first.document)])
    assert log.passages([1]) == {}
    assert [chunk.text for chunk in log.chunks(2)] == ["blue", "hen"]
    log.commit([DocumentDropped(BASE, 4, second.document)])
    assert log.documents(1, "", 10) == []
    log.commit([BaseDeleted(BASE)])
    assert log.bases() == []
    assert log.last_revision(BASE.tenant, "kb") == 4
    assert log.last_revision("other", "kb") == 0
    assert log.numbers() == Numbers(1, 2, 3)


def test_survives_a_restart(tmp_path: Path) -> None:
    with SqliteLog(tmp_path / "log.sqlite") as log:
        log.commit([BaseCreated(BASE), DocumentPut(BASE, 2, entry_of("d", "red").numbered(1, 1), None)])
        log.commit([DocumentDropped(BASE, 3, entry_of("d", "red").numbered(1, 1).document)])
    with SqliteLog(tmp_path / "log.sqlite") as log:
        assert log.bases()[0].revision == 3
        assert log.numbers() == Numbers(1, 1, 1)


def test_a_full_disk_stores_nothing_and_the_log_lives(tmp_path: Path) -> None:
    with SqliteLog(tmp_path / "log.sqlite") as log:
        log.commit([BaseCreated(BASE)])
        log.limit_size(1)
        with pytest.raises(Unavailable) as raised:
            log.commit([DocumentPut(BASE, 2, entry_of("d", *["red " * 2_000] * 20).numbered(1, 1), None)])
        assert raised.value.reason == "storage_full"
        assert log.bases()[0].revision == 1
        log.limit_size(1_000_000)
        log.commit([DocumentPut(BASE, 2, entry_of("d", "red").numbered(1, 1), None)])
        assert log.bases()[0].document_count == 1


def test_a_log_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    with SqliteLog(tmp_path / "log.sqlite") as log:
        log._writer.execute("PRAGMA user_version = 99")
    with pytest.raises(SchemaTooNew, match="99"), SqliteLog(tmp_path / "log.sqlite"):
        pass
