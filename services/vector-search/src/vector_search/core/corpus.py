"""The state of knowledge bases that searches work on, in memory; it is what has been applied of the log."""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from servicekit.errors import NotFound, Unavailable

from vector_search.core.bm25 import Bm25
from vector_search.core.filters import Filter
from vector_search.core.fusion import Ranking
from vector_search.core.knowledge import Document, KnowledgeBase
from vector_search.core.ports import Selection
from vector_search.core.words import terms


@dataclass(slots=True)
class _Shelved:
    document: Document
    rows: range


class Corpus:
    """One knowledge base. One thread changes it; any thread reads it."""

    def __init__(self, base: KnowledgeBase) -> None:
        """Start empty, whatever counts the base states."""
        self.base = replace(base, document_count=0, chunk_count=0)
        self._by_id: dict[str, _Shelved] = {}
        self._by_number: dict[int, _Shelved] = {}
        self._lexicon = Bm25()
        self._lock = threading.Lock()

    def find(self, document_id: str) -> Document | None:
        """Return a document, or None."""
        shelved = self._by_id.get(document_id)
        return None if shelved is None else shelved.document

    @property
    def busy(self) -> bool:
        """Say whether a reader would now have to wait for a change."""
        return self._lock.locked()

    def shown(self, rows: Iterable[int]) -> dict[int, Document]:
        """Return the documents of chunks by row; rows that are gone are left out."""
        with self._lock:
            numbers = ((row, self._lexicon.document(row)) for row in rows)
            return {row: self._by_number[number].document for row, number in numbers if number is not None}

    def rows(self, number: int) -> range:
        """Return the rows of a document."""
        return self._by_number[number].rows

    def put(self, revision: int, document: Document, first_row: int, texts: Sequence[str]) -> None:
        """Show a document in place of the earlier one of its id."""
        counted = [terms(text) for text in texts]
        shelved = _Shelved(document, range(first_row, first_row + len(texts)))
        with self._lock:
            earlier = self._by_id.get(document.id)
            if earlier is not None:
                self._forget(earlier)
            self._by_id[document.id] = self._by_number[document.number] = shelved
            for row, words in zip(shelved.rows, counted, strict=True):
                self._lexicon.add(row, document.number, words)
            self._count(revision)

    def drop(self, revision: int, document_id: str) -> None:
        """Show a document no longer."""
        with self._lock:
            self._forget(self._by_id[document_id])
            self._count(revision)

    def select(self, filters: Filter) -> Selection | None:
        """Return the documents that pass, said the shorter way; None when all do."""
        if not filters:
            return None
        passed: list[int] = []
        failed: list[int] = []
        for shelved in list(self._by_number.values()):
            passes = all(condition.passes(shelved.document.metadata) for condition in filters)
            (passed if passes else failed).append(shelved.document.number)
        return Selection(tuple(passed)) if len(passed) <= len(failed) else Selection(tuple(failed), excluded=True)

    def rank(self, questions: Sequence[str], limit: int, selection: Selection | None) -> list[Ranking]:
        """Return the BM25 ranking of each question."""
        counted = [terms(question) for question in questions]
        with self._lock:
            documents = None
            if selection is not None:
                chosen = selection.documents
                if selection.excluded:
                    chosen = tuple(self._by_number.keys() - frozenset(chosen))
                documents = np.array(chosen, np.int64)
            return [self._lexicon.search(words, limit, documents) for words in counted]

    def _forget(self, shelved: _Shelved) -> None:
        del self._by_id[shelved.document.id], self._by_number[shelved.document.number]
        self._lexicon.remove(shelved.rows)

    def _count(self, revision: int) -> None:
        self.base = replace(
            self.base, revision=revision, document_count=len(self._by_id), chunk_count=len(self._lexicon)
        )


@dataclass(slots=True)
class Library:
    """All knowledge bases, by tenant and name. Until `loading` is None nothing can be asked of it."""

    loading: str | None = "the log has not been read yet"
    corpora: dict[tuple[str, str], Corpus] = field(default_factory=dict)

    def corpus(self, tenant: str, name: str) -> Corpus:
        """Return a knowledge base of a tenant; raise NotFound, or Unavailable while loading."""
        found = self.find(tenant, name)
        if found is None:
            raise NotFound(f"there is no knowledge base {name[:64]!r}", reason="knowledge_base_not_found")
        return found

    def find(self, tenant: str, name: str) -> Corpus | None:
        """Return a knowledge base of a tenant or None; raise Unavailable while loading."""
        self.require_loaded()
        return self.corpora.get((tenant, name))

    def of_tenant(self, tenant: str) -> list[KnowledgeBase]:
        """Return a tenant's knowledge bases by name; raise Unavailable while loading."""
        self.require_loaded()
        return sorted(
            (corpus.base for (owner, _), corpus in list(self.corpora.items()) if owner == tenant),
            key=lambda base: base.name,
        )

    def require_loaded(self) -> None:
        """Raise Unavailable while the log is being read."""
        if self.loading is not None:
            raise Unavailable(self.loading, reason="loading", retry_after_s=1.0)

    def bases(self) -> Iterable[KnowledgeBase]:
        """Return what there is, of all tenants."""
        return [corpus.base for corpus in list(self.corpora.values())]
