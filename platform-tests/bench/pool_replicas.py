"""Three Tritons under load: one is killed and comes back, and one answers quickly and wrongly."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from inference.adapters.catalogue_file import read_catalogue
from inference.core.pool import Pool
from inference.core.replica import Replica
from inference.main import open_pool
from pool_oip import encoder_requests
from pool_stand import ENCODER, MODELS, Process, triton
from report import Figure
from servicekit.errors import PenstockError
from servicekit.testing import caller, eventually
from tritonclient.grpc import service_pb2 as oip

CALLERS, GOLDEN_PERIOD_S = 12, 1.0
BEFORE, AFTER = 1_000, 2_000
CATALOGUE = """
servers: {{three: {{addresses: [{addresses}], golden_period_s: {golden}, slow_start_s: 1}}}}
models:
  - name: {name}
    task: embed
    triton: {{server: three, model: {name}}}
    queue: {{max_concurrent: 64, max_waiting: 512}}
"""
HONEST = "vectors[request][row] = vector"


@dataclass(slots=True)
class Load:
    """Callers who ask one text after another, and what became of it."""

    pool: Pool
    request: bytes
    right: np.ndarray
    answered: int = 0
    wrong_at: list[float] = field(default_factory=list)
    errors: list[PenstockError] = field(default_factory=list)
    ending: bool = False

    @property
    def asked(self) -> int:
        """How many requests have ended."""
        return self.answered + len(self.errors)

    async def run(self) -> None:
        """Ask until told to end."""
        while not self.ending:
            try:
                answer = await self.pool.infer(ENCODER, self.request)
            except PenstockError as error:
                self.errors.append(error)
                await asyncio.sleep(0.01)
            else:
                self.answered += 1
                if not np.allclose(vector(answer), self.right, atol=1e-3):
                    self.wrong_at.append(time.monotonic())

    @asynccontextmanager
    async def under_way(self) -> AsyncIterator[None]:
        """Keep the load up inside."""
        async with asyncio.TaskGroup() as callers:
            for _ in range(CALLERS):
                callers.create_task(self.run())
            try:
                yield
            finally:
                self.ending = True

    async def more(self, count: int) -> None:
        """Wait until so many more requests have ended."""
        wanted = self.asked + count
        await eventually(lambda: self.asked >= wanted, timeout_s=120)


def vector(answer: bytes) -> "np.ndarray":
    """Return the embedding of a response."""
    return np.frombuffer(oip.ModelInferResponse.FromString(answer).raw_output_contents[0], np.float32)


def replica_at(pool: Pool, address: str) -> Replica:
    """Return the encoder's replica at an address."""
    replicas = pool.find(ENCODER).replicas
    assert replicas is not None, "a model of a server has replicas"
    return next(each for each in replicas.all() if each.address == address)


async def seconds_until(check: Callable[[], bool]) -> float:
    """Return after how many seconds a check is true."""
    start = time.monotonic()
    await eventually(check, 60)
    return time.monotonic() - start


async def measure_kill(pool: Pool, victim: Process, load: Load) -> list[Figure]:
    """Return what a killed replica costs."""
    replica = replica_at(pool, victim.address)
    async with load.under_way():
        await load.more(BEFORE)
        asked = load.asked
        victim.kill()
        ejected_s = await seconds_until(lambda: not replica.in_rotation)
        await load.more(AFTER)
        before = replica.verdict
        victim.start()
        await seconds_until(lambda: replica.in_rotation)
        proven = replica.verdict is not before
        await load.more(BEFORE)
    final = sum(not error.retry_after_s for error in load.errors)
    return [
        Figure("requests since a replica was killed", load.asked - asked, ""),
        Figure("  of them failed", 100 * len(load.errors) / (load.asked - asked), "%", bar=0.5, at_most=True),
        Figure("  of them may not be repeated", final, "", bar=0, at_most=True),
        Figure("  it was out of rotation after", ejected_s, "s", bar=1, at_most=True),
        Figure("  it was back without a golden probe", float(not proven), "", bar=0, at_most=True),
    ]


async def measure_liar(pool: Pool, liar: Process, flag: Path, load: Load) -> list[Figure]:
    """Return how long a replica that answers wrongly is believed."""
    replica = replica_at(pool, liar.address)
    async with load.under_way():
        await load.more(BEFORE)
        began = time.monotonic()
        await asyncio.to_thread(flag.touch)
        out_s = await seconds_until(lambda: not replica.in_rotation)
        await load.more(BEFORE)
        await asyncio.to_thread(flag.unlink)
        await seconds_until(lambda: replica.in_rotation)
    last_s = max(load.wrong_at, default=began) - began
    bar_s = GOLDEN_PERIOD_S + 0.5
    return [
        Figure("a replica that lies was out of rotation after", out_s, "s", bar=bar_s, at_most=True),
        Figure("  the last wrong answer came after", last_s, "s"),
        Figure("  requests that failed", len(load.errors), "", bar=0, at_most=True),
    ]


@asynccontextmanager
async def opened(folder: Path, servers: list[Process]) -> AsyncIterator[Pool]:
    """Open a pool over the servers, and wait until each is in rotation."""
    addresses = ", ".join(f'"{server.address}"' for server in servers)
    path = folder / "catalogue.yaml"
    path.write_text(CATALOGUE.format(addresses=addresses, golden=GOLDEN_PERIOD_S, name=ENCODER), "utf-8")
    async with AsyncExitStack() as stack:
        pool = (await open_pool(read_catalogue(path), {}, folder, stack)).pool
        watching = asyncio.create_task(pool.watch())
        try:
            await eventually(lambda: all(replica_at(pool, each.address).in_rotation for each in servers), 60)
            with caller():
                yield pool
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


async def _measure(folder: Path, servers: list[Process], flag: Path) -> list[Figure]:
    async with opened(folder, servers) as pool:
        request = encoder_requests(1)[0]
        right = vector(await pool.infer(ENCODER, request))
        return [
            *await measure_kill(pool, servers[1], Load(pool, request, right)),
            *await measure_liar(pool, servers[2], flag, Load(pool, request, right)),
        ]


def measure() -> list[Figure]:
    """Return the figures of replicas that fail."""
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name, ExitStack() as running:
        folder = Path(name)
        flag, repository = folder / "wrong", folder / "models"
        shutil.copytree(MODELS / ENCODER, repository / ENCODER)
        program = next((repository / ENCODER).glob("*/model.py"))
        lie = f"vectors[request][row] = vector[::-1] if __import__('os').path.exists({str(flag)!r}) else vector"
        program.write_text(program.read_text("utf-8").replace(HONEST, lie), "utf-8")
        servers = [triton(where, (ENCODER,), folder / "tritons.log") for where in (MODELS, MODELS, repository)]
        for server in servers:
            running.callback(server.kill)
            server.start()
        return asyncio.run(_measure(folder, servers, flag))
