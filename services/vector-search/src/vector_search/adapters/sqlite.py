"""The durable log on SQLite: what is committed here is what the service has."""

import json
import logging
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from servicekit.errors import Unavailable

from vector_search.core.knowledge import Chunk, Document, Encoder, Entry, KnowledgeBase, Passage, Vectors
from vector_search.core.ports import BaseCreated, BaseDeleted, Change, DocumentPut, Numbers

SCHEMA_VERSION: Final = 1
AT_ONCE: Final = 500
"""Rows asked for in one statement; SQLite allows 32,766 variables."""

_SCHEMA: Final = """
CREATE TABLE base (
  number INTEGER PRIMARY KEY AUTOINCREMENT, tenant TEXT NOT NULL, name TEXT NOT NULL, encoder TEXT NOT NULL,
  revision INTEGER NOT NULL, created_at REAL NOT NULL, UNIQUE (tenant, name));
CREATE TABLE retired (tenant TEXT NOT NULL, name TEXT NOT NULL, revision INTEGER NOT NULL, PRIMARY KEY (tenant, name));
CREATE TABLE document (
  number INTEGER PRIMARY KEY AUTOINCREMENT, base INTEGER NOT NULL REFERENCES base ON DELETE CASCADE, id TEXT NOT NULL,
  title TEXT NOT NULL, content_hash TEXT NOT NULL, metadata TEXT NOT NULL, chunk_count INTEGER NOT NULL,
  first_row INTEGER NOT NULL, updated_at REAL NOT NULL, UNIQUE (base, id));
CREATE TABLE chunk (
  row INTEGER PRIMARY KEY AUTOINCREMENT, document INTEGER NOT NULL REFERENCES document ON DELETE CASCADE,
  position INTEGER NOT NULL, text TEXT NOT NULL, start INTEGER NOT NULL, end INTEGER NOT NULL, vector BLOB NOT NULL);
CREATE INDEX chunk_of_document ON chunk (document, position);
"""
_DOCUMENT: Final = "number, id, title, content_hash, metadata, chunk_count, updated_at"
_FULL: Final = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_FSYNC})
log = logging.getLogger(__name__)


class SchemaTooNew(RuntimeError):
    """The log was written by a later version of this service."""


class SqliteLog:
    """A log in one file, in WAL mode with synchronous=FULL: a commit returns after fsync."""

    def __init__(self, path: Path) -> None:
        """Take the file; `with` opens it and makes its tables."""
        self._path = path
        self._readers = threading.local()
        self._opened: list[sqlite3.Connection] = []

    def __enter__(self) -> Self:
        """Open the file; raise SchemaTooNew."""
        self._writer = self._connect()
        self._writer.execute("PRAGMA journal_mode = WAL")
        self._writer.execute("PRAGMA foreign_keys = ON")
        version = self._writer.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise SchemaTooNew(f"{self._path} has schema {version}; this version reads up to {SCHEMA_VERSION}")
        if version == 0:
            self._writer.executescript(f"BEGIN;{_SCHEMA}PRAGMA user_version = {SCHEMA_VERSION};COMMIT;")
        return self

    def __exit__(self, *_: object) -> None:
        """Close every connection."""
        for connection in self._opened:
            connection.close()

    def commit(self, changes: Sequence[Change]) -> None:
        """Store all changes or none; raise Unavailable, with reason storage_full when there is no room."""
        with _translated():
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                for change in changes:
                    self._store(change)
                self._writer.execute("COMMIT")
            except sqlite3.Error:
                # A full disk may have ended the transaction by itself.
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    def _store(self, change: Change) -> None:
        write = self._writer.execute
        if isinstance(change, BaseCreated):
            base = change.base
            encoder = json.dumps(asdict(base.encoder))
            moment = base.created_at.timestamp()
            values = (base.number, base.tenant, base.name, encoder, base.revision, moment)
            write(
                "INSERT INTO base (number, tenant, name, encoder, revision, created_at) VALUES (?, ?, ?, ?, ?, ?)",
                values,
            )
        elif isinstance(change, BaseDeleted):
            write(
                "INSERT OR REPLACE INTO retired SELECT tenant, name, revision FROM base WHERE number = ?",
                (change.base.number,),
            )
            write("DELETE FROM base WHERE number = ?", (change.base.number,))
        else:
            gone = change.replaced if isinstance(change, DocumentPut) else change.document
            if gone is not None:
                write("DELETE FROM document WHERE number = ?", (gone.number,))
            if isinstance(change, DocumentPut):
                self._insert(change.base.number, change.entry)
            write("UPDATE base SET revision = ? WHERE number = ?", (change.revision, change.base.number))

    def _insert(self, base: int, entry: Entry) -> None:
        document = entry.document
        self._writer.execute(
            f"INSERT INTO document ({_DOCUMENT}, base, first_row) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
            (
                document.number,
                document.id,
                document.title,
                document.content_hash,
                json.dumps(dict(document.metadata), ensure_ascii=False),
                document.chunk_count,
                document.updated_at.timestamp(),
                base,
                entry.first_row,
            ),
        )
        vectors = entry.vectors.astype("<f4", copy=False)
        self._writer.executemany(
            "INSERT INTO chunk (row, document, position, text, start, end, vector) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                (row, document.number, chunk.index, chunk.text, chunk.start, chunk.end, vector.tobytes())
                for row, chunk, vector in zip(entry.rows, entry.chunks, vectors, strict=True)
            ),
        )

    def numbers(self) -> Numbers:
        """Return the last numbers given out; SQLite keeps them across deletions."""
        last: dict[str, int] = dict(self._rows("SELECT name, seq FROM sqlite_sequence"))
        return Numbers(last.get("base", 0), last.get("document", 0), last.get("chunk", 0))

    def bases(self) -> list[KnowledgeBase]:
        """Return every knowledge base, with counts."""
        found = self._rows(
            """SELECT b.number, b.tenant, b.name, b.encoder, b.revision, b.created_at,
                      count(d.number), coalesce(sum(d.chunk_count), 0)
               FROM base b LEFT JOIN document d ON d.base = b.number GROUP BY b.number ORDER BY b.number"""
        )
        return [
            KnowledgeBase(
                number, tenant, name, Encoder(**json.loads(encoder)), revision, _moment(created), documents, chunks
            )
            for number, tenant, name, encoder, revision, created, documents, chunks in found
        ]

    def last_revision(self, tenant: str, name: str) -> int:
        """Return the revision at which a knowledge base of that name was deleted, or 0."""
        found = self._rows("SELECT revision FROM retired WHERE tenant = ? AND name = ?", (tenant, name))
        return found[0][0] if found else 0

    def rows(self, base: int) -> list[int]:
        """Return every row of a knowledge base."""
        found = self._rows("SELECT first_row, chunk_count FROM document WHERE base = ? ORDER BY first_row", (base,))
        return [row for first, count in found for row in range(first, first + count)]

    def texts(self, base: int) -> Iterator[tuple[Document, int, list[str]]]:
        """Yield the documents of a knowledge base, each with the row of its first chunk and the texts of all."""
        found = self._rows(f"SELECT {_DOCUMENT}, first_row FROM document WHERE base = ? ORDER BY number", (base,))  # noqa: S608
        for *columns, first_row in found:
            document = _document(columns)
            rows = self._rows("SELECT text FROM chunk WHERE document = ? ORDER BY position", (document.number,))
            yield document, first_row, [text for (text,) in rows]

    def vectors(self, base: int, rows: Sequence[int]) -> Iterator[tuple[list[Passage], Vectors]]:
        """Yield the chunks of these rows with their vectors, some hundred at a time."""
        for some in _slices(rows):
            found = self._passages(
                some, ", c.vector", "JOIN document d ON d.number = c.document AND d.base = ?", (base,)
            )
            if found:
                vectors = np.frombuffer(b"".join(columns[-1] for columns in found), "<f4").reshape(len(found), -1)
                yield [_passage(columns) for columns in found], vectors

    def passages(self, rows: Sequence[int]) -> dict[int, Passage]:
        """Return the chunks of these rows; rows that are gone are left out."""
        return {
            columns[0]: _passage(columns)
            for some in _slices(list(dict.fromkeys(rows)))
            for columns in self._passages(some)
        }

    def _passages(
        self, rows: Sequence[int], column: str = "", join: str = "", values: tuple[int, ...] = ()
    ) -> list[tuple[Any, ...]]:
        marks = ",".join("?" * len(rows))
        return self._rows(
            f"SELECT c.row, c.document, c.position, c.text, c.start, c.end{column} FROM chunk c {join} "  # noqa: S608
            f"WHERE c.row IN ({marks})",
            (*values, *rows),
        )

    def chunks(self, document: int) -> list[Chunk]:
        """Return the chunks of a document in order."""
        found = self._rows(
            "SELECT position, text, start, end FROM chunk WHERE document = ? ORDER BY position", (document,)
        )
        return [Chunk(*columns) for columns in found]

    def documents(self, base: int, after: str, limit: int) -> list[Document]:
        """Return documents with an id greater than `after`, by id."""
        found = self._rows(
            f"SELECT {_DOCUMENT} FROM document WHERE base = ? AND id > ? ORDER BY id LIMIT ?",  # noqa: S608
            (base, after, limit),
        )
        return [_document(columns) for columns in found]

    def size_bytes(self) -> int:
        """Return the bytes of the file and of its write-ahead log."""
        files = (self._path, self._path.with_name(self._path.name + "-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    def limit_size(self, pages: int) -> None:
        """Let the file grow to so many pages and no further, as on a small disk."""
        self._writer.execute(f"PRAGMA max_page_count = {int(pages)}")

    def _rows(self, statement: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Run a query on the thread's own connection."""
        connection: sqlite3.Connection | None = getattr(self._readers, "connection", None)
        with _translated():
            if connection is None:
                connection = self._readers.connection = self._connect()
                connection.execute("PRAGMA query_only = ON")
            with closing(connection.execute(statement, values)) as cursor:
                return cursor.fetchall()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, isolation_level=None, check_same_thread=False, cached_statements=256, timeout=10
        )
        self._opened.append(connection)
        connection.execute("PRAGMA synchronous = FULL")
        return connection


@contextmanager
def _translated() -> Iterator[None]:
    """Turn SQLite's failures into ours."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode in _FULL:
            log.error("the log cannot be written: %s", error)  # noqa: TRY400  the traceback says nothing more
            raise Unavailable("there is no room to store this; nothing was stored", reason="storage_full") from error
        raise Unavailable(f"the log failed: {error}", reason="storage_failed") from error


def _slices(rows: Sequence[int]) -> Iterable[Sequence[int]]:
    return (rows[start : start + AT_ONCE] for start in range(0, len(rows), AT_ONCE))


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _document(columns: Sequence[Any]) -> Document:
    number, name, title, content_hash, metadata, chunk_count, updated = columns
    fields: Mapping[str, Any] = json.loads(metadata)
    return Document(number, name, title, content_hash, fields, chunk_count, _moment(updated))


def _passage(columns: Sequence[Any]) -> Passage:
    row, document, position, text, start, end = columns[:6]
    return Passage(row, document, Chunk(position, text, start, end))
