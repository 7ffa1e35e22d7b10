"""Keeps provenance in SQLite; the answers that wait while one commit runs share the next."""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from servicekit.errors import Conflict, Unavailable
from servicekit.telemetry.metrics import SHORT_BUCKETS_S, histogram
from sqlalchemy import (
    Column,
    Connection,
    Executable,
    Float,
    LargeBinary,
    MetaData,
    String,
    Table,
    create_engine,
    delete,
    event,
    insert,
    select,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from orchestrator.core.answer import Provenance

MIGRATIONS: Final = Path(__file__).parent / "migrations"
KEEP_TIMEOUT_S: Final = 2.0
MAX_BATCH: Final = 256
MIN_GAP_S: Final = 0.008
MAX_GAP_S: Final = 0.032
EXPIRY_PERIOD_S: Final = 3600.0
FULL: Final = ("database or disk is full", "no space left", "disk i/o error")
DAY_S: Final = 86_400.0

COMMIT_SECONDS = histogram(
    "penstock_orchestrator_provenance_commit_seconds", "Duration of commits", (), SHORT_BUCKETS_S
)
log = logging.getLogger(__name__)
table = Table(
    "provenance",
    MetaData(),
    Column("id", String(64), primary_key=True),
    Column("tenant", String(255), nullable=False),
    Column("created_at", Float, nullable=False, index=True),
    Column("content", LargeBinary, nullable=False),
)
INSERT: Final = insert(table)
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class _Waiting:
    row: dict[str, Any]
    committed: asyncio.Future[None]


class SqliteProvenanceStore:
    """A SQLite file behind the ProvenanceStore port; `write` and `expire` have to run in the background.

    One thread owns the file: a commit costs a third of what it does through SQLAlchemy's asyncio layer. Commits survive
    the end of the process; as the WAL is not synced at each of them, a power cut may lose the last ones.
    """

    def __init__(self, path: Path, encode: Callable[[Provenance], bytes], retention_days: float) -> None:
        """Take the file, how a provenance becomes bytes, and how many days it is kept (0: for ever)."""
        self._path = path
        self._encode = encode
        self._retention_s = retention_days * DAY_S
        self._waiting: list[_Waiting] = []
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "provenance")
        self._connection: Connection

    async def __aenter__(self) -> Self:
        """Bring the file's schema up to date and open it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = await self._run(open_file, self._path)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the file."""
        await self._run(close_file, self._connection)
        self._thread.shutdown()

    async def keep(self, provenance: Provenance) -> None:
        """Return when it is committed; raise Unavailable (storage_full, storage_failed) when it cannot be."""
        committed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        row = {
            "id": provenance.answer.id,
            "tenant": provenance.tenant,
            "created_at": provenance.created_at,
            "content": self._encode(provenance),
        }
        self._waiting.append(_Waiting(row, committed))
        self._wake.set()
        try:
            async with asyncio.timeout(KEEP_TIMEOUT_S):
                await committed
        except TimeoutError as error:
            raise Unavailable("the provenance store is too slow", reason="storage_failed") from error

    async def find(self, tenant: str, answer_id: str) -> bytes | None:
        """Return what was kept for the tenant, or None."""
        query = select(table.c.content).where(table.c.id == answer_id, table.c.tenant == tenant)

        def read() -> bytes | None:
            found: bytes | None = self._connection.execute(query).scalar_one_or_none()
            self._connection.rollback()
            return found

        try:
            return await self._run(read)
        except SQLAlchemyError as error:
            raise unavailable(error) from error

    async def write(self) -> None:
        """Commit what waits, for ever; all that comes within a gap of the commit before shares the next.

        The gap is MIN_GAP_S for each answer of that commit, MAX_GAP_S at most: a lone caller hardly waits, many share.
        """
        while True:
            await self._wake.wait()
            batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
            if not self._waiting:
                self._wake.clear()
            await self._commit([waiting for waiting in batch if not waiting.committed.done()])
            await asyncio.sleep(min(MIN_GAP_S * len(batch), MAX_GAP_S))

    async def expire(self) -> None:
        """Delete what is older than the retention, once an hour, for ever."""
        while self._retention_s:
            await self.delete_before(time.time() - self._retention_s)
            await asyncio.sleep(EXPIRY_PERIOD_S)

    async def delete_before(self, created_at: float) -> int:
        """Delete what was kept before a moment, in seconds since 1970; return how many."""
        statement = delete(table).where(table.c.created_at < created_at)
        try:
            return await self._run(execute, self._connection, statement)
        except SQLAlchemyError as error:
            log.warning("provenance could not be expired: %s", error)
            return 0

    async def _commit(self, batch: list[_Waiting]) -> None:
        if not batch:
            return
        rows = [waiting.row for waiting in batch]
        try:
            with COMMIT_SECONDS.time():
                await self._run(execute, self._connection, INSERT, rows)
        except SQLAlchemyError as error:
            log.warning("provenance of %d answers was not kept: %s", len(batch), error.__cause__)
            settle(batch, unavailable(error))
        else:
            settle(batch, None)

    async def _run(self, function: Callable[..., Result], *arguments: object) -> Result:
        """Run a function in the thread that owns the file."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


def open_file(path: Path) -> Connection:
    """Bring the schema of the file up to date and return a connection to it; Conflict for one of a newer version."""
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)
    event.listen(engine, "connect", _configure)
    connection = engine.connect()
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        connection.close()
        message = f"{path} is of a version that this program does not know"
        raise Conflict(message, reason="schema_version") from error
    connection.commit()
    return connection


def close_file(connection: Connection) -> None:
    """Close the connection and its file."""
    connection.close()
    connection.engine.dispose()


def execute(connection: Connection, statement: Executable, rows: list[dict[str, Any]] | None = None) -> int:
    """Execute and commit; return how many rows that changed."""
    try:
        result = connection.execute(statement, rows)
        connection.commit()
    except SQLAlchemyError:
        connection.rollback()
        raise
    return result.rowcount


def _configure(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=1000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def settle(batch: list[_Waiting], error: Unavailable | None) -> None:
    """Tell those who wait how their commit ended."""
    for waiting in batch:
        if waiting.committed.done():
            continue
        if error is None:
            waiting.committed.set_result(None)
        else:
            waiting.committed.set_exception(error)


def unavailable(error: SQLAlchemyError) -> Unavailable:
    """Return what a failure of the file means to callers."""
    text = str(error).lower()
    if any(sign in text for sign in FULL):
        return Unavailable("the provenance store is full", reason="storage_full")
    return Unavailable("the provenance store failed", reason="storage_failed")
