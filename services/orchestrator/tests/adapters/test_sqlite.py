"""Provenance is kept in a real file, shared commits, and a full disk is said."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from orchestrator.adapters.sqlite import COMMIT_SECONDS, SqliteProvenanceStore
from orchestrator.core.answer import Answer, Grounded, Provenance, Rung, Written
from servicekit.errors import Conflict, Unavailable


def provenance(answer_id: str, tenant: str = "acme", created_at: float = 1_000.0) -> Provenance:
    written = Written(Grounded("t", (), None, declined=False, removed_citations=0), Rung.PASSAGES_ONLY)
    return Provenance(Answer(answer_id, written, (), (), ()), tenant, created_at, "rag", "t@1", "", "kb", 1, "", "")


@asynccontextmanager
async def opened(path: Path, max_pages: int = 1_000_000) -> AsyncIterator[SqliteProvenanceStore]:
    async with SqliteProvenanceStore(path, lambda each: each.answer.id.encode(), 1) as store:
        await store._run(lambda: store._connection.exec_driver_sql(f"PRAGMA max_page_count={max_pages}"))
        await store._run(store._connection.rollback)
        writing = asyncio.create_task(store.write())
        try:
            yield store
        finally:
            writing.cancel()
            await asyncio.wait([writing])


def commits() -> float:
    return next(sample.value for sample in COMMIT_SECONDS.collect()[0].samples if sample.name.endswith("_count"))


async def test_what_is_kept_is_found_again_by_its_tenant_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "provenance.db"
    async with opened(path) as store:
        await store.keep(provenance("ans_1"))
        assert await store.find("acme", "ans_1") == b"ans_1"
        assert await store.find("other", "ans_1") is None
        assert await store.find("acme", "ans_2") is None
    async with opened(path) as store:
        assert await store.find("acme", "ans_1") == b"ans_1"


async def test_answers_share_commits(tmp_path: Path) -> None:
    async with opened(tmp_path / "p.db") as store:
        before = commits()
        await asyncio.gather(*(store.keep(provenance(f"ans_{n}")) for n in range(200)))
        assert commits() - before <= 3
        assert await store.find("acme", "ans_199") is not None


async def test_what_is_old_is_deleted(tmp_path: Path) -> None:
    async with opened(tmp_path / "p.db") as store:
        await store.keep(provenance("old", created_at=10))
        await store.keep(provenance("new", created_at=20))
        assert await store.delete_before(15) == 1
        assert await store.find("acme", "old") is None
        assert await store.find("acme", "new") is not None


async def test_a_full_disk_is_said_and_got_over(tmp_path: Path) -> None:
    async with opened(tmp_path / "p.db", max_pages=40) as store:
        with pytest.raises(Unavailable) as raised:
            for n in range(10_000):
                await store.keep(provenance(f"ans_{n}" + "x" * 60))
        assert raised.value.reason == "storage_full"
        assert await store.find("acme", "ans_0" + "x" * 60) is not None
        assert await store.delete_before(2_000) > 0
        await store.keep(provenance("later"))
        assert await store.find("acme", "later") is not None


async def test_a_file_that_others_hold_is_unavailable_not_waited_for(tmp_path: Path) -> None:
    async with opened(tmp_path / "p.db") as store:
        other = sqlite3.connect(tmp_path / "p.db", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Unavailable) as raised:
            await store.keep(provenance("ans_1"))
        assert raised.value.reason == "storage_failed"
        other.execute("ROLLBACK")
        other.close()
        await store.keep(provenance("ans_2"))


async def test_a_file_of_a_newer_version_is_refused_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "provenance.db"
    async with opened(path):
        pass
    with sqlite3.connect(path) as file:
        file.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(Conflict, match=r"provenance\.db is of a version"):
        async with opened(path):
            pass
