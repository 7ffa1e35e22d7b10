"""What REST answers with, as OpenAPI shows it; a test holds the real answers against these."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Shown(BaseModel):
    """A part of an answer."""

    model_config = ConfigDict(extra="forbid")


class ErrorDetail(Shown):
    """What went wrong: `code` is stable, `param` is the path of the field at fault."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorEnvelope(Shown):
    """The answer to every request that fails."""

    error: ErrorDetail


class Usage(Shown):
    """Tokens as the backend counted them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Served(Shown):
    """What really served a request."""

    model: str
    version: str
    digest: str | None
    provider: str


class Degradation(Shown):
    """Why an answer is less than what was asked for."""

    step: str
    reason: str
    message: str


class Citation(Shown):
    """A place in a document that supports the answer; the quote is found there word for word.

    `start` and `end` count characters of the document's plain text, end exclusive.
    """

    number: int
    document_id: str
    document_title: str
    chunk_index: int
    start: int
    end: int
    quote: str


class PassageReference(Shown):
    """A passage that was shown to the model."""

    document_id: str
    document_title: str
    chunk_index: int
    start: int
    end: int
    score: float


class Hit(PassageReference):
    """A passage with its text."""

    text: str
    cosine: float | None
    metadata: dict[str, Any]
    content_hash: str


class Standing(Shown):
    """How an answer came to be."""

    groundedness: float | None
    declined: bool
    removed_citations: int
    rung: Literal["unspecified", "chosen_model", "extractive_reader", "passages_only"]
    degradations: list[Degradation]
    served: Served | None
    timings_ms: dict[str, float]


class ChatExtension(Standing):
    """What a pipeline's chat says beyond OpenAI's form."""

    id: str
    provenance_id: str
    citations: list[Citation]
    passages: list[PassageReference]


class Answer(Standing):
    """A grounded answer."""

    object: Literal["answer"]
    id: str
    provenance_id: str
    knowledge_base: str
    answer: str
    citations: list[Citation]
    finish_reason: str | None
    usage: Usage | None
    passages: list[Hit]


class ProvenancePassage(Shown):
    """A passage as it was at answering time."""

    document_id: str
    chunk_index: int
    content_hash: str


class Provenance(Standing):
    """What an answer was made from."""

    object: Literal["provenance"]
    id: str
    created_at: str | None
    pipeline: str
    knowledge_base: str
    knowledge_base_revision: int
    prompt_template: str
    prompt_template_digest: str
    encoder_digest: str
    passages: list[ProvenancePassage]
    usage: Usage | None
    trace_id: str | None


class AssistantMessage(Shown):
    """The next turn."""

    role: Literal["assistant"]
    content: str
    refusal: None


class Choice(Shown):
    """The one choice."""

    index: int
    message: AssistantMessage
    logprobs: None
    finish_reason: Literal["stop", "length", "content_filter"]


class ChatCompletion(Shown):
    """The next turn of a conversation, in OpenAI's form. `penstock` is there for pipelines only."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | None
    penstock: ChatExtension | None = None


class EmbeddingItem(Shown):
    """A unit vector: numbers, or the base64 of float32, little-endian."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Shown):
    """Tokens that were read."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(Shown):
    """Vectors in the order of the texts."""

    object: Literal["list"]
    data: list[EmbeddingItem]
    model: str
    usage: EmbeddingUsage


class ModelDetail(Shown):
    """What Penstock knows of a model beyond OpenAI's form."""

    task: str
    provider: str
    version: str
    digest: str | None
    ready: bool
    reason: str | None
    context_tokens: int | None
    description: str


class Model(Shown):
    """A catalogue model or a pipeline."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    penstock: ModelDetail


class Models(Shown):
    """Models by name."""

    object: Literal["list"]
    data: list[Model]


class Encoder(Shown):
    """The fingerprint of an encoder."""

    model: str
    version: str
    digest: str
    dimensions: int
    pooling: str
    max_tokens: int


class KnowledgeBase(Shown):
    """A named set of documents, bound to one encoder."""

    object: Literal["knowledge_base"]
    name: str
    encoder: Encoder
    revision: int
    document_count: int
    chunk_count: int
    created_at: str | None


class KnowledgeBases(Shown):
    """Knowledge bases by name."""

    object: Literal["list"]
    data: list[KnowledgeBase]


class KnowledgeBaseDeleted(Shown):
    """A knowledge base that is no more."""

    object: Literal["knowledge_base.deleted"]
    name: str
    deleted: bool
    deleted_documents: int


class Document(Shown):
    """A document without its text."""

    object: Literal["document"]
    id: str
    title: str
    content_hash: str
    metadata: dict[str, Any]
    chunk_count: int
    updated_at: str | None


class Documents(Shown):
    """A page of documents by id."""

    object: Literal["list"]
    data: list[Document]
    next_page_token: str | None


class Chunk(Shown):
    """A piece of a document."""

    index: int
    text: str
    start: int
    end: int


class DocumentWithChunks(Document):
    """A document with its chunks."""

    chunks: list[Chunk]


class DocumentDeleted(Shown):
    """A document that is no more."""

    object: Literal["document.deleted"]
    id: str
    deleted: bool
    revision: int


class IngestOutcome(Shown):
    """What became of one document."""

    index: int
    document_id: str
    status: Literal["stored", "rejected"]
    chunk_count: int
    changed: bool | None = None
    revision: int | None = None
    reason: str | None = None
    message: str | None = None
    retryable: bool | None = None


class Ingest(Shown):
    """What became of each document, in the order sent."""

    object: Literal["ingest"]
    stored: int
    rejected: int
    revision: int | None
    results: list[IngestOutcome]


class Hits(Shown):
    """Passages, best first, and the revision that was searched."""

    object: Literal["list"]
    data: list[Hit]
    revision: int
