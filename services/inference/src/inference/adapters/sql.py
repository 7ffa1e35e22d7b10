"""The pool's database: its tables, and what is said when it cannot be used."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final

from servicekit import sql
from servicekit.sql import Schema, sqlite_url
from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["open_engine", "sqlite_url", "translated"]

POOL_SIZE: Final = 2
SCHEMA: Final = Schema(
    Path(__file__).parent / "migrations", 0x50454E54, "the store of versions cannot be used", "version_store_failed"
)
translated = SCHEMA.translated


def open_engine(url: str) -> AbstractAsyncContextManager[AsyncEngine]:
    """Open the pool's database, up to date: see `servicekit.sql.open_engine`."""
    return sql.open_engine(url, SCHEMA, POOL_SIZE)
