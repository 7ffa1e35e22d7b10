"""Online values in one SQLite file: many readers, one writer at a time, and a later event always wins."""

import asyncio
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import orjson
from servicekit.errors import Unavailable

from feature_store.core.catalogue import Scalar
from feature_store.core.ports import EntityKey, StoredRow, StoredValue, ViewQuery

_SCHEMA = """
CREATE TABLE IF NOT EXISTS online_value (
  tenant TEXT NOT NULL, view TEXT NOT NULL, entity_key TEXT NOT NULL, feature TEXT NOT NULL,
  value ANY, event_us INTEGER NOT NULL,
  PRIMARY KEY (tenant, view, entity_key, feature)
) STRICT, WITHOUT ROWID"""
_UPSERT = """
INSERT INTO online_value (tenant, view, entity_key, feature, value, event_us) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET value = excluded.value, event_us = excluded.event_us
WHERE excluded.event_us >= online_value.event_us"""
_SELECT = """
SELECT k.key, v.feature, v.value, v.event_us
FROM json_each(?) AS k CROSS JOIN online_value AS v
WHERE v.tenant = ? AND v.view = ? AND v.entity_key = k.value AND v.feature IN (SELECT value FROM json_each(?))"""
_WRITE_BUSY_MS = 5_000
_READ_BUSY_MS = 250  # a read runs on the event loop; in WAL mode it waits for nobody but a recovery

_REASONS = {sqlite3.SQLITE_FULL: "storage_full", sqlite3.SQLITE_BUSY: "storage_busy"}


class ValueFile:
    """One connection to the file, for one thread at a time. Raises sqlite3 errors."""

    def __init__(self, path: Path, busy_ms: int = _WRITE_BUSY_MS) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self.connection.execute(f"PRAGMA busy_timeout = {busy_ms}")
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute("PRAGMA synchronous = FULL")
        self.connection.execute(_SCHEMA)

    def read(self, tenant: str, query: ViewQuery) -> Sequence[Mapping[str, StoredValue]]:
        """Return what is stored for each key of the query, in order; an empty mapping where there is nothing."""
        found: list[dict[str, StoredValue]] = [{} for _ in query.keys]
        asked = (_json([encode_key(key) for key in query.keys]), tenant, query.view, _json(query.features))
        for position, feature, value, event_us in self.connection.execute(_SELECT, asked):
            found[position][feature] = (value, event_us)
        return found

    def write(self, tenant: str, view: str, rows: Sequence[StoredRow]) -> list[bool]:
        """Write rows in order, all or none; return for each if any of its values was kept."""
        kept: list[bool] = []
        connection = self.connection
        with self._transaction():
            for key, values, event_us in rows:
                before, name = connection.total_changes, encode_key(key)
                connection.executemany(
                    _UPSERT, [(tenant, view, name, feature, value, event_us) for feature, value in values.items()]
                )
                kept.append(connection.total_changes > before)
        return kept

    def has_rows(self, tenant: str, view: str) -> bool:
        """Say if anything is stored of the view for the tenant."""
        asked = "SELECT 1 FROM online_value WHERE tenant = ? AND view = ? LIMIT 1"
        return self.connection.execute(asked, (tenant, view)).fetchone() is not None

    def forget_view(self, view: str) -> None:
        """Delete every tenant's values of a view."""
        self.connection.execute("DELETE FROM online_value WHERE view = ?", (view,))

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.connection.execute("COMMIT")
        finally:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")


class SqliteValues:
    """The port OnlineValues: reads on the event loop, which they hold for a ms or two, writes in one thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, "feature-writer")

    async def __aenter__(self) -> Self:
        """Open the file, making it when it is not there; raise Unavailable when that fails."""
        with _translated():
            self.writer = ValueFile(self._path)
            self.reader = ValueFile(self._path, _READ_BUSY_MS)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let the write at hand end and close the file."""
        await asyncio.to_thread(self._thread.shutdown)
        self.reader.close()
        self.writer.close()

    async def read(self, tenant: str, queries: Sequence[ViewQuery]) -> list[Sequence[Mapping[str, StoredValue]]]:
        """See OnlineValues."""
        with _translated():
            return [self.reader.read(tenant, query) for query in queries]

    async def write(self, tenant: str, view: str, rows: Sequence[StoredRow]) -> list[bool]:
        """See OnlineValues. Reasons beside `storage_full`: `storage_busy`, `storage_failed`."""
        loop = asyncio.get_running_loop()
        with _translated():
            return await loop.run_in_executor(self._thread, self.writer.write, tenant, view, rows)


def encode_key(key: EntityKey) -> str:
    """Return the key as stored: JSON, so that the integer 1 and the string "1" are two entities."""
    return _json(key)


def _json(content: Sequence[Scalar]) -> str:
    return orjson.dumps(content).decode()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        reason = _REASONS.get(code, "storage_failed")
        raise Unavailable(f"the online store failed: {error}", reason=reason) from error
