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
    """Tokens as the backend counted them; the details say how many of them were cached, or not shown."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int]
    completion_tokens_details: dict[str, int]


class Served(Shown):
    """What really served a request."""

    model: str
    version: str
    digest: str | None
    provider: str
    region: str | None
    response_id: str | None


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


class Attempt(Shown):
    """A model that was asked; `outcome` is `ok`, or the reason of the failure."""

    model: str
    outcome: str
    duration_ms: float


class Skipped(Shown):
    """A model that was passed over, and why."""

    model: str
    reason: str


class Routing(Shown):
    """How an answer came to be served by what served it; the cost is in US dollars x 10^-9."""

    call_id: str
    attempts: list[Attempt]
    skipped: list[Skipped]
    cost_nanos: int


class ChatExtension(Shown):
    """What a model's chat says beyond OpenAI's form."""

    served: Served | None
    routing: Routing


class PipelineExtension(Standing):
    """What a pipeline's chat says beyond OpenAI's form."""

    id: str
    provenance_id: str
    citations: list[Citation]
    passages: list[PassageReference]
    routing: Routing | None = None


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
    reranked_by: Served | None
    passages: list[ProvenancePassage]
    usage: Usage | None
    trace_id: str | None


class FunctionCall(Shown):
    """The function to call; `arguments` is the text that the model wrote."""

    name: str
    arguments: str


class ToolCall(Shown):
    """A call that the model asks for."""

    id: str
    type: Literal["function"]
    function: FunctionCall


class AssistantMessage(Shown):
    """The next turn: a text, calls of tools, or a refusal."""

    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    tool_calls: list[ToolCall] | None = None


class Choice(Shown):
    """One of `n` answers."""

    index: int
    message: AssistantMessage
    logprobs: dict[str, Any] | None
    finish_reason: Literal["stop", "length", "content_filter", "tool_calls"]


class ChatCompletion(Shown):
    """The next turn of a conversation, in OpenAI's form."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str | None = None
    choices: list[Choice]
    usage: Usage | None
    penstock: ChatExtension | PipelineExtension


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
