"""Every call of the gateway, once; both doors lead here."""

from collections.abc import AsyncGenerator

from penstock.embedding.v1 import embedding_pb2 as embedding
from penstock.feature_store.v1 import feature_store_pb2 as features
from penstock.gateway.v1 import gateway_pb2 as pb
from penstock.inference.v1 import inference_pb2 as inference
from penstock.orchestrator.v1 import answer_pb2 as answers
from penstock.orchestrator.v1 import orchestrator_pb2 as orchestrator
from penstock.vector_search.v1 import vector_search_pb2 as vectors
from servicekit import identity

from gateway.api.backends import Backends, Chats
from gateway.api.chat_calls import ChatCalls, Chunks
from gateway.api.chat_rules import UnknownFields
from gateway.api.direct_chats import DirectChats
from gateway.api.offered_models import OfferedModels
from gateway.api.runs import BYTES_PER_TOKEN, UNMETERED, Runs
from gateway.api.upstream import check_whole, closing, naming
from gateway.core import scopes


def allow(scope: str) -> None:
    """Raise MissingScope when the caller's key lacks a scope."""
    scopes.require(identity.current().scopes, scope)


class Calls:
    """What a caller can ask of Penstock, whichever door he came through. Each call checks its own scope."""

    def __init__(
        self,
        backends: Backends,
        chats: Chats | None = None,
        unknown_fields: UnknownFields = UnknownFields.PASS,
        offered: OfferedModels | None = None,
        runs: Runs = UNMETERED,
    ) -> None:
        """Without `chats` and `runs`, what a caller names is asked directly: no routes, no limits, no ledger.

        Without `offered`, no aliases are listed.
        """
        self._runs = runs
        self._offered = offered or OfferedModels(backends.models, backends.knowledge_bases)
        self._chats = ChatCalls(chats or DirectChats(backends.models), backends.pipelines, unknown_fields, runs)
        self._encoders = backends.encoders
        self._pipelines = backends.pipelines
        self._knowledge_bases = backends.knowledge_bases
        self._features = backends.features

    async def chat(self, conversation: pb.Conversation) -> pb.ChatResponse:
        """Write the next turn of a conversation."""
        return await self._chats.complete(conversation)

    def stream_chat(self, conversation: pb.Conversation) -> Chunks:
        """Write the next turn of a conversation, piece by piece."""
        return self._chats.stream(conversation)

    async def embed(self, request: pb.EmbedRequest) -> embedding.EmbedResponse:
        """Encode texts, or token ids."""
        allow(scopes.EMBEDDINGS)
        async with self._runs.encoder(request.model, request.ByteSize() // BYTES_PER_TOKEN + 1) as bill:
            inner = embedding.EmbedRequest(model=bill.card.name, texts=request.texts, tokens=request.tokens)
            if request.HasField("dimensions"):
                inner.dimensions = request.dimensions
            with naming(request.model):
                response = await self._encoders.embed(inner)
            bill.counted(sum(response.token_counts), 0)
            bill.version, bill.digest = response.encoder.version, response.encoder.digest
            return response

    async def list_models(self) -> list[inference.Model]:
        """Return the models, aliases and pipelines that the caller may ask for, by name."""
        return await self._offered.list()

    async def get_model(self, name: str) -> inference.Model:
        """Return one of them; raise ModelNotFound."""
        return await self._offered.get(name)

    async def ask(self, question: orchestrator.Question) -> answers.Answer:
        """Answer a question from a knowledge base."""
        allow(scopes.ASK)
        async with self._runs.pipeline(question.knowledge_base, question.model) as bill:
            answer = (await self._pipelines.ask(orchestrator.AskRequest(question=question))).answer
            self._runs.answered(bill, answer)
            return answer

    async def stream_ask(self, question: orchestrator.Question) -> AsyncGenerator[pb.StreamAskResponse, None]:
        """Answer a question as the answer is written; the last event is the whole answer."""
        allow(scopes.ASK)
        request = orchestrator.StreamAskRequest(question=question)
        complete = False
        async with (
            self._runs.pipeline(question.knowledge_base, question.model) as bill,
            closing(self._pipelines.stream_ask(request)) as events,
        ):
            async for event in events:
                bill.began()
                if event.WhichOneof("event") == "answer":
                    complete = True
                    self._runs.answered(bill, event.answer)
                    yield pb.StreamAskResponse(answer=event.answer)
                else:
                    bill.output_tokens += 1
                    yield pb.StreamAskResponse(text=event.text)
            check_whole(complete)

    async def search(self, request: pb.SearchRequest) -> orchestrator.SearchResponse:
        """Search a knowledge base by text."""
        allow(scopes.KNOWLEDGE_READ)
        self._runs.confined(request.knowledge_base)
        return await self._pipelines.search(
            orchestrator.SearchRequest(
                knowledge_base=request.knowledge_base,
                text=request.text,
                top_k=request.top_k,
                filter=request.filter,
                mode=request.mode,
                min_revision=request.min_revision,
            )
        )

    async def ingest(self, request: pb.IngestDocumentsRequest) -> AsyncGenerator[pb.IngestDocumentsResponse, None]:
        """Take documents in, with news of each as it goes."""
        allow(scopes.KNOWLEDGE_WRITE)
        self._runs.confined(request.knowledge_base)
        inner = orchestrator.IngestDocumentsRequest(knowledge_base=request.knowledge_base, documents=request.documents)
        async with closing(self._pipelines.ingest(inner)) as events:
            async for event in events:
                yield pb.IngestDocumentsResponse(progress=event.progress)

    async def get_provenance(self, answer_id: str) -> answers.Provenance:
        """Say what an answer was made from."""
        allow(scopes.ASK)
        request = orchestrator.GetProvenanceRequest(id=answer_id)
        return (await self._pipelines.get_provenance(request)).provenance

    async def create_knowledge_base(self, name: str) -> vectors.KnowledgeBase:
        """Create a knowledge base bound to the encoder that serves now."""
        allow(scopes.KNOWLEDGE_WRITE)
        encoder = (await self._encoders.get_encoder()).encoder
        request = vectors.CreateKnowledgeBaseRequest(name=name, encoder=encoder)
        return (await self._knowledge_bases.create(request)).knowledge_base

    async def get_knowledge_base(self, name: str) -> vectors.KnowledgeBase:
        """Return one knowledge base."""
        allow(scopes.KNOWLEDGE_READ)
        return (await self._knowledge_bases.get(vectors.GetKnowledgeBaseRequest(name=name))).knowledge_base

    async def list_knowledge_bases(self) -> vectors.ListKnowledgeBasesResponse:
        """Return the tenant's knowledge bases."""
        allow(scopes.KNOWLEDGE_READ)
        return await self._knowledge_bases.list()

    async def delete_knowledge_base(self, name: str) -> int:
        """Delete a knowledge base with all it holds; return how many documents that were."""
        allow(scopes.KNOWLEDGE_WRITE)
        request = vectors.DeleteKnowledgeBaseRequest(name=name)
        return (await self._knowledge_bases.delete(request)).deleted_documents

    async def get_document(self, knowledge_base: str, document_id: str) -> vectors.GetDocumentResponse:
        """Return a document with its chunks."""
        allow(scopes.KNOWLEDGE_READ)
        request = vectors.GetDocumentRequest(knowledge_base=knowledge_base, id=document_id)
        return await self._knowledge_bases.get_document(request)

    async def list_documents(
        self, knowledge_base: str, page_size: int, page_token: str
    ) -> vectors.ListDocumentsResponse:
        """Return a page of documents by id."""
        allow(scopes.KNOWLEDGE_READ)
        request = vectors.ListDocumentsRequest(
            knowledge_base=knowledge_base, page_size=page_size, page_token=page_token
        )
        return await self._knowledge_bases.list_documents(request)

    async def delete_document(self, knowledge_base: str, document_id: str) -> int:
        """Delete a document with its chunks; return the revision that no longer has it."""
        allow(scopes.KNOWLEDGE_WRITE)
        request = vectors.DeleteDocumentRequest(knowledge_base=knowledge_base, id=document_id)
        return (await self._knowledge_bases.delete_document(request)).revision

    async def list_feature_views(self) -> features.ListFeatureViewsResponse:
        """Return the feature views with their schemas."""
        allow(scopes.FEATURES_READ)
        return await self._features.list_views()

    async def get_features(self, request: pb.GetFeaturesRequest) -> features.GetFeaturesResponse:
        """Read features of entities."""
        allow(scopes.FEATURES_READ)
        inner = features.GetFeaturesRequest(features=request.features, entities=request.entities)
        return await self._features.read(inner)

    async def push_features(self, request: pb.PushFeaturesRequest) -> features.PushFeaturesResponse:
        """Write rows to a feature view."""
        allow(scopes.FEATURES_WRITE)
        inner = features.PushFeaturesRequest(feature_view=request.feature_view, rows=request.rows)
        return await self._features.push(inner)
