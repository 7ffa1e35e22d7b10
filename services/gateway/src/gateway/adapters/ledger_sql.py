"""The ledger's rows and hourly sums in the gateway's database: SQLite or PostgreSQL."""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, fields
from operator import attrgetter, gt
from typing import Any, Final

import sqlalchemy
from servicekit.errors import Unavailable
from sqlalchemy import BigInteger, Boolean, Float, Select, String, func
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.adapters.ledger_tables import SUMS, ledger, usage_hourly
from gateway.adapters.sql import open_engine
from gateway.core.attempts import Attempt, Outcome, Settled
from gateway.core.ledger import HOUR_S
from gateway.core.ledger_ports import RowRefused
from gateway.core.retries import is_retry
from gateway.core.usage import microseconds

CHUNK: Final = 128
"""Rows of one statement: making it takes the event loop one to two milliseconds."""

WRITERS: Final = 2
LINK_US: Final = 24 * HOUR_S * 1_000_000
"""How long ago a call may be that is retried now, in microseconds."""

LARGEST: Final = 2**63 - 1
INSERTS: Final = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
SUM_LENGTHS: Final = (64, 64, 64, 256)
KEY: Final = tuple(column.name for column in usage_hourly.primary_key.columns)
Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Part:
    """The columns of one sort that one dataclass fills by name: fetched at once, for this is done for every row."""

    names: tuple[str, ...]
    lengths: tuple[int, ...]
    fetch: Callable[[object], tuple[Any, ...]]

    @classmethod
    def of(cls, kind: type, *sorts: type) -> "Part":
        """Return the part of the table that fields of a dataclass fill and that has columns of these sorts."""
        fillable = {field.name for field in fields(kind)}
        columns = [column for column in ledger.columns if column.name in fillable and isinstance(column.type, sorts)]
        names = tuple(column.name for column in columns)
        return cls(names, tuple(getattr(column.type, "length", 0) for column in columns), attrgetter(*names))


ATTEMPT_TEXTS: Final = Part.of(Attempt, String)
ATTEMPT_NUMBERS: Final = Part.of(Attempt, BigInteger)
OUTCOME_TEXTS: Final = Part.of(Outcome, String)
OUTCOME_NUMBERS: Final = Part.of(Outcome, BigInteger)
OUTCOME_REST: Final = Part.of(Outcome, Boolean, Float)


class SqlLedger:
    """Keeps rows. Adding them again changes nothing, so a batch whose answer was lost is added once more."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        insert: Any = INSERTS[engine.dialect.name]
        rows = insert(ledger).on_conflict_do_nothing(index_elements=["id"])
        self._add_rows = rows.returning(ledger.c.id)
        sums = insert(usage_hourly)
        more = {name: usage_hourly.c[name] + sums.excluded[name] for name in SUMS}
        self._add_sums = sums.on_conflict_do_update(index_elements=KEY, set_=more)

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator["SqlLedger"]:
        """Open the database at a URL with connections of the ledger's own, bringing its tables up to date first."""
        async with open_engine(url, WRITERS) as engine:
            yield cls(engine)

    async def add(self, rows: Sequence[Settled]) -> None:
        """Keep rows and add the new ones to the sums, in one transaction; raise RowRefused."""
        by_id = {row.attempt.id: row for row in rows}
        with _translated():
            async with self._engine.begin() as connection:
                values = list(by_id.values())
                fresh: list[Settled] = []
                for start in range(0, len(values), CHUNK):
                    chunk = [_values(row) for row in values[start : start + CHUNK]]
                    added = await connection.execute(self._add_rows, chunk)
                    fresh.extend(by_id[id_] for id_ in added.scalars())
                if fresh:
                    await self._count(connection, fresh)
                    await _link(connection, fresh)

    async def spent(self, subject_kind: str, subject_id: str, since_hour: int) -> int:
        """Return the nano-dollars of a subject since an hour, counted from 1970."""
        query = sqlalchemy.select(func.coalesce(func.sum(usage_hourly.c.cost_nanos), 0)).where(
            usage_hourly.c.hour >= since_hour
        )
        for name, value in _subject(subject_kind, subject_id).items():
            query = query.where(usage_hourly.c[name] == value)
        with _translated():
            async with self._engine.connect() as connection:
                return int((await connection.execute(query)).scalar_one())

    async def prune(self, before: float, limit: int) -> int:
        """Delete at most `limit` rows of attempts that began before a moment; sums stay. Return how many they were."""
        oldest = sqlalchemy.select(ledger.c.id).where(ledger.c.started_us < microseconds(before))
        some = oldest.order_by(ledger.c.started_us).limit(limit)
        with _translated():
            async with self._engine.begin() as connection:
                return (await connection.execute(sqlalchemy.delete(ledger).where(ledger.c.id.in_(some)))).rowcount

    async def _count(self, connection: AsyncConnection, rows: list[Settled]) -> None:
        """Add rows to the sums; in one order, so that two processes cannot wait for each other."""
        sums: dict[tuple[Any, ...], Values] = {}
        for row in rows:
            attempt = row.attempt
            names = _fitting((attempt.tenant, attempt.project, attempt.key_id, attempt.model), SUM_LENGTHS)
            tenant, *others = names
            key = (tenant, int(attempt.started_at) // HOUR_S, *others)
            found = sums.get(key)
            if found is None:
                found = sums[key] = dict(zip(KEY, key, strict=True)) | dict.fromkeys(SUMS, 0)
            _increase(found, row)
        await connection.execute(self._add_sums, [sums[key] for key in sorted(sums)])


async def _link(connection: AsyncConnection, rows: list[Settled]) -> None:
    """Find the calls that rows retry where the process did not know them: another one had served those."""
    for row in rows:
        attempt = row.attempt
        if attempt.retry_of or not is_retry(attempt.idempotency_key, attempt.retry_count):
            continue
        began = microseconds(attempt.started_at)
        earlier: Select[Any] = sqlalchemy.select(ledger.c.call_id).where(
            ledger.c.idempotency_key == attempt.idempotency_key,
            ledger.c.tenant == attempt.tenant,
            ledger.c.key_id == attempt.key_id,
            ledger.c.call_id != attempt.call_id,
            ledger.c.started_us >= began - LINK_US,
            ledger.c.started_us < began,
        )
        call_id = await connection.scalar(earlier.order_by(ledger.c.started_us.desc()).limit(1))
        if call_id is not None:
            await connection.execute(
                sqlalchemy.update(ledger).where(ledger.c.id == attempt.id).values(retry_of=call_id)
            )


def _increase(sums: Values, row: Settled) -> None:
    outcome = row.outcome
    sums["attempts"] += 1
    sums["calls"] += row.attempt.number == 1
    if outcome.status in SUMS:
        sums[outcome.status] += 1
    sums["input_tokens"] += outcome.input_tokens
    sums["output_tokens"] += outcome.output_tokens
    sums["cached_input_tokens"] += outcome.cached_input_tokens
    sums["cost_nanos"] += outcome.cost_nanos


def _subject(kind: str, id_: str) -> Mapping[str, str]:
    """Return the columns that name a subject; a project's id is `TENANT/PROJECT`."""
    if kind == "project":
        tenant, _, project = id_.partition("/")
        return {"tenant": tenant, "project": project}
    return {"tenant" if kind == "tenant" else "key_id": id_}


def _values(row: Settled) -> Values:
    """Return a row's columns; texts too long are cut, except its id. Raises RowRefused for what is no row."""
    attempt, outcome = row.attempt, row.outcome
    values: Values = {}
    try:
        for part, source in ((ATTEMPT_TEXTS, attempt), (OUTCOME_TEXTS, outcome)):
            values.update(zip(part.names, _fitting(part.fetch(source), part.lengths), strict=True))
        for part, source in ((ATTEMPT_NUMBERS, attempt), (OUTCOME_NUMBERS, outcome)):
            numbers = part.fetch(source)
            if max(numbers) > LARGEST or min(numbers) < -LARGEST:
                raise RowRefused("a number of the row is too large")
            values.update(zip(part.names, numbers, strict=True))
        values.update(zip(OUTCOME_REST.names, OUTCOME_REST.fetch(outcome), strict=True))
        values["started_us"], values["ended_us"] = microseconds(attempt.started_at), microseconds(row.ended_at)
    except TypeError as error:
        raise RowRefused("a value of the row is of another type") from error
    if values["id"] != attempt.id:
        raise RowRefused("the attempt's id is too long")
    return values


def _fitting(texts: tuple[str, ...], lengths: tuple[int, ...]) -> Iterable[str]:
    """Return texts as both databases can keep them; nearly always they are that already."""
    if "\0" not in "".join(texts) and not any(map(gt, map(len, texts), lengths)):
        return texts
    return [text[:length].replace("\0", "") for text, length in zip(texts, lengths, strict=True)]


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (DataError, IntegrityError) as error:
        raise RowRefused(f"a row does not fit the table: {type(error).__name__}") from error
    except (SQLAlchemyError, OSError) as error:
        message = "the ledger's database cannot be used"
        raise Unavailable(message, reason="ledger_store_failed", retry_after_s=1) from error
