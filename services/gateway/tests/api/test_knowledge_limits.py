"""Searches and ingestions keep to their callers' limits and leave rows, on both doors alike."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import httpx
import pytest
from gateway.api.knowledge_tokens import (
    likely_tokens_of_search,
    tokens_of_documents,
    tokens_of_news,
    tokens_of_search,
)
from gateway.core.accounts import Limits
from gateway.core.attempts import Settled
from gateway.core.tenants import Tenant
from gateway_account_fakes import new_key
from gateway_fakes import Gateway
from penstock.gateway.v1 import gateway_pb2 as pb
from penstock.gateway.v1.gateway_pb2_grpc import GatewayServiceStub
from penstock.inference.v1 import inference_pb2 as inference
from penstock.orchestrator.v1 import ingest_pb2 as ingest
from penstock.vector_search.v1 import vector_search_pb2 as vectors
from servicekit.errors import Unavailable
from servicekit.testing import eventually

KB = "/v1/knowledge-bases/docs"
SEARCH, DOCUMENTS = f"{KB}/search", f"{KB}/documents"
TEXT = "A dozen words that are as plain as the day is long, and then some."
BODIES: dict[str, dict[str, Any]] = {
    SEARCH: {"query": TEXT},
    DOCUMENTS: {"documents": [{"id": "a", "text": TEXT}, {"id": "known", "text": TEXT * 9}, {"id": "c", "text": ""}]},
}
KINDS = {SEARCH: "search", DOCUMENTS: "ingest"}
LIKELY = {SEARCH: len(TEXT) // 4 + 2, DOCUMENTS: len(TEXT) // 4 + 1}
STREAMED = {"Accept": "text/event-stream"}


async def key_with(gateway: Gateway, **limits: int) -> str:
    key, text = new_key(limits=Limits(**limits))
    await gateway.store.add(key)
    return text


class Caller:
    """One caller at both doors."""

    def __init__(self, gateway: Gateway, text: str, http: httpx.AsyncClient, stub: GatewayServiceStub) -> None:
        self.gateway, self.http, self.stub = gateway, http, stub
        self.key = text

    async def ask(self, path: str, door: str) -> tuple[int, str]:
        """Do what a path stands for; return the status and the error's reason as REST would say them."""
        if door != "grpc":
            headers = {"Authorization": f"Bearer {self.key}"} | (STREAMED if door == "sse" else {})
            response = await self.http.post(path, json=BODIES[path], headers=headers)
            code = "" if response.is_success else response.json()["error"]["code"]
            if response.status_code in {429, 503}:
                assert 1 <= int(response.headers["retry-after"]) <= 120
            return response.status_code, code
        metadata = (("authorization", f"Bearer {self.key}"),)
        try:
            if path == SEARCH:
                await self.stub.Search(pb.SearchRequest(knowledge_base="docs", text=TEXT), metadata=metadata)
            else:
                request = pb.IngestDocumentsRequest(knowledge_base="docs", documents=documents())
                async for _ in self.stub.IngestDocuments(request, metadata=metadata):
                    pass
        except grpc.aio.AioRpcError as error:
            status = {grpc.StatusCode.RESOURCE_EXHAUSTED: 429, grpc.StatusCode.PERMISSION_DENIED: 403}
            return status[error.code()], ""
        return 200, ""


def documents() -> list[ingest.SourceDocument]:
    return [
        ingest.SourceDocument(id=each["id"], content=each["text"].encode(), media_type="text/plain")
        for each in BODIES[DOCUMENTS]["documents"]
    ]


@pytest.fixture
async def caller(gateway: Gateway) -> AsyncIterator[Caller]:
    async with (
        httpx.AsyncClient(base_url=gateway.url, timeout=10) as http,
        grpc.aio.insecure_channel(gateway.grpc_address) as channel,
    ):
        yield Caller(gateway, gateway.key, http, GatewayServiceStub(channel))


async def row_of(gateway: Gateway) -> Settled:
    """Return the only row, once nothing runs any more."""
    await eventually(lambda: gateway.desk.gate.counts.running == [0, 0, 0])
    return await gateway.desk.row()


WAYS = [(SEARCH, "rest"), (SEARCH, "grpc"), (DOCUMENTS, "rest"), (DOCUMENTS, "sse"), (DOCUMENTS, "grpc")]


@pytest.mark.parametrize(("path", "door"), WAYS)
async def test_it_leaves_a_row_with_what_was_encoded(caller: Caller, path: str, door: str) -> None:
    gateway = caller.gateway
    dear = inference.Price(input_micros_per_million=2_000_000)
    gateway.world.models["minilm-l6"].price.CopyFrom(dear)
    assert await gateway.models.refresh()
    assert await caller.ask(path, door) == (200, "")
    row = await row_of(gateway)
    assert (row.attempt.kind, row.attempt.alias) == (KINDS[path], "rag:docs")
    assert (row.attempt.tenant, row.attempt.door) == ("acme", "grpc" if door == "grpc" else "rest")
    assert (row.outcome.status, row.outcome.input_tokens) == ("ok", LIKELY[path])
    assert (row.outcome.reported, row.outcome.cost_nanos) == (False, LIKELY[path] * 2_000)
    assert row.attempt.reserved_nanos >= row.outcome.cost_nanos


@pytest.mark.parametrize(("path", "door"), WAYS)
@pytest.mark.parametrize(
    ("limit", "value", "served"),
    [("requests_per_minute", 1, 1), ("tokens_per_minute", 15, 0), ("concurrent_requests", 0, 0)],
)
async def test_limits_hold(caller: Caller, path: str, door: str, limit: str, value: int, served: int) -> None:
    caller.key = await key_with(caller.gateway, **{limit: value})
    for _ in range(served):
        assert (await caller.ask(path, door))[0] == 200
    seen = len(caller.gateway.world.requests)
    status, code = await caller.ask(path, door)
    assert (status, code) == (429, "" if door == "grpc" else limit)
    assert len(caller.gateway.world.requests) == seen
    assert len(await caller.gateway.desk.rows()) == served


@pytest.mark.parametrize(("path", "door"), WAYS)
async def test_a_tenant_with_a_region_is_still_refused(caller: Caller, path: str, door: str) -> None:
    store = caller.gateway.store
    tenant = store.rows[Tenant, "acme"]
    assert isinstance(tenant, Tenant)
    store.rows[Tenant, "acme"] = replace(tenant, region="eu")
    status, code = await caller.ask(path, door)
    assert (status, code) == (403, "" if door == "grpc" else "region_not_allowed")
    assert caller.gateway.world.requests == []
    assert await caller.gateway.desk.rows() == []


async def test_who_leaves_an_ingestion_pays_for_what_was_encoded_and_frees_his_place(caller: Caller) -> None:
    gateway = caller.gateway
    gateway.world.endless = True
    caller.key = await key_with(gateway, concurrent_requests=1)
    headers = {"Authorization": f"Bearer {caller.key}"} | STREAMED
    async with caller.http.stream("POST", DOCUMENTS, json=BODIES[DOCUMENTS], headers=headers) as response:
        async for line in response.aiter_lines():
            if '"embedded"' in line:
                break
        assert await caller.ask(SEARCH, "rest") == (429, "concurrent_requests")
    await asyncio.wait_for(gateway.world.ended.wait(), 2)
    row = await row_of(gateway)
    assert (row.attempt.kind, row.outcome.status) == ("ingest", "cancelled")
    assert row.outcome.input_tokens == LIKELY[DOCUMENTS]
    gateway.world.endless = False
    assert await caller.ask(SEARCH, "rest") == (200, "")


async def test_a_search_that_fails_leaves_a_row_that_says_why(caller: Caller) -> None:
    caller.gateway.world.failure = Unavailable("busy", reason="queue_full")
    assert await caller.ask(SEARCH, "rest") == (503, "queue_full")
    row = await row_of(caller.gateway)
    assert (row.outcome.status, row.outcome.reason, row.outcome.cost_nanos) == ("failed", "queue_full", 0)


def progress(stage: int, **more: Any) -> ingest.IngestProgress:
    return ingest.IngestProgress(stage=stage, **more)  # type: ignore[arg-type]


def test_tokens_are_counted_once_when_a_document_is_embedded() -> None:
    sent = [ingest.SourceDocument(content=b"x" * 4_000), ingest.SourceDocument(content=b"%PDF" * 10_000)]
    embedded = ingest.INGEST_STAGE_EMBEDDED
    assert tokens_of_news(progress(embedded, index=0, chunk_count=5), sent) == 1_001
    assert tokens_of_news(progress(embedded, index=1, chunk_count=5), sent) == 5 * 256
    for stage in (ingest.INGEST_STAGE_PARSED, ingest.INGEST_STAGE_STORED, ingest.INGEST_STAGE_REJECTED):
        assert tokens_of_news(progress(stage, index=0, chunk_count=5), sent) == 0
    assert tokens_of_news(progress(embedded, index=9, chunk_count=5), sent) == 0


def test_what_is_reserved_is_a_bound() -> None:
    text = ingest.SourceDocument(content=("Слово " * 50).encode())
    pdf = ingest.SourceDocument(content=bytes(16_000), media_type="application/pdf")
    assert tokens_of_documents([text]) > 500
    assert tokens_of_documents([pdf]) == 1_001
    assert tokens_of_documents([text, pdf]) == tokens_of_documents([text]) + 1_001
    search = pb.SearchRequest(text=TEXT)
    assert likely_tokens_of_search(search) <= tokens_of_search(search)
    lexical = pb.SearchRequest(text=TEXT, mode=vectors.SEARCH_MODE_LEXICAL)
    assert tokens_of_search(lexical) == likely_tokens_of_search(lexical) == 0
