"""How many replicas the advisor asks for, and how many were enough: the same load on one Triton after another more.

Each Triton has one instance of a model that sleeps for random times. Requests come at random moments; the least number
of Tritons with which the objective was met is what the advice of every other run is compared with.
"""

import asyncio
import random
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from inference.adapters.catalogue_file import read_catalogue
from inference.core.advisor import Advisor
from inference.core.capacity import Kind, Objective
from inference.core.pool import Pool
from inference.main import open_pool
from pool_overload import write_sleeper
from pool_stand import Process, infer_request, tritons
from report import Figure
from servicekit.errors import PenstockError
from servicekit.testing import caller, eventually

MODEL, MEAN_S, RATE = "sleeper", 0.1, 18.0
COUNTS = (2, 3, 4, 5)
MEASURED_S = 30.0
OBJECTIVE = Objective(Kind.LATENCY, 0.95, 0.35)
CATALOGUE = """
servers: {{many: {{addresses: [{addresses}], slow_start_s: 0.1}}}}
models:
  - name: {name}
    task: tensor
    triton: {{server: many, model: {name}}}
    queue: {{max_concurrent: {slots}, max_waiting: 1024}}
    timeout_s: 60
"""


@dataclass(frozen=True, slots=True)
class Run:
    """What came of the load on so many replicas: the latency at the objective's quantile, and what was advised."""

    replicas: int
    latency_s: float
    advised: int

    @property
    def met(self) -> bool:
        """Whether the objective was met."""
        return self.latency_s <= OBJECTIVE.seconds


async def run(folder: Path, servers: Sequence[Process]) -> Run:
    """Ask at the rate for some seconds."""
    addresses = ", ".join(f'"{server.address}"' for server in servers)
    path = folder / "catalogue.yaml"
    path.write_text(CATALOGUE.format(addresses=addresses, name=MODEL, slots=len(servers)), "utf-8")
    async with AsyncExitStack() as stack:
        pool = (await open_pool(read_catalogue(path), {}, folder, stack)).pool
        watching = asyncio.create_task(pool.watch())
        try:
            replicas = pool.find(MODEL).replicas
            assert replicas is not None, "a model of a server has replicas"
            await eventually(lambda: all(each.in_rotation for each in replicas.all()), 60)
            took_s = await asked_at_random(pool)
            advised = Advisor(pool.models).capacity(pool.find(MODEL), None, OBJECTIVE).needed
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    return Run(len(servers), float(np.quantile(took_s, OBJECTIVE.quantile)), advised)


async def asked_at_random(pool: Pool) -> list[float]:
    """Return how long each request took, in seconds; one that failed took for ever."""
    took_s: list[float] = []
    request = infer_request(MODEL, x=np.array([1], np.int64))

    async def ask() -> None:
        start = time.perf_counter()
        try:
            await pool.infer(MODEL, request)
        except PenstockError:
            took_s.append(float("inf"))
        else:
            took_s.append(time.perf_counter() - start)

    with caller():
        async with asyncio.TaskGroup() as tasks:
            due = time.perf_counter()
            end = due + MEASURED_S
            while (due := due + random.expovariate(RATE)) < end:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                tasks.create_task(ask())
    return took_s


async def _measure(folder: Path, servers: Sequence[Process]) -> list[Figure]:
    runs = [await run(folder, servers[:count]) for count in COUNTS]
    least = next((each.replicas for each in runs if each.met), COUNTS[-1] + 1)
    figures = [
        Figure(f"latency p95 with {each.replicas} replicas, at {RATE:g}/s", each.latency_s * 1e3, "ms") for each in runs
    ]
    figures.append(Figure(f"least replicas with p95 of {OBJECTIVE.seconds * 1e3:g} ms", least, ""))
    enough = [each for each in runs if each.replicas > RATE * MEAN_S]
    figures += [
        Figure(f"  advised from the run with {each.replicas}, away from it", abs(each.advised - least), "", 1, True)
        for each in enough
    ]
    return figures


def measure() -> list[Figure]:
    """Return the figures of the advisor."""
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
        folder = Path(name)
        write_sleeper(folder / "models", MODEL, 1, f"random.gammavariate(4, {MEAN_S / 4})")
        with tritons(folder / "models", (MODEL,), COUNTS[-1]) as servers:
            return asyncio.run(_measure(folder, servers))
