"""What is wrong with a request is said by name, in the envelope, with the right status."""

import httpx
import pytest
from gateway_fakes import Gateway

USER = [{"role": "user", "content": "Hi"}]
CHAT, EMBED, ASK = "/v1/chat/completions", "/v1/embeddings", "/v1/ask"
DOCS = "/v1/knowledge-bases/docs"


def chat(**changes):
    return {"model": "writer", "messages": USER, **changes}


def ask(**changes):
    return {"knowledge_base": "docs", "question": "Who?", **changes}


def embed(value, **changes):
    return {"model": "minilm-l6", "input": value, **changes}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, {"messages": USER}, "model"),
        (CHAT, {"model": "writer"}, "messages"),
        (CHAT, chat(model=""), "model"),
        (CHAT, chat(messages=[]), "messages"),
        (CHAT, chat(messages=[{"role": "tool", "content": "x"}]), "messages[0].tool_call_id"),
        (CHAT, chat(messages=[{"role": "assistant", "content": "x"}]), "messages[0].role"),
        (CHAT, chat(messages=[{"role": "user", "content": None}]), "messages[0].content"),
        (CHAT, chat(messages=[{"role": "user", "content": 5}]), "messages[0].content"),
        (CHAT, chat(temperature="warm"), "temperature"),
        (CHAT, chat(temperature=3), "temperature"),
        (CHAT, chat(max_tokens=0), "max_tokens"),
        (CHAT, chat(max_tokens=1, max_completion_tokens=1), "max_tokens"),
        (CHAT, chat(stop=["a"] * 5), "stop"),
        (CHAT, chat(store=True), "store"),
        (CHAT, chat(stream_options={"include": 1}), "stream_options.include"),
        (CHAT, chat(model="rag:docs", messages=[{"role": "user", "content": ""}]), "messages[0].content"),
        (EMBED, embed(""), "input"),
        (EMBED, embed([]), "input"),
        (EMBED, embed(["a", ""]), "input[1]"),
        (EMBED, embed(["a"] * 2049), "input"),
        (EMBED, embed([1, -2]), "input[1]"),
        (EMBED, embed([1, 2.5]), "input[1]"),
        (EMBED, embed([1, True]), "input[1]"),
        (EMBED, embed([1, "a"]), "input[1]"),
        (EMBED, embed([1, 2**32]), "input[1]"),
        (EMBED, embed([1, 100_256]), "input[1]"),
        (EMBED, embed([[1, 2], []]), "input[1]"),
        (EMBED, embed([[1, 2], 3]), "input[1]"),
        (EMBED, embed([[1], [2, "a"]]), "input[1][1]"),
        (EMBED, embed([[1], [2, 3, 30_522]]), "input[1][2]"),
        (EMBED, embed([[1]] * 2049), "input"),
        (EMBED, embed([[[1]]]), "input[0][0]"),
        (EMBED, embed([{}]), "input[0]"),
        (EMBED, embed({"a": 1}), "input"),
        (EMBED, embed(1), "input"),
        (EMBED, embed(["a", 2]), "input[1]"),
        (EMBED, embed(None), "input"),
        (EMBED, embed("a", dimensions=5), "dimensions"),
        (EMBED, embed("a", encoding_format="int8"), "encoding_format"),
        (ASK, {"knowledge_base": "docs"}, "question"),
        (ASK, ask(question=""), "question"),
        (ASK, ask(question="x" * 8193), "question"),
        (ASK, ask(top_k=21), "top_k"),
        (ASK, ask(filter={"year": {"above": 3}}), "filter.year.above"),
        (ASK, ask(filter={"year": {}}), "filter.year"),
        (ASK, ask(filter={"year": None}), "filter.year.eq"),
        (ASK, ask(filter={"year": {"in": []}}), "filter.year.in"),
        (ASK, ask(filter={"year": {"in": [[1]]}}), "filter.year.in[0]"),
        (ASK, ask(filter={'x" or tenant != "': 1}), "filter"),
        (ASK, ask(filter=[]), "filter"),
        ("/v1/knowledge-bases", {"name": 5}, "name"),
        ("/v1/knowledge-bases", {"name": "BAD"}, "name"),
        (f"{DOCS}/search", {"query": "x", "mode": "psychic"}, "mode"),
        (f"{DOCS}/search", {"query": "x", "min_revision": -1}, "min_revision"),
        (f"{DOCS}/documents", {"documents": []}, "documents"),
        (f"{DOCS}/documents", {"documents": [{"id": "a"}]}, "documents[0].text"),
        (f"{DOCS}/documents", {"documents": [{"id": "a", "content_base64": "*"}]}, "documents[0].content_base64"),
        (f"{DOCS}/documents", {"documents": [{"id": "a", "text": "", "metadata": {"k": []}}]}, "documents[0].metadata"),
        ("/v1/features/read", {"features": ["v:f"], "entities": [{}]}, "entities[0]"),
        ("/v1/features/read", {"features": ["v:f"], "entities": [{"id": 2**63}]}, "entities[0].id"),
        ("/v1/features/push", {"feature_view": "v", "rows": [{"entity": {"a": 1}, "values": {}, "event_time": "soon"}]},
         "rows[0].event_time"),
    ],
)  # fmt: skip
async def test_the_field_at_fault_is_named(http: httpx.AsyncClient, path: str, body, param: str) -> None:
    response = await http.post(path, json=body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param or error["param"].startswith(f"{param}.")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"model": "writer", "messages": [{"role": "user", "content": "\xff\xfe"}]}',
        b'{"model": "writer", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "writer", "temperature": NaN, "messages": []}',
        b'{"messages": ' + b"[" * 100_000,
    ],
)
@pytest.mark.parametrize("path", [CHAT, EMBED, ASK])
async def test_bodies_that_are_no_json_object(http: httpx.AsyncClient, path: str, body: bytes) -> None:
    response = await http.post(path, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


async def test_harmless_parameters_and_defaults_are_taken(http: httpx.AsyncClient) -> None:
    body = chat(
        user="u", metadata={"a": "b"}, store=False, n=1, tools=[], tool_choice="none", logprobs=False, logit_bias={},
        frequency_penalty=0, presence_penalty=0.0, response_format={"type": "text"}, parallel_tool_calls=True,
        service_tier="auto", seed=None, top_p=1, stream_options=None, modalities=["text"],
    )  # fmt: skip
    assert (await http.post(CHAT, json=body)).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "unknown_url"),
        ("GET", "/v1/models/", 400, None),
        ("GET", "/nothing", 404, "unknown_url"),
        ("GET", "/v1/ask", 405, "method_not_allowed"),
        ("GET", "/v1/knowledge-bases/none", 404, "not_found"),
        ("GET", "/v1/provenance/none", 404, "not_found"),
        ("GET", "/v1/knowledge-bases/docs/documents?page_size=x", 400, "invalid_input"),
        ("GET", "/v1/knowledge-bases/docs/documents?page_size=0", 400, "invalid_input"),
    ],
)
async def test_routes_that_are_not_there(http: httpx.AsyncClient, method: str, path: str, status: int, code) -> None:
    response = await http.request(method, path)
    assert response.status_code == status
    assert response.json()["error"].keys() == {"message", "type", "param", "code"}
    assert code in {None, response.json()["error"]["code"]}
    assert status != 405 or response.headers["allow"] == "POST"


async def test_a_body_that_is_too_large(http: httpx.AsyncClient) -> None:
    async def unannounced():
        for _ in range(20):
            yield b"x" * 100_000

    for content in (b"x" * 1_000_001, unannounced()):
        response = await http.post(CHAT, content=content)
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "request_too_large"


async def test_a_form_that_is_not_one(http: httpx.AsyncClient) -> None:
    headers = {"content-type": "multipart/form-data; boundary=x"}
    response = await http.post(f"{DOCS}/documents", content=b"--y\r\nnothing", headers=headers)
    assert response.status_code == 400
    for files in ({"other": ("a.txt", b"x")}, {"files": ("???", b"x")}):
        response = await http.post(f"{DOCS}/documents", files=files)
        assert response.status_code == 400


@pytest.mark.parametrize("milliseconds", ["0", "-5", "soon", "600001", "1" * 40])
async def test_a_timeout_that_is_none(http: httpx.AsyncClient, milliseconds: str) -> None:
    response = await http.get("/v1/models", headers={"Penstock-Timeout-Ms": milliseconds})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "Penstock-Timeout-Ms"


async def test_a_megabyte_of_text_goes_through_whole(http: httpx.AsyncClient, gateway: Gateway) -> None:
    text = "ü" * 400_000
    response = await http.post(EMBED, json=embed(text))
    assert response.status_code == 200
    assert gateway.world.requests[-1].texts[0] == text
