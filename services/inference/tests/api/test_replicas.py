"""The list of replicas: a real server, a real stub."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from inference.api.replicas import replica_service
from inference.core.catalogue import Task
from inference.core.pool import Pool
from inference.core.replica import Backend, Replica, Server
from inference.core.replicas import Replicas
from inference.core.served_model import ServedModel
from inference_fakes import FakeGenerator, FakeProber, FakeTensors, generating, model
from inference_replica_fakes import CHECKED, FakeArrays, FakeClock
from penstock.inference.v1 import replicas_pb2 as pb
from penstock.inference.v1 import replicas_pb2_grpc as pb_grpc
from servicekit.errors import Forbidden, NotFound
from servicekit.rpc import Channel
from servicekit.testing import caller, serving


async def replicated(name: str, *factors: float) -> ServedModel:
    """Return a model with a replica per factor; 2 is the right one."""
    replicas = Replicas(name)
    for index, factor in enumerate(factors):
        arrays, clock = FakeArrays(), FakeClock()
        arrays.factor = factor
        backend = Backend(tensors=FakeTensors(), prober=FakeProber(CHECKED), arrays=arrays)
        replica = Replica(name, Server(f"10.0.0.{index}:8001"), backend, clock=clock, wall_clock=clock)
        replicas.join(replica)
        await replica.check()
    return ServedModel(model(name, Task.EMBED), tensors=FakeTensors(), replicas=replicas)


@asynccontextmanager
async def stub(*models: ServedModel) -> AsyncIterator[tuple[Channel, pb_grpc.ReplicaServiceStub]]:
    async with serving(replica_service(Pool(models))) as address, Channel(address) as channel:
        yield channel, pb_grpc.ReplicaServiceStub(channel.grpc)


async def test_tells_where_a_model_runs_and_whose_answers_are_wrong() -> None:
    served = await replicated("listed", 2.0, 3.0)
    served.replicas.all()[0].enter()  # type: ignore[union-attr]
    async with stub(served) as (channel, service):
        with caller():
            right, wrong = (await channel.call(service.ListReplicas, pb.ListReplicasRequest(model="listed"))).replicas
    assert (right.address, right.in_rotation, right.reason, right.outstanding) == ("10.0.0.0:8001", True, "", 1)
    assert (right.version, right.digest, right.breaker) == ("1", "sha256:ab", pb.BREAKER_POSITION_CLOSED)
    assert right.golden.outcome == pb.GOLDEN_OUTCOME_PASSED
    assert right.golden.checked_at.seconds == 1000
    assert (wrong.in_rotation, wrong.reason) == (False, "golden_failed")
    assert wrong.golden.outcome == pb.GOLDEN_OUTCOME_WRONG
    assert "double: y" in wrong.golden.detail


async def test_lists_all_models_and_an_upstream_has_no_replicas() -> None:
    models = [await replicated("one", 2.0), await replicated("two", 2.0, 2.0), generating(FakeGenerator(), "three")]
    async with stub(*models) as (channel, service):
        with caller():
            listed = (await channel.call(service.ListReplicas, pb.ListReplicasRequest())).replicas
    assert [each.model for each in listed] == ["one", "two", "two"]


async def test_an_unknown_model_is_not_found_and_addresses_are_for_administrators() -> None:
    async with stub() as (channel, service):
        with caller(), pytest.raises(NotFound):
            await channel.call(service.ListReplicas, pb.ListReplicasRequest(model="nope"))
        with caller(scopes=["models"]), pytest.raises(Forbidden):
            await channel.call(service.ListReplicas, pb.ListReplicasRequest())
