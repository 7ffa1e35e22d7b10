"""Every REST route, against the shape that the OpenAPI page promises."""

import base64
import json
import re

import httpx
import pytest
from gateway.api import feature_responses as shown_features
from gateway.api import responses as shown
from gateway_fakes import Gateway
from penstock.orchestrator.v1 import ingest_pb2 as ingest
from penstock.vector_search.v1 import vector_search_pb2 as vectors

KB = "/v1/knowledge-bases"
READ = {"features": ["user_profile:age"], "entities": [{"user_id": 7}]}
PUSH = {
    "feature_view": "user_profile",
    "rows": [{"entity": {"user_id": 7}, "values": {"age": 3}, "event_time": "2026-01-01T00:00:00Z"}],
}
DOCUMENTS = {"documents": [{"id": "a", "text": "text"}, {"id": "b", "text": ""}]}
CHAT = {"model": "rag:docs", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize(
    ("method", "path", "body", "answer"),
    [
        ("POST", "/v1/chat/completions", CHAT, shown.ChatCompletion),
        ("POST", "/v1/embeddings", {"model": "minilm-l6", "input": "a"}, shown.Embeddings),
        ("GET", "/v1/models", None, shown.Models),
        ("GET", "/v1/models/org/writer", None, shown.Model),
        ("POST", "/v1/ask", {"knowledge_base": "docs", "question": "Who?"}, shown.Answer),
        ("GET", "/v1/provenance/ans_1", None, shown.Provenance),
        ("GET", KB, None, shown.KnowledgeBases),
        ("POST", KB, {"name": "docs"}, shown.KnowledgeBase),
        ("GET", f"{KB}/docs", None, shown.KnowledgeBase),
        ("DELETE", f"{KB}/docs", None, shown.KnowledgeBaseDeleted),
        ("POST", f"{KB}/docs/search", {"query": "x", "mode": "lexical"}, shown.Hits),
        ("GET", f"{KB}/docs/documents?page_size=2&page_token=p", None, shown.Documents),
        ("POST", f"{KB}/docs/documents", DOCUMENTS, shown.Ingest),
        ("GET", f"{KB}/docs/documents/d1", None, shown.DocumentWithChunks),
        ("DELETE", f"{KB}/docs/documents/d1", None, shown.DocumentDeleted),
        ("GET", "/v1/features", None, shown_features.FeatureViews),
        ("POST", "/v1/features/read", READ, shown_features.FeatureRows),
        ("POST", "/v1/features/push", PUSH, shown_features.FeaturePush),
    ],
)
async def test_answers_have_the_promised_shape(http: httpx.AsyncClient, method, path, body, answer) -> None:
    response = await http.request(method, path, json=body)
    assert response.status_code == 200, response.text
    answer.model_validate_json(response.content)
    assert len(response.headers["x-request-id"]) == 32


async def test_the_page_is_true(gateway: Gateway) -> None:
    async with httpx.AsyncClient(base_url=gateway.url) as anonymous:
        page = (await anonymous.get("/openapi.json")).json()
        assert (await anonymous.get("/docs")).status_code == 200
    schemas = page["components"]["schemas"]
    text = json.dumps(page)
    named = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert named <= schemas.keys()
    assert {"ErrorEnvelope", "ChatRequest", "EmbeddingsRequest", "AskRequest", "IngestRequest"} <= schemas.keys()
    assert page["components"]["securitySchemes"]["api_key"]["scheme"] == "bearer"
    operations = [each for path in page["paths"].items() if path[0].startswith("/v1") for each in path[1].values()]
    assert len(operations) == 18
    for operation in operations:
        assert operation["security"] == [{"api_key": []}]
        assert operation["responses"]["400"]["content"]["application/json"]["schema"]["$ref"].endswith("ErrorEnvelope")
        assert "422" not in operation["responses"]


async def test_health_needs_no_key(gateway: Gateway) -> None:
    async with httpx.AsyncClient(base_url=gateway.url) as anonymous:
        assert (await anonymous.get("/healthz/live")).status_code == 200
        assert (await anonymous.get("/healthz/ready")).json() == {"status": "ready"}
        gateway.store.broken = True
        not_ready = await anonymous.get("/healthz/ready")
    assert not_ready.status_code == 503
    assert "key store" in not_ready.json()["reason"]


async def test_ask_passes_everything_on(http: httpx.AsyncClient, gateway: Gateway) -> None:
    body = {
        "knowledge_base": "docs",
        "question": "Who?",
        "model": "writer",
        "top_k": 3,
        "filter": {"kind": "x", "year": {"gte": 3, "in": [1, 2.5, "z"]}},
        "history": [{"role": "user", "content": "Hi"}],
        "min_revision": 4,
        "max_tokens": 9,
    }
    answer = (await http.post("/v1/ask", json=body)).json()
    assert answer["timings_ms"] == {"embed": 1.5}
    assert answer["passages"][0]["metadata"] == {"year": 2024, "public": True, "share": 0.5}
    question = gateway.world.requests[-1].question
    assert (question.model, question.top_k, question.min_revision, question.sampling.max_tokens) == ("writer", 3, 4, 9)
    assert [each.comparison for each in question.filter] == [
        vectors.COMPARISON_EQUAL,
        vectors.COMPARISON_GREATER_OR_EQUAL,
        vectors.COMPARISON_IN,
    ]
    assert len(question.filter[2].value.list_value.values) == 3


async def test_ask_as_a_stream(http: httpx.AsyncClient) -> None:
    body = {"knowledge_base": "docs", "question": "Who?", "stream": True}
    response = await http.post("/v1/ask", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = [event.split("\n") for event in response.text.strip().split("\n\n")]
    assert [lines[0] for lines in events] == ["event: text"] * 3 + ["event: answer"]
    pieces = [json.loads(lines[1].removeprefix("data: "))["text"] for lines in events[:-1]]
    answer = json.loads(events[-1][1].removeprefix("data: "))
    shown.Answer.model_validate(answer)
    assert "".join(pieces) == answer["answer"]


async def test_ingest_news_as_a_stream(http: httpx.AsyncClient) -> None:
    response = await http.post(f"{KB}/docs/documents", json=DOCUMENTS, headers={"Accept": "text/event-stream"})
    events = [event.split("\n") for event in response.text.strip().split("\n\n")]
    assert [lines[0] for lines in events] == ["event: progress"] * 4 + ["event: results"]
    results = json.loads(events[-1][1].removeprefix("data: "))
    assert (results["stored"], results["rejected"], results["revision"]) == (1, 1, 4)
    assert [each["status"] for each in results["results"]] == ["stored", "rejected"]


async def test_ingest_of_files(http: httpx.AsyncClient, gateway: Gateway) -> None:
    files = [
        ("files", ("../my notes.md", b"# Hi", "application/octet-stream")),
        ("files", ("b.pdf", b"%PDF", "application/pdf")),
    ]
    response = await http.post(f"{KB}/docs/documents", files=files)
    assert response.status_code == 200, response.text
    sent = gateway.world.requests[-1].documents
    assert [(each.id, each.media_type, each.content) for each in sent] == [
        ("my-notes.md", "text/markdown", b"# Hi"),
        ("b.pdf", "application/pdf", b"%PDF"),
    ]


async def test_ingest_of_bytes(http: httpx.AsyncClient, gateway: Gateway) -> None:
    document = {
        "id": "a",
        "title": "T",
        "media_type": "application/pdf",
        "content_base64": base64.b64encode(b"\xff\x00").decode(),
        "metadata": {"n": 1, "ok": True, "s": "x"},
    }
    await http.post(f"{KB}/docs/documents", json={"documents": [document]})
    sent: ingest.SourceDocument = gateway.world.requests[-1].documents[0]
    assert sent.content == b"\xff\x00"
    assert dict(sent.metadata) == {"n": 1.0, "ok": True, "s": "x"}


async def test_a_new_knowledge_base_is_bound_to_the_encoder_of_now(http: httpx.AsyncClient, gateway: Gateway) -> None:
    await http.post(KB, json={"name": "docs"})
    assert gateway.world.requests[-1].encoder.digest == "sha256:00"


async def test_a_row_that_is_rejected_is_named(http: httpx.AsyncClient) -> None:
    pushed = (await http.post("/v1/features/push", json=PUSH)).json()
    assert pushed["rejected"] == [{"index": 1, "reason": "late_event", "message": "late"}]


async def test_the_page_of_the_api_needs_nothing_from_elsewhere(http: httpx.AsyncClient) -> None:
    page = (await http.get("/docs")).text
    assets = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(assets) >= 2
    for asset in assets:
        assert asset.startswith("/")
        assert (await http.get(asset)).status_code == 200
