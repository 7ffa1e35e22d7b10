"""Builders of attempts, and fakes of the ledger's ports."""

import contextlib
import dataclasses
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from gateway.adapters.sql import sqlite_url
from gateway.core.attempts import Attempt, Outcome, Settled
from gateway.core.ledger import HOUR_S, spenders
from gateway.core.ledger_ports import LedgerFull, RowRefused
from servicekit.errors import Unavailable
from sqlalchemy.ext.asyncio import create_async_engine

NOON = 1_788_000_000.0 // HOUR_S * HOUR_S + 600
"""Ten minutes into an hour."""
POSTGRES = os.environ.get("PENSTOCK_TEST_POSTGRES", "")  # noqa: TID251  the one switch of these tests


def attempt(id_: str, **changes: Any) -> Attempt:
    values: dict[str, Any] = {
        "id": id_,
        "call_id": f"call-{id_}",
        "number": 1,
        "kind": "chat",
        "tenant": "acme",
        "project": "default",
        "key_id": "key-1",
        "principal": "tester",
        "model": "writer",
        "alias": "fast",
        "door": "rest",
        "started_at": NOON,
        "reserved_nanos": 900,
        "input_price_micros": 150_000,
        "output_price_micros": 600_000,
    }
    return Attempt(**values | changes)


def outcome(**changes: Any) -> Outcome:
    values: dict[str, Any] = {
        "status": "ok",
        "input_tokens": 10,
        "output_tokens": 5,
        "cost_nanos": 100,
        "reported": True,
    }
    return Outcome(**values | changes)


def settled(id_: str, ended_at: float = NOON + 1, *, result: Outcome | None = None, **changes: Any) -> Settled:
    return Settled(attempt(id_, **changes), result or outcome(), ended_at)


class FakeJournal:
    """Keeps lines in memory; `full` makes it take no begin."""

    def __init__(self) -> None:
        self.full = False
        self.begun: dict[str, Attempt] = {}
        self.ended: list[Settled] = []
        self.read_rows = 0
        self.refused: list[Settled] = []
        self.orphans: list[FakeOrphan] = []
        self.synced = 0

    def begin(self, attempt: Attempt) -> None:
        if self.full:
            raise LedgerFull("full")
        self.begun[attempt.id] = attempt

    def end(self, attempt_id: str, outcome: Outcome, ended_at: float) -> None:
        self.ended.append(Settled(self.begun.pop(attempt_id), outcome, ended_at))

    def read(self, limit: int) -> Sequence[Settled]:
        rows = self.ended[self.read_rows : self.read_rows + limit]
        self.read_rows += len(rows)
        return rows

    def forget(self) -> None:
        del self.ended[: self.read_rows]
        self.read_rows = 0

    def refuse(self, row: Settled) -> None:
        self.refused.append(row)

    def mend(self) -> None:
        pass

    def trouble(self) -> str | None:
        return "full" if self.full else None

    def size_bytes(self) -> int:
        return len(self.ended)

    def sync(self) -> None:
        self.synced += 1

    @contextlib.contextmanager
    def orphan(self) -> Iterator["FakeOrphan | None"]:
        yield next((orphan for orphan in self.orphans if not orphan.removed), None)


class FakeOrphan:
    """A dead process's journal."""

    def __init__(self, rows: list[Settled], unfinished: list[Attempt]) -> None:
        self.rows, self.open, self.removed, self.refused = rows, unfinished, False, []

    def read(self, limit: int) -> Sequence[Settled]:
        some, self.rows = self.rows[:limit], self.rows[limit:]
        return some

    def unfinished(self) -> Sequence[Attempt]:
        return self.open

    def refuse(self, row: Settled) -> None:
        self.refused.append(row)

    def remove(self) -> None:
        self.removed = True


class FakeLedgerStore:
    """Keeps rows in memory; `down` makes it unusable."""

    def __init__(self) -> None:
        self.rows_by_id: dict[str, Settled] = {}
        self.down = False
        self.pruned_nanos: list[tuple[tuple[str, str, int], int]] = []

    async def add(self, rows: Sequence[Settled]) -> None:
        self._use()
        if any(len(row.attempt.id) > 64 for row in rows):
            raise RowRefused("the attempt's id is too long")
        for row in rows:
            self.rows_by_id.setdefault(row.attempt.id, row)

    async def spent(self, subject_kind: str, subject_id: str, since_hour: int) -> int:
        self._use()
        costs = [
            (spender, row.outcome.cost_nanos) for row in self.rows_by_id.values() for spender in spenders(row.attempt)
        ]
        return sum(
            nanos
            for (kind, id_, hour), nanos in [*costs, *self.pruned_nanos]
            if (kind, id_) == (subject_kind, subject_id) and hour >= since_hour
        )

    async def prune(self, before: float, limit: int) -> int:
        self._use()
        old = sorted((row for row in self.rows_by_id.values() if row.attempt.started_at < before), key=_start)[:limit]
        for row in old:
            del self.rows_by_id[row.attempt.id]
            self.pruned_nanos += [(spender, row.outcome.cost_nanos) for spender in spenders(row.attempt)]
        return len(old)

    def _use(self) -> None:
        if self.down:
            raise Unavailable("the store is down", retry_after_s=1)


def _start(row: Settled) -> float:
    return row.attempt.started_at


@contextlib.asynccontextmanager
async def database(kind: str, folder: Path) -> AsyncIterator[str]:
    """Yield the URL of a new database: a SQLite file, or one on the PostgreSQL that a variable names."""
    if kind == "sqlite":
        yield sqlite_url(folder / "gateway.db")
        return
    if not POSTGRES:
        pytest.skip("PENSTOCK_TEST_POSTGRES names no PostgreSQL")
    url = sqlalchemy.make_url(POSTGRES)
    name = f"ledger_{os.urandom(6).hex()}"
    async with _server(url) as connection:
        await connection.exec_driver_sql(f"CREATE DATABASE {name}")
    try:
        yield url.set(drivername="postgresql", database=name).render_as_string(hide_password=False)
    finally:
        async with _server(url) as connection:
            await connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


@contextlib.asynccontextmanager
async def _server(url: sqlalchemy.URL) -> AsyncIterator[Any]:
    engine = create_async_engine(url.set(drivername="postgresql+asyncpg"), isolation_level="AUTOCOMMIT")
    try:
        async with engine.connect() as connection:
            yield connection
    finally:
        await engine.dispose()


def same(row: Settled, **changes: Any) -> Settled:
    """Return a row with another attempt: changes are the attempt's."""
    return dataclasses.replace(row, attempt=dataclasses.replace(row.attempt, **changes))


def break_files(folder: Path) -> None:
    """Overwrite every file of a folder, as a broken disk might."""
    for file in folder.iterdir():
        file.write_bytes(b"not a database, not at all" * 400)
