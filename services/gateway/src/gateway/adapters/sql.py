"""The gateway's database through SQLAlchemy: SQLite in a file, or PostgreSQL, with the same code and migrations."""

import asyncio
import fcntl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import sqlalchemy
from alembic import command
from alembic.config import Config
from servicekit.errors import Conflict, Unavailable
from sqlalchemy import URL, Connection, event, make_url
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

BUSY_TIMEOUT_MS: Final = 5_000
CACHE_KIB: Final = 16 * 1024
"""Of pages that a connection keeps: with SQLite's own 2 MiB each new row of a ledger reads four from the file."""
CONNECT_TIMEOUT_S: Final = 3.0
COMMAND_TIMEOUT_S: Final = 5.0
POOL_SIZE: Final = 5
MIGRATION_LOCK: Final = 0x50454E53
"""The number of PostgreSQL's advisory lock that one migrating process holds."""
DRIVERS: Final = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}


def sqlite_url(path: Path) -> str:
    """Return the URL of a SQLite file."""
    return URL.create("sqlite", database=str(path)).render_as_string()


@asynccontextmanager
async def open_engine(url: str, pool_size: int = POOL_SIZE) -> AsyncIterator[AsyncEngine]:
    """Bring the database up to date and open it: `sqlite:///PATH` or `postgresql://USER:PASSWORD@HOST:PORT/NAME`.

    At most `pool_size` connections to PostgreSQL are held. Raises ValueError for a URL of another kind, Unavailable
    when the database cannot be reached.
    """
    await migrate(url)
    engine = _engine(_parsed(url), pool_size)
    try:
        yield engine
    finally:
        await engine.dispose()


async def migrate(url: str) -> None:
    """Make a SQLite file if it is not there and bring the tables up to date; one process at a time does it."""
    parsed = _parsed(url)
    with translated():
        if parsed.get_backend_name() == "sqlite":
            await asyncio.to_thread(_migrate_file, Path(parsed.database or ""))
            return
        engine = _engine(parsed, 1)
        try:
            async with engine.begin() as connection:
                await connection.execute(sqlalchemy.select(sqlalchemy.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
                await connection.run_sync(_upgrade)
        finally:
            await engine.dispose()


@contextmanager
def translated() -> Iterator[None]:
    """Turn what the database raises into Conflict and Unavailable."""
    try:
        yield
    except IntegrityError as error:
        raise Conflict("there is already something with this id") from error
    except (SQLAlchemyError, OSError) as error:
        raise Unavailable("the key store cannot be used", reason="key_store_failed", retry_after_s=1) from error


def _parsed(url: str) -> URL:
    parsed = make_url(url)
    driver = DRIVERS.get(parsed.get_backend_name())
    if driver is None or not parsed.database:
        raise ValueError("the database has to be sqlite:///PATH or postgresql://USER:PASSWORD@HOST:PORT/NAME")
    return parsed.set(drivername=driver)


def _engine(url: URL, pool_size: int) -> AsyncEngine:
    if url.get_backend_name() == "sqlite":
        engine = create_async_engine(url)
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


def _migrate_file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(path.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        engine = sqlalchemy.create_engine(URL.create("sqlite", database=str(path)))
        event.listen(engine, "connect", _configure)
        event.listen(engine, "connect", _begin_by_hand)
        event.listen(engine, "begin", _begin)
        try:
            with engine.begin() as connection:
                _upgrade(connection)
        finally:
            engine.dispose()
    path.chmod(0o600)


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _configure(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    cursor.close()


def _begin_by_hand(connection: Any, _: object) -> None:
    """Keep sqlite3 from leaving changes of tables outside of the transaction: a migration is whole or not at all."""
    connection.isolation_level = None


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
