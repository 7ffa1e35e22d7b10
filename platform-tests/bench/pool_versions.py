"""Versions of a model under load: a canary's share, changes of roles, and what a shadow costs the champion's callers.

The models sleep, so that the processors of the machine are not what they wait for.
"""

import asyncio
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, quantiles
from typing import Any
from urllib.request import urlopen

import grpc
import numpy as np
from penstock.inference.v1 import versions_pb2 as pb
from penstock.inference.v1.versions_pb2_grpc import VersionServiceStub
from pool_overload import write_sleeper
from pool_stand import OipClient, infer_request, pool_process, token, tritons
from report import Figure
from servicekit import identity
from servicekit.rpc import Channel
from servicekit.testing import caller
from tritonclient.grpc import service_pb2 as oip

MODEL, CANARY, TIGHT = "champion", "canary", "tight"
MODELS = {MODEL: 8, CANARY: 8, TIGHT: 1}
"""The entries, and how many instances each has; the last one is too slow for a shadow of everything."""
ASKED, KEYS, CALLERS = 20_000, 10_000, 8
CHANGES, BETWEEN_S, LIVE_S = 6, 2.0, 1.5
SHADOW_ROUNDS, SHADOW_S, SHADOW_CALLERS, PAUSE_S = 4, 6.0, 4, 0.03
HEAD = 'servers: {{one: {{address: "{address}"}}}}\nmodels:\n'
ENTRY = """
  - name: {name}
    task: tensor
    triton: {{server: one, model: {name}}}
    queue: {{max_concurrent: {slots}, max_waiting: 256}}
    timeout_s: 10
"""


@dataclass(slots=True)
class Load:
    """Callers who ask the model one time after another, and what became of it."""

    client: OipClient
    request: bytes
    each_s: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    async def ask(self, key: str = "") -> str:
        """Ask once; return the version that answered, nothing when none did."""
        start = time.perf_counter()
        try:
            answer = await self.client.infer(self.request, 10.0, key)
        except grpc.aio.AioRpcError as error:
            self.failed.append(f"{error.code().name}: {error.details()}")
            return ""
        self.each_s.append(time.perf_counter() - start)
        version: str = oip.ModelInferResponse.FromString(answer).model_version
        return version

    async def for_(self, seconds: float, callers: int, pause_s: float) -> None:
        """Ask for some seconds."""
        end = time.perf_counter() + seconds

        async def call() -> None:
            while time.perf_counter() < end:
                await self.ask()
                await asyncio.sleep(pause_s)

        await asyncio.gather(*(call() for _ in range(callers)))

    def p99_ms(self) -> float:
        """Return the 99th percentile of the answers."""
        return quantiles(self.each_s, n=100)[98] * 1e3


class Roles:
    """Registers versions and changes roles, one after another."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._stub = VersionServiceStub(channel.grpc)
        self._revision = 0

    async def register(self, entries: Sequence[str]) -> None:
        """Make each entry a version that has passed its evaluation."""
        for entry in entries:
            variant = pb.NewVariant(served_by=entry)
            await self._call("RegisterVersion", model=MODEL, version=entry, variants=[variant])
            await self._call("RecordEvaluation", model=MODEL, version=entry, verdict=pb.VERDICT_PASSED)

    async def become(self, **roles: Any) -> None:
        """Set the roles, and return when every process has looked."""
        answer = await self._call("SetRoles", model=MODEL, revision=self._revision, roles=pb.Roles(**roles))
        self._revision = answer.revision
        await asyncio.sleep(LIVE_S)

    async def _call(self, method: str, **said: Any) -> Any:
        request = getattr(pb, f"{method}Request")(**said)
        return await self._channel.call(getattr(self._stub, method), request)


async def measure_canary(roles: Roles, load: Load) -> list[Figure]:
    """Return the share of the canary, and how many keys have seen more than one version."""
    await roles.become(canaries=[pb.CanaryWeight(version=CANARY, weight_percent=10)])
    keys = [token(key=f"key-{number}") for number in range(KEYS)]
    seen: dict[int, set[str]] = defaultdict(set)
    counts: dict[str, int] = defaultdict(int)
    turns = iter(range(ASKED))

    async def call() -> None:
        for turn in turns:
            number = turn % KEYS
            version = await load.ask(keys[number])
            seen[number].add(version)
            counts[version] += 1

    await asyncio.gather(*(call() for _ in range(CALLERS)))
    share = 100 * counts[CANARY] / ASKED
    torn = sum(len(versions) > 1 for versions in seen.values())
    return [
        Figure(f"canary of 10 %, share of {ASKED} requests", share, "%"),
        Figure("  away from 10 %", abs(share - 10), "points", bar=1, at_most=True),
        Figure(f"  keys of {KEYS} that met both versions", torn, "", bar=0, at_most=True),
        Figure("  requests that failed", len(load.failed), "", bar=0, at_most=True),
    ]


async def measure_rollback(roles: Roles, load: Load) -> list[Figure]:
    """Return how many requests fail while the champion is changed to and fro."""
    under_way = asyncio.create_task(load.for_(CHANGES * (BETWEEN_S + LIVE_S), CALLERS, 0.0))
    for number in range(CHANGES):
        await roles.become(champion=CANARY if number % 2 == 0 else "")
        await asyncio.sleep(BETWEEN_S)
    await under_way
    asked = len(load.each_s) + len(load.failed)
    return [
        Figure(f"requests beside {CHANGES} promotions and rollbacks", asked, ""),
        Figure("  of them failed", len(load.failed), "", bar=0, at_most=True),
    ]


async def measure_shadow(roles: Roles, client: OipClient, request: bytes, metrics_url: str) -> list[Figure]:
    """Return the champion's p99 alone, beside a shadow that has capacity, and beside one that has not."""
    asked: dict[str, dict[str, Any]] = {
        "alone": {},
        "beside": {"shadow": CANARY, "shadow_percent": 100},
        "tight": {"shadow": TIGHT, "shadow_percent": 100},
    }
    loads = {name: Load(client, request) for name in asked}
    shed: dict[str, list[float]] = {name: [] for name in asked}
    for _ in range(SHADOW_ROUNDS):
        for name, wanted in asked.items():
            await roles.become(**wanted)
            before = await mirrored(metrics_url)
            await loads[name].for_(SHADOW_S, SHADOW_CALLERS, PAUSE_S)
            after = await mirrored(metrics_url)
            shed[name].append((after["shed"] - before["shed"]) / max(1.0, after.total() - before.total()))
    await roles.become()
    alone, failed = loads["alone"].p99_ms(), sum(len(each.failed) for each in loads.values())
    return [
        Figure("p99 beside a shadow of everything", loads["beside"].p99_ms(), "ms", 1.1, True, alone),
        Figure("  of it left out", 100 * fmean(shed["beside"]), "%"),
        Figure("p99 beside one that is too slow", loads["tight"].p99_ms(), "ms", 1.1, True, alone),
        Figure("  of it left out", 100 * fmean(shed["tight"]), "%", bar=50),
        Figure("  requests that failed", failed, "", bar=0, at_most=True),
    ]


async def mirrored(metrics_url: str) -> Counter[str]:
    """Return how many requests were to be mirrored so far, by what came of it."""
    page = await asyncio.to_thread(lambda: urlopen(metrics_url, timeout=10).read().decode())
    found: Counter[str] = Counter()
    for line in page.splitlines():
        if line.startswith("penstock_inference_shadow_requests_total{"):
            found[line.partition('outcome="')[2].partition('"')[0]] += int(float(line.rpartition(" ")[2]))
    return found


@asynccontextmanager
async def versioned(folder: Path) -> AsyncIterator[tuple[Roles, OipClient, bytes, str]]:
    """Run a pool with the models; yield what changes roles, a client, a request, and its metrics."""
    repository, request = folder / "models", infer_request(MODEL, x=np.array([1], np.int64))
    for name, instances in MODELS.items():
        write_sleeper(repository, name, instances, "random.uniform(0.004, 0.006)" if name != TIGHT else "0.2")
    with ExitStack() as running:
        (server,) = running.enter_context(tritons(repository, tuple(MODELS)))
        entries = "".join(ENTRY.format(name=name, slots=instances) for name, instances in MODELS.items())
        pool = running.enter_context(pool_process(folder, HEAD.format(address=server.address) + entries))
        running.enter_context(caller())
        async with OipClient(pool.address, identity.current_token()) as client, Channel(pool.address) as channel:
            for name in MODELS:
                await client.ready(infer_request(name, x=np.array([1], np.int64)))
            roles = Roles(channel)
            await roles.register((CANARY, TIGHT))
            yield roles, client, request, pool.metrics_url


async def _measure(folder: Path) -> list[Figure]:
    async with versioned(folder) as (roles, client, request, metrics_url):
        return [
            *await measure_canary(roles, Load(client, request)),
            *await measure_rollback(roles, Load(client, request)),
            *await measure_shadow(roles, client, request, metrics_url),
        ]


def measure() -> list[Figure]:
    """Return the figures of versions."""
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
        return asyncio.run(_measure(Path(name)))
