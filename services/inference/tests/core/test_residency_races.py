"""Residency when everything happens at once: a thousand interleavings, and a Zipf trace beside the best possible."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from inference.core.footprints import Footprints
from inference.core.policy import Patience, Policy
from inference.core.residency import Residency
from inference_residency_fakes import FakeFootprintStore, FakeRepository, FakeServers, now, run_virtually
from servicekit.errors import PenstockError, Unavailable

SIZES = {"a": 100, "b": 100, "c": 60, "d": 140, "e": 100}


@dataclass(slots=True)
class Tally:
    """What became of the requests of a run."""

    served: int = 0
    cancelled: int = 0
    errors: list[PenstockError] = field(default_factory=list)


def policy(budget_bytes: int = 200, minimum_s: float = 0.0) -> Policy:
    patience = Patience(load_s=10.0, unload_s=5.0, free_s=1.0)
    return Policy(frozenset(SIZES), budget_bytes, 100, minimum_s=minimum_s, patience=patience)


class Crowd:
    """Clients that compete for more models than fit, in an order drawn from a seed."""

    def __init__(self, seed: int, *, servers: int, deaths: bool = False) -> None:
        self.random = random.Random(seed)
        draw = self.random
        self.servers = FakeServers()
        for number in range(servers):
            server = FakeRepository(SIZES, load_s=draw.uniform(0.01, 1.0))
            server.unload_s = draw.uniform(0.0, 0.2)
            server.tells_models = draw.random() < 0.5
            self.servers[f"s{number}"] = server
        self.deaths = deaths
        self.tally = Tally()
        self.residency = Residency(
            policy(minimum_s=draw.choice((0.0, 0.3))),
            Footprints(FakeFootprintStore(), 80),
            self.servers.connect,
            clock=now,
        )

    def leases(self) -> int:
        return sum(copy.leases for device in self.residency.devices() for copy in device.copies.values())

    async def client(self) -> None:
        for _ in range(4):
            await asyncio.sleep(self.random.expovariate(2.0))
            model = self.random.choice(sorted(SIZES))
            try:
                async with asyncio.timeout(self.random.uniform(0.0, 4.0) if self.random.random() < 0.2 else None):
                    async with self.residency.lease(model, 60.0) as address:
                        await self.servers[address].infer(model, self.random.expovariate(5.0))
                self.tally.served += 1
            except TimeoutError:
                self.tally.cancelled += 1
            except PenstockError as error:
                self.tally.errors.append(error)

    async def reaper(self) -> None:
        await asyncio.sleep(self.random.uniform(0.0, 3.0))
        server = self.servers["s0"]
        server.die()
        await asyncio.sleep(self.random.uniform(0.0, 3.0))
        server.dead = False

    async def run(self) -> None:
        for address in self.servers:
            self.residency.joined(address)
        running = asyncio.create_task(self.residency.run())
        async with asyncio.TaskGroup() as tasks:
            for _ in range(8):
                tasks.create_task(self.client())
            if self.deaths:
                tasks.create_task(self.reaper())
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize("block", range(10))
def test_in_a_thousand_interleavings_no_lease_is_lost_and_no_inference_fails(block: int) -> None:
    """Each run draws sizes of delays, who asks for what, and who gives up when; 32 requests, 5 models, room for 2."""
    for seed in range(block * 100, block * 100 + 100):
        crowd = Crowd(seed, servers=1 + seed % 2)
        run_virtually(crowd.run())
        servers = crowd.servers.values()
        told = f"seed {seed}"
        assert crowd.tally.errors == [], told
        assert crowd.tally.served + crowd.tally.cancelled == 32, told
        assert not any(server.broken for server in servers), told
        assert all(server.most_at_once <= 1 and server.peak_bytes <= 260 for server in servers), told
        assert crowd.leases() == 0, told
        assert not any(device.ailment for device in crowd.residency.devices()), told


def test_a_server_that_dies_in_between_costs_only_what_ran_there() -> None:
    for seed in range(100):
        crowd = Crowd(seed, servers=2, deaths=True)
        run_virtually(crowd.run())
        assert crowd.tally.errors == [], f"seed {seed}"
        assert crowd.tally.served + crowd.tally.cancelled == 32, f"seed {seed}"
        assert not crowd.servers["s1"].broken, f"seed {seed}"
        assert crowd.leases() == 0, f"seed {seed}"


def zipf(count: int, models: Sequence[str], seed: int) -> list[str]:
    draw = random.Random(seed)
    return draw.choices(models, [1 / rank for rank in range(1, len(models) + 1)], k=count)


def best_hit_ratio(trace: Sequence[str], room: int) -> float:
    """Return what Belady's algorithm hits, which knows the future: nothing can do better."""
    following: list[float] = [0.0] * len(trace)
    later: dict[str, float] = {}
    for position in range(len(trace) - 1, -1, -1):
        following[position] = later.get(trace[position], float("inf"))
        later[trace[position]] = position
    inside: dict[str, float] = {}
    hits = 0
    for position, model in enumerate(trace):
        if model in inside:
            hits += 1
        elif len(inside) >= room:
            del inside[max(inside, key=lambda each: inside[each])]
        inside[model] = following[position]
    return hits / len(trace)


@pytest.mark.parametrize("seed", range(3))
def test_the_hit_ratio_on_a_zipf_trace_is_within_five_points_of_the_best(seed: int) -> None:
    """Ten thousand requests for 8 models on 3 servers with room for 2 each, while loads and evictions go on."""
    models = [f"m{number}" for number in range(8)]
    sizes = dict.fromkeys(models, 100)
    trace = zipf(10_000, models, seed)
    servers = FakeServers({f"s{number}": FakeRepository(sizes, load_s=0.5) for number in range(3)})
    plan = Policy(frozenset(models), 200, 100, minimum_s=0.0, spread_at=64)
    residency = Residency(plan, Footprints(FakeFootprintStore(), 100), servers.connect, clock=now)
    failed: list[PenstockError] = []

    async def ask(model: str) -> None:
        try:
            async with residency.lease(model, 20.0) as address:
                await servers[address].infer(model, 0.02)
        except Unavailable as error:
            failed.append(error)

    async def scenario() -> None:
        for address in servers:
            residency.joined(address)
        running = asyncio.create_task(residency.run())
        async with asyncio.TaskGroup() as tasks:
            for model in trace:
                tasks.create_task(ask(model))
                await asyncio.sleep(0.25)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    run_virtually(scenario())
    loads = sum(len(server.loads) for server in servers.values())
    assert failed == []
    assert not any(server.broken for server in servers.values())
    assert 1 - loads / len(trace) >= best_hit_ratio(trace, 6) - 0.05
