"""`penstock capacity` and `penstock replicas` ask the pool as an operator and show what it says."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from penstock.inference.v1 import capacity_pb2, capacity_pb2_grpc, replicas_pb2, replicas_pb2_grpc
from penstock_cli.client import CallFailed
from penstock_cli.main import app
from servicekit.errors import NotFound
from servicekit.rpc import Service
from servicekit.testing import PRIVATE_KEY_PEM, serving
from typer.testing import CliRunner

WAIT = capacity_pb2.Objective(kind=capacity_pb2.OBJECTIVE_KIND_WAIT, quantile=0.95, seconds=0.5)
BUSY = capacity_pb2.ModelCapacity(
    model="busy",
    workload=capacity_pb2.Workload(
        rate=12.5,
        in_flight=3,
        waiting=7,
        concurrency_limit=8,
        replicas=1,
        wait=capacity_pb2.Percentiles(p50=0.1, p95=0.2, p99=0.3),
        service=capacity_pb2.Percentiles(p50=0.01, p95=0.02, p99=0.03),
    ),
    memory=capacity_pb2.Memory(
        footprint_bytes=350 << 20,
        copies=2,
        loads=12,
        load_s=1.25,
        unloads=10,
        unload_s=0.5,
        evictions=9,
        hits=93,
        misses=7,
    ),
    execution=capacity_pb2.Execution(inferences=640, executions=200, cache_hits=1, cache_misses=3),
    advice=capacity_pb2.Advice(
        replicas=4, rate=12.5, objective=WAIT, present=capacity_pb2.Expected(replicas=1, utilisation=1.25)
    ),
)
WRONG = replicas_pb2.Replica(
    model="busy",
    address="127.0.0.1:8001",
    reason="golden_failed",
    detail="[bold]0.3 off",
    breaker=replicas_pb2.BREAKER_POSITION_HALF_OPEN,
    golden=replicas_pb2.GoldenProbe(outcome=replicas_pb2.GOLDEN_OUTCOME_WRONG),
)


class Pool(capacity_pb2_grpc.CapacityServiceServicer, replicas_pb2_grpc.ReplicaServiceServicer):
    """Answers with one busy model and its wrong replica."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def GetCapacity(self, request: Any, _context: Any) -> capacity_pb2.GetCapacityResponse:
        self.asked.append(request)
        if request.model == "nope":
            raise NotFound("there is no model 'nope'", field="model")
        return capacity_pb2.GetCapacityResponse(models=[BUSY, capacity_pb2.ModelCapacity(model="quiet")])

    async def ListReplicas(self, request: Any, _context: Any) -> replicas_pb2.ListReplicasResponse:
        self.asked.append(request)
        return replicas_pb2.ListReplicasResponse(replicas=[WRONG])


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    answering, address, ready = Pool(), [""], threading.Event()
    loop = asyncio.new_event_loop()
    over = asyncio.Event()

    async def serve() -> None:
        package = "penstock.inference.v1"
        capacity, replicas = capacity_pb2_grpc, replicas_pb2_grpc
        services = (
            Service(
                f"{package}.CapacityService",
                capacity.add_CapacityServiceServicer_to_server,
                answering,
                {"GetCapacity": "admin"},
            ),
            Service(
                f"{package}.ReplicaService",
                replicas.add_ReplicaServiceServicer_to_server,
                answering,
                {"ListReplicas": "admin"},
            ),
        )
        async with serving(*services) as address[0]:
            ready.set()
            await over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(10)
    (tmp_path / "identity.pem").write_bytes(PRIVATE_KEY_PEM)
    monkeypatch.setenv("PENSTOCK_POOL", address[0])
    monkeypatch.setenv("PENSTOCK_IDENTITY_KEY", str(tmp_path / "identity.pem"))
    monkeypatch.setenv("COLUMNS", "200")
    yield answering
    loop.call_soon_threadsafe(over.set)
    thread.join()
    loop.close()


def run(*words: str) -> str:
    result = CliRunner().invoke(app, words)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_shows_what_is_asked_and_how_many_replicas_that_needs(pool: Pool) -> None:
    lines = run("capacity", "--rate", "50", "--objective", "latency:99:0.5").splitlines()
    assert all(word in lines[1] for word in ("busy", "125%", "3/8+7", "200.0 ms", "1, needs 4", "wait p95 500.0 ms"))
    assert "3.2, 25% cached" in lines[1]
    assert "not measured yet" in lines[2]
    assert (lines[-1].split()[:14]) == [
        "busy",
        "350",
        "MiB",
        "2",
        "12,",
        "1.2",
        "s",
        "each",
        "10,",
        "500.0",
        "ms",
        "each",
        "9",
        "93.0%",
    ]
    (asked,) = pool.asked
    assert (asked.rate, asked.objective.kind, asked.objective.quantile, asked.objective.seconds) == (50, 2, 0.99, 0.5)


def test_prints_json_for_scripts(pool: Pool) -> None:
    models = json.loads(run("capacity", "--json"))["models"]
    assert models[0]["advice"]["replicas"] == 4
    assert not pool.asked[0].HasField("objective")


@pytest.mark.parametrize("text", ["wait", "wait:95", "speed:95:1", "wait:x:1", "wait:95:y"])
def test_an_objective_that_cannot_be_read_is_refused(text: str) -> None:
    result = CliRunner().invoke(app, ["capacity", "--objective", text])
    assert result.exit_code == 2
    assert "KIND:PERCENTILE:SECONDS" in " ".join(result.output.replace("│", " ").split())


def test_what_the_pool_refuses_is_said(pool: Pool) -> None:
    with pytest.raises(CallFailed, match="there is no model 'nope'"):
        run("capacity", "nope")
    assert pool.asked[0].model == "nope"


def test_a_key_that_is_not_there_is_named(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_IDENTITY_KEY", "/nowhere/key.pem")
    with pytest.raises(CallFailed, match=r"/nowhere/key\.pem: No such file"):
        run("replicas")
    assert not pool.asked


def test_lists_replicas_with_why_they_get_nothing(pool: Pool) -> None:
    line = run("replicas", "busy").splitlines()[1]
    assert all(
        word in line for word in ("busy", "127.0.0.1:8001", "no golden_failed [bold]0.3 off", "half_open", "wrong")
    )
    assert pool.asked[0].model == "busy"
