"""The shared store of limits is lost: who has limits is told so or held to local ones, and the gateway stays ready."""

from collections.abc import AsyncIterator

import httpx
import pytest
from gateway.core.accounts import Limits
from gateway.core.limit_breaker import GuardedLimits
from gateway.core.local_limits import LocalLimits
from gateway_account_fakes import new_key
from gateway_fakes import Gateway, running
from gateway_limit_fakes import FailingStore

CHAT = {"model": "writer", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
def shared() -> FailingStore:
    return FailingStore(LocalLimits())


@pytest.fixture
async def closed(shared: FailingStore) -> AsyncIterator[Gateway]:
    async with running(counters=GuardedLimits(shared, None, open_s=0.05)) as gateway:
        yield gateway


async def limited(gateway: Gateway, requests: int = 1000) -> str:
    key, text = new_key(limits=Limits(requests_per_minute=requests))
    await gateway.store.add(key)
    return text


async def chat(gateway: Gateway, text: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=gateway.url, headers={"Authorization": f"Bearer {text}"}) as http:
        return await http.post("/v1/chat/completions", json=CHAT)


async def ready(gateway: Gateway) -> int:
    async with httpx.AsyncClient(base_url=gateway.url) as http:
        return (await http.get("/healthz/ready")).status_code


async def test_closed_means_that_who_has_limits_is_told_when_to_come_back(
    closed: Gateway, shared: FailingStore
) -> None:
    text = await limited(closed)
    shared.state = "down"
    for _ in range(5):  # the breaker opens meanwhile
        response = await chat(closed, text)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "limits_unavailable")
        assert 1 <= int(response.headers["retry-after"]) <= 120
    assert closed.world.requests == []
    assert await closed.desk.rows() == []


async def test_a_gateway_that_lost_the_store_stays_ready_for_all_others(closed: Gateway, shared: FailingStore) -> None:
    text = await limited(closed)
    shared.state = "down"
    for _ in range(4):
        assert (await chat(closed, text)).status_code == 503
    assert await ready(closed) == 200
    assert (await chat(closed, closed.key)).status_code == 200
    shared.state = "up"
    for _ in range(100):
        if (response := await chat(closed, text)).status_code == 200:
            break
    assert response.status_code == 200, response.text


async def test_with_local_limits_who_has_limits_is_held_to_his_part(shared: FailingStore) -> None:
    shared.state = "down"
    async with running(counters=GuardedLimits(shared, LocalLimits(processes=2))) as gateway:
        text = await limited(gateway, requests=4)
        codes = [(await chat(gateway, text)).status_code for _ in range(4)]
        assert codes == [200, 200, 429, 429]
        assert await ready(gateway) == 200
