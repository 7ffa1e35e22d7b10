"""The list of what is in the servers' memory: a real server, a real stub."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from inference.api.residency import residency_service
from inference.core.footprints import Footprints
from inference.core.policy import Policy
from inference.core.residency import Residency
from inference_residency_fakes import FakeFootprintStore, FakeRepository, FakeServers
from penstock.inference.v1 import residency_pb2 as pb
from penstock.inference.v1 import residency_pb2_grpc as pb_grpc
from servicekit.errors import Forbidden, NotFound
from servicekit.rpc import Channel
from servicekit.testing import caller, serving


@asynccontextmanager
async def group() -> AsyncIterator[Residency]:
    """Run a group of one server, which has a model of 100 bytes in use, and another server that is down."""
    servers = FakeServers({name: FakeRepository({"a": 100, "b": 100}, load_s=0.01) for name in ("s0", "s1")})
    servers["s1"].die()
    policy = Policy(frozenset({"a", "b"}), budget_bytes=250, leak_limit_bytes=50)
    residency = Residency(policy, Footprints(FakeFootprintStore(), 50), servers.connect)
    for address in servers:
        residency.joined(address)
    running = asyncio.create_task(residency.run())
    try:
        async with residency.lease("a", 5.0):
            yield residency
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_tells_what_is_in_memory_and_who_is_down() -> None:
    async with AsyncExitStack() as stack:
        residency = await stack.enter_async_context(group())
        address = await stack.enter_async_context(serving(residency_service({"gpu": residency})))
        channel = await stack.enter_async_context(Channel(address))
        stub = pb_grpc.ResidencyServiceStub(channel.grpc)
        with caller():
            up, down = (await channel.call(stub.ListDevices, pb.ListDevicesRequest(server="gpu"))).devices
            everything = await channel.call(stub.ListDevices, pb.ListDevicesRequest())
            with pytest.raises(NotFound):
                await channel.call(stub.ListDevices, pb.ListDevicesRequest(server="cpu"))
        with caller(scopes={"models"}), pytest.raises(Forbidden):
            await channel.call(stub.ListDevices, pb.ListDevicesRequest())
    resident = pb.Resident(model="a", stage="ready", bytes=100, measured=True, leases=1)
    assert up == pb.Device(
        server="gpu", address="s0", alive=True, budget_bytes=250, charged_bytes=100, residents=[resident]
    )
    assert (down.address, down.alive, len(down.residents)) == ("s1", False, 0)
    assert list(everything.devices) == [up, down]


async def test_without_such_servers_the_list_is_empty() -> None:
    async with serving(residency_service({})) as address, Channel(address) as channel:
        with caller():
            stub = pb_grpc.ResidencyServiceStub(channel.grpc)
            assert (await channel.call(stub.ListDevices, pb.ListDevicesRequest())) == pb.ListDevicesResponse()
