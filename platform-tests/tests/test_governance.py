"""Who may do how much: limits, budgets, keys, allowlists and regions, on every door, and what the ledger says of it."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import httpx
import pytest
from hostile_process import Hostile
from penstock.gateway.v1 import gateway_pb2 as pb
from penstock.gateway.v1 import gateway_pb2_grpc as pb_grpc
from penstock.inference.v1 import inference_pb2 as inference
from servicekit.testing import eventually
from stack_process import RunningStack
from tenancy import Administration, Key, bearer, session
from tritonclient.grpc import service_pb2 as oip
from tritonclient.grpc import service_pb2_grpc as oip_grpc

CHAT = "/v1/chat/completions"
QUESTION = "How is the mood of the upstream today, on the whole?"
TURNS = [{"role": "user", "content": QUESTION}]
TOKENS_IN, TOKENS_OUT = 12, 12
COST_NANOS = TOKENS_IN * 1_000_000 + TOKENS_OUT * 2_000_000
"""What an answer of the model `priced` costs: 1,000 dollars a million tokens in, 2,000 dollars out."""

CALLERS = 200
AFFORDABLE = 10
LIVE_WITHIN_S = 5.0
pytestmark = pytest.mark.stack


@pytest.fixture
async def channel(stack: RunningStack) -> AsyncIterator[grpc.aio.Channel]:
    """A connection to the gRPC doors."""
    async with grpc.aio.insecure_channel(stack.grpc) as made:
        yield made


def body(model: str = "hostile-ok", **more: Any) -> dict[str, Any]:
    """Return a chat whose answer has at most as many tokens as it will have."""
    return {"model": model, "messages": TURNS, "max_tokens": TOKENS_OUT, **more}


def typed(model: str) -> pb.Conversation:
    """Return the same for gRPC."""
    made = pb.Conversation(model=model, messages=[inference.Message(role="user", content=QUESTION)])
    made.sampling.max_tokens = TOKENS_OUT
    return made


async def statuses(client: httpx.AsyncClient, count: int, sent: dict[str, Any]) -> list[httpx.Response]:
    """Send a chat so many times at once."""
    return list(await asyncio.gather(*(client.post(CHAT, json=sent) for _ in range(count))))


def check_refusals(refused: list[httpx.Response], code: str) -> None:
    """Assert that refusals are 429 of a kind that say when to come back."""
    for response in refused:
        assert response.status_code == 429, response.text
        assert response.json()["error"]["code"] == code
        assert 1 <= int(response.headers["retry-after"]) <= 120


async def rows_of(administration: Administration, tenant: str, count: int) -> list[dict[str, Any]]:
    """Return the rows of a tenant once there are so many; assert that there are no more."""

    async def enough() -> bool:
        return len(await administration.attempts(tenant)) >= count

    await eventually(enough, timeout_s=10)
    rows = await administration.attempts(tenant)
    assert len(rows) == count
    return rows


@pytest.mark.parametrize("holder", ["tenant", "project", "key"])
async def test_a_rate_admits_exactly_what_it_says(
    stack: RunningStack, administration: Administration, hostile: Hostile, holder: str
) -> None:
    limits = {"requests_per_minute": 30}
    tenant = await administration.tenant(limits if holder == "tenant" else None)
    fields: dict[str, Any] = {"limits": limits} if holder == "key" else {}
    if holder == "project":
        await administration.post(f"/v1/admin/tenants/{tenant}/projects", {"id": "search", "limits": limits})
        fields["project"] = "search"
    key = await administration.key(tenant, **fields)
    hostile.reset()
    async with session(stack, key.text) as client:
        answers = await statuses(client, 60, body())
    refused = [answer for answer in answers if answer.status_code != 200]
    assert len(answers) - len(refused) == 30
    check_refusals(refused, "requests_per_minute")
    assert hostile.counts()["requests"] == {"ok": 30}
    assert {row["status"] for row in await rows_of(administration, tenant, 30)} == {"ok"}


async def test_so_many_calls_at_once_and_no_more(stack: RunningStack, administration: Administration) -> None:
    tenant = await administration.tenant({"concurrent_requests": 3})
    key = await administration.key(tenant)
    async with session(stack, key.text) as client:
        answers = await statuses(client, 10, body("hostile-ok-paced"))
        refused = [answer for answer in answers if answer.status_code != 200]
        assert len(answers) - len(refused) == 3
        check_refusals(refused, "concurrent_requests")
        again = await statuses(client, 3, body())
    assert [answer.status_code for answer in again] == [200] * 3


Asking = Callable[[], Awaitable[bool]]


def over_rest(client: httpx.AsyncClient) -> Asking:
    """Return a call that says whether it was answered, and fails if it was refused for anything but the budget."""

    async def ask() -> bool:
        response = await client.post(CHAT, json=body("priced"))
        if response.status_code == 200:
            assert response.json()["penstock"]["routing"]["cost_nanos"] == COST_NANOS
            return True
        check_refusals([response], "budget_exhausted")
        assert response.headers["x-should-retry"] == "false"
        return False

    return ask


def over_grpc(channel: grpc.aio.Channel, key: Key) -> Asking:
    """Return the same over gRPC."""
    door = pb_grpc.GatewayServiceStub(channel)

    async def ask() -> bool:
        try:
            made = await door.Chat(pb.ChatRequest(conversation=typed("priced")), metadata=key.metadata, timeout=30)
        except grpc.aio.AioRpcError as error:
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, error
            return False
        assert made.routing.cost_nanos == COST_NANOS
        return True

    return ask


@pytest.mark.parametrize("door", ["rest", "typed"])
async def test_a_budget_is_not_overspent(
    stack: RunningStack, administration: Administration, hostile: Hostile, channel: grpc.aio.Channel, door: str
) -> None:
    budget = AFFORDABLE * COST_NANOS + COST_NANOS // 2
    tenant = await administration.tenant({"budget_day_usd": f"{budget / 1e9:.9f}"})
    key = await administration.key(tenant)
    hostile.reset()
    async with session(stack, key.text) as client:
        ask = over_rest(client) if door == "rest" else over_grpc(channel, key)
        answered = sum(await asyncio.gather(*(ask() for _ in range(CALLERS))))
        while await ask():
            answered += 1
    asked = hostile.counts()["requests"]
    assert asked == {"ok": answered}
    rows = await rows_of(administration, tenant, answered)
    spent, reserved = sum(row["cost_nanos"] for row in rows), max(row["reserved_nanos"] for row in rows)
    assert {(row["status"], row["cost_nanos"]) for row in rows} == {("ok", COST_NANOS)}
    assert {(row["input_tokens"], row["output_tokens"]) for row in rows} == {(TOKENS_IN, TOKENS_OUT)}
    assert reserved >= COST_NANOS
    assert budget - reserved < spent <= budget + reserved
    assert await administration.cost_nanos(tenant) == (answered, spent)


async def test_a_budget_of_nothing_stops_what_costs_and_lets_through_what_is_free(
    stack: RunningStack, administration: Administration
) -> None:
    key = await administration.key(await administration.tenant({"budget_month_usd": 0}))
    async with session(stack, key.text) as client:
        refused, free = await client.post(CHAT, json=body("priced")), await client.post(CHAT, json=body())
    check_refusals([refused], "budget_exhausted")
    assert refused.headers["x-should-retry"] == "false"
    assert free.status_code == 200, free.text


async def test_a_revoked_key_dies(stack: RunningStack, administration: Administration) -> None:
    key = await administration.key()
    async with session(stack, key.text) as client:
        assert (await client.post(CHAT, json=body())).status_code == 200
        await administration.post(f"/v1/admin/keys/{key.id}/revoke", {})
        await dies(client)


async def dies(client: httpx.AsyncClient) -> None:
    """Wait until a key is refused, and assert that it is at once enough and for good."""
    start_s = time.monotonic()

    async def refused() -> bool:
        return (await client.post(CHAT, json=body())).status_code == 401

    await eventually(refused, timeout_s=LIVE_WITHIN_S)
    assert time.monotonic() - start_s <= LIVE_WITHIN_S
    assert await refused()


async def test_a_rotated_key_works_for_its_grace_and_counts_as_one(
    stack: RunningStack, administration: Administration
) -> None:
    tenant = await administration.tenant()
    old = await administration.key(tenant, limits={"requests_per_minute": 3})
    async with session(stack, old.text) as client:
        assert (await client.post(CHAT, json=body())).status_code == 200
        start_s = time.monotonic()
        made = await administration.post(f"/v1/admin/keys/{old.id}/rotate", {"grace_s": 6})
        headers = bearer(made["key"])
        assert (await client.post(CHAT, json=body(), headers=headers)).status_code == 200
        assert (await client.post(CHAT, json=body())).status_code == 200
        check_refusals([await client.post(CHAT, json=body(), headers=headers)], "requests_per_minute")
        assert time.monotonic() - start_s < 6
        await eventually_refused(client, within_s=6 + LIVE_WITHIN_S)
        assert (await client.get("/v1/models", headers=headers)).status_code == 200
    rows = await rows_of(administration, tenant, 3)
    assert {row["key"] for row in rows} == {old.id}


async def eventually_refused(client: httpx.AsyncClient, within_s: float) -> None:
    """Wait until a key is refused."""

    async def refused() -> bool:
        return (await client.get("/v1/models")).status_code == 401

    await eventually(refused, timeout_s=within_s)


async def over_all_doors(
    client: httpx.AsyncClient, channel: grpc.aio.Channel, key: Key, chat: str, encoder: str
) -> dict[str, int | grpc.StatusCode]:
    """Ask a chat model and an encoder over every door, and return how each ended."""
    tensor = {"name": "input_ids", "shape": [1, 3], "datatype": "INT64", "data": [101, 2054, 102]}
    infer = {"inputs": [tensor, tensor | {"name": "attention_mask", "data": [1, 1, 1]}]}
    request = oip.ModelInferRequest(model_name=encoder, raw_input_contents=[bytes(24), bytes(24)])
    for name in ("input_ids", "attention_mask"):
        request.inputs.add(name=name, datatype="INT64", shape=[1, 3])
    door, tensors = pb_grpc.GatewayServiceStub(channel), oip_grpc.GRPCInferenceServiceStub(channel)
    sent = {"metadata": key.metadata, "timeout": 20}
    streamed = door.StreamChat(pb.StreamChatRequest(conversation=typed(chat)), **sent)
    many = tensors.ModelStreamInfer(iter([request]), **sent)
    ask = {"knowledge_base": "governed", "question": "What turns?", "model": chat}
    return {
        "chat": await rest_status(client, CHAT, body(chat)),
        "chat streamed": await rest_status(client, CHAT, body(chat, stream=True)),
        "embeddings": await rest_status(client, "/v1/embeddings", {"model": encoder, "input": "Water"}),
        "infer": await rest_status(client, f"/v2/models/{encoder}/infer", infer),
        "model": (await client.get(f"/v1/models/{chat}")).status_code,
        "ask": await rest_status(client, "/v1/ask", ask),
        "Chat": await typed_status(door.Chat(pb.ChatRequest(conversation=typed(chat)), **sent)),
        "StreamChat": await streamed_status(streamed),
        "Embed": await typed_status(door.Embed(pb.EmbedRequest(model=encoder, texts=["Water"]), **sent)),
        "ModelInfer": await typed_status(tensors.ModelInfer(request, **sent)),
        "ModelStreamInfer": await streamed_status(many),
    }


async def rest_status(client: httpx.AsyncClient, path: str, sent: dict[str, Any]) -> int:
    """Return the status of a call."""
    return (await client.post(path, json=sent)).status_code


async def typed_status(call: Any) -> grpc.StatusCode:
    """Return the status of a call."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def streamed_status(call: Any) -> grpc.StatusCode:
    """Return the status of a stream; OIP tells errors of a stream in its messages."""
    try:
        events = [event async for event in call]
    except grpc.aio.AioRpcError as error:
        return error.code()
    told = any(getattr(event, "error_message", "") for event in events)
    return grpc.StatusCode.UNKNOWN if told else grpc.StatusCode.OK


async def test_what_is_not_on_the_list_does_not_exist(
    stack: RunningStack, administration: Administration, hostile: Hostile, channel: grpc.aio.Channel
) -> None:
    key = await administration.key(models=["hostile-ok"])
    hostile.reset()
    async with session(stack, key.text) as client:
        listed = {model["id"] for model in (await client.get("/v1/models")).json()["data"]}
        found = await over_all_doors(client, channel, key, "priced", "minilm-l6")
        unknown = await over_all_doors(client, channel, key, "no-such-model", "no-such-encoder")
        allowed = await client.post(CHAT, json=body())
    assert listed == {"hostile-ok"}
    assert found == unknown
    assert {found["chat"], found["chat streamed"], found["embeddings"], found["infer"], found["model"]} == {404}
    assert {found["Chat"], found["StreamChat"], found["Embed"], found["ModelInfer"]} == {grpc.StatusCode.NOT_FOUND}
    assert allowed.status_code == 200
    assert hostile.counts()["requests"] == {"ok": 1}


async def test_a_pinned_tenant_stays_in_its_region(
    stack: RunningStack, administration: Administration, hostile: Hostile, channel: grpc.aio.Channel
) -> None:
    tenant = await administration.tenant(region="eu")
    key = await administration.key(tenant)
    hostile.reset()
    async with session(stack, key.text) as client:
        found = await over_all_doors(client, channel, key, "hostile-ok", "minilm-l6")
        assert hostile.counts()["requests"] == {}
        assert await administration.attempts(tenant) == []
        inside = await client.post(CHAT, json=body("in-europe"))
        document = {"id": "d", "media_type": "text/plain", "text": "Water turns the turbine."}
        taken = await client.post("/v1/knowledge-bases/governed/documents", json={"documents": [document]})
        found["search"] = await rest_status(client, "/v1/knowledge-bases/governed/search", {"query": "turbine"})
    denied = grpc.StatusCode.PERMISSION_DENIED
    paths = ("chat", "chat streamed", "embeddings", "infer", "ask", "search")
    assert {name: found[name] for name in paths} == dict.fromkeys(paths, 403)
    doors = ("Chat", "StreamChat", "Embed", "ModelInfer")
    assert {name: found[name] for name in doors} == dict.fromkeys(doors, denied)
    assert found["ModelStreamInfer"] != grpc.StatusCode.OK
    assert inside.status_code == 200, inside.text
    assert inside.json()["penstock"]["served"]["region"] == "eu"
    assert taken.status_code == 403, taken.text


async def test_a_pipeline_is_no_way_around_the_list(stack: RunningStack, administration: Administration) -> None:
    tenant = await administration.tenant()
    key = await administration.key(tenant, models=["rag:*", "extractive-reader"])
    document = {"id": "d", "media_type": "text/plain", "text": "Water turns the turbine."}
    ask = {"knowledge_base": "listed", "question": "What turns the turbine?"}
    async with session(stack, key.text) as client:
        await client.post("/v1/knowledge-bases/listed/documents", json={"documents": [document]})
        refused = await client.post("/v1/ask", json=ask | {"model": "priced"})
        streamed = await client.post("/v1/ask", json=ask | {"model": "priced", "stream": True})
        allowed = await client.post("/v1/ask", json=ask | {"model": "extractive-reader"})
    assert [refused.status_code, streamed.status_code, allowed.status_code] == [404, 404, 200]
    assert refused.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("door", ["rest", "typed"])
async def test_a_stream_that_is_left_is_paid_for_as_far_as_it_came(
    stack: RunningStack, administration: Administration, hostile: Hostile, channel: grpc.aio.Channel, door: str
) -> None:
    tenant = await administration.tenant()
    key = await administration.key(tenant)
    hostile.reset()
    async with session(stack, key.text) as client:
        seen = await (leave_rest(client) if door == "rest" else leave_typed(channel, key))
    await eventually(lambda: hostile.counts()["left"].get("ok-paced") == 1, timeout_s=2)
    (row,) = await rows_of(administration, tenant, 1)
    assert row["status"] == "cancelled", row
    assert seen <= row["output_tokens"] < 100
    assert row["input_tokens"] > 0
    assert row["cost_nanos"] == row["input_tokens"] * 1_000_000 + row["output_tokens"] * 2_000_000
    assert row["tokens_reported"] is False
    assert (await administration.cost_nanos(tenant)) == (1, row["cost_nanos"])


async def leave_rest(client: httpx.AsyncClient) -> int:
    """Read five words of a stream and hang up."""
    seen = 0
    async with client.stream("POST", CHAT, json=body("priced-paced", stream=True, max_tokens=200)) as response:
        async for line in response.aiter_lines():
            if line:
                seen += bool(json.loads(line.removeprefix("data: "))["choices"][0]["delta"].get("content"))
            if seen == 5:
                break
    return seen


async def leave_typed(channel: grpc.aio.Channel, key: Key) -> int:
    """Read five pieces of a stream and cancel it."""
    conversation = typed("priced-paced")
    conversation.sampling.max_tokens = 200
    call = pb_grpc.GatewayServiceStub(channel).StreamChat(
        pb.StreamChatRequest(conversation=conversation), metadata=key.metadata, timeout=30
    )
    seen = 0
    async for event in call:
        seen += sum(bool(delta.text) for delta in event.deltas)
        if seen >= 5:
            break
    call.cancel()
    return seen


async def test_a_cancelled_stream_gives_its_place_back(stack: RunningStack, administration: Administration) -> None:
    key = await administration.key(await administration.tenant({"concurrent_requests": 1}))
    async with session(stack, key.text) as client:
        for _ in range(3):
            assert await leave_rest(client) == 5

            async def free() -> bool:
                return (await client.post(CHAT, json=body())).status_code == 200

            await eventually(free, timeout_s=2)
