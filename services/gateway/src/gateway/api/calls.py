"""Every call of the gateway, once; both doors lead here."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, cast

from penstock.embedding.v1 import embedding_pb2 as embedding
from penstock.feature_store.v1 import feature_store_pb2 as features
from penstock.gateway.v1 import gateway_pb2 as pb
from penstock.inference.v1 import inference_pb2 as inference
from penstock.orchestrator.v1 import answer_pb2 as answers
from penstock.orchestrator.v1 import orchestrator_pb2 as orchestrator
from penstock.vector_search.v1 import vector_search_pb2 as vectors
from servicekit import identity
from servicekit.errors import InvalidInput, NotFound, Unavailable

from gateway.api.backends import Backends
from gateway.core import scopes
from gateway.core.targets import PIPELINE_PREFIX, ModelNotFound, Pipeline, check_turns, target_of

Chunks = AsyncGenerator[pb.StreamChatResponse, None]


def allow(scope: str) -> None:
    """Raise MissingScope when the caller's key lacks a scope."""
    scopes.require(identity.current().scopes, scope)


class Calls:
    """What a caller can ask of Penstock, whichever door he came through. Each call checks its own scope."""

    def __init__(self, backends: Backends) -> None:
        self._models = backends.models
        self._encoders = backends.encoders
        self._pipelines = backends.pipelines
        self._knowledge_bases = backends.knowledge_bases
        self._features = backends.features

    async def chat(self, conversation: pb.Conversation) -> pb.ChatResponse:
        """Write the next turn of a conversation."""
        target = _checked_target(conversation)
        if isinstance(target, Pipeline):
            question = _question(conversation, target)
            with _naming(conversation.model):
                answered = await self._pipelines.ask(orchestrator.AskRequest(question=question))
            return _turn(answered.answer, with_text=True)
        pieces: list[str] = []
        finished = pb.ChatResponse()
        async with aclosing(self._generated(conversation)) as events:
            async for event in events:
                pieces.append(event.text)
                finished = event.finished
        finished.text = "".join(pieces)
        return finished

    async def stream_chat(self, conversation: pb.Conversation) -> Chunks:
        """Write the next turn of a conversation, piece by piece."""
        target = _checked_target(conversation)
        events = self._answered(conversation, target) if isinstance(target, Pipeline) else self._generated(conversation)
        async with aclosing(events):
            async for event in events:
                yield event

    async def _generated(self, conversation: pb.Conversation) -> Chunks:
        request = inference.GenerateRequest(
            model=conversation.model, messages=conversation.messages, sampling=conversation.sampling
        )
        served, complete = inference.ServedModel(), False
        with _naming(conversation.model):
            async with _closing(self._models.generate(request)) as events:
                async for event in events:
                    if event.HasField("served"):
                        served = event.served
                    if event.text:
                        yield pb.StreamChatResponse(text=event.text)
                    if event.HasField("finished"):
                        end = event.finished
                        last = pb.ChatResponse(finish_reason=end.finish_reason, usage=end.usage, served=served)
                        complete = True
                        yield pb.StreamChatResponse(finished=last)
        _check_whole(complete)

    async def _answered(self, conversation: pb.Conversation, target: Pipeline) -> Chunks:
        request = orchestrator.StreamAskRequest(question=_question(conversation, target))
        complete = False
        with _naming(conversation.model):
            async with _closing(self._pipelines.stream_ask(request)) as events:
                async for event in events:
                    if event.WhichOneof("event") == "answer":
                        complete = True
                        yield pb.StreamChatResponse(finished=_turn(event.answer, with_text=False))
                    else:
                        yield pb.StreamChatResponse(text=event.text)
        _check_whole(complete)

    async def embed(self, request: pb.EmbedRequest) -> embedding.EmbedResponse:
        """Encode texts."""
        allow(scopes.EMBEDDINGS)
        with _naming(request.model):
            return await self._encoders.embed(embedding.EmbedRequest(model=request.model, texts=request.texts))

    async def list_models(self) -> list[inference.Model]:
        """Return the models and pipelines that the caller's key opens, by name."""
        granted = identity.current().scopes
        found: list[inference.Model] = []
        if granted & {scopes.MODELS, scopes.EMBEDDINGS}:
            found += [model for model in (await self._models.list()).models if _opens(granted, model)]
        if scopes.ASK in granted:
            found += [_as_model(base) for base in (await self._knowledge_bases.list()).knowledge_bases]
        return sorted(found, key=lambda model: model.name)

    async def get_model(self, name: str) -> inference.Model:
        """Return one model or pipeline; raise ModelNotFound."""
        target, granted = target_of(name), identity.current().scopes
        with _naming(name):
            if isinstance(target, Pipeline):
                if scopes.ASK not in granted:
                    raise ModelNotFound(name)
                base = await self._knowledge_bases.get(vectors.GetKnowledgeBaseRequest(name=target.knowledge_base))
                return _as_model(base.knowledge_base)
            if not granted & {scopes.MODELS, scopes.EMBEDDINGS}:
                raise ModelNotFound(name)
            model = (await self._models.get(inference.GetModelRequest(name=name))).model
            if not _opens(granted, model):
                raise ModelNotFound(name)
            return model

    async def ask(self, question: orchestrator.Question) -> answers.Answer:
        """Answer a question from a knowledge base."""
        allow(scopes.ASK)
        return (await self._pipelines.ask(orchestrator.AskRequest(question=question))).answer

    async def stream_ask(self, question: orchestrator.Question) -> AsyncGenerator[pb.StreamAskResponse, None]:
        """Answer a question as the answer is written; the last event is the whole answer."""
        allow(scopes.ASK)
        request = orchestrator.StreamAskRequest(question=question)
        complete = False
        async with _closing(self._pipelines.stream_ask(request)) as events:
            async for event in events:
                if event.WhichOneof("event") == "answer":
                    complete = True
                    yield pb.StreamAskResponse(answer=event.answer)
                else:
                    yield pb.StreamAskResponse(text=event.text)
        _check_whole(complete)

    async def search(self, request: pb.SearchRequest) -> orchestrator.SearchResponse:
        """Search a knowledge base by text."""
        allow(scopes.KNOWLEDGE_READ)
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
        inner = orchestrator.IngestDocumentsRequest(knowledge_base=request.knowledge_base, documents=request.documents)
        async with _closing(self._pipelines.ingest(inner)) as events:
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


def _check_whole(complete: bool) -> None:
    """Raise Unavailable when a stream ended before its last message: what came so far is not the answer."""
    if not complete:
        raise Unavailable("the answer broke off", reason="backend_failed", retry_after_s=1)


def _closing(events: AsyncIterator[Any]) -> Any:
    """Close the iteration when it is left, so that the call behind it is cancelled then and not at collection."""
    return aclosing(cast("AsyncGenerator[Any, None]", events))


@contextmanager
def _naming(model: str) -> Iterator[None]:
    """Say `model_not_found` of what the caller named in `model`, whichever service did not find it."""
    try:
        yield
    except NotFound as error:
        raise ModelNotFound(model) from error


def _checked_target(conversation: pb.Conversation) -> Any:
    target = target_of(conversation.model)
    allow(scopes.ASK if isinstance(target, Pipeline) else scopes.MODELS)
    check_turns([message.role for message in conversation.messages])
    return target


def _question(conversation: pb.Conversation, target: Pipeline) -> orchestrator.Question:
    *history, last = conversation.messages
    if not last.content:
        raise InvalidInput("the question is empty", field=f"messages[{len(history)}].content")
    return orchestrator.Question(
        knowledge_base=target.knowledge_base, text=last.content, history=history, sampling=conversation.sampling
    )


def _turn(answer: answers.Answer, *, with_text: bool) -> pb.ChatResponse:
    """Return an answer as a turn of a conversation. Passages alone are a complete answer, too: nothing was cut off."""
    return pb.ChatResponse(
        text=answer.text if with_text else "",
        finish_reason=answer.finish_reason or inference.FINISH_REASON_STOP,
        usage=answer.usage,
        served=answer.served,
        answer=answer,
    )


def _opens(granted: frozenset[str], model: inference.Model) -> bool:
    needed = scopes.EMBEDDINGS if model.task == inference.MODEL_TASK_EMBED else scopes.MODELS
    return needed in granted


def _as_model(base: vectors.KnowledgeBase) -> inference.Model:
    return inference.Model(
        name=f"{PIPELINE_PREFIX}{base.name}",
        task=inference.MODEL_TASK_GENERATE,
        provider="penstock",
        version=str(base.revision),
        ready=True,
        created_at=base.created_at,
        description=f"Grounded answers from the knowledge base {base.name}",
    )
