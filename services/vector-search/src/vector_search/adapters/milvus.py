"""The dense index on Milvus, embedded or a server: one collection per knowledge base, hence of one tenant; no text."""

import logging
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import unquote, urlsplit

from milvus_lite.server_manager import server_manager_instance
from pymilvus import DataType, MilvusClient
from pymilvus.exceptions import MilvusException
from servicekit.errors import InvalidInput, Unavailable

from vector_search.core.fusion import Ranking
from vector_search.core.knowledge import Vectors
from vector_search.core.ports import Selection

ROWS_ADDED_AT_ONCE: Final = 500
ROWS_REMOVED_AT_ONCE: Final = 1_000
ROWS_LISTED_AT_ONCE: Final = 10_000
"""Milvus answers a query with at most 16,384 rows."""
EXACT: Final = {"nlist": 1}
"""One cell holds everything: an exact scan in faiss, which honours filters and deletions without losing recall.

pymilvus spreads index parameters over the request, where Milvus Lite 3.2 does not look; under `params` it finds them.
"""
_TIMEOUT_S: Final = 60.0
_CONNECT_S: Final = 5.0
log = logging.getLogger(__name__)


class MilvusIndex:
    """What Milvus does for the core, whichever way it runs; a subclass opens it."""

    _client: MilvusClient

    def __init__(self, prefix: str, index: Mapping[str, Any], search: Mapping[str, Any]) -> None:
        """Take what the names of the collections begin with, and the arguments of their index and of its searches."""
        self._prefix = prefix
        self._index = index
        self._search = search

    def bases(self) -> set[int]:
        """Return the numbers of the knowledge bases it has."""
        with _translated():
            names = (re.fullmatch(rf"{self._prefix}(\d+)", name) for name in self._client.list_collections())
            return {int(name[1]) for name in names if name}

    def create(self, base: int, dimensions: int) -> None:
        """Make the collection where it is not there, and load it, for Milvus releases collections at a restart."""
        name = self._collection(base)
        with _translated():
            if not self._client.has_collection(name):
                schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
                schema.add_field("row", DataType.INT64, is_primary=True)
                schema.add_field("document", DataType.INT64)
                schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimensions)
                index = self._client.prepare_index_params()
                index.add_index("vector", metric_type="COSINE", **self._index)
                self._client.create_collection(name, schema=schema, index_params=index, consistency_level="Strong")
            self._client.load_collection(name)

    def drop(self, base: int) -> None:
        """Drop the collection."""
        with _translated():
            self._client.drop_collection(self._collection(base))

    def add(self, base: int, passages: Sequence[tuple[int, int]], vectors: Vectors) -> None:
        """Add (row, document number) with their vectors; a row that is there is replaced."""
        for start in range(0, len(passages), ROWS_ADDED_AT_ONCE):
            some = slice(start, start + ROWS_ADDED_AT_ONCE)
            records = [
                {"row": row, "document": document, "vector": vector}
                for (row, document), vector in zip(passages[some], vectors[some], strict=True)
            ]
            with _translated():
                self._client.upsert(self._collection(base), records, timeout=_TIMEOUT_S)

    def remove(self, base: int, rows: Sequence[int]) -> None:
        """Remove rows by primary key."""
        for start in range(0, len(rows), ROWS_REMOVED_AT_ONCE):
            with _translated():
                some = [int(row) for row in rows[start : start + ROWS_REMOVED_AT_ONCE]]
                self._client.delete(self._collection(base), ids=some, timeout=_TIMEOUT_S)

    def settle(self, base: int) -> None:
        """Flush: what is in memory becomes an indexed segment, which Milvus Lite searches faster by far."""
        with _translated():
            self._client.flush(self._collection(base), timeout=_TIMEOUT_S)

    def rows(self, base: int) -> set[int]:
        """Return every row of the collection, read in windows of the primary key."""
        found: set[int] = set()
        after = -1
        while True:
            page = self._page(base, after)
            found.update(page)
            if len(page) < ROWS_LISTED_AT_ONCE:
                return found
            after = max(page)

    def _collection(self, base: int) -> str:
        return f"{self._prefix}{base}"

    def _page(self, base: int, after: int) -> list[int]:
        with _translated():
            page: list[dict[str, Any]] = self._client.query(
                self._collection(base), filter=f"row > {after}", output_fields=["row"], timeout=_TIMEOUT_S
            )
        return [int(record["row"]) for record in page]

    def at_once(self, base: int, questions: int) -> bool:  # noqa: ARG002  never, whatever is asked
        """Return False: a search is a call to Milvus' server."""
        return False

    def search(self, base: int, vectors: Vectors, limit: int, selection: Selection | None) -> list[Ranking]:
        """Return for each vector at most `limit` rows of the collection with their cosine, nearest first."""
        with _translated():
            answers = self._client.search(
                self._collection(base),
                data=list(vectors),
                anns_field="vector",
                filter=_expression(selection),
                limit=limit,
                output_fields=["row"],
                search_params={"metric_type": "COSINE", **self._search},
                timeout=_TIMEOUT_S,
            )
        return [[(int(hit["row"]), float(hit["distance"])) for hit in answer] for answer in answers]


class MilvusLite(MilvusIndex):
    """A Milvus Lite directory. Milvus does not fsync and may lose its tail in a power cut; what is lost is replayed."""

    def __init__(self, path: Path) -> None:
        """Take the directory, whose name has to end in `.db`; its owner lock is held by the caller."""
        super().__init__(
            "kb_", {"index_type": "IVF_FLAT", "params": {"params": _json(EXACT)}}, {"params": {"nprobe": 1}}
        )
        self._path = path

    def __enter__(self) -> Self:
        """Open the directory; one that cannot be opened is begun anew, for all it holds is derived."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._client = MilvusClient(str(self._path))
            self.bases()
        except (MilvusException, Unavailable):
            log.exception("the index at %s cannot be read and is built again", self._path)
            server_manager_instance.release_server(str(self._path))
            shutil.rmtree(self._path)
            self._client = MilvusClient(str(self._path))
        return self

    def __exit__(self, *_: object) -> None:
        """Close the client and stop the engine's server in this process."""
        self._client.close()
        server_manager_instance.release_server(str(self._path))


class MilvusServer(MilvusIndex):
    """A Milvus server or cluster. What is written is found by the next search: collections are strongly consistent."""

    def __init__(self, url: str, installation: str) -> None:
        """Take http(s)://[USER:PASSWORD@]HOST:PORT[/DATABASE], and what tells our collections there from others.

        Raises InvalidInput for another kind of URL.
        """
        super().__init__(f"penstock_{installation}_", {"index_type": "FLAT"}, {})
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise InvalidInput("Milvus has to be at http(s)://[USER:PASSWORD@]HOST:PORT[/DATABASE]")
        self._place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        self._token = unquote(parts.netloc.rpartition("@")[0])
        self._database = parts.path.strip("/")

    def __enter__(self) -> Self:
        """Connect; raise Unavailable when it does not answer, or not to this password."""
        try:
            self._client = MilvusClient(self._place, token=self._token, db_name=self._database, timeout=_CONNECT_S)
        except MilvusException as error:
            raise Unavailable(f"Milvus at {self._place} cannot be used", reason="index_failed") from error
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self._client.close()

    def settle(self, base: int) -> None:
        """Do nothing: a server seals segments by itself, and refuses flushes that come as often as Lite needs them."""

    def _page(self, base: int, after: int) -> list[int]:
        """Return the next rows in order; a server orders by the primary key what is limited."""
        with _translated():
            page: list[dict[str, Any]] = self._client.query(
                self._collection(base),
                filter=f"row > {after}",
                output_fields=["row"],
                limit=ROWS_LISTED_AT_ONCE,
                timeout=_TIMEOUT_S,
            )
        return [int(record["row"]) for record in page]


def _expression(selection: Selection | None) -> str:
    """Return the filter: numbers of ours alone, for no text of a caller ever enters an expression."""
    if selection is None or (selection.excluded and not selection.documents):
        return ""
    numbers = ",".join(str(int(number)) for number in selection.documents)
    return f"document {'not in' if selection.excluded else 'in'} [{numbers}]"


def _json(parameters: dict[str, int]) -> str:
    return "{" + ", ".join(f'"{name}": {value}' for name, value in parameters.items()) + "}"


@contextmanager
def _translated() -> Iterator[None]:
    """Turn Milvus' failures into ours."""
    try:
        yield
    except MilvusException as error:
        raise Unavailable(f"the vector index failed: {error.message}", reason="index_failed") from error
