"""The addresses of a Service, from an API server that answers as a test tells. No real cluster was at hand."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from inference.adapters.kubernetes import ClusterAccess, KubernetesAddresses


def piece(name: str, *endpoints: dict[str, Any]) -> dict[str, Any]:
    """Return an EndpointSlice."""
    return {"metadata": {"name": name}, "endpoints": list(endpoints)}


def pod(address: str, **conditions: bool | None) -> dict[str, Any]:
    return {"addresses": [address], "conditions": conditions}


class FakeCluster:
    """An API server with the slices of one Service; events are put into `events`, and None ends the watch."""

    def __init__(self, *slices: dict[str, Any]) -> None:
        self.slices = list(slices)
        self.events: asyncio.Queue[dict[str, Any] | bytes | None] = asyncio.Queue()
        self.asked: list[Any] = []
        self.tokens: list[str] = []
        self.statuses: list[int] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        self.tokens.append(request.headers["Authorization"])
        if self.statuses:
            return web.Response(status=self.statuses.pop(0), text="secret details")
        if "watch" not in request.query:
            return web.json_response({"metadata": {"resourceVersion": "7"}, "items": self.slices})
        response = web.StreamResponse()
        await response.prepare(request)
        while (event := await self.events.get()) is not None:
            await response.write(event if isinstance(event, bytes) else orjson.dumps(event) + b"\n")
        return response

    @asynccontextmanager
    async def running(self, folder: Path) -> AsyncIterator[KubernetesAddresses]:
        """Serve, and yield what follows the Service."""
        application = web.Application()
        application.router.add_get("/apis/discovery.k8s.io/v1/namespaces/ai/endpointslices", self.answer)
        runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        (folder / "token").write_text("token-1\n", "ascii")
        access = ClusterAccess(f"http://127.0.0.1:{runner.addresses[0][1]}", folder / "token", folder / "ca.crt")
        try:
            yield KubernetesAddresses(access, "ai", "triton", 8001)
        finally:
            await runner.cleanup()


async def test_only_pods_that_are_ready_and_stay_are_addresses(tmp_path: Path) -> None:
    cluster = FakeCluster(
        piece("one", pod("10.0.0.1", ready=True), pod("10.0.0.2", ready=False), pod("fd00::1", ready=None)),
        piece("two", pod("10.0.0.3", ready=True, terminating=True), pod("10.0.0.4")),
        {"metadata": {"name": "three"}, "endpoints": None},
    )
    async with cluster.running(tmp_path) as service, aclosing(service.watch()) as addresses:
        assert await anext(addresses) == {"10.0.0.1:8001", "[fd00::1]:8001", "10.0.0.4:8001"}
    assert cluster.asked[0].query["labelSelector"] == "kubernetes.io/service-name=triton"
    assert cluster.tokens == ["Bearer token-1"]


async def test_a_pod_that_is_deleted_leaves_at_once_and_others_come(tmp_path: Path) -> None:
    cluster = FakeCluster(piece("one", pod("10.0.0.1"), pod("10.0.0.2")))
    async with cluster.running(tmp_path) as service, aclosing(service.watch()) as addresses:
        assert await anext(addresses) == {"10.0.0.1:8001", "10.0.0.2:8001"}
        leaving = piece("one", pod("10.0.0.1", ready=False, serving=True, terminating=True), pod("10.0.0.2"))
        await cluster.events.put({"type": "MODIFIED", "object": leaving})
        assert await anext(addresses) == {"10.0.0.2:8001"}
        await cluster.events.put({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "9"}}})
        await cluster.events.put({"type": "ADDED", "object": piece("two", pod("10.0.0.9"))})
        assert await anext(addresses) == {"10.0.0.2:8001", "10.0.0.9:8001"}
        await cluster.events.put({"type": "DELETED", "object": piece("one")})
        assert await anext(addresses) == {"10.0.0.9:8001"}
    assert cluster.asked[1].query["resourceVersion"] == "7"


async def test_a_watch_that_ends_or_is_too_old_begins_again_with_a_list(tmp_path: Path) -> None:
    cluster = FakeCluster(piece("one", pod("10.0.0.1")))
    async with cluster.running(tmp_path) as service, aclosing(service.watch()) as addresses:
        assert await anext(addresses) == {"10.0.0.1:8001"}
        cluster.slices = [piece("one", pod("10.0.0.2"))]
        await cluster.events.put(None)
        assert await anext(addresses) == {"10.0.0.2:8001"}
        cluster.slices = [piece("one", pod("10.0.0.3"))]
        await cluster.events.put({"type": "ERROR", "object": {"code": 410}})
        assert await anext(addresses) == {"10.0.0.3:8001"}


async def test_while_the_api_server_fails_the_last_addresses_stay(tmp_path: Path, caplog: Any) -> None:
    cluster = FakeCluster(piece("one", pod("10.0.0.1")))
    async with cluster.running(tmp_path) as service, aclosing(service.watch()) as addresses:
        assert await anext(addresses) == {"10.0.0.1:8001"}
        cluster.statuses = [503]
        (tmp_path / "token").write_text("token-2\n", "ascii")
        cluster.slices = [piece("one", pod("10.0.0.2"))]
        await cluster.events.put(b"no json\n")
        assert await anext(addresses) == {"10.0.0.2:8001"}
    assert cluster.tokens[-1] == "Bearer token-2"
    assert "the API server answered 503" in caplog.text
    assert "token-" not in caplog.text
    assert "secret details" not in caplog.text


@pytest.mark.parametrize(
    "event", [b"7\n", b"[]\n", b'{"type": "ADDED"}\n', b'{"type": "ADDED", "object": 7}\n', b"\xff\n"]
)
async def test_an_event_that_is_none_begins_again_with_a_list(tmp_path: Path, event: bytes) -> None:
    cluster = FakeCluster(piece("one", pod("10.0.0.1")))
    async with cluster.running(tmp_path) as service, aclosing(service.watch()) as addresses:
        assert await anext(addresses) == {"10.0.0.1:8001"}
        cluster.slices = [piece("one", pod("10.0.0.2"))]
        await cluster.events.put(event)
        assert await anext(addresses) == {"10.0.0.2:8001"}


async def test_an_event_in_many_parts_is_one_event(tmp_path: Path) -> None:
    cluster = FakeCluster()
    async with cluster.running(tmp_path) as service, aclosing(service.watch()) as addresses:
        assert await anext(addresses) == frozenset()
        line = orjson.dumps({"type": "ADDED", "object": piece("one", pod("10.0.0.1"))}) + b"\n"
        for start in range(0, len(line), 7):
            await cluster.events.put(line[start : start + 7])
        assert await anext(addresses) == {"10.0.0.1:8001"}
