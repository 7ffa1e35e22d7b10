"""The ledger's rows and hourly sums in the gateway's database: SQLite or PostgreSQL."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from operator import add
from typing import Any, Final

import orjson
import sqlalchemy
from servicekit.errors import Unavailable
from sqlalchemy import ClauseElement, Select, func
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.adapters.ledger_tables import SUMS, ledger, usage_hourly
from gateway.adapters.ledger_values import COLUMNS, Values, column_values, fitting
from gateway.adapters.sql import Pace, open_engine
from gateway.core.attempts import ABANDONED, CANCELLED, FAILED, Settled
from gateway.core.ledger import HOUR_S
from gateway.core.ledger_ports import RowRefused
from gateway.core.retries import is_retry
from gateway.core.turns import in_turns
from gateway.core.usage import microseconds

SLICE: Final = 64
"""So many rows are prepared, in half a millisecond, before the event loop has its turn."""

WRITERS: Final = 3

TRIES: Final = 4
LINK_US: Final = 24 * HOUR_S * 1_000_000
"""How long ago a call may be that is retried now, in microseconds."""

INSERTS: Final = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
SUM_LENGTHS: Final = (64, 64, 64, 256)
NOTHING: Final = (0,) * len(SUMS)
KEY: Final = tuple(column.name for column in usage_hourly.primary_key.columns)
_NAMES: Final = ", ".join(COLUMNS)
_ON_CONFLICT: Final = "ON CONFLICT (id) DO NOTHING"
ADD_ROWS: Final = {
    "sqlite": f"INSERT INTO ledger ({_NAMES}) VALUES ({', '.join('?' * len(COLUMNS))}) {_ON_CONFLICT}",  # noqa: S608
    "postgresql": f"INSERT INTO ledger ({_NAMES}) SELECT {_NAMES}"  # noqa: S608  of constants alone
    f" FROM json_populate_recordset(NULL::ledger, $1::text::json) {_ON_CONFLICT}",
}
PRUNE: Final = {
    "sqlite": "DELETE FROM ledger WHERE id IN (SELECT id FROM ledger WHERE started_us < ? ORDER BY started_us LIMIT ?)",
    "postgresql": "DELETE FROM ledger WHERE id IN"
    " (SELECT id FROM ledger WHERE started_us < $1 ORDER BY started_us LIMIT $2)",
}
"""Fixed texts: what SQLAlchemy makes of so many values for each batch takes ten times as long as SQLite itself."""


class SqlLedger:
    """Keeps rows. Adding them again changes nothing, so a batch whose answer was lost is added once more."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._dialect = engine.dialect.name
        insert: Any = INSERTS[self._dialect](usage_hourly)
        more = {name: usage_hourly.c[name] + insert.excluded[name] for name in SUMS}
        self._add_sums = _text(insert.on_conflict_do_update(index_elements=KEY, set_=more), engine.dialect)

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator["SqlLedger"]:
        """Open the database at a URL with connections of the ledger's own, bringing its tables up to date first."""
        async with open_engine(url, WRITERS, Pace.BEHIND) as engine:
            yield cls(engine)

    async def add(self, rows: Sequence[Settled]) -> None:
        """Keep rows and add the new ones to the sums, in one transaction; raise RowRefused."""
        fresh = {row.attempt.id: row for row in rows}
        values = dict(zip(fresh, await in_turns(list(fresh.values()), column_values, SLICE), strict=True))
        with _translated():
            for _ in range(TRIES):
                if await self._add_new(list(fresh.values()), [values[id_] for id_ in fresh]):
                    return
                known = await self._known(list(fresh))
                fresh = {id_: row for id_, row in fresh.items() if id_ not in known}
        raise Unavailable("others add the same rows to the ledger", reason="ledger_store_failed", retry_after_s=1)

    async def _add_new(self, rows: list[Settled], values: list[Values]) -> bool:
        """Add rows and their sums; or nothing, and return False, when one of them is there already."""
        if not rows:
            return True
        given: Any = values if self._dialect == "sqlite" else (_as_json(values),)
        async with self._engine.connect() as connection:
            added = await connection.exec_driver_sql(ADD_ROWS[self._dialect], given)
            if added.rowcount != len(rows):
                return False
            await connection.exec_driver_sql(self._add_sums, _sums(rows))
            await _link(connection, rows)
            await connection.commit()
        return True

    async def _known(self, ids: list[str]) -> set[str]:
        async with self._engine.connect() as connection:
            return set((await connection.scalars(sqlalchemy.select(ledger.c.id).where(ledger.c.id.in_(ids)))).all())

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
        with _translated():
            async with self._engine.begin() as connection:
                return (await connection.exec_driver_sql(PRUNE[self._dialect], (microseconds(before), limit))).rowcount


def _text(statement: ClauseElement, dialect: Dialect) -> str:
    """Return a statement as text, with parameters in the order in which they stand in it."""
    return str(statement.compile(dialect=dialect))


def _as_json(values: list[Values]) -> str:
    return orjson.dumps([dict(zip(COLUMNS, row, strict=True)) for row in values]).decode()


def _sums(rows: list[Settled]) -> list[Values]:
    """Return what rows add to the sums; in one order, so that two processes cannot wait for each other."""
    sums: dict[tuple[int, Values], Values] = {}
    for row in rows:
        attempt = row.attempt
        names = (attempt.tenant, attempt.project, attempt.key_id, attempt.model)
        key = int(attempt.started_at) // HOUR_S, names
        sums[key] = tuple(map(add, sums.get(key, NOTHING), _counts(row)))
    keyed = [((tenant, hour, *others), found) for (hour, (tenant, *others)), found in _fitted(sums)]
    return [(*key, *found) for key, found in sorted(keyed)]


def _fitted(sums: Mapping[tuple[int, Values], Values]) -> Iterator[tuple[tuple[int, Values], Values]]:
    for (hour, names), found in sums.items():
        yield (hour, fitting(names, SUM_LENGTHS)), found


def _counts(row: Settled) -> Values:
    """Return what one row adds, in the order of `SUMS`."""
    outcome = row.outcome
    return (
        1,
        row.attempt.number == 1,
        outcome.status == CANCELLED,
        outcome.status == FAILED,
        outcome.status == ABANDONED,
        outcome.input_tokens,
        outcome.output_tokens,
        outcome.cached_input_tokens,
        outcome.cost_nanos,
    )


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


def _subject(kind: str, id_: str) -> Mapping[str, str]:
    """Return the columns that name a subject; a project's id is `TENANT/PROJECT`."""
    if kind == "project":
        tenant, _, project = id_.partition("/")
        return {"tenant": tenant, "project": project}
    return {"tenant" if kind == "tenant" else "key_id": id_}


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (DataError, IntegrityError) as error:
        raise RowRefused(f"a row does not fit the table: {type(error).__name__}") from error
    except (SQLAlchemyError, OSError) as error:
        message = "the ledger's database cannot be used"
        raise Unavailable(message, reason="ledger_store_failed", retry_after_s=1) from error
