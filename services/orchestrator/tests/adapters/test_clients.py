"""The clients speak to real servers of the other services' protocols."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

import pytest
from google.protobuf import struct_pb2
from orchestrator.adapters.embedding import EmbeddingClient
from orchestrator.adapters.inference import InferenceClient, RankClient
from orchestrator.adapters.vector_search import VectorSearchClient
from orchestrator.core.answer import FinishReason, ServedModel, TokenUsage
from orchestrator.core.document import Chunk, Embedded, KnownDocument, Stored
from orchestrator.core.passage import Embedding, Query
from orchestrator.core.ports import Finished, Piece, Ranking
from orchestrator.core.question import Comparison, Condition, Message, Sampling, SearchMode
from orchestrator_fakes import ENCODER
from penstock.embedding.v1 import embedding_pb2, embedding_pb2_grpc
from penstock.inference.v1 import inference_pb2, inference_pb2_grpc, rank_pb2, rank_pb2_grpc
from penstock.vector_search.v1 import vector_search_pb2 as vectors
from penstock.vector_search.v1 import vector_search_pb2_grpc as vectors_grpc
from servicekit.errors import Conflict, NotFound, PenstockError, TimedOut, Unavailable
from servicekit.rpc import Channel, Service
from servicekit.testing import caller, eventually, serving

ENCODER_MESSAGE = embedding_pb2.Encoder(
    model=ENCODER.model, version="1", digest=ENCODER.digest, dimensions=2, pooling="mean", max_tokens=256
)
SERVED = ServedModel("m", "1", "d", "triton")
END = Finished(FinishReason.LENGTH, TokenUsage(5, 2, reported=True))


class Peer:
    """Notes the requests of every service and answers them, or fails."""

    def __init__(self) -> None:
        self.requests: list[object] = []
        self.error: Exception | None = None
        self.script: list[Callable[[], inference_pb2.GenerateResponse]] = []
        self.cancelled = False
        self.hold: asyncio.Event | None = None
        self.answers: dict[str, object] = {}

    def __getattr__(self, name: str):
        if not name[0].isupper():
            raise AttributeError(name)

        async def unary(request: object, context: object) -> object:
            self.requests.append(request)
            if self.hold is not None:
                await self.hold.wait()
            if self.error is not None:
                raise self.error
            return self.answers[name]

        return unary

    async def Generate(self, request, context) -> AsyncIterator[inference_pb2.GenerateResponse]:
        self.requests.append(request)
        try:
            for step in self.script:
                yield step()
        finally:
            self.cancelled = True


@asynccontextmanager
async def connected(peer: Peer) -> AsyncIterator[Channel]:
    documents = dict.fromkeys(
        method.name for method in vectors.DESCRIPTOR.services_by_name["VectorSearchService"].methods
    )
    served = [
        Service(f"penstock.{name}", add, peer, dict.fromkeys(methods, ""))
        for name, add, methods in (
            (
                "embedding.v1.EmbeddingService",
                embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server,
                ("Embed", "GetEncoder"),
            ),
            (
                "inference.v1.InferenceService",
                inference_pb2_grpc.add_InferenceServiceServicer_to_server,
                ("Generate", "Complete", "ListModels", "GetModel"),
            ),
            ("inference.v1.RankService", rank_pb2_grpc.add_RankServiceServicer_to_server, ("Rank",)),
            ("vector_search.v1.VectorSearchService", vectors_grpc.add_VectorSearchServiceServicer_to_server, documents),
        )
    ]
    async with serving(*served) as address, Channel(address) as channel:
        with caller():
            yield channel


async def test_texts_are_embedded() -> None:
    peer = Peer()
    peer.answers["Embed"] = embedding_pb2.EmbedResponse(encoder=ENCODER_MESSAGE, vectors=b"x" * 16)
    async with connected(peer) as channel:
        assert await EmbeddingClient(channel, "m").embed(["a", "b"], 5) == Embedding(ENCODER, b"x" * 16)
    assert peer.requests == [embedding_pb2.EmbedRequest(model="m", texts=["a", "b"])]


async def test_passages_are_ranked() -> None:
    peer = Peer()
    served = inference_pb2.ServedModel(model="m", version="1", digest="d", provider="triton")
    peer.answers["Rank"] = rank_pb2.RankResponse(scores=[0.5, -2.0], served=served)
    async with connected(peer) as channel:
        assert await RankClient(channel).rank("m", "q", ["a", "b"], 5) == Ranking((0.5, -2.0), SERVED)
        assert peer.requests == [rank_pb2.RankRequest(model="m", query="q", passages=["a", "b"])]
        with pytest.raises(Unavailable) as caught:
            await RankClient(channel).rank("m", "q", ["a", "b", "c"], 5)
    assert caught.value.reason == "backend_failed"


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (RuntimeError("a bug over there"), Unavailable, "backend_failed"),
        (Unavailable("busy", reason="queue_full"), Unavailable, "queue_full"),
        (NotFound("none", reason="model_not_found"), NotFound, "model_not_found"),
    ],
)
async def test_a_ranker_that_fails_is_told_by_its_reason(
    error: Exception, kind: type[PenstockError], reason: str
) -> None:
    peer = Peer()
    peer.error = error
    async with connected(peer) as channel:
        with pytest.raises(kind) as caught:
            await RankClient(channel).rank("m", "q", ["a"], 5)
    assert caught.value.reason == reason


async def test_a_search_carries_everything_and_brings_everything_back() -> None:
    peer = Peer()
    hit = vectors.Hit(
        document_id="d",
        document_title="T",
        chunk=vectors.Chunk(index=2, text="text", start=5, end=9),
        score=0.5,
        content_hash="sha256:x",
    )
    hit.metadata.update({"year": 2016, "kind": "report", "open": True})
    peer.answers["Search"] = vectors.SearchResponse(hits=[hit], revision=9)
    conditions = (
        Condition("kind", Comparison.IN, ("a", "b")),
        Condition("year", Comparison.GREATER, 3.0),
        Condition("open", Comparison.EQUAL, True),
    )
    async with connected(peer) as channel:
        client = VectorSearchClient(channel, 5)
        found = await client.search(
            Query("kb", "q", Embedding(ENCODER, b"12345678"), 3, conditions, SearchMode.HYBRID, 4), 5
        )
        await client.search(Query("kb", "q", None, 3, (), SearchMode.LEXICAL, 0), 5)
    (passage,) = found.passages
    assert (found.revision, passage.cosine, passage.start, passage.metadata) == (
        9,
        None,
        5,
        {"year": 2016, "kind": "report", "open": True},
    )
    hybrid, lexical = peer.requests
    assert (hybrid.vector, hybrid.encoder, hybrid.mode) == (b"12345678", ENCODER_MESSAGE, vectors.SEARCH_MODE_HYBRID)
    assert [condition.value.WhichOneof("kind") for condition in hybrid.filter] == [
        "list_value",
        "number_value",
        "bool_value",
    ]
    assert (lexical.mode, lexical.HasField("encoder")) == (vectors.SEARCH_MODE_LEXICAL, False)


async def test_a_document_is_stored_and_known() -> None:
    peer = Peer()
    peer.answers["UpsertDocument"] = vectors.UpsertDocumentResponse(revision=3, changed=True)
    metadata = struct_pb2.Struct(fields={"a": struct_pb2.Value(string_value="b")})
    known = vectors.Document(id="d", title="T", content_hash="sha256:x", metadata=metadata, chunk_count=1)
    peer.answers["GetDocument"] = vectors.GetDocumentResponse(document=known)
    peer.answers["GetKnowledgeBase"] = vectors.GetKnowledgeBaseResponse(
        knowledge_base=vectors.KnowledgeBase(revision=8)
    )
    async with connected(peer) as channel:
        client = VectorSearchClient(channel, 5)
        document = Embedded(
            "d", "T", "sha256:x", {"a": "b"}, (Chunk(0, "text", 0, 4),), Embedding(ENCODER, b"12345678")
        )
        assert await client.store("kb", document) == Stored(3, changed=True)
        assert await client.find("kb", "d") == KnownDocument("T", "sha256:x", {"a": "b"}, 1)
        assert await client.revision("kb") == 8
        peer.error = NotFound("none")
        assert await client.find("kb", "d") is None
        assert await client.revision("kb") is None
        peer.error = Conflict("other", reason="encoder_mismatch")
        with pytest.raises(Conflict) as raised:
            await client.store("kb", document)
    assert raised.value.reason == "encoder_mismatch"
    assert peer.requests[0].chunks[0] == vectors.Chunk(index=0, text="text", start=0, end=4)


def started() -> inference_pb2.GenerateResponse:
    served = inference_pb2.ServedModel(model="m", version="1", digest="d", provider="triton")
    return inference_pb2.GenerateResponse(served=served)


def finished() -> inference_pb2.GenerateResponse:
    usage = inference_pb2.TokenUsage(input_tokens=5, output_tokens=2, reported=True)
    last = inference_pb2.Delta(finish_reason=inference_pb2.FINISH_REASON_LENGTH)
    return inference_pb2.GenerateResponse(deltas=[last], finished=inference_pb2.GenerationFinished(usage=usage))


def text() -> inference_pb2.GenerateResponse:
    return inference_pb2.GenerateResponse(deltas=[inference_pb2.Delta(text="a")])


def unended() -> inference_pb2.GenerateResponse:
    return inference_pb2.GenerateResponse(finished=finished().finished)


def unasked_tools() -> inference_pb2.GenerateResponse:
    last = inference_pb2.Delta(finish_reason=inference_pb2.FINISH_REASON_TOOL_CALLS)
    return inference_pb2.GenerateResponse(deltas=[last], finished=finished().finished)


def fail(error: Exception) -> Callable[[], inference_pb2.GenerateResponse]:
    def raise_it() -> inference_pb2.GenerateResponse:
        raise error

    return raise_it


async def generate(channel: Channel) -> list[object]:
    client = InferenceClient(channel)
    sampling = Sampling(max_tokens=4, seed=0)
    return [piece async for piece in client.generate("m", [Message("user", "hi")], sampling, 5, streaming=True)]


async def test_a_model_writes() -> None:
    peer = Peer()
    peer.script = [started, text, text, finished]
    async with connected(peer) as channel:
        events = await generate(channel)
    expected = [
        Piece(served=SERVED),
        Piece("a"),
        Piece("a"),
        Piece(finished=END),
    ]
    assert events == expected
    sampling = peer.requests[0].sampling
    assert (sampling.max_tokens, sampling.seed, sampling.HasField("temperature")) == (4, 0, False)


@pytest.mark.parametrize(
    ("last", "kind", "reason"),
    [
        (fail(Unavailable("full", reason="queue_full")), Unavailable, "queue_full"),
        (fail(NotFound("no", reason="model_not_found")), NotFound, "model_not_found"),
        (fail(TimedOut("late")), TimedOut, "timed_out"),
        (fail(KeyError("bug")), Unavailable, "backend_failed"),
        (text, Unavailable, "backend_failed"),
        (unended, Unavailable, "backend_failed"),
        (unasked_tools, Unavailable, "backend_failed"),
    ],
    ids=["unavailable", "not found", "timed out", "bug", "breaks off", "no finish reason", "tools nobody offered"],
)
@pytest.mark.filterwarnings("ignore")
async def test_a_failure_mid_stream_keeps_its_kind(last: object, kind: type[PenstockError], reason: str) -> None:
    peer = Peer()
    peer.script = [started, last]
    async with connected(peer) as channel:
        with pytest.raises(kind) as raised:
            await generate(channel)
    assert raised.value.reason == reason


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_whole_answer_is_one_piece(streaming: bool) -> None:
    peer = Peer()
    whole = {"served": started().served, "finished": finished().finished}
    last = inference_pb2.Delta(text="a", finish_reason=inference_pb2.FINISH_REASON_LENGTH)
    peer.script = [lambda: inference_pb2.GenerateResponse(**whole, deltas=[last])]
    message = inference_pb2.Message(role="assistant", content="a")
    choice = inference_pb2.Choice(message=message, finish_reason=inference_pb2.FINISH_REASON_LENGTH)
    peer.answers["Complete"] = inference_pb2.CompleteResponse(**whole, choices=[choice])
    async with connected(peer) as channel:
        pieces = InferenceClient(channel).generate("m", [Message("user", "hi")], Sampling(), 5, streaming=streaming)
        assert [piece async for piece in pieces] == [Piece("a", SERVED, END)]
    assert [(turn.role, turn.content) for turn in peer.requests[0].messages] == [("user", "hi")]


async def test_an_answer_without_a_choice_is_none_and_a_refusal_is_text() -> None:
    peer = Peer()
    peer.answers["Complete"] = inference_pb2.CompleteResponse(finished=finished().finished)
    async with connected(peer) as channel:
        pieces = InferenceClient(channel)
        with pytest.raises(Unavailable, match="broke off"):
            await anext(pieces.generate("m", [], Sampling(), 5, streaming=False))
        message = inference_pb2.Message(role="assistant", refusal="No.")
        peer.answers["Complete"].choices.add(message=message, finish_reason=inference_pb2.FINISH_REASON_STOP)
        assert (await anext(pieces.generate("m", [], Sampling(), 5, streaming=False))).text == "No."
        deltas = [inference_pb2.Delta(refusal="No."), inference_pb2.Delta(finish_reason=1)]
        peer.script = [lambda: inference_pb2.GenerateResponse(deltas=deltas, finished=finished().finished)]
        assert (await anext(pieces.generate("m", [], Sampling(), 5, streaming=True))).text == "No."


@pytest.mark.filterwarnings("ignore")
async def test_a_bug_of_the_pool_is_a_failed_backend() -> None:
    peer = Peer()
    peer.error = KeyError("bug")
    async with connected(peer) as channel:
        with pytest.raises(Unavailable) as raised:
            await anext(InferenceClient(channel).generate("m", [], Sampling(), 5, streaming=False))
    assert raised.value.reason == "backend_failed"


async def test_leaving_cancels_the_model() -> None:
    peer = Peer()
    peer.script = [started, *[text] * 100_000]
    async with connected(peer) as channel:
        async with aclosing(InferenceClient(channel).generate("m", [], Sampling(), 5, streaming=True)) as events:
            await anext(events)
        await eventually(lambda: peer.cancelled)


async def test_nobody_there_is_unavailable_and_a_slow_one_timed_out() -> None:
    async with Channel("127.0.0.1:9") as channel:
        with caller(), pytest.raises(Unavailable):
            await EmbeddingClient(channel).embed(["a"], 2)
    peer = Peer()
    peer.hold = asyncio.Event()
    async with connected(peer) as channel:
        with pytest.raises(TimedOut):
            await EmbeddingClient(channel).embed(["a"], 0.05)
