"""Measures models that are loaded on request, over three real Tritons: `python platform-tests/bench/residency.py`.

Eight models, and memory for two on each server. The hit ratio, one miss for each load, is put beside what Belady's
algorithm reaches on the same trace, which knows the future. Triton takes more than a second to unload a Python model,
so that the whole trace of 10,000 requests takes a quarter of an hour.
"""

import argparse
import asyncio
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(HERE.parent), str(ROOT / "services/inference/tests")]

import numpy as np  # noqa: E402
from inference.adapters.catalogue_file import read_catalogue  # noqa: E402
from inference.core.pool import Pool  # noqa: E402
from inference.core.residency_measures import LEASES, LOADS  # noqa: E402
from inference.main import open_pool  # noqa: E402
from report import Figure, publish  # noqa: E402
from servicekit.errors import PenstockError  # noqa: E402
from servicekit.testing import caller  # noqa: E402
from small_model_fakes import write_model  # noqa: E402
from tritonclient.grpc import service_pb2 as oip  # noqa: E402

MIB = 1 << 20
MODELS = tuple(f"m{number}" for number in range(8))
STEADY = "steady"
BALLAST_MIB = 60
BUDGET_BYTES = 250 * MIB
CALLERS = 16
NEIGHBOUR_S = 20.0
LEASES_COUNTED_AFTER_S = 3.0
HEAD = """
servers:
  small:
    addresses: [{addresses}]
    residency: {{budget_bytes: {budget}, assumed_bytes: {assumed}, minimum_s: 0.2, spread_at: 64,
                 repository: repository{pinned}}}
models:
"""
MODEL = """
  - name: {name}
    task: tensor
    triton: {{server: small, model: {name}}}
    queue: {{max_concurrent: 64, max_waiting: 512}}
    timeout_s: 60
"""


@dataclass(slots=True)
class Outcome:
    """What became of the requests."""

    errors: list[PenstockError] = field(default_factory=list)
    took_s: list[float] = field(default_factory=list)


@contextmanager
def tritons(repository: Path, count: int) -> Iterator[list[str]]:
    """Run servers that have loaded one model which the catalogue does not know; yield their addresses."""
    write_model(repository, "unmanaged")
    with ExitStack() as stack:
        addresses = []
        for _ in range(count):
            ports = _free_ports(3)
            command = [sys.executable, "-m", "model_repository", "serve", "--target", "cpu", "--load", "unmanaged"]
            command += ["--repository", str(repository), "--triton-env", str(ROOT / ".penstock/env/triton")]
            for protocol, port in zip(("grpc", "http", "metrics"), ports, strict=True):
                command += [f"--{protocol}-port", str(port)]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(_stop, process)
            addresses.append(f"127.0.0.1:{ports[0]}")
        yield addresses


@asynccontextmanager
async def pool(folder: Path, addresses: Sequence[str], models: Sequence[str], pinned: str = "") -> AsyncIterator[Pool]:
    """Open the pool over these servers once they answer."""
    quoted = ", ".join(f'"{address}"' for address in addresses)
    text = HEAD.format(addresses=quoted, budget=BUDGET_BYTES, assumed=100 * MIB, pinned=pinned)
    path = folder / "catalogue.yaml"
    path.write_text(text + "".join(MODEL.format(name=name) for name in models), "utf-8")
    async with AsyncExitStack() as stack:
        opened = await open_pool(read_catalogue(path), {}, folder, stack)
        tasks = [asyncio.ensure_future(each()) for each in (opened.pool.watch, *opened.background)]
        try:
            with caller():
                await _ready(opened.pool, models[0])
                yield opened.pool
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def ask(pool_: Pool, name: str, outcome: Outcome) -> None:
    """Run a model once; note an error, or how long it took."""
    request = oip.ModelInferRequest(model_name=name)
    request.inputs.add(name="x", datatype="INT64", shape=[1])
    request.raw_input_contents.append(np.array([1], np.int64).tobytes())
    start = time.monotonic()
    try:
        await pool_.infer(name, request.SerializeToString())
    except PenstockError as error:
        outcome.errors.append(error)
    else:
        outcome.took_s.append(time.monotonic() - start)


async def measure_trace(folder: Path, addresses: Sequence[str], requests: int) -> list[Figure]:
    """Return what a Zipf trace costs, and what a burst for one model that is not there does."""
    trace = random.Random(1).choices(MODELS, [1 / rank for rank in range(1, len(MODELS) + 1)], k=requests)
    outcome = Outcome()
    async with pool(folder, addresses, MODELS) as opened:
        before = loads()
        await asyncio.gather(*(ask(opened, MODELS[-1], outcome) for _ in range(100)))
        burst = loads() - before
        before, found, missed = loads(), leases("hit"), leases("miss")
        turns = iter(trace)

        async def ask_on() -> None:
            for name in turns:
                await ask(opened, name, outcome)

        await asyncio.gather(*(ask_on() for _ in range(CALLERS)))
        await asyncio.sleep(LEASES_COUNTED_AFTER_S)
        loaded, found, missed = loads() - before, leases("hit") - found, leases("miss") - missed
    hit, best, lru = 1 - loaded / requests, belady(trace, 6), offline_lru(trace, 6)
    print(f"{requests} requests, {loaded:.0f} loads; offline LRU hits {lru:.3f}", flush=True)
    for error in outcome.errors[:5]:
        print(f"{type(error).__name__} {error.reason}: {error.message}", flush=True)
    return [
        Figure("requests that failed", len(outcome.errors), "", bar=0, at_most=True),
        Figure("loads for a burst of 100", burst, "", bar=1, at_most=True),
        Figure("requests that found their model", 100 * found / (found + missed), "%"),
        Figure("hit ratio below Belady's", 100 * (best - hit), "points", bar=5, at_most=True),
        Figure("hit ratio below offline LRU's", 100 * (lru - hit), "points", bar=5, at_most=True),
    ]


async def measure_neighbour(folder: Path, addresses: Sequence[str]) -> list[Figure]:
    """Return what loads of other models on the same server do to one that is in use."""
    async with pool(folder, addresses[:1], (STEADY, *MODELS), ", pinned: [steady]") as opened:
        alone, beside, others = Outcome(), Outcome(), Outcome()
        await _ask_for(opened, alone, NEIGHBOUR_S)
        before = loads()
        churning = asyncio.create_task(_churn(opened, others))
        await _ask_for(opened, beside, NEIGHBOUR_S)
        churning.cancel()
        await asyncio.gather(churning, return_exceptions=True)
        print(f"{loads() - before:.0f} loads beside {len(beside.took_s)} requests", flush=True)
    return [
        Figure("requests that failed beside loads", len(beside.errors) + len(others.errors), "", bar=0, at_most=True),
        Figure("p50 beside loads", p(beside, 0.5), "ms", baseline=p(alone, 0.5)),
        Figure("p99 beside loads", p(beside, 0.99), "ms", bar=1.5, at_most=True, baseline=p(alone, 0.99)),
    ]


async def _ask_for(pool_: Pool, outcome: Outcome, seconds: float) -> None:
    """Ask the steady model a hundred times a second."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await ask(pool_, STEADY, outcome)
        await asyncio.sleep(0.01)


async def _churn(pool_: Pool, outcome: Outcome) -> None:
    while True:
        for name in MODELS:
            await ask(pool_, name, outcome)


async def _ready(pool_: Pool, name: str) -> None:
    end = time.monotonic() + 60
    while True:
        outcome = Outcome()
        await ask(pool_, name, outcome)
        if not outcome.errors:
            return
        if time.monotonic() > end:
            raise outcome.errors[0]
        await asyncio.sleep(0.2)


def p(outcome: Outcome, share: float) -> float:
    """Return a quantile of the durations, in milliseconds."""
    return float(np.quantile(outcome.took_s, share)) * 1000


def loads() -> float:
    """Return how many loads there have been."""
    samples = (sample for metric in LOADS.collect() for sample in metric.samples)
    return sum(sample.value for sample in samples if sample.name.endswith("_count"))


def leases(result: str) -> float:
    """Return how many requests found their model in memory, or missed it."""
    samples = (sample for metric in LEASES.collect() for sample in metric.samples)
    return sum(each.value for each in samples if each.name.endswith("_total") and each.labels["result"] == result)


def belady(trace: Sequence[str], room: int) -> float:
    """Return the hit ratio of evicting whatever is needed last, which needs to know the future."""
    return _replay(trace, room, lambda position, model: _next(trace, position, model))


def offline_lru(trace: Sequence[str], room: int) -> float:
    """Return the hit ratio of LRU with one request after the other."""
    return _replay(trace, room, lambda position, model: -_last(trace, position, model))


def _replay(trace: Sequence[str], room: int, distance: Callable[[int, str], float]) -> float:
    inside: set[str] = set()
    hits = 0
    for position, model in enumerate(trace):
        if model in inside:
            hits += 1
            continue
        if len(inside) >= room:
            inside.remove(max(inside, key=lambda each, at=position: distance(at, each)))  # type: ignore[misc]
        inside.add(model)
    return hits / len(trace)


def _next(trace: Sequence[str], position: int, model: str) -> float:
    return next((at for at in range(position, len(trace)) if trace[at] == model), len(trace))


def _last(trace: Sequence[str], position: int, model: str) -> float:
    return next((at for at in range(position - 1, -1, -1) if trace[at] == model), -1)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        probes = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [probe.getsockname()[1] for probe in probes]


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    process.wait(30)


async def measure(requests: int) -> list[Figure]:
    """Return every figure."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "repository", STEADY)
        for model in MODELS:
            write_model(folder / "repository", model, ballast_mib=BALLAST_MIB)
        with tritons(folder / "repository", 3) as addresses:
            return [*await measure_neighbour(folder, addresses), *await measure_trace(folder, addresses, requests)]


def main() -> int:
    """Measure; exit with 1 when a bar does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    fine = publish(ROOT / ".penstock/bench", "residency", asyncio.run(measure(parser.parse_args().requests)))
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
