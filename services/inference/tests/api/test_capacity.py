"""CapacityService over a real server, and what it puts into the metrics."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from inference.api.capacity import capacity_service
from inference.core.advisor import Advisor
from inference.core.capacity import Kind, Objective
from inference.core.execution import Execution
from inference.core.pool import Pool
from inference.core.residency_measures import ModelMemory, Tally
from inference.core.served_model import ServedModel
from inference_fakes import FakeGenerator, FakeTensors, generating, model
from inference_replica_fakes import benches
from penstock.inference.v1 import capacity_pb2 as pb
from penstock.inference.v1 import capacity_pb2_grpc as pb_grpc
from prometheus_client import REGISTRY
from servicekit.errors import Forbidden, InvalidInput, NotFound
from servicekit.rpc import Channel
from servicekit.testing import caller, eventually, serving

WAIT = pb.Objective(kind=pb.OBJECTIVE_KIND_WAIT, quantile=0.99, seconds=0.05)


def used(**fields: object) -> ServedModel:
    """Return a model that has answered: 0.1 s each, one at a time."""
    served = generating(FakeGenerator(), limits=(1, 10), **fields)
    for _ in range(50):
        served.measures.arrived(0.0)
        served.measures.answered(1, 0.1)
    return served


@asynccontextmanager
async def asking(*models: ServedModel) -> AsyncIterator["Asking"]:
    pool = Pool(models)
    service = capacity_service(pool, Advisor(pool.models))
    async with serving(service) as address, Channel(address) as channel:
        yield Asking(channel)


class Asking:
    """Calls the service as an administrator."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._stub = pb_grpc.CapacityServiceStub(channel.grpc)

    async def __call__(self, scopes: tuple[str, ...] = ("admin",), **fields: object) -> list[pb.ModelCapacity]:
        with caller(scopes=scopes):
            request = pb.GetCapacityRequest(**fields)  # type: ignore[arg-type]
            return list((await self._channel.call(self._stub.GetCapacity, request)).models)


async def test_says_how_many_replicas_a_rate_needs_and_what_to_expect() -> None:
    served = used()
    async with asking(served) as ask:
        (found,) = await ask(model=served.model.name, rate=25.0, objective=WAIT)
    assert found.workload.service_mean_s == pytest.approx(0.1)
    assert (found.workload.replicas, found.workload.servers) == (1, 1.0)
    advice = found.advice
    assert (advice.rate, advice.objective) == (25.0, WAIT)
    assert 5 <= advice.replicas <= 6
    assert advice.expected.replicas == advice.replicas
    assert advice.expected.wait.p99 <= 0.05
    assert advice.expected.latency.p50 >= 0.1
    assert advice.present.utilisation == pytest.approx(2.5)
    assert not advice.present.HasField("wait")


async def test_lists_every_model_with_its_own_objective_and_nothing_where_nothing_was_measured() -> None:
    objective = Objective(Kind.LATENCY, 0.9, 0.5)
    busy, quiet = used(name="a-busy", objective=objective), generating(FakeGenerator(), "b-quiet")
    hasty = used(name="c-hasty", objective=Objective(Kind.LATENCY, 0.9, 0.01))
    async with asking(quiet, busy, hasty) as ask:
        found = await ask()
    assert [each.model for each in found] == ["a-busy", "b-quiet", "c-hasty"]
    assert [each.reason for each in found] == ["", "not_measured", "objective_unreachable"]
    assert found[0].advice.objective == pb.Objective(kind=pb.OBJECTIVE_KIND_LATENCY, quantile=0.9, seconds=0.5)
    assert not found[1].HasField("workload")
    assert not found[1].HasField("advice")


async def test_refuses_what_cannot_be_planned() -> None:
    async with asking(served := used()) as ask:
        for error, field, request in (
            (NotFound, "model", {"model": "nope"}),
            (InvalidInput, "objective.kind", {"objective": pb.Objective(quantile=0.9, seconds=1)}),
            (InvalidInput, "objective.quantile", {"objective": pb.Objective(kind=1, quantile=1.5, seconds=1)}),
            (InvalidInput, "objective.seconds", {"objective": pb.Objective(kind=1, quantile=0.5, seconds=math.nan)}),
            (InvalidInput, "objective.seconds", {"objective": pb.Objective(kind=2, quantile=0.9, seconds=0.01)}),
            (InvalidInput, "rate", {"rate": -1.0}),
            (InvalidInput, "rate", {"rate": math.inf}),
            (InvalidInput, "rate", {"rate": 1e15}),
        ):
            with pytest.raises(error) as caught:
                await ask(**{"model": served.model.name} | request)  # type: ignore[arg-type]
            assert caught.value.field == field


async def test_tells_of_memory_and_of_what_the_servers_have_done() -> None:
    replicas, (silent, telling, other) = await benches("a:1", "b:1", "c:1")
    silent.executions.told = None
    other.executions.told = Execution(6, 1, {6: 1}, cache_hits=3, cache_misses=1)
    assert telling.executions.told is not None
    tally = Tally(loads=2, load_s=3.0, unloads=1, unload_s=1.5, evictions=1, hits=9, misses=2)
    replicas.memory = lambda: ModelMemory(1_000, 1, tally)
    served = ServedModel(model("held"), tensors=FakeTensors(), replicas=replicas)
    async with asking(served, generating(FakeGenerator(), "plain")) as ask:
        held, plain = await ask()
    memory = pb.Memory(footprint_bytes=1_000, copies=1, loads=2, load_s=1.5, unloads=1, unload_s=1.5, evictions=1)
    memory.hits, memory.misses = 9, 2
    assert held.memory == memory
    batches = [pb.BatchSize(size=size, executions=1) for size in (1, 3, 6)]
    assert held.execution == pb.Execution(inferences=10, executions=3, batches=batches, cache_hits=3, cache_misses=1)
    assert not plain.HasField("memory")
    assert not plain.HasField("execution")


async def test_is_for_administrators() -> None:
    async with asking(used()) as ask:
        with pytest.raises(Forbidden):
            await ask(scopes=("models",))


async def test_what_is_wanted_is_in_the_metrics() -> None:
    served, other = used(objective=Objective(Kind.LATENCY, 0.9, 0.01)), generating(FakeGenerator())
    name = served.model.name
    for _ in range(400):
        served.measures.arrived(asyncio.get_running_loop().time())
    served.measures.began(asyncio.get_running_loop().time(), 0.25)
    advisor = Advisor(lambda: [other, served])
    watching = asyncio.create_task(advisor.watch())
    await eventually(lambda: sample("penstock_inference_queue_wait_p95_seconds", name) == 0.25)
    watching.cancel()
    assert sample("penstock_inference_utilisation", name) > 0
    assert sample("penstock_inference_desired_replicas", name) == 1  # its objective is below the work itself
    assert sample("penstock_inference_desired_replicas", other.model.name) == 1


def sample(metric: str, model: str) -> float:
    return REGISTRY.get_sample_value(metric, {"model": model}) or 0.0
