"""What the doors need of the services behind them, in the vocabulary of the protos."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from penstock.embedding.v1 import embedding_pb2 as embedding
from penstock.feature_store.v1 import feature_store_pb2 as features
from penstock.gateway.v1 import gateway_pb2 as gateway
from penstock.inference.v1 import inference_pb2 as inference
from penstock.orchestrator.v1 import orchestrator_pb2 as orchestrator
from penstock.vector_search.v1 import vector_search_pb2 as vectors

from gateway.core.routes import Needs

Take = Callable[[inference.GenerateResponse], bool]
"""Is offered a part of an answer that an iteration waits for, and says whether it took it; it must not raise.

It is the short way of what is nothing but more text: past every iteration between the wire and the caller.
"""


class Models(Protocol):
    """The model pool."""

    def generate(
        self, request: inference.GenerateRequest, take: Take | None = None
    ) -> AsyncIterator[inference.GenerateResponse]:
        """Write an answer piece by piece; what `take` takes does not come to the iteration."""
        ...

    async def complete(self, request: inference.CompleteRequest) -> inference.CompleteResponse: ...
    async def list(self) -> inference.ListModelsResponse: ...
    async def get(self, request: inference.GetModelRequest) -> inference.GetModelResponse: ...


class ChatCall(Protocol):
    """One call of a caller to the models that may answer him, open inside `with`; it may be asked more than once."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...

    @property
    def routing(self) -> gateway.Routing:
        """What was asked and passed over so far, and what it cost."""
        ...

    async def complete(self, request: inference.CompleteRequest) -> inference.CompleteResponse:
        """Return a whole answer of the first model that gives one; `model` of the request is not read."""
        ...

    def generate(
        self, request: inference.GenerateRequest, take: Take | None = None
    ) -> AsyncGenerator[inference.GenerateResponse, None]:
        """Write an answer piece by piece; a model that fails before its first piece is followed by the next one.

        After the first piece `take` is offered what follows.
        """
        ...


class Chats(Protocol):
    """What chooses, asks and accounts for the models that go on with a conversation."""

    def open(self, model: str, needs: Needs) -> ChatCall:
        """Begin a call to a model or an alias; raise what stands against it, before anything is asked."""
        ...


class Encoders(Protocol):
    """Text to vectors."""

    async def embed(self, request: embedding.EmbedRequest) -> embedding.EmbedResponse: ...
    async def get_encoder(self) -> embedding.GetEncoderResponse: ...


class Pipelines(Protocol):
    """Grounded answers, search by text, ingestion."""

    async def ask(self, request: orchestrator.AskRequest) -> orchestrator.AskResponse: ...
    def stream_ask(self, request: orchestrator.StreamAskRequest) -> AsyncIterator[orchestrator.StreamAskResponse]: ...
    async def search(self, request: orchestrator.SearchRequest) -> orchestrator.SearchResponse: ...
    def ingest(
        self, request: orchestrator.IngestDocumentsRequest
    ) -> AsyncIterator[orchestrator.IngestDocumentsResponse]: ...
    async def get_provenance(
        self, request: orchestrator.GetProvenanceRequest
    ) -> orchestrator.GetProvenanceResponse: ...


class KnowledgeBases(Protocol):
    """Knowledge bases and their documents."""

    async def create(self, request: vectors.CreateKnowledgeBaseRequest) -> vectors.CreateKnowledgeBaseResponse: ...
    async def get(self, request: vectors.GetKnowledgeBaseRequest) -> vectors.GetKnowledgeBaseResponse: ...
    async def list(self) -> vectors.ListKnowledgeBasesResponse: ...
    async def delete(self, request: vectors.DeleteKnowledgeBaseRequest) -> vectors.DeleteKnowledgeBaseResponse: ...
    async def get_document(self, request: vectors.GetDocumentRequest) -> vectors.GetDocumentResponse: ...
    async def list_documents(self, request: vectors.ListDocumentsRequest) -> vectors.ListDocumentsResponse: ...
    async def delete_document(self, request: vectors.DeleteDocumentRequest) -> vectors.DeleteDocumentResponse: ...


class Features(Protocol):
    """Online features."""

    async def list_views(self) -> features.ListFeatureViewsResponse: ...
    async def read(self, request: features.GetFeaturesRequest) -> features.GetFeaturesResponse: ...
    async def push(self, request: features.PushFeaturesRequest) -> features.PushFeaturesResponse: ...


@dataclass(frozen=True, slots=True)
class Backends:
    """The services behind the doors. A call carries the identity, deadline and trace of the request being served."""

    models: Models
    encoders: Encoders
    pipelines: Pipelines
    knowledge_bases: KnowledgeBases
    features: Features
