"""The ledger's store on real databases; the same tests hold the fake to it."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy
from gateway.adapters.journal import FileJournal
from gateway.adapters.ledger_sql import SqlLedger
from gateway.adapters.ledger_tables import ledger, usage_hourly
from gateway.adapters.sql import migrate, open_engine
from gateway.core.attempts import Settled
from gateway.core.ledger import HOUR_S, Ledger
from gateway.core.ledger_ports import LedgerStore, RowRefused
from gateway.core.retries import fingerprint
from gateway_ledger_fakes import NOON, FakeLedgerStore, attempt, break_files, database, outcome, settled
from servicekit.errors import Unavailable
from sqlalchemy import event

HOUR = int(NOON) // HOUR_S


@pytest.fixture(params=["sqlite", "postgresql"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    async with database(request.param, tmp_path) as made:
        yield made


@pytest.fixture(params=["sqlite", "postgresql", "fake"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[LedgerStore]:
    if request.param == "fake":
        yield FakeLedgerStore()
        return
    async with database(request.param, tmp_path) as made, SqlLedger.open(made) as opened:
        yield opened


async def every(url: str, table: str = "ledger") -> list[dict[str, object]]:
    async with open_engine(url) as engine, engine.connect() as connection:
        rows = await connection.execute(sqlalchemy.text(f"SELECT * FROM {table}"))
        return [dict(row) for row in rows.mappings()]


async def test_rows_added_again_change_nothing(store: LedgerStore) -> None:
    rows = [settled(f"a{number}", result=outcome(cost_nanos=number)) for number in range(200)]
    await store.add(rows[:120])
    await store.add([*rows[100:], *rows[190:]])
    assert await store.spent("tenant", "acme", HOUR) == sum(range(200))


async def test_spent_is_by_subject_and_hour(store: LedgerStore) -> None:
    await store.add(
        [
            settled("a", tenant="t", project="p", key_id="k", result=outcome(cost_nanos=1)),
            settled("b", tenant="t", project="q", key_id="k", result=outcome(cost_nanos=10)),
            settled("c", tenant="u", project="p", key_id="l", result=outcome(cost_nanos=100)),
            settled(
                "d", tenant="t", project="p", key_id="k", started_at=NOON - HOUR_S, result=outcome(cost_nanos=10**15)
            ),
        ]
    )
    assert await store.spent("tenant", "t", HOUR) == 11
    assert await store.spent("tenant", "t", HOUR - 1) == 11 + 10**15
    assert await store.spent("project", "t/p", HOUR) == 1
    assert await store.spent("project", "u/p", HOUR) == 100
    assert await store.spent("key", "k", HOUR) == 11
    assert await store.spent("key", "' or '1'='1", 0) == 0


async def test_old_rows_go_in_batches_and_sums_stay(store: LedgerStore) -> None:
    await store.add([settled(f"a{number}", started_at=NOON - number) for number in range(10)])
    assert await store.prune(NOON - 4.5, 3) == 3
    assert await store.prune(NOON - 4.5, 3) == 2
    assert await store.prune(NOON - 4.5, 3) == 0
    assert await store.spent("tenant", "acme", 0) == 1000


async def test_a_row_that_fits_no_table_is_refused_and_takes_none_with_it(store: LedgerStore) -> None:
    with pytest.raises(RowRefused):
        await store.add([settled("good"), settled("x" * 65)])
    assert await store.spent("tenant", "acme", 0) == 0


@pytest.mark.parametrize("changes", [{"retry_count": 2**63}, {"model": 7}, {"started_at": "soon"}, {"number": None}])
async def test_values_of_another_type_or_size_are_refused(url: str, changes: dict[str, object]) -> None:
    async with SqlLedger.open(url) as store:
        with pytest.raises(RowRefused):
            await store.add([settled("a", **changes)])
        with pytest.raises(RowRefused):
            await store.add([settled("b", result=outcome(reported=None))])
        await store.add([settled("c")])


async def test_every_column_is_kept_and_texts_are_made_to_fit(url: str) -> None:
    result = outcome(
        status="cancelled", reason="client_gone", queue_ms=1.5, http_status=499, digest="sha256:" + "0" * 64
    )
    row = settled("a", NOON + 1.000001, result=result, alias="n\0ul" + "x" * 300, priority=2, retry_of="c0")
    async with SqlLedger.open(url) as store:
        await store.add([row])
    (found,) = await every(url)
    assert found["alias"] == ("nul" + "x" * 300)[:255]
    assert found["ended_us"] == NOON * 1e6 + 1_000_001
    assert found["queue_ms"] == 1.5
    assert found["first_token_ms"] is None
    assert (found["status"], found["http_status"], found["priority"]) == ("cancelled", 499, 2)
    assert found["digest"] == result.digest
    assert (found["retry_of"], found["input_price_micros"], bool(found["reported"])) == ("c0", 150_000, True)


async def test_sums_are_those_of_the_rows(url: str) -> None:
    def row(number: int) -> Settled:
        status = ("ok", "failed", "cancelled", "abandoned")[number % 4]
        result = outcome(status=status, cost_nanos=number, input_tokens=3 * number, cached_input_tokens=number)
        changes = {"model": f"m{number % 3}", "project": f"p{number % 2}", "number": 1 + number % 2}
        return settled(f"a{number}", result=result, started_at=NOON + 900.0 * number, **changes)

    rows = [row(number) for number in range(150)]
    async with SqlLedger.open(url) as one, SqlLedger.open(url) as other:
        await asyncio.gather(
            *(store.add(rows[start : start + 40]) for start in range(0, 150, 20) for store in (one, other))
        )
    sums = await every(url, "usage_hourly")
    for name in ("cost_nanos", "input_tokens", "cached_input_tokens"):
        assert sum(int(str(line[name])) for line in sums) == sum(getattr(row.outcome, name) for row in rows)
    assert sum(int(str(line["attempts"])) for line in sums) == 150
    assert sum(int(str(line["calls"])) for line in sums) == 75
    for status in ("failed", "cancelled", "abandoned"):
        assert sum(int(str(line[status])) for line in sums) == sum(row.outcome.status == status for row in rows)


async def test_retries_that_reach_another_process_are_linked_by_the_store(url: str) -> None:
    body, key = fingerprint("", b"{}"), fingerprint("idem", b"")
    async with SqlLedger.open(url) as one, SqlLedger.open(url) as other:
        await one.add([settled("a", idempotency_key=body), settled("b", idempotency_key=key)])
        await one.add([settled("old", started_at=NOON - 90_000, idempotency_key=fingerprint("", b"old"))])
        later = NOON + 5
        await other.add(
            [
                settled("a1", started_at=later, idempotency_key=body, retry_count=1),
                settled("a2", started_at=later, idempotency_key=body),
                settled("a3", started_at=later, idempotency_key=body, retry_count=1, key_id="other"),
                settled("b1", started_at=later, idempotency_key=key),
                settled("c1", started_at=later, idempotency_key=fingerprint("", b"old"), retry_count=3),
                settled("d1", started_at=later, idempotency_key=key, retry_of="known"),
            ]
        )
    links = {str(row["id"]): row["retry_of"] for row in await every(url)}
    assert links == {
        "a": "", "b": "", "old": "", "a1": "call-a", "a2": "", "a3": "", "b1": "call-b", "c1": "", "d1": "known"
    }  # fmt: skip


async def test_an_existing_database_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    with sqlite3.connect(path) as file:
        file.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        file.execute("INSERT INTO alembic_version VALUES ('0001')")
        file.execute(
            "CREATE TABLE api_keys (public_id VARCHAR(32) PRIMARY KEY, secret_hash VARCHAR(64) NOT NULL,"
            " tenant VARCHAR(64) NOT NULL, name VARCHAR(128) NOT NULL, scopes VARCHAR(512) NOT NULL,"
            " role VARCHAR(16) NOT NULL,"
            " created_at DATETIME NOT NULL, expires_at DATETIME, revoked_at DATETIME)"
        )
        file.execute("CREATE INDEX api_keys_by_tenant ON api_keys (tenant)")
    file.close()
    async with SqlLedger.open(f"sqlite:///{path}") as store:
        await store.add([settled("a")])
        assert await store.spent("tenant", "acme", HOUR) == 100


async def test_the_migration_makes_what_the_code_declares(url: str) -> None:
    async with open_engine(url) as engine, engine.connect() as connection:

        def described(sync: sqlalchemy.Connection) -> dict[str, set[str]]:
            found = sqlalchemy.inspect(sync)
            return {
                name: {str(column["name"]) for column in found.get_columns(name)} for name in ("ledger", "usage_hourly")
            }

        made = await connection.run_sync(described)
    assert made == {"ledger": set(ledger.columns.keys()), "usage_hourly": set(usage_hourly.columns.keys())}


async def test_a_locked_database_keeps_rows_in_the_journal_and_blocks_nobody(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'gateway.db'}"
    async with open_engine(url) as engine:
        event.listen(engine.sync_engine, "connect", _impatient)
        with FileJournal(tmp_path / "journal") as journal:
            ledger = Ledger(journal, SqlLedger(engine))
            with sqlite3.connect(tmp_path / "gateway.db") as file:
                file.execute("BEGIN IMMEDIATE")
                for number in range(50):
                    ledger.begin(attempt(str(number)))
                    ledger.end(str(number), outcome())
                with pytest.raises(Unavailable):
                    await ledger.flush()
                assert ledger.usable()
                file.rollback()
            file.close()
            await ledger.flush()
    assert len(await every(url)) == 50


def _impatient(connection: object, _: object) -> None:
    cursor = connection.cursor()  # type: ignore[attr-defined]
    cursor.execute("PRAGMA busy_timeout = 50")
    cursor.close()


async def test_a_broken_database_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    await migrate(f"sqlite:///{path}")
    async with SqlLedger.open(f"sqlite:///{path}") as store:
        break_files(tmp_path)
        with pytest.raises(Unavailable):
            await store.add([settled("a")])
        with pytest.raises(Unavailable):
            await store.spent("tenant", "acme", 0)
        with pytest.raises(Unavailable):
            await store.prune(NOON, 1)
