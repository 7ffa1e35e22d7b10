"""Reads usage out of the ledger's tables, one question at a time, over a connection that writes nothing."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, fields
from typing import Any, Final

import orjson
import sqlalchemy
from servicekit.errors import TimedOut, Unavailable
from sqlalchemy import BigInteger, ColumnElement, Select, String, Subquery, Table, Text, bindparam, cast, event, func
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.adapters.ledger_tables import SUMS, ledger, usage_hourly
from gateway.adapters.sql import Pace, open_engine
from gateway.core.attempts import Attempt, Outcome, Settled
from gateway.core.ledger import HOUR_S
from gateway.core.turns import in_turns
from gateway.core.usage import Place, UsageQuery, UsageSum, microseconds

LIMIT_S: Final = 4.0
MOST_WAITING: Final = 16
STEPS: Final = 1_000_000
"""SQLite asks after so many instructions, some ten milliseconds, whether it should go on."""

PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 1.0
PAUSE_PER_S: Final = 9
"""From the end of one question to the next it is so many times as long as that one took, within these limits: however
many ask, a tenth of the time goes to questions, and more only to those that take over 0.1 s.
"""

MOST_QUESTIONS: Final = 256
DAY_H: Final = 24
FILTERS: Final = ("tenant", "project", "key_id", "model")
_HOUR: Final = usage_hourly.c.hour
_GROUPS: Final[dict[str, ColumnElement[Any]]] = {
    "tenant": usage_hourly.c.tenant,
    "project": usage_hourly.c.project,
    "key": usage_hourly.c.key_id,
    "model": usage_hourly.c.model,
    "day": (_HOUR // DAY_H) * (DAY_H * HOUR_S),
    "hour": _HOUR * HOUR_S,
}
_ATTEMPT: Final = tuple(field.name for field in fields(Attempt) if field.name != "started_at")
_OUTCOME: Final = tuple(field.name for field in fields(Outcome) if field.name != "reported")
_COLUMNS: Final = (*_ATTEMPT, *_OUTCOME, "reported", "started_us", "ended_us")


@dataclass(frozen=True, slots=True)
class Shape:
    """What questions have in common that differ in their values alone: `by` groups, or rows where it is None."""

    by: tuple[str, ...] | None
    filters: tuple[str, ...]
    paged: bool
    of_call: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """A statement whose answer is one text of JSON, its parameters' names in order, and those that are the same always.

    SQLite makes that text without Python's lock; of a hundred rows in Python each would take it.
    """

    text: str
    names: tuple[str, ...]
    constants: Mapping[str, Any]

    def parameters(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the parameters in order."""
        return tuple([values[name] if name in values else self.constants[name] for name in self.names])


class SqlUsage:
    """Answers questions about usage; raises TimedOut for one that takes longer than `limit_s` seconds.

    One is answered at a time. At most sixteen wait, as long; of more it raises Unavailable.
    """

    def __init__(
        self, engine: AsyncEngine, limit_s: float = LIMIT_S, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = engine
        self._limit_s = limit_s
        self._clock_s = clock_s
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._questions: dict[Shape, Question] = {}
        if engine.dialect.name == "sqlite":
            event.listen(engine.sync_engine, "connect", self._limit_connection)

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, limit_s: float = LIMIT_S) -> AsyncIterator["SqlUsage"]:
        """Open the database at a URL with a connection that is for questions alone, and has idle time alone."""
        async with open_engine(url, 1, Pace.IDLE) as engine:
            yield cls(engine, limit_s)

    async def sums(self, query: UsageQuery, after: Place | None) -> Sequence[UsageSum]:
        """Return sums, sorted by group, after a place."""
        first, last = int(query.since.timestamp()) // HOUR_S, -int(-query.until.timestamp() // HOUR_S)
        shape = Shape(query.by, _filters(query), after is not None)
        found = await self._read(shape, _values(query, after) | {"first": first, "last": last})
        return await in_turns(found, lambda row: _sum(row, query.by))

    async def rows(self, query: UsageQuery, after: Place | None) -> Sequence[Settled]:
        """Return rows, the latest first, after a place."""
        first, last = microseconds(query.since.timestamp()), microseconds(query.until.timestamp())
        shape = Shape(None, _filters(query), after is not None, bool(query.call_id))
        found = await self._read(shape, _values(query, after) | {"first": first, "last": last})
        return await in_turns(found, _row)

    async def _read(self, shape: Shape, values: Mapping[str, Any]) -> list[list[Any]]:
        question = self._questions.get(shape)
        if question is None:
            if len(self._questions) >= MOST_QUESTIONS:
                self._questions.clear()
            question = self._questions[shape] = _question(shape, self._engine.dialect)
        async with self._next():
            with _translated():
                async with self._engine.connect() as connection:
                    await self._start(connection)
                    answer = await connection.exec_driver_sql(question.text, question.parameters(values))
                    text = answer.scalar_one()
        found: list[list[Any]] = orjson.loads(text or "[]")
        return found

    @asynccontextmanager
    async def _next(self) -> AsyncIterator[None]:
        """Wait for the questions before this one."""
        busy = Unavailable("others ask about usage now", reason="usage_busy", retry_after_s=1)
        if self._waiting >= MOST_WAITING:
            raise busy
        self._waiting += 1
        try:
            async with asyncio.timeout(self._limit_s):
                await self._turn.acquire()
        except TimeoutError as error:
            raise busy from error
        finally:
            self._waiting -= 1
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        try:
            yield
        finally:
            loop.call_later(pause_s(loop.time() - start_s), self._turn.release)

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


def pause_s(took_s: float) -> float:
    """Return for how many seconds nothing is asked after a question that took so many."""
    return min(max(PAUSE_S, PAUSE_PER_S * took_s), LONGEST_PAUSE_S)


def _filters(query: UsageQuery) -> tuple[str, ...]:
    return tuple(name for name in FILTERS if getattr(query, name))


def _values(query: UsageQuery, after: Place | None) -> dict[str, Any]:
    values = {name: getattr(query, name) for name in (*FILTERS, "call_id")} | {"most": query.limit}
    return values | {f"after_{number}": part for number, part in enumerate(after or ())}


def _question(shape: Shape, dialect: Dialect) -> Question:
    inner = (_of_rows(shape) if shape.by is None else _of_sums(shape, shape.by)).subquery()
    compiled: Any = _as_json(inner, dialect).compile(dialect=dialect)
    return Question(str(compiled), tuple(compiled.positiontup), dict(compiled.params))


def _as_json(inner: Subquery, dialect: Dialect) -> Select[Any]:
    if dialect.name == "sqlite":
        return sqlalchemy.select(func.json_group_array(func.json_array(*inner.c)))
    return sqlalchemy.select(cast(func.json_agg(func.json_build_array(*inner.c)), Text))


def _of_sums(shape: Shape, by: tuple[str, ...]) -> Select[Any]:
    groups = [_GROUPS[name] for name in by]
    totals = [cast(func.coalesce(func.sum(usage_hourly.c[name]), 0), BigInteger).label(name) for name in SUMS]
    labelled = (group.label(f"by_{name}") for group, name in zip(groups, by, strict=True))
    asked = _narrowed(sqlalchemy.select(*labelled, *totals), usage_hourly, shape)
    asked = asked.where(bindparam("first", type_=BigInteger) <= _HOUR, bindparam("last", type_=BigInteger) > _HOUR)
    if groups:
        asked = asked.group_by(*groups).order_by(*groups).limit(bindparam("most"))
    if groups and shape.paged:
        asked = asked.where(sqlalchemy.tuple_(*groups) > sqlalchemy.tuple_(*_place(groups)))
    return asked


def _of_rows(shape: Shape) -> Select[Any]:
    start, id_ = ledger.c.started_us, ledger.c.id
    asked = _narrowed(sqlalchemy.select(*(ledger.c[name] for name in _COLUMNS)), ledger, shape)
    asked = asked.where(start >= bindparam("first"), start < bindparam("last"))
    if shape.of_call:
        call_id: ColumnElement[str] = bindparam("call_id", type_=String)
        asked = asked.where((ledger.c.call_id == call_id) | (ledger.c.retry_of == call_id))
    if shape.paged:
        asked = asked.where(sqlalchemy.tuple_(start, id_) < sqlalchemy.tuple_(*_place([start, id_])))
    return asked.order_by(start.desc(), id_.desc()).limit(bindparam("most"))


def _place(columns: Sequence[ColumnElement[Any]]) -> list[ColumnElement[Any]]:
    return [bindparam(f"after_{number}", type_=column.type) for number, column in enumerate(columns)]


def _narrowed(asked: Select[Any], table: Table, shape: Shape) -> Select[Any]:
    return asked.where(*(table.c[name] == bindparam(name) for name in shape.filters))


def _sum(row: list[Any], by: Sequence[str]) -> UsageSum:
    groups = dict(zip(by, row, strict=False))
    return UsageSum(group=groups, **dict(zip(SUMS, row[len(by) :], strict=True)))


def _row(row: list[Any]) -> Settled:
    *_, reported, started_us, ended_us = row
    attempt = Attempt(**dict(zip(_ATTEMPT, row, strict=False)), started_at=started_us / 1e6)
    outcome = Outcome(**dict(zip(_OUTCOME, row[len(_ATTEMPT) :], strict=False)), reported=bool(reported))
    return Settled(attempt, outcome, ended_us / 1e6)


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
