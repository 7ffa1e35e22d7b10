"""What the core needs from outside: a durable log, which is the truth, and a dense index, which is derived from it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from vector_search.core.fusion import Ranking
from vector_search.core.knowledge import Chunk, Document, Entry, KnowledgeBase, Passage, Vectors


@dataclass(frozen=True, slots=True)
class BaseCreated:
    """A knowledge base was made; its revision goes on from an earlier one of the same name."""

    base: KnowledgeBase


@dataclass(frozen=True, slots=True)
class BaseDeleted:
    """A knowledge base was removed with all it held."""

    base: KnowledgeBase


@dataclass(frozen=True, slots=True)
class DocumentPut:
    """A document was stored at a revision, in place of an earlier one where there was one."""

    base: KnowledgeBase
    revision: int
    entry: Entry
    replaced: Document | None


@dataclass(frozen=True, slots=True)
class DocumentDropped:
    """A document was removed at a revision."""

    base: KnowledgeBase
    revision: int
    document: Document


Change = BaseCreated | BaseDeleted | DocumentPut | DocumentDropped


@dataclass(frozen=True, slots=True)
class Numbers:
    """The last numbers given out; none is ever given twice, not even after a deletion and a restart."""

    base: int = 0
    document: int = 0
    row: int = 0


@dataclass(frozen=True, slots=True)
class Selection:
    """The documents, by number, that a search is limited to, or with `excluded` those it leaves out."""

    documents: tuple[int, ...]
    excluded: bool = False


class Log(Protocol):
    """Keeps knowledge bases durably. Calls block; `commit` is made by one thread, reading by any."""

    def commit(self, changes: Sequence[Change]) -> None:
        """Store all changes or none; when it returns they survive a power cut.

        Raises Unavailable, with reason storage_full when there is no room.
        """

    def numbers(self) -> Numbers:
        """Return the last numbers given out."""

    def bases(self) -> list[KnowledgeBase]:
        """Return every knowledge base of every tenant, with counts."""

    def last_revision(self, tenant: str, name: str) -> int:
        """Return the revision at which a knowledge base of that name was deleted, or 0."""

    def rows(self, base: int) -> list[int]:
        """Return every row of a knowledge base."""

    def texts(self, base: int) -> Iterator[tuple[Document, int, list[str]]]:
        """Yield the documents of a knowledge base, each with the row of its first chunk and the texts of all."""

    def vectors(self, base: int, rows: Sequence[int]) -> Iterator[tuple[list[Passage], Vectors]]:
        """Yield the chunks of these rows with their vectors, some hundred at a time."""

    def passages(self, rows: Sequence[int]) -> dict[int, Passage]:
        """Return the chunks of these rows; rows that are gone are left out."""

    def chunks(self, document: int) -> list[Chunk]:
        """Return the chunks of a document in order."""

    def documents(self, base: int, after: str, limit: int) -> list[Document]:
        """Return documents with an id greater than `after`, by id."""

    def size_bytes(self) -> int:
        """Return the bytes it takes on disk."""


class DenseIndex(Protocol):
    """Finds the vectors nearest to a question. Calls block; changes are made by one thread, searches by any.

    Knowledge bases share nothing in it: a search of one can only return rows of that one, hence of one tenant.

    Every method raises Unavailable with reason index_failed when the engine does.
    """

    def bases(self) -> set[int]:
        """Return the numbers of the knowledge bases it has."""

    def create(self, base: int, dimensions: int) -> None:
        """Make room for a knowledge base and make it searchable; one that is there is made searchable."""

    def drop(self, base: int) -> None:
        """Forget a knowledge base; one that is not there is no error."""

    def add(self, base: int, passages: Sequence[tuple[int, int]], vectors: Vectors) -> None:
        """Add (row, document number) with their vectors; a row that is there is replaced."""

    def remove(self, base: int, rows: Sequence[int]) -> None:
        """Remove rows; unknown ones are no error."""

    def settle(self, base: int) -> None:
        """Bring what was added since the last time into the form that is fast to search."""

    def rows(self, base: int) -> set[int]:
        """Return every row it holds of a knowledge base."""

    def at_once(self, base: int, questions: int) -> bool:
        """Say, without blocking, whether a search of so many questions is too short to be worth a thread."""

    def search(self, base: int, vectors: Vectors, limit: int, selection: Selection | None) -> list[Ranking]:
        """Return for each vector at most `limit` rows of the knowledge base with their cosine, nearest first."""
