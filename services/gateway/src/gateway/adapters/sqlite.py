"""API keys in a SQLite file, through SQLAlchemy."""

import asyncio
import fcntl
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy
from alembic import command
from alembic.config import Config
from servicekit.errors import Conflict, Unavailable
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from gateway.adapters.tables import api_keys
from gateway.core.keys import ApiKey

BUSY_TIMEOUT_MS = 5_000


class SqliteKeyStore:
    """Keeps API keys in one SQLite file; several processes may share it."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path) -> AsyncIterator["SqliteKeyStore"]:
        """Open the file, making it and bringing its tables up to date first."""
        await asyncio.to_thread(migrate, path)
        engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
        event.listen(engine.sync_engine, "connect", _configure)
        try:
            yield cls(engine)
        finally:
            await engine.dispose()

    async def find(self, public_id: str) -> ApiKey | None:
        """Return the key with this public id, or None."""
        with _translated():
            async with self._engine.connect() as connection:
                rows = await connection.execute(sqlalchemy.select(api_keys).where(api_keys.c.public_id == public_id))
                row = rows.first()
        return None if row is None else _key(row)

    async def add(self, key: ApiKey) -> None:
        """Keep a new key; raise Conflict when its public id is taken."""
        values = {
            "public_id": key.public_id,
            "secret_hash": key.secret_hash,
            "tenant": key.tenant,
            "name": key.name,
            "scopes": " ".join(sorted(key.scopes)),
            "role": key.role,
            "created_at": key.created_at,
            "expires_at": key.expires_at,
            "revoked_at": key.revoked_at,
        }
        with _translated():
            async with self._engine.begin() as connection:
                await connection.execute(sqlalchemy.insert(api_keys).values(values))

    async def revoke(self, public_id: str, moment: datetime) -> bool:
        """Revoke a key from `moment` on; return False when there is none. The first revocation counts."""
        earliest = sqlalchemy.func.coalesce(api_keys.c.revoked_at, moment)
        change = sqlalchemy.update(api_keys).where(api_keys.c.public_id == public_id).values(revoked_at=earliest)
        with _translated():
            async with self._engine.begin() as connection:
                return (await connection.execute(change)).rowcount == 1

    async def all(self, tenant: str | None = None) -> Sequence[ApiKey]:
        """Return the keys of a tenant, or of everyone, oldest first."""
        query = sqlalchemy.select(api_keys).order_by(api_keys.c.created_at, api_keys.c.public_id)
        if tenant is not None:
            query = query.where(api_keys.c.tenant == tenant)
        with _translated():
            async with self._engine.connect() as connection:
                return [_key(row) for row in await connection.execute(query)]


def migrate(path: Path) -> None:
    """Make the file if it is not there and bring its tables up to date; one process at a time does it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    with path.with_name(path.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        engine = sqlalchemy.create_engine(f"sqlite:///{path}")
        event.listen(engine, "connect", _configure)
        try:
            with engine.begin() as connection:
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        finally:
            engine.dispose()
    path.chmod(0o600)


def _configure(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.close()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except IntegrityError as error:
        raise Conflict("there is already a key with this public id") from error
    except SQLAlchemyError as error:
        raise Unavailable("the key store cannot be used", reason="key_store_failed", retry_after_s=1) from error


def _key(row: Any) -> ApiKey:
    return ApiKey(
        public_id=row.public_id,
        secret_hash=row.secret_hash,
        tenant=row.tenant,
        name=row.name,
        scopes=frozenset(row.scopes.split()),
        role=row.role,
        created_at=row.created_at.replace(tzinfo=UTC),
        expires_at=row.expires_at.replace(tzinfo=UTC) if row.expires_at else None,
        revoked_at=row.revoked_at.replace(tzinfo=UTC) if row.revoked_at else None,
    )
