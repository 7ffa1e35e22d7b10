"""What a knowledge base holds: encoders, documents, chunks and hits, and the rules they keep."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import numpy as np
import numpy.typing as npt
from servicekit.errors import Conflict, InvalidInput

Scalar = str | float | bool
Vectors = npt.NDArray[np.float32]
"""Unit vectors, one a row."""

MOST_CHUNKS: Final = 10_000
LENGTH_TOLERANCE: Final = 0.01
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_DOCUMENT_ID: Final = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_CONTENT_HASH: Final = re.compile(r"sha256:[0-9a-f]{64}")
_FIELD: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


class EncoderMismatch(Conflict):
    """The knowledge base was built by another encoder."""

    default_reason = "encoder_mismatch"


@dataclass(frozen=True, slots=True)
class Encoder:
    """The fingerprint of an encoder; vectors are comparable when the digests are equal."""

    model: str
    version: str
    digest: str
    dimensions: int
    pooling: str = ""
    max_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Document:
    """What is kept of a document besides its chunks.

    `number` is ours and unique for ever; what replaces a document gets another one.
    """

    number: int
    id: str
    title: str
    content_hash: str
    metadata: Mapping[str, Scalar]
    chunk_count: int
    updated_at: datetime

    def same_content(self, other: "Document") -> bool:
        """Say whether storing the other one would change nothing."""
        mine = (self.id, self.title, self.content_hash, _typed(self.metadata))
        return mine == (other.id, other.title, other.content_hash, _typed(other.metadata))


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document; `start` and `end` are characters of its plain text, end exclusive."""

    index: int
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A document with its chunks and their vectors [chunks, dimensions]; chunks are numbered from `first_row`."""

    document: Document
    chunks: Sequence[Chunk]
    vectors: Vectors
    first_row: int = 0

    @property
    def rows(self) -> range:
        """The numbers of the chunks."""
        return range(self.first_row, self.first_row + len(self.chunks))

    def numbered(self, document: int, first_row: int) -> "Entry":
        """Return the entry under its numbers."""
        return Entry(replace(self.document, number=document), self.chunks, self.vectors, first_row)


@dataclass(frozen=True, slots=True)
class KnowledgeBase:
    """A named set of documents of one tenant. `number` is ours, unique for ever, also when a name is used again."""

    number: int
    tenant: str
    name: str
    encoder: Encoder
    revision: int
    created_at: datetime
    document_count: int = 0
    chunk_count: int = 0

    def require_encoder(self, encoder: Encoder) -> None:
        """Raise EncoderMismatch when vectors of that encoder cannot be compared with those stored here."""
        if encoder.digest != self.encoder.digest:
            raise EncoderMismatch(
                f"knowledge base {self.name!r} was built by encoder {self.encoder.model} {self.encoder.version} "
                f"({self.encoder.digest}), not by {encoder.model} {encoder.version} ({encoder.digest}); "
                "ingest the documents again into a new knowledge base, or ask with the encoder it was built by",
                field="encoder",
            )


@dataclass(frozen=True, slots=True)
class Passage:
    """A chunk as it is stored: with its row and the number of its document."""

    row: int
    document: int
    chunk: Chunk


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that was found; `cosine` is None when the dense leg did not return it."""

    document: Document
    chunk: Chunk
    score: float
    cosine: float | None


def check_name(name: str, field: str = "name") -> None:
    """Raise InvalidInput unless it can name a knowledge base."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{_short(name)} cannot name a knowledge base: 1 to 64 of a-z, 0-9, '-', '_', '.', "
            "beginning with a letter or digit",
            field=field,
        )


def check_document_id(name: str, field: str = "id") -> None:
    """Raise InvalidInput unless it can name a document."""
    if not _DOCUMENT_ID.fullmatch(name):
        raise InvalidInput(
            f"{_short(name)} cannot name a document: 1 to 128 of A-Z, a-z, 0-9, '_', '.', ':', '-'", field=field
        )


def check_field(name: str, field: str) -> None:
    """Raise InvalidInput unless it can name a metadata field."""
    if not _FIELD.fullmatch(name):
        raise InvalidInput(
            f"{_short(name)} cannot name a metadata field: 1 to 64 of A-Z, a-z, 0-9, '_', beginning with a letter",
            field=field,
        )


def check_encoder(encoder: Encoder) -> None:
    """Raise InvalidInput unless the fingerprint says what made the vectors."""
    if not encoder.digest or encoder.dimensions <= 0:
        raise InvalidInput("the encoder's digest and dimensions are needed", field="encoder")


def check_vectors(vectors: Vectors, field: str) -> None:
    """Raise InvalidInput unless every row has length 1."""
    squares: list[float] = np.vecdot(vectors, vectors).tolist()
    # A NaN fails this comparison too.
    if not all(abs(math.sqrt(square) - 1) <= LENGTH_TOLERANCE for square in squares):
        raise InvalidInput("the vectors have to be finite and of length 1", field=field)


def check_entry(entry: Entry) -> None:
    """Raise InvalidInput unless document, chunks and vectors keep the rules of the protocol."""
    document, chunks = entry.document, entry.chunks
    check_document_id(document.id, "document.id")
    if not _CONTENT_HASH.fullmatch(document.content_hash):
        raise InvalidInput("content_hash is `sha256:` and 64 hexadecimal digits", field="document.content_hash")
    for name in document.metadata:
        check_field(name, "document.metadata")
    if not 1 <= len(chunks) <= MOST_CHUNKS:
        raise InvalidInput(f"{len(chunks)} chunks; 1 to {MOST_CHUNKS:,} can be stored", field="chunks")
    for position, chunk in enumerate(chunks):
        if chunk.index != position:
            raise InvalidInput(f"chunk {position} says it is chunk {chunk.index}", field=f"chunks[{position}].index")
        if not chunk.text or chunk.start > chunk.end:
            raise InvalidInput(f"chunk {position} has no text or ends before it starts", field=f"chunks[{position}]")
    check_vectors(entry.vectors, "vectors")


def _typed(metadata: Mapping[str, Scalar]) -> dict[str, tuple[bool, Scalar]]:
    return {name: (isinstance(value, bool), value) for name, value in metadata.items()}


def _short(value: str) -> str:
    return repr(value if len(value) <= 80 else value[:80] + "...")
