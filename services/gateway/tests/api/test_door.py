"""What the door does around every request: key, scope, deadline, trace, cancellation, drain."""

import asyncio
import logging

import httpx
import pytest
from gateway.api.server import bind
from gateway.core.scopes import TENANT_SCOPES
from gateway_fakes import Gateway, new_key
from servicekit.rpc.server import AddressTaken
from servicekit.testing import eventually

CHAT = {"model": "writer", "messages": [{"role": "user", "content": "Hi"}]}
EMBED = {"model": "minilm-l6", "input": "a"}


@pytest.mark.parametrize("value", [None, "", "Bearer", "Basic x", "Bearer nope", "Bearer pst_0_x", "Bearer ü"])
async def test_without_a_key_nothing_opens(gateway: Gateway, value: str | None) -> None:
    async with httpx.AsyncClient(base_url=gateway.url) as anonymous:
        headers = {} if value is None else {"Authorization": value.encode()}
        response = await anonymous.get("/v1/models", headers=headers)
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert response.headers["x-request-id"]


async def test_a_key_opens_its_scopes_alone(http: httpx.AsyncClient, gateway: Gateway) -> None:
    key, text = new_key(frozenset({"ask"}))
    await gateway.store.add(key)
    http.headers["Authorization"] = f"Bearer {text}"
    asked = await http.post("/v1/ask", json={"knowledge_base": "docs", "question": "Who?"})
    assert asked.status_code == 200
    for path, body in (("/v1/embeddings", EMBED), ("/v1/chat/completions", CHAT)):
        response = await http.post(path, json=body)
        assert response.status_code == 403
        assert response.json()["error"]["code"] == "missing_scope"
    assert (await http.get("/v1/knowledge-bases")).status_code == 403
    listed = (await http.get("/v1/models")).json()["data"]
    assert [model["id"] for model in listed] == ["rag:docs"]


async def test_services_learn_who_asks(http: httpx.AsyncClient, gateway: Gateway) -> None:
    await http.post("/v1/embeddings", json=EMBED)
    caller = gateway.world.callers[-1]
    assert (caller.tenant, caller.principal) == ("acme", "tester")
    assert caller.scopes == TENANT_SCOPES
    assert gateway.key not in repr(caller)


async def test_the_deadline_goes_on(http: httpx.AsyncClient, gateway: Gateway) -> None:
    await http.post("/v1/embeddings", json=EMBED)
    await http.post("/v1/embeddings", json=EMBED, headers={"Penstock-Timeout-Ms": "2000"})
    default_s, asked_s = gateway.world.deadlines_s
    assert 50 < default_s < 60
    assert 1 < asked_s < 2


async def test_a_deadline_that_passes_is_a_504(http: httpx.AsyncClient, gateway: Gateway) -> None:
    gateway.world.endless = True
    response = await http.post("/v1/embeddings", json=EMBED, headers={"Penstock-Timeout-Ms": "100"})
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "timed_out"


async def test_a_deadline_that_cannot_be_met_is_refused_early_or_a_504(
    http: httpx.AsyncClient, gateway: Gateway
) -> None:
    gateway.world.endless = True
    response = await http.post("/v1/embeddings", json=EMBED, headers={"Penstock-Timeout-Ms": "1"})
    outcome = response.status_code, response.json()["error"]["code"]
    assert outcome in {(503, "deadline_unreachable"), (504, "timed_out")}


async def test_a_body_that_never_comes_is_a_504(http: httpx.AsyncClient) -> None:
    async def never():
        yield b"{"
        await asyncio.sleep(5)
        yield b"}"

    response = await http.post("/v1/embeddings", content=never(), headers={"Penstock-Timeout-Ms": "50"})
    assert response.status_code == 504


async def test_leaving_cancels_what_was_asked_upstream(http: httpx.AsyncClient, gateway: Gateway, caplog) -> None:
    gateway.world.endless = True
    asking = asyncio.create_task(http.post("/v1/embeddings", json=EMBED))
    await eventually(lambda: bool(gateway.world.requests))
    asking.cancel()
    async with asyncio.timeout(1):
        await gateway.world.ended.wait()
    await eventually(lambda: not gateway.rest.server_state.tasks)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_an_incoming_trace_is_continued(http: httpx.AsyncClient) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    response = await http.get("/v1/models", headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"})
    assert response.headers["x-request-id"] == trace
    odd = await http.get("/v1/models", headers={"traceparent": "00-zz"})
    assert len(odd.headers["x-request-id"]) == 32


async def test_a_bug_behind_is_a_500_that_tells_nothing(http: httpx.AsyncClient, gateway: Gateway) -> None:
    gateway.world.failure = ZeroDivisionError("secret")
    response = await http.post("/v1/embeddings", json=EMBED)
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"
    assert "secret" not in response.text
    assert response.headers["x-request-id"] in response.text


async def test_running_requests_end_when_the_server_stops(http: httpx.AsyncClient, gateway: Gateway) -> None:
    gateway.world.endless = True
    asking = asyncio.create_task(http.post("/v1/embeddings", json=EMBED))
    await eventually(lambda: bool(gateway.world.requests))
    gateway.rest.should_exit = True
    await eventually(lambda: not gateway.rest.servers[0].is_serving())
    gateway.world.endless = False
    assert (await asking).status_code == 200


def test_a_taken_address_is_named() -> None:
    taken = bind("127.0.0.1:0")
    taken.listen()
    address = f"127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(AddressTaken, match=address):
        bind(address)
    taken.close()
