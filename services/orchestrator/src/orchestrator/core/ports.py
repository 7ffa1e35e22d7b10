"""What the core needs of others: one small Protocol per role."""

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from orchestrator.core.answer import FinishReason, Provenance, ServedModel, TokenUsage
from orchestrator.core.document import Chunk, Embedded, KnownDocument, Parsed, Source, Stored
from orchestrator.core.passage import Embedding, Found, Query
from orchestrator.core.question import Message, Sampling

CountTokens = Callable[[str], int]
"""Counts the tokens of a text, special tokens left out."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The model is done."""

    finish_reason: FinishReason
    usage: TokenUsage


@dataclass(frozen=True, slots=True)
class Piece:
    """What is known at a time of an answer: the first piece has `served`, the last `finished`; one may be both."""

    text: str = ""
    served: ServedModel | None = None
    finished: Finished | None = None


class Embedder(Protocol):
    """Turns texts into vectors."""

    async def embed(self, texts: Sequence[str], timeout_s: float) -> Embedding:
        """Return one vector per text, in order, within `timeout_s` seconds."""
        ...


class Searcher(Protocol):
    """Finds passages in the caller's knowledge bases."""

    async def search(self, query: Query, timeout_s: float) -> Found:
        """Return passages, best first. Raises NotFound, InvalidInput, Conflict, Unavailable, TimedOut."""
        ...


@dataclass(frozen=True, slots=True)
class Ranking:
    """One score per passage, in order, the higher the better; and the model that gave them."""

    scores: tuple[float, ...]
    served: ServedModel


class Ranker(Protocol):
    """Scores passages for a question with a model of the catalogue."""

    async def rank(self, model: str, question: str, passages: Sequence[str], timeout_s: float) -> Ranking:
        """Return a finite score for each passage. Raises NotFound, InvalidInput, Forbidden, Unavailable, TimedOut."""
        ...


class Library(Protocol):
    """Keeps documents in the caller's knowledge bases."""

    async def revision(self, knowledge_base: str) -> int | None:
        """Return the revision of a knowledge base, None when there is none of that name."""
        ...

    async def find(self, knowledge_base: str, document_id: str) -> KnownDocument | None:
        """Return what is known of a document, None when it is not there."""
        ...

    async def store(self, knowledge_base: str, document: Embedded) -> Stored:
        """Store a document as a whole; durable when it returns."""
        ...


class Generator(Protocol):
    """Writes text with a model of the catalogue."""

    def generate(
        self, model: str, messages: Sequence[Message], sampling: Sampling, timeout_s: float, *, streaming: bool
    ) -> AsyncGenerator[Piece, None]:
        """Yield pieces as they come when `streaming`, else the whole answer as one.

        Raises NotFound, InvalidInput, Unavailable, TimedOut.
        """
        ...


class Parser(Protocol):
    """Makes plain text of documents."""

    async def parse(self, source: Source) -> Parsed:
        """Return text and title; raise Rejected with a stable reason for what cannot be read."""
        ...


class Chunker(Protocol):
    """Cuts plain text into chunks."""

    async def chunk(self, text: str, media_type: str) -> tuple[Chunk, ...]:
        """Return the chunks in order; offsets are characters of `text`."""
        ...


class ProvenanceStore(Protocol):
    """Keeps what answers were made from."""

    async def keep(self, provenance: Provenance) -> None:
        """Return when it is committed; raise Unavailable (reason storage_full or storage_failed) when it cannot be."""
        ...

    async def find(self, tenant: str, answer_id: str) -> bytes | None:
        """Return what was kept, as it was encoded; None when unknown or of another tenant."""
        ...
