"""OIP through the pool beside the same Triton asked directly: texts per second, processor time, and what a call costs.

Rounds take turns, so that a machine that is slow for a while is so for both. The load shares the two cores with what it
measures; its own processor time is left out of the time that is told per request.
"""

import asyncio
import itertools
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
from pool_stand import ENCODER, MODELS, OipClient, Process, infer_request, pool_process, token, tritons
from report import Figure
from resources import cpu_s

ROUNDS, MEASURED_S, WARM_UP_S = 5, 4.0, 1.0
TOKENS: Final = 24
REQUESTS: Final = 64
WIDE, WIDE_VALUES, WIDE_CALLERS = "wide", 7_000_000 // 4, 4
CATALOGUE = """
servers: {{one: {{address: "{address}"}}}}
models:
  - name: minilm-l6
    task: embed
    triton: {{server: one, model: minilm-l6}}
    queue: {{max_concurrent: 64, max_waiting: 512}}
  - name: wide
    task: tensor
    triton: {{server: one, model: wide}}
    queue: {{max_concurrent: 64, max_waiting: 512}}
"""
WIDE_CONFIG = """
backend: "python"
max_batch_size: 0
input [ { name: "x" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 1 ] } ]
instance_group [ { count: 2 kind: KIND_CPU } ]
"""
WIDE_PROGRAM = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        found = [pb_utils.get_input_tensor_by_name(each, "x").as_numpy() for each in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", each[:1].copy())]) for each in found]
"""


@dataclass(slots=True)
class Taken:
    """What rounds have shown: requests per second, processor seconds of the servers per request, and latencies."""

    rates: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    each_s: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """The median of the rounds."""
        return median(self.rates)

    def cpu_ms(self) -> float:
        """Return processor milliseconds per request."""
        return median(self.cpu_s) * 1e3


@dataclass(frozen=True, slots=True)
class Side:
    """A way to reach the model, and the processes that work for it."""

    client: OipClient
    processes: Sequence[Process]

    async def load(self, requests: Sequence[bytes], callers: int, seconds: float, taken: Taken) -> None:
        """Ask for some seconds, each caller again as soon as it has its answer; note how it went."""
        turns = itertools.cycle(requests)
        start, spent_s, each_s = time.perf_counter(), self._spent_s(), []

        async def call() -> None:
            while (sent := time.perf_counter()) < start + seconds:
                await self.client.infer(next(turns))
                each_s.append(time.perf_counter() - sent)

        await asyncio.gather(*(call() for _ in range(callers)))
        taken.rates.append(len(each_s) / (time.perf_counter() - start))
        taken.cpu_s.append((self._spent_s() - spent_s) / len(each_s))
        taken.each_s += each_s

    def _spent_s(self) -> float:
        return sum(cpu_s(each.pids) for each in self.processes)


def encoder_requests(texts: int) -> list[bytes]:
    """Return requests of so many distinct texts each, of some 24 tokens."""
    chance = np.random.default_rng(1)
    ids = chance.integers(1_000, 30_000, (REQUESTS, texts, TOKENS), np.int64)
    return [infer_request(ENCODER, input_ids=each, attention_mask=np.ones_like(each)) for each in ids]


def wide_requests() -> list[bytes]:
    """Return requests of 7 MB each."""
    return [infer_request(WIDE, x=np.full(WIDE_VALUES, number, np.float32)) for number in range(4)]


async def compare(sides: Sequence[Side], requests: Sequence[bytes], callers: int) -> list[Taken]:
    """Return what each side has done, in rounds that take turns."""
    taken = [Taken() for _ in sides]
    for side in sides:
        await side.load(requests, callers, WARM_UP_S, Taken())
    for _ in range(ROUNDS):
        for side, noted in zip(sides, taken, strict=True):
            await side.load(requests, callers, MEASURED_S, noted)
    return taken


async def measure_sides(direct: Side, pooled: Side) -> list[Figure]:
    """Return the figures."""
    figures: list[Figure] = []
    sides, wide = (direct, pooled), wide_requests()
    for title, requests, callers, bar in (
        ("batches of 8, 16 callers", encoder_requests(8), 16, 0.92),
        ("single texts, 64 callers", encoder_requests(1), 64, 0.72),
        (f"7 MB tensors, {WIDE_CALLERS} callers", wide, WIDE_CALLERS, 0.85),
    ):
        alone, through = await compare(sides, requests, callers)
        figures += [
            Figure(f"OIP, {title}", through.rate, "1/s", bar=bar, baseline=alone.rate),
            Figure("  processor time of the servers per request", through.cpu_ms(), "ms", baseline=alone.cpu_ms()),
        ]
    alone, through = await compare(sides, encoder_requests(1), 1)
    p50, added = median(alone.each_s), median(through.each_s) - median(alone.each_s)
    figures.append(Figure("OIP, 1 text, 1 caller, p50 asked directly", p50 * 1e3, "ms"))
    figures.append(Figure("OIP, 1 text, 1 caller, added to it", added * 1e3, "ms", bar=1.0, at_most=True))
    return figures


async def _measure(folder: Path) -> list[Figure]:
    repository = folder / "models"
    _write_models(repository)
    with ExitStack() as running:
        (server,) = running.enter_context(tritons(repository, (ENCODER, WIDE)))
        pool = running.enter_context(pool_process(folder, CATALOGUE.format(address=server.address)))
        async with OipClient(server.address) as direct, OipClient(pool.address, token()) as pooled:
            for client in (direct, pooled):
                await client.ready(encoder_requests(1)[0])
                await client.ready(wide_requests()[0])
            return await measure_sides(Side(direct, [server]), Side(pooled, [server, pool]))


def _write_models(repository: Path) -> None:
    (repository / WIDE / "1").mkdir(parents=True)
    (repository / WIDE / "config.pbtxt").write_text(WIDE_CONFIG, "utf-8")
    (repository / WIDE / "1/model.py").write_text(WIDE_PROGRAM, "utf-8")
    (repository / ENCODER).symlink_to(MODELS / ENCODER, target_is_directory=True)


def measure() -> list[Figure]:
    """Return the figures of OIP through the pool."""
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
        return asyncio.run(_measure(Path(name)))
