"""Reads usage out of the ledger's tables, over connections that write nothing and with a limit of time."""

import math
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import fields
from typing import Any, Final

import sqlalchemy
from servicekit.errors import TimedOut, Unavailable
from sqlalchemy import ColumnElement, Select, Table, event, func, literal
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.adapters.ledger_tables import SUMS, ledger, usage_hourly
from gateway.adapters.sql import open_engine
from gateway.core.attempts import Attempt, Outcome, Settled
from gateway.core.ledger import HOUR_S
from gateway.core.usage import Place, UsageQuery, UsageSum, microseconds

READERS: Final = 2
LIMIT_S: Final = 4.0
STEPS: Final = 20_000
"""SQLite asks after so many instructions, less than a millisecond, whether it should go on."""

DAY_H: Final = 24
_HOUR: Final = usage_hourly.c.hour
_GROUPS: Final[dict[str, ColumnElement[Any]]] = {
    "tenant": usage_hourly.c.tenant,
    "project": usage_hourly.c.project,
    "key": usage_hourly.c.key_id,
    "model": usage_hourly.c.model,
    "day": (_HOUR // DAY_H) * (DAY_H * HOUR_S),
    "hour": _HOUR * HOUR_S,
}
_ATTEMPT: Final = [field.name for field in fields(Attempt) if field.name != "started_at"]
_OUTCOME: Final = [field.name for field in fields(Outcome)]


class SqlUsage:
    """Answers questions about usage; raises TimedOut for one that takes longer than `limit_s` seconds."""

    def __init__(
        self, engine: AsyncEngine, limit_s: float = LIMIT_S, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = engine
        self._limit_s = limit_s
        self._clock_s = clock_s
        if engine.dialect.name == "sqlite":
            event.listen(engine.sync_engine, "connect", self._limit_connection)

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, limit_s: float = LIMIT_S) -> AsyncIterator["SqlUsage"]:
        """Open the database at a URL with connections that are for questions alone."""
        async with open_engine(url, READERS) as engine:
            yield cls(engine, limit_s)

    async def sums(self, query: UsageQuery, after: Place | None) -> Sequence[UsageSum]:
        """Return sums, sorted by group, after a place."""
        groups = [_GROUPS[name] for name in query.by]
        totals = [func.coalesce(func.sum(usage_hourly.c[name]), 0).label(name) for name in SUMS]
        first, last = int(query.since.timestamp()) // HOUR_S, -int(-query.until.timestamp() // HOUR_S)
        asked: Select[Any] = sqlalchemy.select(
            *(group.label(f"by_{name}") for group, name in zip(groups, query.by, strict=True)), *totals
        )
        asked = _narrowed(asked, usage_hourly, query).where(first <= _HOUR, last > _HOUR)
        if groups:
            asked = asked.group_by(*groups).order_by(*groups).limit(query.limit)
        if groups and after is not None:
            asked = asked.where(sqlalchemy.tuple_(*groups) > sqlalchemy.tuple_(*(literal(part) for part in after)))
        rows = await self._read(asked)
        return [_sum(row, query.by) for row in rows]

    async def rows(self, query: UsageQuery, after: Place | None) -> Sequence[Settled]:
        """Return rows, the latest first, after a place."""
        asked: Select[Any] = _narrowed(sqlalchemy.select(ledger), ledger, query).where(
            ledger.c.started_us >= microseconds(query.since.timestamp()),
            ledger.c.started_us < microseconds(query.until.timestamp()),
        )
        if query.call_id:
            asked = asked.where((ledger.c.call_id == query.call_id) | (ledger.c.retry_of == query.call_id))
        if after is not None:
            place = sqlalchemy.tuple_(*(literal(part) for part in after))
            asked = asked.where(sqlalchemy.tuple_(ledger.c.started_us, ledger.c.id) < place)
        asked = asked.order_by(ledger.c.started_us.desc(), ledger.c.id.desc()).limit(query.limit)
        return [_row(row) for row in await self._read(asked)]

    async def _read(self, asked: Select[Any]) -> Sequence[Any]:
        with _translated():
            async with self._engine.connect() as connection:
                await self._start(connection)
                rows: Sequence[Any] = (await connection.execute(asked)).all()
                return rows

    async def _start(self, connection: AsyncConnection) -> None:
        if self._engine.dialect.name == "postgresql":
            await connection.exec_driver_sql(f"SET LOCAL statement_timeout = {int(self._limit_s * 1000)}")
            return
        record = await connection.get_raw_connection()
        record.info["until_s"] = self._clock_s() + self._limit_s

    def _limit_connection(self, connection: Any, record: Any) -> None:
        """Have SQLite ask now and then whether the question has had its time; and let it write nothing."""

        def too_late() -> bool:
            until_s: float = record.info.get("until_s", math.inf)
            return self._clock_s() > until_s

        connection.run_async(lambda raw: raw.set_progress_handler(too_late, STEPS))
        cursor = connection.cursor()
        cursor.execute("PRAGMA query_only = ON")
        cursor.close()


def _narrowed(asked: Select[Any], table: Table, query: UsageQuery) -> Select[Any]:
    for name in ("tenant", "project", "key_id", "model"):
        if value := getattr(query, name):
            asked = asked.where(table.c[name] == value)
    return asked


def _sum(row: Any, by: Sequence[str]) -> UsageSum:
    found = row._asdict()
    return UsageSum(group={name: found[f"by_{name}"] for name in by}, **{name: int(found[name]) for name in SUMS})


def _row(row: Any) -> Settled:
    found = row._asdict()
    attempt = Attempt(**{name: found[name] for name in _ATTEMPT}, started_at=found["started_us"] / 1e6)
    return Settled(attempt, Outcome(**{name: found[name] for name in _OUTCOME}), found["ended_us"] / 1e6)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, OSError) as error:
        if _stopped(error):
            raise TimedOut("the question takes too long: ask for less time or fewer groups") from error
        message = "the ledger's database cannot be asked"
        raise Unavailable(message, reason="ledger_store_failed", retry_after_s=1) from error


def _stopped(error: Exception) -> bool:
    """Say whether a limit of time ended a statement: SQLite is interrupted, PostgreSQL cancels."""
    if isinstance(error, TimeoutError):
        return True
    return isinstance(error, DBAPIError) and (
        "interrupted" in str(error.orig) or "statement timeout" in str(error.orig)
    )
