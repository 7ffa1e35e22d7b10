"""The service as callers see it: a real server, a real stub, fakes behind."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from orchestrator.api.messages import write_provenance
from orchestrator.api.servicer import Cores, service
from orchestrator.core.question import SearchMode
from orchestrator.core.searching import Finder
from orchestrator_fakes import (
    READER,
    SACKS,
    Desk,
    FakeGenerator,
    FakeLibrary,
    FakeParser,
    FakeStore,
    ingester,
)
from penstock.inference.v1 import inference_pb2 as inference
from penstock.orchestrator.v1 import answer_pb2 as answers
from penstock.orchestrator.v1 import ingest_pb2 as ingest
from penstock.orchestrator.v1 import orchestrator_pb2 as pb
from penstock.orchestrator.v1 import orchestrator_pb2_grpc as pb_grpc
from penstock.vector_search.v1 import vector_search_pb2 as vectors
from servicekit.errors import Forbidden, InvalidInput, NotFound, TimedOut, Unavailable
from servicekit.rpc import Channel
from servicekit.testing import caller, eventually, serving

SENTENCE = "Kawann Short led the team in sacks with 11. [1]"


@dataclass
class Client:
    """A stub of the service, and the fakes behind it."""

    channel: Channel
    desk: Desk
    parser: FakeParser
    stub: pb_grpc.OrchestratorServiceStub = field(init=False)

    def __post_init__(self) -> None:
        self.stub = pb_grpc.OrchestratorServiceStub(self.channel.grpc)

    async def ask(self, **question: object) -> answers.Answer:
        request = pb.AskRequest(
            question=pb.Question(**{"knowledge_base": "kb", "text": "Who led in sacks?", **question})
        )
        return (await self.channel.call(self.stub.Ask, request)).answer

    def stream(self) -> AsyncIterator[pb.StreamAskResponse]:
        question = pb.Question(knowledge_base="kb", text="Who led in sacks?")
        return self.channel.stream(self.stub.StreamAsk, pb.StreamAskRequest(question=question))

    async def ingest(self, *documents: ingest.SourceDocument) -> list[ingest.IngestProgress]:
        request = pb.IngestDocumentsRequest(knowledge_base="kb", documents=documents)
        return [response.progress async for response in self.channel.stream(self.stub.IngestDocuments, request)]


@asynccontextmanager
async def running(*pieces: object, **fakes: object) -> AsyncIterator[Client]:
    script = {"writer": pieces or (SENTENCE,), READER: (SENTENCE,)}
    desk = Desk(
        FakeGenerator(script), store=FakeStore(lambda each: write_provenance(each).SerializeToString()), **fakes
    )
    parser = FakeParser()
    cores = Cores(
        desk.answerer,
        Finder(desk.embedder, desk.library, 30),
        ingester(parser, desk.embedder, desk.library),
        desk.store,
    )
    async with serving(service(cores)) as address, Channel(address) as channel:
        with caller():
            yield Client(channel, desk, parser)


async def test_a_question_is_answered_with_all_that_is_known_of_the_answer() -> None:
    async with running() as client:
        answer = await client.ask()
    (citation,) = answer.citations
    assert (answer.text, answer.rung, answer.declined, answer.groundedness) == (
        SENTENCE,
        answers.RUNG_CHOSEN_MODEL,
        False,
        1.0,
    )
    assert answer.passages[0].chunk.text[citation.start - SACKS.start : citation.end - SACKS.start] == citation.quote
    assert (answer.served.model, answer.usage.output_tokens, answer.finish_reason) == (
        "writer",
        10,
        inference.FINISH_REASON_STOP,
    )
    assert [timing.step for timing in answer.timings] == ["embed", "search", "prompt", "generate", "ground"]


async def test_an_answer_streams_and_ends_with_the_whole() -> None:
    async with running(SENTENCE, " And the ", "Normans gave their name to Normandy. [2]") as client:
        responses = [response async for response in client.stream()]
    assert [response.WhichOneof("event") for response in responses] == ["text", "text", "answer"]
    assert "".join(response.text for response in responses[:-1]) == responses[-1].answer.text


async def test_a_model_that_fails_after_text_ends_the_stream_with_its_error() -> None:
    async with running(f"{SENTENCE} And more", Unavailable("gone", reason="backend_failed")) as client:
        responses = client.stream()
        assert (await anext(responses)).text == SENTENCE
        with pytest.raises(Unavailable) as raised:
            await anext(responses)
    assert raised.value.reason == "backend_failed"


async def test_a_degraded_answer_says_so() -> None:
    async with running(Unavailable("full", reason="queue_full")) as client:
        answer = await client.ask()
    assert answer.rung == answers.RUNG_EXTRACTIVE_READER
    assert [(each.step, each.reason) for each in answer.degradations] == [("generate", "queue_full")]


async def test_an_unknown_model_or_knowledge_base_is_not_found() -> None:
    async with running() as client:
        with pytest.raises(NotFound) as raised:
            await client.ask(model="nobody")
        assert raised.value.reason == "model_not_found"
        client.desk.library.error = NotFound("no such knowledge base")
        with pytest.raises(NotFound):
            await client.ask()


async def test_a_bad_question_is_refused_by_field() -> None:
    async with running() as client:
        for question, name in (({"text": ""}, "text"), ({"text": "x" * 10_000}, "text"), ({"top_k": 99}, "top_k")):
            with pytest.raises(InvalidInput) as raised:
                await client.ask(**question)
            assert raised.value.field == f"question.{name}"


async def test_a_deadline_of_one_millisecond_times_out_and_leaves_nothing() -> None:
    async with running() as client:
        client.desk.embedder.hold = asyncio.Event()
        request = pb.AskRequest(question=pb.Question(knowledge_base="kb", text="Who?"))
        for timeout_s in (0.001, 0.02, 0.02):
            with pytest.raises(TimedOut):
                await client.channel.call(client.stub.Ask, request, timeout_s=timeout_s)
        await eventually(lambda: client.desk.embedder.waiting == 0)
        assert client.desk.library.queries == []
        client.desk.embedder.hold.set()
        assert (await client.ask()).text == SENTENCE


async def test_a_client_that_leaves_stops_the_model() -> None:
    async with running(*[f"{SENTENCE} "] * 100_000) as client:
        responses = client.stream()
        await anext(responses)
        await responses.aclose()
        await eventually(lambda: client.desk.generator.closed, 1.0)
        assert client.desk.store.kept == []


async def test_provenance_is_found_by_its_tenant_alone() -> None:
    async with running() as client:
        answer = await client.ask()
        get = client.stub.GetProvenance
        found = (await client.channel.call(get, pb.GetProvenanceRequest(id=answer.id))).provenance
        assert (found.id, found.knowledge_base_revision, found.prompt_template) == (answer.id, 7, "rag-answer@1")
        assert found.passages[0].content_hash == SACKS.content_hash
        for tenant, answer_id in (("other", answer.id), ("acme", "ans_0")):
            with caller(tenant=tenant), pytest.raises(NotFound):
                await client.channel.call(get, pb.GetProvenanceRequest(id=answer_id))


async def test_a_search_brings_passages_with_their_metadata() -> None:
    async with running() as client:
        request = pb.SearchRequest(knowledge_base="kb", text="sacks", top_k=1, mode=vectors.SEARCH_MODE_LEXICAL)
        response = await client.channel.call(client.stub.Search, request)
        assert ([hit.document_id for hit in response.hits], response.revision) == (["super-bowl-50"], 7)
        assert client.desk.embedder.asked == []
        condition = vectors.Condition(field="a", comparison=99)
        await client.channel.call(
            client.stub.Search, pb.SearchRequest(knowledge_base="kb", text="x", filter=[condition])
        )
        query = client.desk.library.queries[-1]
        assert (query.top_k, query.mode, query.filter[0].value) == (5, SearchMode.HYBRID, None)
        with pytest.raises(InvalidInput):
            await client.channel.call(client.stub.Search, pb.SearchRequest(knowledge_base="kb", text="x", top_k=101))


async def test_documents_go_in_with_their_progress() -> None:
    good = ingest.SourceDocument(id="a", media_type="text/plain", content=b"one\ntwo")
    good.metadata.update({"year": 2016})
    bad = ingest.SourceDocument(id="b", media_type="text/plain", content=b"x")
    bad.metadata.update({"list": [1]})
    async with running() as client:
        news = await client.ingest(good, bad)
    stages = [(each.document_id, each.stage) for each in news if each.document_id == "a"]
    assert stages == [("a", stage) for stage in range(ingest.INGEST_STAGE_PARSED, ingest.INGEST_STAGE_STORED + 1)]
    assert [each.reason for each in news if each.document_id == "b"] == ["invalid_metadata"]
    assert client.desk.library.stored["a"].metadata == {"year": 2016.0}


async def test_an_ingest_without_documents_is_refused_and_one_left_alone_stops() -> None:
    async with running(library=FakeLibrary(hold=asyncio.Event())) as client:
        with pytest.raises(InvalidInput):
            await client.ingest()
        documents = [ingest.SourceDocument(id=f"d{n}", media_type="text/plain", content=b"x") for n in range(50)]
        responses = client.channel.stream(
            client.stub.IngestDocuments, pb.IngestDocumentsRequest(knowledge_base="kb", documents=documents)
        )
        await anext(responses)
        await responses.aclose()
        assert len(client.parser.parsed) <= 4
        assert client.desk.library.stored == {}


@pytest.mark.parametrize(
    ("method", "request_", "scope"),
    [
        ("Ask", pb.AskRequest(), "ask"),
        ("Search", pb.SearchRequest(), "knowledge:read"),
        ("GetProvenance", pb.GetProvenanceRequest(), "ask"),
    ],
)
async def test_each_method_needs_its_scope(method: str, request_: object, scope: str) -> None:
    async with running() as client:
        with caller(scopes=["models"]), pytest.raises(Forbidden):
            await client.channel.call(getattr(client.stub, method), request_)
        with caller(scopes=[scope]), pytest.raises((InvalidInput, NotFound)):
            await client.channel.call(getattr(client.stub, method), request_)
