"""The services behind the gateway, over gRPC; reads of state are tried again, work is not."""

from collections.abc import AsyncIterator, Callable

from penstock.embedding.v1 import embedding_pb2 as embedding
from penstock.embedding.v1.embedding_pb2_grpc import EmbeddingServiceStub
from penstock.feature_store.v1 import feature_store_pb2 as features
from penstock.feature_store.v1.feature_store_pb2_grpc import FeatureStoreServiceStub
from penstock.inference.v1 import inference_pb2 as inference
from penstock.inference.v1.inference_pb2_grpc import InferenceServiceStub
from penstock.orchestrator.v1 import orchestrator_pb2 as orchestrator
from penstock.orchestrator.v1.orchestrator_pb2_grpc import OrchestratorServiceStub
from penstock.vector_search.v1 import vector_search_pb2 as vectors
from penstock.vector_search.v1.vector_search_pb2_grpc import VectorSearchServiceStub
from servicekit.rpc import Channel


class InferenceModels:
    """The model pool, through the inference service."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._stub = InferenceServiceStub(channel.grpc)

    def generate(
        self, request: inference.GenerateRequest, take: Callable[[inference.GenerateResponse], bool] | None = None
    ) -> AsyncIterator[inference.GenerateResponse]:
        """Write text, piece by piece; leaving the iteration cancels it, and what `take` takes does not come to it."""
        return self._channel.stream(self._stub.Generate, request, take=take)

    async def complete(self, request: inference.CompleteRequest) -> inference.CompleteResponse:
        """Write text and return the whole of it at once; cancelling the call cancels it."""
        return await self._channel.call(self._stub.Complete, request)

    async def list(self) -> inference.ListModelsResponse:
        """Return the catalogue."""
        return await self._channel.call(self._stub.ListModels, inference.ListModelsRequest(), idempotent=True)

    async def get(self, request: inference.GetModelRequest) -> inference.GetModelResponse:
        """Return one model."""
        return await self._channel.call(self._stub.GetModel, request, idempotent=True)


class EmbeddingEncoders:
    """Text to vectors, through the embedding service."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._stub = EmbeddingServiceStub(channel.grpc)

    async def embed(self, request: embedding.EmbedRequest) -> embedding.EmbedResponse:
        """Encode texts."""
        return await self._channel.call(self._stub.Embed, request)

    async def get_encoder(self) -> embedding.GetEncoderResponse:
        """Return the fingerprint of the default encoder."""
        return await self._channel.call(self._stub.GetEncoder, embedding.GetEncoderRequest(), idempotent=True)


class OrchestratorPipelines:
    """Grounded answers, search and ingestion, through the orchestrator."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._stub = OrchestratorServiceStub(channel.grpc)

    async def ask(self, request: orchestrator.AskRequest) -> orchestrator.AskResponse:
        """Answer a question."""
        return await self._channel.call(self._stub.Ask, request)

    def stream_ask(self, request: orchestrator.StreamAskRequest) -> AsyncIterator[orchestrator.StreamAskResponse]:
        """Answer a question as it is written; leaving the iteration cancels it."""
        return self._channel.stream(self._stub.StreamAsk, request)

    async def search(self, request: orchestrator.SearchRequest) -> orchestrator.SearchResponse:
        """Search by text."""
        return await self._channel.call(self._stub.Search, request)

    def ingest(
        self, request: orchestrator.IngestDocumentsRequest
    ) -> AsyncIterator[orchestrator.IngestDocumentsResponse]:
        """Take documents in, with news of each; leaving the iteration cancels the rest."""
        return self._channel.stream(self._stub.IngestDocuments, request)

    async def get_provenance(self, request: orchestrator.GetProvenanceRequest) -> orchestrator.GetProvenanceResponse:
        """Return what an answer was made from."""
        return await self._channel.call(self._stub.GetProvenance, request, idempotent=True)


class VectorSearchKnowledgeBases:
    """Knowledge bases and documents, through vector-search."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._stub = VectorSearchServiceStub(channel.grpc)

    async def create(self, request: vectors.CreateKnowledgeBaseRequest) -> vectors.CreateKnowledgeBaseResponse:
        """Create a knowledge base, or return the one that is there."""
        return await self._channel.call(self._stub.CreateKnowledgeBase, request)

    async def get(self, request: vectors.GetKnowledgeBaseRequest) -> vectors.GetKnowledgeBaseResponse:
        """Return one knowledge base."""
        return await self._channel.call(self._stub.GetKnowledgeBase, request, idempotent=True)

    async def list(self) -> vectors.ListKnowledgeBasesResponse:
        """Return the tenant's knowledge bases."""
        request = vectors.ListKnowledgeBasesRequest()
        return await self._channel.call(self._stub.ListKnowledgeBases, request, idempotent=True)

    async def delete(self, request: vectors.DeleteKnowledgeBaseRequest) -> vectors.DeleteKnowledgeBaseResponse:
        """Delete a knowledge base with all it holds."""
        return await self._channel.call(self._stub.DeleteKnowledgeBase, request)

    async def get_document(self, request: vectors.GetDocumentRequest) -> vectors.GetDocumentResponse:
        """Return a document with its chunks."""
        return await self._channel.call(self._stub.GetDocument, request, idempotent=True)

    async def list_documents(self, request: vectors.ListDocumentsRequest) -> vectors.ListDocumentsResponse:
        """Return a page of documents."""
        return await self._channel.call(self._stub.ListDocuments, request, idempotent=True)

    async def delete_document(self, request: vectors.DeleteDocumentRequest) -> vectors.DeleteDocumentResponse:
        """Delete a document with its chunks."""
        return await self._channel.call(self._stub.DeleteDocument, request)


class FeatureStoreFeatures:
    """Online features, through the feature store."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._stub = FeatureStoreServiceStub(channel.grpc)

    async def list_views(self) -> features.ListFeatureViewsResponse:
        """Return the feature views."""
        request = features.ListFeatureViewsRequest()
        return await self._channel.call(self._stub.ListFeatureViews, request, idempotent=True)

    async def read(self, request: features.GetFeaturesRequest) -> features.GetFeaturesResponse:
        """Read features of entities."""
        return await self._channel.call(self._stub.GetFeatures, request, idempotent=True)

    async def push(self, request: features.PushFeaturesRequest) -> features.PushFeaturesResponse:
        """Write rows to a feature view."""
        return await self._channel.call(self._stub.PushFeatures, request)
