"""Everything that can be done with knowledge bases, on behalf of a tenant."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import TypeVar, cast

from servicekit.errors import InvalidInput, NotFound

from vector_search.core.commands import CreateBase, DeleteBase, DropDocument, PutDocument
from vector_search.core.corpus import Library
from vector_search.core.knowledge import (
    Chunk,
    Document,
    Encoder,
    Entry,
    KnowledgeBase,
    check_document_id,
    check_encoder,
    check_entry,
    check_name,
)
from vector_search.core.ports import Log
from vector_search.core.searcher import Found, Question, Searcher
from vector_search.core.writer import Writer

T = TypeVar("T")
MOST_ON_A_PAGE = 1_000


class KnowledgeStore:
    """The service's calls. Every one takes the tenant, and sees nothing of any other.

    All raise Unavailable with reason loading until the log has been read.
    """

    def __init__(self, library: Library, source: Log, writer: Writer, searcher: Searcher, readers: Executor) -> None:
        """Take the applied state, the log, who writes, who searches, and the threads for reading the log."""
        self._library = library
        self._log = source
        self._writer = writer
        self._searcher = searcher
        self._readers = readers

    async def create(self, tenant: str, name: str, encoder: Encoder) -> KnowledgeBase:
        """Create a knowledge base, or return the one that is there; raise InvalidInput, EncoderMismatch."""
        check_name(name)
        check_encoder(encoder)
        return cast("KnowledgeBase", await self._writer.submit(CreateBase(tenant, name, encoder)))

    def get(self, tenant: str, name: str) -> KnowledgeBase:
        """Return a knowledge base; raise NotFound."""
        return self._library.corpus(tenant, name).base

    def list(self, tenant: str) -> Sequence[KnowledgeBase]:
        """Return the tenant's knowledge bases by name."""
        return self._library.of_tenant(tenant)

    async def delete(self, tenant: str, name: str) -> int:
        """Delete a knowledge base and return how many documents it had; raise NotFound."""
        return cast("int", await self._writer.submit(DeleteBase(tenant, name)))

    async def put(self, tenant: str, name: str, entry: Entry, encoder: Encoder) -> tuple[Document, int, bool]:
        """Store a document; return it, the revision that has it, and whether anything changed.

        Raises InvalidInput, EncoderMismatch, Unavailable.
        """
        check_name(name, "knowledge_base")
        check_encoder(encoder)
        if entry.vectors.shape[1] != encoder.dimensions:
            raise InvalidInput("the vectors do not have the encoder's dimensions", field="vectors")
        check_entry(entry)
        answer = await self._writer.submit(PutDocument(tenant, name, entry, encoder))
        return cast("tuple[Document, int, bool]", answer)

    async def drop(self, tenant: str, name: str, document_id: str) -> int:
        """Delete a document and return the revision without it; raise InvalidInput, NotFound."""
        check_document_id(document_id)
        return cast("int", await self._writer.submit(DropDocument(tenant, name, document_id)))

    async def document(self, tenant: str, name: str, document_id: str) -> tuple[Document, Sequence[Chunk]]:
        """Return a document with its chunks; raise InvalidInput, NotFound."""
        check_document_id(document_id)
        document = self._library.corpus(tenant, name).find(document_id)
        if document is None:
            raise NotFound(f"there is no document {document_id!r}", reason="document_not_found")
        return document, await self._read(lambda: self._log.chunks(document.number))

    async def documents(self, tenant: str, name: str, after: str, limit: int) -> Sequence[Document]:
        """Return documents with an id greater than `after`, by id; raise InvalidInput, NotFound."""
        if not 1 <= limit <= MOST_ON_A_PAGE:
            raise InvalidInput(f"a page has 1 to {MOST_ON_A_PAGE:,} documents", field="page_size")
        base = self._library.corpus(tenant, name).base
        return await self._read(lambda: self._log.documents(base.number, after, limit))

    async def search(self, tenant: str, name: str, question: Question) -> Found:
        """Return the hits of a question; raise NotFound, InvalidInput, EncoderMismatch, Unavailable."""
        return await self._searcher.search(self._library.corpus(tenant, name), question)

    async def readiness(self) -> str | None:
        """Say why nothing can be asked yet, or None."""
        return self._library.loading or self._writer.trouble

    async def _read(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, work)
