"""Servers in virtual time with the residency over them, and requests that use their models."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from inference.core.device import Copy
from inference.core.footprints import Footprints
from inference.core.mover import Prove, unproven
from inference.core.policy import Patience, Policy
from inference.core.residency import Residency
from inference_residency_fakes import FakeFootprintStore, FakeRepository, FakeServers, now

SIZES = dict.fromkeys("abcdef", 100)
POLICY = Policy(
    frozenset(SIZES),
    budget_bytes=200,
    leak_limit_bytes=60,
    minimum_s=0.0,
    patience=Patience(load_s=10.0, unload_s=5.0, free_s=1.0),
)


class World:
    """Servers, and the residency over them."""

    def __init__(
        self,
        count: int = 1,
        policy: Policy = POLICY,
        *,
        store: FakeFootprintStore | None = None,
        prove: Prove = unproven,
    ) -> None:
        self.servers = FakeServers({f"s{number}": FakeRepository(SIZES) for number in range(count)})
        self.store = store or FakeFootprintStore()
        footprints = Footprints(self.store, assumed_bytes=100)
        self.residency = Residency(policy, footprints, self.servers.connect, prove, now)

    @property
    def only(self) -> FakeRepository:
        (server,) = self.servers.values()
        return server

    @asynccontextmanager
    async def running(self) -> AsyncIterator["World"]:
        for address in self.servers:
            self.residency.joined(address)
        task = asyncio.create_task(self.residency.run())
        try:
            yield self
        finally:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    async def use(self, model: str, wait_s: float = 30.0, takes_s: float = 0.01) -> str:
        async with self.residency.lease(model, wait_s) as address:
            await self.servers[address].infer(model, takes_s)
            return address

    def loads(self) -> list[str]:
        return [model for server in self.servers.values() for model in server.loads]

    def copies(self) -> list[Copy]:
        return [copy for device in self.residency.devices() for copy in device.copies.values()]

    def ailments(self) -> dict[str, str]:
        return {device.address: device.ailment for device in self.residency.devices() if device.ailment}

    def sound(self) -> bool:
        return not any(server.broken for server in self.servers.values())
