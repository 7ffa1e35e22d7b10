"""A service's database through SQLAlchemy: SQLite in a file, or PostgreSQL, with the same code and migrations.

A service that imports this depends on sqlalchemy[asyncio], alembic, aiosqlite and asyncpg.
"""

import asyncio
import fcntl
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final

import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import URL, Connection, event, make_url
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from servicekit.errors import Conflict, Unavailable

BUSY_TIMEOUT_MS: Final = 5_000
CACHE_KIB: Final = 16 * 1024
"""Of pages that a connection keeps: with SQLite's own 2 MiB each new row of a ledger reads four from the file."""

CONNECT_TIMEOUT_S: Final = 3.0
COMMAND_TIMEOUT_S: Final = 5.0
POOL_SIZE: Final = 5
NICENESS: Final = 5
DRIVERS: Final = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}
Move = Callable[[Config], None]
"""A change of the tables, by alembic's configuration with the connection in it."""


class UnknownSchema(Conflict):
    """The tables are those of a newer version, or of another program; nothing in them has been changed."""

    default_reason = "schema_version"


class Pace(Enum):
    """When SQLite may work, which it does in threads of this process; PostgreSQL works elsewhere.

    `BEHIND` the threads that answer callers, with a third of what they get when there is not enough for all; or in
    `IDLE` time alone, which may come late on a machine that has none. Linux only: elsewhere it is `USUAL`.
    """

    USUAL = "usual"
    BEHIND = "behind"
    IDLE = "idle"


@dataclass(frozen=True, slots=True)
class Schema:
    """A service's tables: the folder of their migrations, and the number of the advisory lock that migrating takes.

    `away` is what callers are told when the database cannot be used, `reason` the same in one word.
    """

    migrations: Path
    lock: int
    away: str
    reason: str

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn what the database raises into Conflict and Unavailable."""
        try:
            yield
        except IntegrityError as error:
            raise Conflict("there is already something with this id") from error
        except (SQLAlchemyError, OSError) as error:
            raise Unavailable(self.away, reason=self.reason, retry_after_s=1) from error


def sqlite_url(path: Path) -> str:
    """Return the URL of a SQLite file."""
    return URL.create("sqlite", database=str(path)).render_as_string()


@asynccontextmanager
async def open_engine(
    url: str, schema: Schema, pool_size: int = POOL_SIZE, pace: Pace = Pace.USUAL
) -> AsyncIterator[AsyncEngine]:
    """Bring the database up to date and open it: `sqlite:///PATH` or `postgresql://USER:PASSWORD@HOST:PORT/NAME`.

    At most `pool_size` connections to PostgreSQL are held. Raises ValueError for another kind of URL, Unavailable when
    it cannot be reached, and UnknownSchema.
    """
    await migrate(url, schema)
    engine = _engine(_parsed(url), pool_size)
    if pace is not Pace.USUAL and engine.dialect.name == "sqlite":
        event.listen(engine.sync_engine, "connect", _paced(pace))
    try:
        yield engine
    finally:
        await engine.dispose()


async def migrate(url: str, schema: Schema) -> None:
    """Make a SQLite file if it is not there and bring the tables up to date; one process at a time does it."""
    await _moved(url, schema, lambda config: command.upgrade(config, "head"))


async def go_back(url: str, schema: Schema, revision: str) -> None:
    """Bring the tables back to an older revision, for an older program; what newer ones added is lost, data too.

    Raises Unavailable when the database cannot be reached, and UnknownSchema for a revision that is not before theirs.
    """
    try:
        await _moved(url, schema, lambda config: command.downgrade(config, revision))
    except UnknownSchema as error:
        raise UnknownSchema(f"the tables cannot go back to {revision!r}: {error.__cause__}") from error


async def _moved(url: str, schema: Schema, move: Move) -> None:
    parsed = _parsed(url)
    with schema.translated():
        if parsed.get_backend_name() == "sqlite":
            await asyncio.to_thread(_move_file, Path(parsed.database or ""), schema, move)
            return
        engine = _engine(parsed, 1)
        try:
            async with engine.begin() as connection:
                await connection.execute(sqlalchemy.select(sqlalchemy.func.pg_advisory_xact_lock(schema.lock)))
                await connection.run_sync(_move, schema, move)
        finally:
            await engine.dispose()


def _parsed(url: str) -> URL:
    parsed = make_url(url)
    driver = DRIVERS.get(parsed.get_backend_name())
    if driver is None or not parsed.database:
        raise ValueError("the database has to be sqlite:///PATH or postgresql://USER:PASSWORD@HOST:PORT/NAME")
    return parsed.set(drivername=driver)


def _engine(url: URL, pool_size: int) -> AsyncEngine:
    if url.get_backend_name() == "sqlite":
        engine = create_async_engine(url, pool_size=pool_size)
        event.listen(engine.sync_engine, "connect", _configure)
        return engine
    return create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=COMMAND_TIMEOUT_S,
        pool_pre_ping=True,
        connect_args={"timeout": CONNECT_TIMEOUT_S, "command_timeout": COMMAND_TIMEOUT_S},
    )


def _move_file(path: Path, schema: Schema, move: Move) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(path.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        engine = sqlalchemy.create_engine(URL.create("sqlite", database=str(path)))
        event.listen(engine, "connect", _configure)
        event.listen(engine, "connect", _begin_by_hand)
        event.listen(engine, "begin", _begin)
        try:
            with engine.begin() as connection:
                _move(connection, schema, move)
        finally:
            engine.dispose()
    path.chmod(0o600)


def _move(connection: Connection, schema: Schema, move: Move) -> None:
    config = Config()
    config.set_main_option("script_location", str(schema.migrations))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    try:
        move(config)
    except CommandError as error:
        raise UnknownSchema("the database is of a version that this program does not know") from error


def _configure(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    cursor.close()


def _paced(pace: Pace) -> Callable[[Any, object], None]:
    """Return what has the thread of a new connection slow itself down: SQLite calls a function there."""

    def slow_down(connection: Any, _: object) -> None:
        connection.create_function("slow_down", 0, lambda: _slow_this_thread(pace))
        cursor = connection.cursor()
        cursor.execute("SELECT slow_down()")
        cursor.close()

    return slow_down


def _slow_this_thread(pace: Pace) -> None:
    if sys.platform != "linux":
        return
    thread = threading.get_native_id()
    with suppress(OSError):  # a sandbox may forbid it: then it works as the others do
        if pace is Pace.IDLE:
            os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
        else:
            os.setpriority(os.PRIO_PROCESS, thread, max(NICENESS, os.getpriority(os.PRIO_PROCESS, thread)))


def _begin_by_hand(connection: Any, _: object) -> None:
    """Keep sqlite3 from leaving changes of tables outside of the transaction: a migration is whole or not at all."""
    connection.isolation_level = None


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
