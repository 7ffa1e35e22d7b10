"""Three times what a model can do, asked of the pool by three classes of callers.

The model sleeps for random times (gamma, shape 4), so that what it can do depends on its instances alone. What as many
callers as it has instances get is its capacity; then requests of the interactive class come alone, at random moments,
and then all classes together, three times as often as can be answered.
"""

import asyncio
import random
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles

import grpc
import numpy as np
from pool_stand import OipClient, infer_request, pool_process, token, tritons
from report import Figure

SLEEPER, INSTANCES, SERVICE_S = "sleeper", 16, 0.16
AT_RANDOM = f"random.gammavariate(4, {SERVICE_S / 4})"
DEADLINE_S = 1.0
PARTS = {"interactive": 0.3, "standard": 0.9, "batch": 1.8}
CAPACITY_S, CAPACITY_ROUNDS, ALONE_S, WARM_S, MEASURED_S = 4.0, 3, 20.0, 5.0, 20.0
CATALOGUE = """
servers: {{one: {{address: "{address}"}}}}
models:
  - name: {name}
    task: tensor
    triton: {{server: one, model: {name}}}
    queue: {{max_concurrent: {slots}, max_waiting: 256}}
    timeout_s: 10
"""
CONFIG = """
backend: "python"
max_batch_size: 0
input [ {{ name: "x" data_type: TYPE_INT64 dims: [ 1 ] }} ]
output [ {{ name: "y" data_type: TYPE_INT64 dims: [ 1 ] }} ]
instance_group [ {{ count: {instances} kind: KIND_CPU }} ]
parameters {{ key: "digest" value {{ string_value: "{name}" }} }}
"""
PROGRAM = """
import random
import time
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            time.sleep({sleep})
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("y", {answer})]))
        return answers
"""
SAME = 'pb_utils.get_input_tensor_by_name(request, "x").as_numpy()'


@dataclass(slots=True)
class Seen:
    """What became of one class: seconds of answers, and of refusals, by reason."""

    served_s: list[float] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)

    def p99_ms(self) -> float:
        """Return the 99th percentile of the answers."""
        return quantiles(self.served_s, n=100)[98] * 1e3


class Load:
    """Asks the pool on behalf of classes."""

    def __init__(self, clients: Mapping[str, OipClient], request: bytes) -> None:
        self._clients = clients
        self._request = request
        self.late_s = 0.0

    async def ask(self, priority: str, seen: Seen) -> None:
        """Ask once, and note how it went."""
        start = time.perf_counter()
        try:
            await self._clients[priority].infer(self._request, DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            seen.refused_s.append(time.perf_counter() - start)
            seen.reasons[f"{error.code().name}: {error.details()}"] += 1
        else:
            seen.served_s.append(time.perf_counter() - start)

    async def capacity(self) -> float:
        """Return the answers per second to as many callers as there are instances: the best of some rounds."""
        return max([await self._closed() for _ in range(CAPACITY_ROUNDS)])

    async def _closed(self) -> float:
        seen, start = Seen(), time.perf_counter()

        async def call() -> None:
            while time.perf_counter() < start + CAPACITY_S:
                await self.ask("interactive", seen)

        await asyncio.gather(*(call() for _ in range(INSTANCES)))
        return len(seen.served_s) / (time.perf_counter() - start)

    async def at_random(self, rates: Mapping[str, float], seconds: float) -> dict[str, Seen]:
        """Ask so often per second in each class, for some seconds after a while that is not counted."""
        found = {priority: Seen() for priority in rates}
        start = time.perf_counter()

        async def call(priority: str, tasks: asyncio.TaskGroup) -> None:
            due = start
            while (due := due + random.expovariate(rates[priority])) < start + WARM_S + seconds:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                self.late_s = max(self.late_s, time.perf_counter() - due)
                tasks.create_task(self.ask(priority, found[priority] if due >= start + WARM_S else Seen()))

        async with asyncio.TaskGroup() as tasks:
            for priority in rates:
                tasks.create_task(call(priority, tasks))
        return found


def figures(capacity: float, alone: Seen, seen: Mapping[str, Seen], late_s: float) -> list[Figure]:
    """Return what became of the load."""
    served = sum(len(each.served_s) for each in seen.values())
    refused = sorted(second for each in seen.values() for second in each.refused_s)
    asked = served + len(refused)
    interactive = seen["interactive"]
    longest = max(second for each in seen.values() for second in (*each.served_s, *each.refused_s))
    return [
        Figure("overload of a model, its capacity", capacity, "1/s"),
        Figure("  asked for, of that", asked / MEASURED_S, "1/s", bar=2.8, baseline=capacity),
        Figure("  goodput of it", served / MEASURED_S, "1/s", bar=0.9, baseline=capacity),
        Figure("  interactive p99 of that alone", interactive.p99_ms(), "ms", 1.3, True, alone.p99_ms()),
        Figure("  interactive refused", 100 * len(interactive.refused_s) / max(1, len(interactive.served_s)), "%"),
        Figure("  refusals, p50", _quantile(refused, 0.5) * 1e3, "ms", bar=5, at_most=True),
        Figure("  refusals within 5 ms", 100 * sum(each <= 0.005 for each in refused) / max(1, len(refused)), "%"),
        Figure("  longest until anything was said", longest * 1e3, "ms", bar=DEADLINE_S * 1e3 + 50, at_most=True),
        Figure("  latest request of the load itself", late_s * 1e3, "ms"),
    ]


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[int(share * (len(ordered) - 1))] if ordered else 0.0


def write_sleeper(repository: Path, name: str, instances: int, sleep: str = AT_RANDOM, answer: str = SAME) -> None:
    """Put a model into a repository that sleeps for `sleep` seconds, a Python expression, and answers `answer`."""
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(CONFIG.format(instances=instances, name=name), "utf-8")
    (repository / name / "1/model.py").write_text(PROGRAM.format(sleep=sleep, answer=answer), "utf-8")


async def _measure(folder: Path) -> list[Figure]:
    repository, request = folder / "models", infer_request(SLEEPER, x=np.array([1], np.int64))
    write_sleeper(repository, SLEEPER, INSTANCES)
    with ExitStack() as running:
        (server,) = running.enter_context(tritons(repository, (SLEEPER,)))
        catalogue = CATALOGUE.format(address=server.address, name=SLEEPER, slots=INSTANCES)
        pool = running.enter_context(pool_process(folder, catalogue))
        clients = {priority: OipClient(pool.address, token(priority, priority)) for priority in PARTS}
        async with clients["interactive"], clients["standard"], clients["batch"]:
            await clients["interactive"].ready(request)
            load = Load(clients, request)
            capacity = await load.capacity()
            rates = {priority: part * capacity for priority, part in PARTS.items()}
            alone = await load.at_random({"interactive": rates["interactive"]}, ALONE_S)
            seen = await load.at_random(rates, MEASURED_S)
            for priority, each in seen.items():
                print(f"{priority}: {len(each.served_s)} served; {dict(each.reasons)}", flush=True)
            return figures(capacity, alone["interactive"], seen, load.late_s)


def measure() -> list[Figure]:
    """Return the figures of overload of a model."""
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
        return asyncio.run(_measure(Path(name)))
