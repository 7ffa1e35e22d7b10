"""The gateway's database: its tables, and what is said when it cannot be used."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final

from servicekit import sql
from servicekit.sql import POOL_SIZE, Pace, Schema, sqlite_url
from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["Pace", "go_back", "migrate", "open_engine", "sqlite_url", "translated"]

SCHEMA: Final = Schema(
    Path(__file__).parent / "migrations", 0x50454E53, "the key store cannot be used", "key_store_failed"
)
translated = SCHEMA.translated


def open_engine(
    url: str, pool_size: int = POOL_SIZE, pace: Pace = Pace.USUAL
) -> AbstractAsyncContextManager[AsyncEngine]:
    """Open the gateway's database, up to date: see `servicekit.sql.open_engine`."""
    return sql.open_engine(url, SCHEMA, pool_size, pace)


async def migrate(url: str) -> None:
    """Bring the gateway's tables up to date."""
    await sql.migrate(url, SCHEMA)


async def go_back(url: str, revision: str) -> None:
    """Bring the gateway's tables back to an older revision: see `servicekit.sql.go_back`."""
    await sql.go_back(url, SCHEMA, revision)
