"""Models that are loaded on request, over three real Tritons: eight models, and memory for two on each server.

A request hits when it needs no load of its own: its model is resident on some server, or the load that an earlier one
has caused is under way. So counts a replay of the trace, one request after the other, with which it is compared: LRU,
and Belady's algorithm, which knows the future. How many found their model there at once is told beside it, and
compared with LRU on the same moments whose loads take as long. Triton takes more than a second to unload a Python
model, so that the whole trace of 10,000 requests takes a quarter of an hour.
"""

import asyncio
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from inference.adapters.catalogue_file import read_catalogue
from inference.core.pool import Pool
from inference.core.residency_measures import LEASES, LOADS, UNLOADS
from inference.main import open_pool
from pool_stand import Process, infer_request, tritons
from replay import belady, offline_lru, timed_lru
from report import Figure
from servicekit.errors import PenstockError
from servicekit.testing import caller
from stack_process import ROOT

sys.path.append(str(ROOT / "services/inference/tests"))

from small_model_fakes import write_model

MIB = 1 << 20
MODELS = tuple(f"m{number}" for number in range(8))
UNMANAGED = "unmanaged"
ROOM = 6
BALLAST_MIB = 60
BUDGET_BYTES = 250 * MIB
CALLERS = 16
REQUESTS = 10_000
LEASES_COUNTED_AFTER_S = 3.0
HEAD = """
servers:
  small:
    addresses: [{addresses}]
    residency: {{budget_bytes: {budget}, assumed_bytes: {assumed}, minimum_s: 0.2, spread_at: 64,
                 repository: repository{more}}}
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
    """What became of the requests: errors, seconds, and when which model was asked for."""

    errors: list[PenstockError] = field(default_factory=list)
    took_s: list[float] = field(default_factory=list)
    arrivals: list[tuple[float, str]] = field(default_factory=list)

    def p(self, share: float) -> float:
        """Return a quantile of the durations, in milliseconds."""
        return float(np.quantile(self.took_s, share)) * 1000


@asynccontextmanager
async def pool(
    folder: Path, servers: Sequence[Process], models: Sequence[str], budget: int = BUDGET_BYTES, more: str = ""
) -> AsyncIterator[Pool]:
    """Open the pool over these servers; `more` is put behind the options of residency."""
    quoted = ", ".join(f'"{server.address}"' for server in servers)
    text = HEAD.format(addresses=quoted, budget=budget, assumed=budget * 2 // 5, more=more)
    path = folder / "catalogue.yaml"
    path.write_text(text + "".join(MODEL.format(name=name) for name in models), "utf-8")
    async with AsyncExitStack() as stack:
        opened = await open_pool(read_catalogue(path), {}, folder, stack)
        tasks = [asyncio.ensure_future(each()) for each in (opened.pool.watch, *opened.background)]
        try:
            with caller():
                yield opened.pool
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def small_request(name: str) -> bytes:
    """Return a request for a small model."""
    return infer_request(name, x=np.array([1], np.int64))


async def ask(pool_: Pool, name: str, request: bytes, outcome: Outcome) -> None:
    """Run a model once; note an error, or how long it took."""
    start = time.monotonic()
    outcome.arrivals.append((start, name))
    try:
        await pool_.infer(name, request)
    except PenstockError as error:
        outcome.errors.append(error)
    else:
        outcome.took_s.append(time.monotonic() - start)


async def measure_trace(folder: Path, servers: Sequence[Process], requests: int) -> list[Figure]:
    """Return what a Zipf trace costs, and what a burst for one model that is not there does."""
    trace = random.Random(1).choices(MODELS, [1 / rank for rank in range(1, len(MODELS) + 1)], k=requests)
    outcome = Outcome()
    requested = {name: small_request(name) for name in MODELS}
    async with pool(folder, servers, MODELS) as opened:
        await ready(opened, MODELS[0], requested[MODELS[0]])
        before = counted(LOADS, "_count")
        await asyncio.gather(*(ask(opened, MODELS[-1], requested[MODELS[-1]], outcome) for _ in range(100)))
        burst = counted(LOADS, "_count") - before
        outcome.arrivals.clear()
        noted = _Numbers()
        turns = iter(trace)

        async def ask_on() -> None:
            for name in turns:
                await ask(opened, name, requested[name], outcome)

        await asyncio.gather(*(ask_on() for _ in range(CALLERS)))
        await asyncio.sleep(LEASES_COUNTED_AFTER_S)
        now = _Numbers()
    for error in outcome.errors[:5]:
        print(f"{type(error).__name__} {error.reason}: {error.message}", flush=True)
    failed = [
        Figure("requests that failed", len(outcome.errors), "", bar=0, at_most=True),
        Figure("loads for a burst of 100", burst, "", bar=1, at_most=True),
    ]
    return failed + compared(trace, outcome.arrivals, noted, now)


class _Numbers:
    """Counters of residency at a moment."""

    def __init__(self) -> None:
        self.loads, self.load_s = counted(LOADS, "_count"), counted(LOADS, "_sum")
        self.unloads, self.unload_s = counted(UNLOADS, "_count"), counted(UNLOADS, "_sum")
        self.found, self.missed = counted(LEASES, "_total", "hit"), counted(LEASES, "_total", "miss")


def compared(
    trace: Sequence[str], arrivals: Sequence[tuple[float, str]], before: _Numbers, after: _Numbers
) -> list[Figure]:
    """Return the hit ratio, and those of policies that are replayed."""
    loads, unloads = after.loads - before.loads, after.unloads - before.unloads
    found = (after.found - before.found) / (after.found + after.missed - before.found - before.missed)
    load_s = (after.load_s - before.load_s) / max(1, loads)
    unload_s = (after.unload_s - before.unload_s) / max(1, unloads)
    hit, best, lru = 1 - loads / len(trace), belady(trace, ROOM), offline_lru(trace, ROOM)
    timed = timed_lru(arrivals, ROOM, load_s + unload_s)
    return [
        Figure("requests of the trace", len(trace), ""),
        Figure("loads", loads, ""),
        Figure("  a load and the unload before it", load_s + unload_s, "s"),
        Figure("hit ratio: requests that caused no load", 100 * hit, "%"),
        Figure("  offline LRU's, above it", 100 * (lru - hit), "points", bar=5, at_most=True),
        Figure("  Belady's, above it", 100 * (best - hit), "points", bar=5, at_most=True),
        Figure("requests that found their model there", 100 * found, "%"),
        Figure("  LRU's with loads as long, above it", 100 * (timed - found), "points", bar=5, at_most=True),
    ]


async def ready(pool_: Pool, name: str, request: bytes) -> None:
    """Return once a model answers; raise its error after a minute."""
    end = time.monotonic() + 60
    while True:
        outcome = Outcome()
        await ask(pool_, name, request, outcome)
        if not outcome.errors:
            return
        if time.monotonic() > end:
            raise outcome.errors[0]
        await asyncio.sleep(0.2)


def counted(metric: Any, suffix: str, result: str = "") -> float:
    """Return the sum of a metric's samples of this kind."""
    samples = (sample for each in metric.collect() for sample in each.samples)
    return sum(
        sample.value
        for sample in samples
        if sample.name.endswith(suffix) and (not result or sample.labels["result"] == result)
    )


def measure(requests: int = REQUESTS) -> list[Figure]:
    """Return the figures of a Zipf trace."""
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
        folder = Path(name)
        for model in (UNMANAGED, *MODELS):
            write_model(folder / "repository", model, ballast_mib=0 if model == UNMANAGED else BALLAST_MIB)
        with tritons(folder / "repository", (UNMANAGED,), 3) as servers:
            return asyncio.run(measure_trace(folder, servers, requests))
