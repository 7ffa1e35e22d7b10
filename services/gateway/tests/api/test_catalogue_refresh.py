"""The catalogue changes behind a running gateway: it is followed within 5 s, and no request is dropped for it."""

import asyncio
import time
from collections.abc import AsyncIterator

import httpx
import pytest
from gateway_fakes import Gateway
from gateway_service_fakes import model
from servicekit.errors import Unavailable
from servicekit.testing import eventually

CHAT = "/v1/chat/completions"
SOON_S = 5.0


@pytest.fixture(autouse=True)
async def watching(gateway: Gateway) -> AsyncIterator[None]:
    watch = asyncio.create_task(gateway.models.watch())
    yield
    watch.cancel()
    await asyncio.wait([watch])


def conversation(name: str) -> dict[str, object]:
    return {"model": name, "messages": [{"role": "user", "content": "Hi"}]}


async def until(http: httpx.AsyncClient, name: str, status: int) -> None:
    """Wait until a model is answered with this status."""
    end = time.monotonic() + SOON_S
    while (response := await http.post(CHAT, json=conversation(name))).status_code != status:
        assert time.monotonic() < end, response.text
        await asyncio.sleep(0.05)


async def test_models_come_and_go_while_a_stream_goes_on(http: httpx.AsyncClient, gateway: Gateway) -> None:
    assert (await http.post(CHAT, json=conversation("novel"))).status_code == 404
    gateway.world.endless = True
    async with http.stream("POST", CHAT, json=conversation("writer") | {"stream": True}) as response:
        lines = response.aiter_lines()
        assert (await anext(lines)).startswith("data: ")
        gateway.world.models["novel"] = model("novel")
        await eventually(lambda: "novel" in gateway.models.catalogue.cards, SOON_S)
        assert '"more "' in "".join([await anext(lines) for _ in range(9)])
        gateway.world.endless = False
        assert [line async for line in lines if line][-1] == "data: [DONE]"
    assert (await http.post(CHAT, json=conversation("novel"))).status_code == 200
    del gateway.world.models["novel"]
    await until(http, "novel", 404)


async def test_a_failure_leaves_the_last_list_and_the_next_one_is_taken_up(
    http: httpx.AsyncClient, gateway: Gateway
) -> None:
    known = gateway.models.catalogue
    gateway.world.failure = Unavailable("away", reason="backend_failed")
    assert not await gateway.models.refresh()
    assert gateway.models.catalogue is known
    assert (await http.post(CHAT, json=conversation("writer"))).json()["error"]["code"] == "backend_failed"
    assert (await http.get("/healthz/ready")).status_code == 200
    gateway.world.failure = None
    gateway.world.models["novel"] = model("novel")
    await until(http, "novel", 200)
