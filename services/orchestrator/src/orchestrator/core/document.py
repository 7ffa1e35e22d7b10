"""A document on its way into a knowledge base, from its bytes to its chunks and vectors."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from servicekit.errors import InvalidInput

from orchestrator.core.passage import Embedding
from orchestrator.core.question import Scalar

DOCUMENT_ID: Final = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
MEDIA_TYPES: Final = ("text/plain", "text/markdown", "text/html", "application/pdf")


class Rejected(InvalidInput):
    """A document that cannot go in; `reason` says why, such as not_utf8 or encrypted_pdf."""


@dataclass(frozen=True, slots=True)
class Source:
    """A document as its owner has it; an empty title is taken from the document, else its id.

    A metadata value that is none of string, number and boolean is None here.
    """

    id: str
    title: str
    media_type: str
    content: bytes
    metadata: Mapping[str, Scalar | None]

    def content_hash(self) -> str:
        """Return the `sha256:` digest of the bytes."""
        return f"sha256:{hashlib.sha256(self.content).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Parsed:
    """The plain text that all offsets refer to, and the title the document gives itself, possibly empty."""

    text: str
    title: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document's plain text, `text[start:end]` in characters."""

    index: int
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Embedded:
    """A document ready to be stored: vector n is chunk n's."""

    id: str
    title: str
    content_hash: str
    metadata: Mapping[str, Scalar | None]
    chunks: tuple[Chunk, ...]
    embedding: Embedding


@dataclass(frozen=True, slots=True)
class KnownDocument:
    """What is kept of a document besides its chunks."""

    title: str
    content_hash: str
    metadata: Mapping[str, Scalar]
    chunk_count: int

    def same_as(self, source: Source, content_hash: str) -> bool:
        """Tell whether `source` would change nothing; a title it does not give follows from its content."""
        same_title = not source.title or source.title == self.title
        return self.content_hash == content_hash and same_title and dict(self.metadata) == dict(source.metadata)


@dataclass(frozen=True, slots=True)
class Stored:
    """The revision that contains a document, and whether storing it changed anything."""

    revision: int
    changed: bool


class Stage(Enum):
    """How far a document is."""

    PARSED = "parsed"
    CHUNKED = "chunked"
    EMBEDDED = "embedded"
    STORED = "stored"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class Progress:
    """News of the document at `index` of the request; `retryable` says that it may go well later."""

    index: int
    document_id: str
    stage: Stage
    chunk_count: int = 0
    changed: bool = False
    revision: int = 0
    reason: str = ""
    message: str = ""
    retryable: bool = False
