"""What callers want changed, and the changes to the log that each comes to."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from servicekit.errors import NotFound

from vector_search.core.corpus import Corpus, Library
from vector_search.core.knowledge import Document, Encoder, Entry, KnowledgeBase
from vector_search.core.ports import BaseCreated, BaseDeleted, Change, DocumentDropped, DocumentPut, Log, Numbers

Answer = tuple[Document | None, int, bool] | KnowledgeBase | int
"""What a caller is told once his change is stored; which of them is the command's affair."""


@dataclass(frozen=True, slots=True)
class CreateBase:
    """Answers the knowledge base."""

    tenant: str
    name: str
    encoder: Encoder


@dataclass(frozen=True, slots=True)
class DeleteBase:
    """Answers the number of documents that went with it."""

    tenant: str
    name: str


@dataclass(frozen=True, slots=True)
class PutDocument:
    """Answers the document, the revision that has it, and whether anything changed."""

    tenant: str
    name: str
    entry: Entry
    encoder: Encoder


@dataclass(frozen=True, slots=True)
class DropDocument:
    """Answers the revision that no longer has it."""

    tenant: str
    name: str
    document_id: str


Command = CreateBase | DeleteBase | PutDocument | DropDocument


@dataclass(slots=True)
class Ledger:
    """Plans the commands of one batch against the applied state; commands of a batch must be `independent`."""

    library: Library
    log: Log
    numbers: Numbers
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    changes: list[Change] = field(default_factory=list)
    _revisions: dict[int, int] = field(default_factory=dict)
    _taken: set[tuple[str, str, str]] = field(default_factory=set)

    def independent(self, command: Command) -> bool:
        """Say whether nothing planned so far bears on the command, and claim what it bears on."""
        owner, name = command.tenant, command.name
        if isinstance(command, CreateBase | DeleteBase) or self.library.find(owner, name) is None:
            free = not any(taken[:2] == (owner, name) for taken in self._taken)
            self._taken.add((owner, name, ""))
            return free
        document = command.entry.document.id if isinstance(command, PutDocument) else command.document_id
        keys = {(owner, name, ""), (owner, name, document)}
        free = self._taken.isdisjoint(keys)
        self._taken.add((owner, name, document))
        return free

    def plan(self, command: Command) -> Answer:
        """Add the command's changes and return its answer; raise NotFound or EncoderMismatch, adding none."""
        if isinstance(command, CreateBase):
            corpus = self.library.find(command.tenant, command.name)
            if corpus is None:
                return self._create(command.tenant, command.name, command.encoder)
            corpus.base.require_encoder(command.encoder)
            return corpus.base
        if isinstance(command, PutDocument):
            return self._put(command)
        corpus = self.library.corpus(command.tenant, command.name)
        if isinstance(command, DeleteBase):
            self.changes.append(BaseDeleted(corpus.base))
            return corpus.base.document_count
        return self._drop(corpus, command.document_id)

    def _create(self, tenant: str, name: str, encoder: Encoder) -> KnowledgeBase:
        self.numbers = replace(self.numbers, base=self.numbers.base + 1)
        revision = self.log.last_revision(tenant, name) + 1
        base = KnowledgeBase(self.numbers.base, tenant, name, encoder, revision, self.clock())
        self.changes.append(BaseCreated(base))
        return base

    def _put(self, command: PutDocument) -> Answer:
        corpus = self.library.find(command.tenant, command.name)
        wanted = command.entry.document
        if corpus is None:
            base, earlier = self._create(command.tenant, command.name, command.encoder), None
        else:
            base, earlier = corpus.base, corpus.find(wanted.id)
            base.require_encoder(command.encoder)
            if earlier is not None and earlier.same_content(wanted):
                return earlier, base.revision, False
        document, row = self.numbers.document + 1, self.numbers.row + 1
        entry = command.entry.numbered(document, row)
        self.numbers = replace(self.numbers, document=document, row=entry.rows[-1])
        revision = self._advance(base)
        self.changes.append(DocumentPut(base, revision, entry, earlier))
        return entry.document, revision, True

    def _drop(self, corpus: Corpus, document_id: str) -> int:
        document = corpus.find(document_id)
        if document is None:
            raise NotFound(f"there is no document {document_id!r}", reason="document_not_found")
        revision = self._advance(corpus.base)
        self.changes.append(DocumentDropped(corpus.base, revision, document))
        return revision

    def _advance(self, base: KnowledgeBase) -> int:
        self._revisions[base.number] = self._revisions.get(base.number, base.revision) + 1
        return self._revisions[base.number]
