"""What is found: passages of documents, and the encoder that made the question's vector."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.core.question import Condition, Scalar, SearchMode


@dataclass(frozen=True, slots=True)
class Encoder:
    """The fingerprint of an encoder; vectors are comparable only when their encoders have the same digest."""

    model: str
    version: str
    digest: str
    dimensions: int
    pooling: str
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Embedding:
    """Unit vectors of texts, in order: float32, little-endian, row-major, shape [texts, dimensions]."""

    encoder: Encoder
    vectors: bytes


@dataclass(frozen=True, slots=True)
class Passage:
    """A chunk that was found; `start` and `end` are characters of the document's plain text, end exclusive."""

    document_id: str
    document_title: str
    chunk_index: int
    text: str
    start: int
    end: int
    content_hash: str
    score: float = 0.0
    cosine: float | None = None
    metadata: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Query:
    """A search; without `embedding` only SearchMode.LEXICAL can be served."""

    knowledge_base: str
    text: str
    embedding: Embedding | None
    top_k: int
    filter: tuple[Condition, ...]
    mode: SearchMode
    min_revision: int


@dataclass(frozen=True, slots=True)
class Found:
    """Passages, best first, and the revision of the knowledge base that was searched."""

    passages: tuple[Passage, ...]
    revision: int
