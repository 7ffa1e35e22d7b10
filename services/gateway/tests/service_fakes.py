"""The services behind the gateway as real gRPC servicers: they answer as a test tells them, and keep what they saw."""

import asyncio
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from gateway_chat_fakes import Written, stream, whole
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from penstock.embedding.v1 import embedding_pb2 as embedding
from penstock.embedding.v1 import embedding_pb2_grpc as embedding_grpc
from penstock.feature_store.v1 import feature_store_pb2 as features
from penstock.feature_store.v1 import feature_store_pb2_grpc as features_grpc
from penstock.inference.v1 import inference_pb2 as inference
from penstock.inference.v1 import inference_pb2_grpc as inference_grpc
from penstock.orchestrator.v1 import answer_pb2 as answers
from penstock.orchestrator.v1 import ingest_pb2 as ingest
from penstock.orchestrator.v1 import orchestrator_pb2 as orchestrator
from penstock.orchestrator.v1 import orchestrator_pb2_grpc as orchestrator_grpc
from penstock.vector_search.v1 import vector_search_pb2 as vectors
from penstock.vector_search.v1 import vector_search_pb2_grpc as vectors_grpc
from servicekit import deadline, identity
from servicekit.errors import InvalidInput, NotFound
from servicekit.rpc import Service

ENCODER = embedding.Encoder(
    model="minilm-l6", version="1", digest="sha256:00", dimensions=4, pooling="mean", max_tokens=256
)
VOCABULARY = 30_522
SERVED = inference.ServedModel(model="writer", version="7", digest="sha256:11", provider="triton")
USAGE = inference.TokenUsage(input_tokens=5, output_tokens=3, reported=True)
CHUNKS = 2
MOMENT = Timestamp(seconds=1_700_000_000)
CAPABILITIES = [
    *("tools", "json_schema", "json_object", "vision", "audio", "logprobs"),
    *("n", "seed", "stop", "logit_bias", "penalties"),
]
PIECES = ("Hello", " there", ".")


@dataclass
class World:
    """What the fake services saw, and how they are told to behave."""

    requests: list[Any] = field(default_factory=list)
    callers: list[identity.Identity] = field(default_factory=list)
    deadlines_s: list[float] = field(default_factory=list)
    failure: Exception | None = None
    fail_after: int | None = None
    endless: bool = False
    more: str = "more "
    pace_s: float = 0.01
    """How long a slow model takes to its next piece of an endless answer, or of any that `dawdles`."""
    dawdles: bool = False
    given: int = 0
    answers: list[Written] = field(default_factory=list)
    models: dict[str, inference.Model] = field(default_factory=lambda: {each.name: each for each in usual_models()})
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def saw(self, request: Any, context: Any) -> None:
        """Note a request; fail when told to."""
        self.requests.append(request)
        self.callers.append(identity.current())
        self.deadlines_s.append(deadline.remaining_s() or -1.0)
        if self.failure is not None and self.fail_after is None:
            raise self.failure

    def forget(self) -> None:
        """Forget what was seen so far."""
        for seen in (self.requests, self.callers, self.deadlines_s):
            seen.clear()

    def written(self) -> Written | None:
        """Return what the model was told to say next; the last of it is said for ever."""
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0] if self.answers else None

    async def pieces(self) -> AsyncIterator[str]:
        """Give the pieces of an answer; fail or go on forever when told to."""
        try:
            for position, piece in enumerate(PIECES):
                if self.failure is not None and self.fail_after == position:
                    raise self.failure
                yield piece
                await self.dawdle()
            while self.endless:
                self.given += 1
                yield self.more
                await asyncio.sleep(self.pace_s)  # a slow model, not a wait
        finally:
            self.ended.set()

    async def dawdle(self) -> None:
        """Be as slow as a model is, so that what it says comes piece by piece."""
        if self.dawdles:
            await asyncio.sleep(self.pace_s)

    async def hang(self) -> None:
        try:
            while self.endless:  # noqa: ASYNC110  work that goes on
                await asyncio.sleep(0.01)
        finally:
            self.ended.set()


class FakeInference(inference_grpc.InferenceServiceServicer):
    def __init__(self, world: World) -> None:
        self.world = world

    async def Generate(self, request, context):
        self._find(request, context)
        if (written := self.world.written()) is not None:
            for event in stream(written, request.sampling.n or 1):
                yield event
                await self.world.dawdle()
            return
        yield inference.GenerateResponse(served=SERVED)
        async for piece in self.world.pieces():
            yield inference.GenerateResponse(deltas=[inference.Delta(text=piece)])
        end = inference.Delta(finish_reason=inference.FINISH_REASON_STOP)
        yield inference.GenerateResponse(deltas=[end], finished=inference.GenerationFinished(usage=USAGE))

    async def Complete(self, request, context):
        self._find(request, context)
        if (written := self.world.written()) is not None:
            return whole(written, request.sampling.n or 1)
        text = "".join([piece async for piece in self.world.pieces()])
        message = inference.Message(role="assistant", content=text)
        choice = inference.Choice(message=message, finish_reason=inference.FINISH_REASON_STOP)
        finished = inference.GenerationFinished(usage=USAGE)
        return inference.CompleteResponse(served=SERVED, choices=[choice], finished=finished)

    def _find(self, request, context) -> None:
        self.world.saw(request, context)
        if request.model not in self.world.models:
            raise NotFound(f"no model {request.model}")

    async def ListModels(self, request, context):
        self.world.saw(request, context)
        return inference.ListModelsResponse(models=self.world.models.values())

    async def GetModel(self, request, context):
        self.world.saw(request, context)
        if request.name not in self.world.models:
            raise NotFound(f"no model {request.name}")
        return inference.GetModelResponse(model=self.world.models[request.name])


class FakeEmbedding(embedding_grpc.EmbeddingServiceServicer):
    def __init__(self, world: World) -> None:
        self.world = world

    async def Embed(self, request, context):
        self.world.saw(request, context)
        await self.world.hang()
        if request.model not in {"", ENCODER.model}:
            raise NotFound("no such encoder")
        if request.HasField("dimensions") and request.dimensions != ENCODER.dimensions:
            raise InvalidInput("other dimensions", reason="wrong_dimensions", field="dimensions")
        for index, tokens in enumerate(request.tokens):
            for place, token in enumerate(tokens.ids):
                if token >= VOCABULARY:
                    field = f"tokens[{index}].ids[{place}]"
                    raise InvalidInput(f"no token {token}", reason="unknown_token", field=field)
        read = request.texts or [tokens.ids for tokens in request.tokens]
        packed = b"".join(struct.pack("<4f", 0.1, 0.2, 0.3, len(each)) for each in read)
        return embedding.EmbedResponse(encoder=ENCODER, vectors=packed, token_counts=[3] * len(read))

    async def GetEncoder(self, request, context):
        self.world.saw(request, context)
        return embedding.GetEncoderResponse(encoder=ENCODER)


class FakeOrchestrator(orchestrator_grpc.OrchestratorServiceServicer):
    def __init__(self, world: World) -> None:
        self.world = world

    def _find(self, name: str) -> None:
        if name != "docs":
            raise NotFound(f"no knowledge base {name}", field="knowledge_base")

    async def Ask(self, request, context):
        self.world.saw(request, context)
        self._find(request.question.knowledge_base)
        return orchestrator.AskResponse(answer=answer())

    async def StreamAsk(self, request, context):
        self.world.saw(request, context)
        self._find(request.question.knowledge_base)
        async for piece in self.world.pieces():
            yield orchestrator.StreamAskResponse(text=piece)
        yield orchestrator.StreamAskResponse(answer=answer())

    async def Search(self, request, context):
        self.world.saw(request, context)
        self._find(request.knowledge_base)
        return orchestrator.SearchResponse(hits=[hit()], revision=9)

    async def IngestDocuments(self, request, context):
        self.world.saw(request, context)
        for index, document in enumerate(request.documents):
            news = {"index": index, "document_id": document.id}
            if not document.content:
                bad = ingest.IngestProgress(
                    stage=ingest.INGEST_STAGE_REJECTED, reason="empty", message="no text", **news
                )
                yield orchestrator.IngestDocumentsResponse(progress=bad)
                continue
            changed = document.id != "known"
            for stage in (ingest.INGEST_STAGE_PARSED, ingest.INGEST_STAGE_EMBEDDED) if changed else ():
                there = ingest.IngestProgress(stage=stage, chunk_count=CHUNKS, **news)
                yield orchestrator.IngestDocumentsResponse(progress=there)
            good = ingest.IngestProgress(
                stage=ingest.INGEST_STAGE_STORED, chunk_count=CHUNKS, changed=changed, revision=4, **news
            )
            yield orchestrator.IngestDocumentsResponse(progress=good)
        await self.world.hang()

    async def GetProvenance(self, request, context):
        self.world.saw(request, context)
        if request.id != "ans_1":
            raise NotFound("no such answer")
        made = answers.Provenance(
            id="ans_1", created_at=MOMENT, pipeline="rag", knowledge_base="docs", served=SERVED, rung=1, usage=USAGE
        )
        made.passages.add(document_id="d1", chunk_index=0, content_hash="sha256:22")
        return orchestrator.GetProvenanceResponse(provenance=made)


class FakeVectorSearch(vectors_grpc.VectorSearchServiceServicer):
    def __init__(self, world: World) -> None:
        self.world = world

    def _find(self, name: str) -> None:
        if name != "docs":
            raise NotFound(f"no knowledge base {name}", field="name")

    async def CreateKnowledgeBase(self, request, context):
        self.world.saw(request, context)
        if not request.name.islower():
            raise InvalidInput("a bad name", field="name")
        return vectors.CreateKnowledgeBaseResponse(knowledge_base=base(request.name))

    async def GetKnowledgeBase(self, request, context):
        self.world.saw(request, context)
        self._find(request.name)
        return vectors.GetKnowledgeBaseResponse(knowledge_base=base("docs"))

    async def ListKnowledgeBases(self, request, context):
        self.world.saw(request, context)
        return vectors.ListKnowledgeBasesResponse(knowledge_bases=[base("docs")])

    async def DeleteKnowledgeBase(self, request, context):
        self.world.saw(request, context)
        self._find(request.name)
        return vectors.DeleteKnowledgeBaseResponse(deleted_documents=2)

    async def GetDocument(self, request, context):
        self.world.saw(request, context)
        self._find(request.knowledge_base)
        return vectors.GetDocumentResponse(document=document(), chunks=[hit().chunk])

    async def ListDocuments(self, request, context):
        self.world.saw(request, context)
        self._find(request.knowledge_base)
        return vectors.ListDocumentsResponse(documents=[document()], next_page_token="next")

    async def DeleteDocument(self, request, context):
        self.world.saw(request, context)
        self._find(request.knowledge_base)
        return vectors.DeleteDocumentResponse(revision=5)


class FakeFeatureStore(features_grpc.FeatureStoreServiceServicer):
    def __init__(self, world: World) -> None:
        self.world = world

    async def ListFeatureViews(self, request, context):
        self.world.saw(request, context)
        view = features.FeatureView(name="user_profile", ttl=Duration(seconds=60))
        view.entity_keys.add(name="user_id", type=features.SCALAR_TYPE_INT)
        view.features.add(name="age", type=features.SCALAR_TYPE_INT)
        return features.ListFeatureViewsResponse(feature_views=[view])

    async def GetFeatures(self, request, context):
        self.world.saw(request, context)
        response = features.GetFeaturesResponse()
        for entity in request.entities:
            row = response.entities.add(entity=entity)
            row.values.add(name="user_profile:age", status=features.FEATURE_STATUS_MISSING)
            row.values.add(
                name="user_profile:score",
                status=features.FEATURE_STATUS_STALE,
                value=features.Scalar(double_value=0.5),
                event_time=MOMENT,
                age=Duration(seconds=90),
            )
        return response

    async def PushFeatures(self, request, context):
        self.world.saw(request, context)
        late = features.RejectedRow(index=1, reason="late_event", message="late")
        return features.PushFeaturesResponse(accepted=1, rejected=[late])


def model(name: str, task: Any = inference.MODEL_TASK_GENERATE, **more: Any) -> inference.Model:
    """Return a model of the catalogue; one that generates can do everything."""
    capable = CAPABILITIES if task == inference.MODEL_TASK_GENERATE else []
    return inference.Model(
        name=name,
        task=task,
        provider="triton",
        version="1",
        ready=True,
        created_at=MOMENT,
        capabilities=capable,
        **more,
    )


def usual_models() -> list[inference.Model]:
    """Return two models that write, and an encoder."""
    encoder = model(ENCODER.model, inference.MODEL_TASK_EMBED, digest=ENCODER.digest)
    return [model("writer"), encoder, model("org/writer")]


def base(name: str) -> vectors.KnowledgeBase:
    return vectors.KnowledgeBase(name=name, encoder=ENCODER, revision=3, document_count=2, created_at=MOMENT)


def document() -> vectors.Document:
    metadata = Struct()
    metadata.update({"year": 2024, "public": True, "share": 0.5})
    return vectors.Document(id="d1", title="One", content_hash="sha256:22", metadata=metadata, updated_at=MOMENT)


def hit() -> vectors.Hit:
    chunk = vectors.Chunk(index=0, text="Hello there.", start=0, end=12)
    return vectors.Hit(document_id="d1", document_title="One", chunk=chunk, score=0.03, metadata=document().metadata)


def answer() -> answers.Answer:
    made = answers.Answer(
        id="ans_1", text="".join(PIECES), groundedness=0.9, rung=1, passages=[hit()], served=SERVED, usage=USAGE
    )
    made.finish_reason = inference.FINISH_REASON_STOP
    made.citations.add(number=1, document_id="d1", document_title="One", start=0, end=5, quote="Hello")
    made.degradations.add(step="generate", reason="queue_full", message="busy")
    made.timings.add(step="embed", duration=Duration(nanos=1_500_000))
    return made


SERVICERS = (
    (inference, "InferenceService", inference_grpc, FakeInference),
    (embedding, "EmbeddingService", embedding_grpc, FakeEmbedding),
    (orchestrator, "OrchestratorService", orchestrator_grpc, FakeOrchestrator),
    (vectors, "VectorSearchService", vectors_grpc, FakeVectorSearch),
    (features, "FeatureStoreService", features_grpc, FakeFeatureStore),
)


def fake_services(world: World) -> list[Service]:
    """Return the five services behind the gateway, on one server."""
    made = []
    for module, name, stubs, servicer in SERVICERS:
        described = module.DESCRIPTOR.services_by_name[name]
        add = getattr(stubs, f"add_{name}Servicer_to_server")
        scopes = {method.name: "" for method in described.methods}
        made.append(Service(described.full_name, add, servicer(world), scopes))
    return made
