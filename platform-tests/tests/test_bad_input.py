"""What hostile and clumsy callers send: each gets a clear error that names the field, and nothing is lost."""

from typing import Any

import httpx
import pytest
from stack_process import RunningStack

TEXT = {"id": "d", "media_type": "text/plain", "text": "Water falls on the turbine. It turns."}


@pytest.fixture(autouse=True)
async def knowledge(rest: httpx.AsyncClient) -> None:
    """A knowledge base called `bad`."""
    response = await rest.post("/v1/knowledge-bases/bad/documents", json={"documents": [TEXT]})
    assert response.status_code == 200, response.text


def ask(**more: Any) -> dict[str, Any]:
    """Return the body of a question."""
    return {"knowledge_base": "bad", "question": "What turns?", **more}


CASES = [
    ("/v1/ask", ask(model="no-such-model"), 404, "model"),
    ("/v1/ask", ask(knowledge_base="no-such-base"), 404, None),
    ("/v1/ask", ask(colour="blue"), 400, "colour"),
    ("/v1/ask", ask(question=7), 400, "question"),
    ("/v1/ask", ask(question=""), 400, "question"),
    ("/v1/ask", ask(top_k="five"), 400, "top_k"),
    ("/v1/ask", ask(filter={"topic": {"like": "x"}}), 400, "filter.topic.like"),
    ("/v1/ask", ask(filter={'a" or tenant != "': 1}), 400, "filter"),
    ("/v1/embeddings", {"model": "no-such-model", "input": "a"}, 404, "model"),
    ("/v1/embeddings", {"model": "minilm-l6", "input": ["a"] * 2049}, 400, "input"),
    ("/v1/embeddings", {"model": "minilm-l6", "input": ["a", ""]}, 400, "input"),
    ("/v1/embeddings", {"model": "minilm-l6", "input": []}, 400, "input"),
    ("/v1/chat/completions", {"model": "no-such-model", "messages": [{"role": "user", "content": "a"}]}, 404, "model"),
    ("/v1/chat/completions", {"model": "rag:none", "messages": [{"role": "user", "content": "a"}]}, 404, "model"),
    ("/v1/chat/completions", {"model": "extractive-reader", "messages": []}, 400, "messages"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}, 400, "model"),
    ("/v1/features/read", {"features": ["none:age"], "entities": [{"user_id": 1}]}, 404, None),
    ("/v1/nothing", {}, 404, None),
]


@pytest.mark.parametrize(("path", "body", "status", "param"), CASES)
async def test_wrong_requests_name_what_is_wrong(
    rest: httpx.AsyncClient, path: str, body: dict[str, Any], status: int, param: str | None
) -> None:
    response = await rest.post(path, json=body)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    if param is not None:
        assert str(error["param"]).startswith(param)


async def test_what_is_not_json_is_said_so(rest: httpx.AsyncClient) -> None:
    response = await rest.post("/v1/ask", content=b'{"question": ', headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "malformed_json"


async def test_a_megabyte_of_text_is_read_up_to_the_models_limit_and_more_is_refused(rest: httpx.AsyncClient) -> None:
    response = await rest.post("/v1/embeddings", json={"model": "minilm-l6", "input": "water " * 170_000})
    assert response.status_code == 200, response.text
    assert response.json()["usage"]["prompt_tokens"] == 256
    response = await rest.post("/v1/embeddings", json={"model": "minilm-l6", "input": "water " * 180_000})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "input"


DOCUMENTS = [
    ({"id": "latin", "media_type": "text/plain", "content_base64": "/+nhIQ=="}, "not_utf8"),
    ({"id": "empty", "media_type": "text/plain", "text": "  \n "}, "empty"),
    ({"id": "fake", "media_type": "application/pdf", "content_base64": "bm90IGEgcGRm"}, "unreadable_pdf"),
    ({"id": "odd", "media_type": "application/x-tar", "text": "x"}, "unsupported_media_type"),
]


@pytest.mark.parametrize(("document", "reason"), DOCUMENTS)
async def test_a_bad_document_is_rejected_and_the_good_one_stored(
    rest: httpx.AsyncClient, document: dict[str, Any], reason: str
) -> None:
    response = await rest.post("/v1/knowledge-bases/bad/documents", json={"documents": [document, TEXT]})
    assert response.status_code == 200, response.text
    rejected, stored = response.json()["results"]
    assert (rejected["status"], rejected["reason"]) == ("rejected", reason)
    assert stored["status"] == "stored"


async def test_a_deadline_of_a_millisecond_is_a_timeout(rest: httpx.AsyncClient) -> None:
    response = await rest.post("/v1/ask", json=ask(), headers={"Penstock-Timeout-Ms": "1"})
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "timed_out"


async def test_no_key_a_wrong_key_and_a_narrow_key(stack: RunningStack) -> None:
    async with httpx.AsyncClient(base_url=stack.url, trust_env=False) as anonymous:
        assert (await anonymous.get("/v1/models")).status_code == 401
        wrong = {"Authorization": "Bearer pst_none_none"}
        response = await anonymous.get("/v1/models", headers=wrong)
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "invalid_api_key"


async def test_the_openapi_page_names_every_route(rest: httpx.AsyncClient) -> None:
    paths = (await rest.get("/openapi.json")).json()["paths"]
    assert {"/v1/ask", "/v1/embeddings", "/v1/chat/completions", "/v1/models", "/v1/knowledge-bases"} <= set(paths)
