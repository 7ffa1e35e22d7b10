"""Every call of the gateway, once; both doors lead here."""

from collections.abc import AsyncGenerator, Awaitable
from typing import Final

from penstock.embedding.v1 import embedding_pb2 as embedding
from penstock.feature_store.v1 import feature_store_pb2 as features
from penstock.gateway.v1 import gateway_pb2 as pb
from penstock.inference.v1 import inference_pb2 as inference
from penstock.orchestrator.v1 import answer_pb2 as answers
from penstock.orchestrator.v1 import orchestrator_pb2 as orchestrator
from penstock.vector_search.v1 import vector_search_pb2 as vectors
from servicekit import identity

from gateway.api.backends import Backends, Chats, Take
from gateway.api.chat_calls import ChatCalls, Chunks
from gateway.api.chat_rules import UnknownFields
from gateway.api.knowledge_tokens import likely_tokens_of_search, tokens_of_documents, tokens_of_news, tokens_of_search
from gateway.api.offered_models import OfferedModels
from gateway.api.runs import MeteredRuns
from gateway.api.upstream import check_whole, closing, naming
from gateway.core import scopes
from gateway.core.token_bounds import most_tokens

FRAME_TOKENS: Final = 2
"""What an encoder puts before and behind each text."""


def allow(scope: str) -> None:
    """Raise MissingScope when the caller's key lacks a scope."""
    scopes.require(identity.current().scopes, scope)


class Calls:
    """What a caller can ask of Penstock, whichever door he came through. Each call checks its own scope.

    `ignores_unknown` says whether fields that OpenAI's schema does not have are dropped from its requests.
    """

    def __init__(
        self,
        backends: Backends,
        chats: Chats,
        offered: OfferedModels,
        runs: MeteredRuns,
        unknown_fields: UnknownFields = UnknownFields.PASS,
    ) -> None:
        self.ignores_unknown = unknown_fields is UnknownFields.IGNORE
        self._runs = runs
        self._offered = offered
        self._chats = ChatCalls(chats, backends.pipelines, unknown_fields, runs)
        self._encoders = backends.encoders
        self._pipelines = backends.pipelines
        self._knowledge_bases = backends.knowledge_bases
        self._features = backends.features

    async def chat(self, conversation: pb.Conversation) -> pb.ChatResponse:
        """Write the next turn of a conversation."""
        return await self._chats.complete(conversation)

    def stream_chat(self, conversation: pb.Conversation, show: Take | None = None) -> Chunks:
        """Write the next turn of a conversation, piece by piece; what `show` takes does not come to the iteration."""
        return self._chats.stream(conversation, show)

    async def embed(self, request: pb.EmbedRequest) -> embedding.EmbedResponse:
        """Encode texts, or token ids."""
        allow(scopes.EMBEDDINGS)
        inner = embedding.EmbedRequest(texts=request.texts, tokens=request.tokens)
        if request.HasField("dimensions"):
            inner.dimensions = request.dimensions

        def ask(model: str) -> Awaitable[embedding.EmbedResponse]:
            inner.model = model
            return self._encoders.embed(inner)

        with naming(request.model):
            return await self._runs.encode(request.model, _most_tokens(request), ask)

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
        async with self._runs.knowledge("search", request.knowledge_base, tokens_of_search(request)) as bill:
            found = await self._pipelines.search(
                orchestrator.SearchRequest(
                    knowledge_base=request.knowledge_base,
                    text=request.text,
                    top_k=request.top_k,
                    filter=request.filter,
                    mode=request.mode,
                    min_revision=request.min_revision,
                )
            )
            bill.input_tokens = likely_tokens_of_search(request)
            return found

    async def ingest(self, request: pb.IngestDocumentsRequest) -> AsyncGenerator[pb.IngestDocumentsResponse, None]:
        """Take documents in, with news of each as it goes."""
        allow(scopes.KNOWLEDGE_WRITE)
        inner = orchestrator.IngestDocumentsRequest(knowledge_base=request.knowledge_base, documents=request.documents)
        documents = request.documents
        async with (
            self._runs.knowledge("ingest", request.knowledge_base, tokens_of_documents(documents)) as bill,
            closing(self._pipelines.ingest(inner)) as events,
        ):
            async for event in events:
                bill.began()
                bill.input_tokens += tokens_of_news(event.progress, documents)
                await self._runs.renew(bill)
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


def _most_tokens(request: pb.EmbedRequest) -> int:
    """Return how many tokens an encoder reads at most, with its own around each text."""
    read = most_tokens("".join(request.texts).encode()) + sum(len(each.ids) for each in request.tokens)
    return read + FRAME_TOKENS * (len(request.texts) + len(request.tokens))
