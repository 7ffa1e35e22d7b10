"""What is measured of a model: rates, moments, and how many it serves side by side."""

import asyncio
import sys
from random import Random

import pytest
from inference.core.admission import Admission
from inference.core.capacity import Kind, Objective, Plan
from inference.core.catalogue import QueueLimits
from inference.core.workload import REMEMBERED, REMEMBERED_ARRIVALS, Measured, Percentiles, Workload
from servicekit.virtual_time import VirtualLoop, in_virtual_time


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_nothing_is_said_before_anything_was_answered() -> None:
    assert Workload(Clock()).measured(8) is None
    assert Percentiles.of([]) is None


def test_the_rate_is_that_of_the_last_minute() -> None:
    clock = Clock()
    workload = Workload(clock)
    workload.answered(1, 0.1)
    for _ in range(100):
        clock.now_s += 0.1
        workload.arrived(clock.now_s)
    assert rate(workload) == pytest.approx(10.0, rel=0.02)
    clock.now_s += 50.0
    assert rate(workload) == pytest.approx(100 / 60, rel=0.02)
    clock.now_s += 60.0
    assert rate(workload) == 0.0


def test_a_rate_that_fills_the_memory_is_still_right() -> None:
    clock = Clock()
    workload = Workload(clock)
    workload.answered(1, 0.1)
    for _ in range(3 * REMEMBERED_ARRIVALS):
        clock.now_s += 0.001
        workload.arrived(clock.now_s)
    assert rate(workload) == pytest.approx(1000.0, rel=0.01)


def test_bursts_show_and_regularity_is_not_counted_on() -> None:
    clock = Clock()
    workload = Workload(clock)
    workload.answered(1, 0.1)
    for number in range(1000):
        clock.now_s += 0.0 if number % 10 else 1.0
        workload.arrived(clock.now_s)
    assert measured(workload).arrivals.scv > 5
    for _ in range(1000):
        clock.now_s += 1.0
        workload.arrived(clock.now_s)
    assert measured(workload).arrivals.scv == 1.0


def test_the_wait_is_that_of_the_last_minute() -> None:
    clock = Clock()
    workload = Workload(clock)
    for number in range(100):
        workload.waited(clock.now_s, number / 100)
    assert workload.wait() == Percentiles(0.5, 0.95, 0.99)
    clock.now_s += 61.0
    assert workload.wait() is None


def test_what_it_keeps_is_bounded() -> None:
    clock = Clock()
    workload = Workload(clock)
    for _ in range(100_000):
        workload.arrived(clock.now_s)
        workload.waited(clock.now_s, 1.0)
        workload.answered(3, 1.0)
    assert len(workload._arrivals) == REMEMBERED_ARRIVALS
    assert len(workload._waited) == len(workload._held) == REMEMBERED
    assert sys.getsizeof(workload._arrivals) < 100_000


def rate(workload: Workload) -> float:
    return measured(workload).arrivals.rate


def measured(workload: Workload, limit: int = 8) -> Measured:
    found = workload.measured(limit)
    assert found is not None
    return found


class Run:
    """Open arrivals at a pool of `slots` slots, with a backend behind that works on `workers` at once, in turn."""

    def __init__(self, slots: int, workers: int, seed: int) -> None:
        self.slots, self.workers = slots, workers
        self.random = Random(seed)
        self.latencies_s: list[float] = []

    def at(self, rate: float, requests: int = 4000) -> Workload:
        """Let so many requests come, so many a second; return what was measured."""

        async def world(loop: VirtualLoop) -> Workload:
            queue = Admission("m", QueueLimits(self.slots, 100_000), clock=loop.time)
            workload, workers = Workload(loop.time), asyncio.Semaphore(self.workers)

            async def request() -> None:
                came_s = loop.time()
                workload.arrived(came_s)
                slot = await queue.enter(1e6)
                began_s, beside = loop.time(), queue.running
                workload.waited(began_s, began_s - came_s)
                async with workers:
                    await asyncio.sleep(self.random.gammavariate(2, 0.05))
                queue.leave(slot)
                workload.answered(beside, loop.time() - began_s)
                self.latencies_s.append(loop.time() - came_s)

            async with asyncio.TaskGroup() as tasks:
                for _ in range(requests):
                    await asyncio.sleep(self.random.expovariate(rate))
                    tasks.create_task(request())
            return workload

        found = in_virtual_time(world)
        assert isinstance(found, Workload)
        return found

    def met(self, rate: float, objective: Objective) -> bool:
        """Say whether the whole latency keeps an objective at a rate."""
        self.latencies_s.clear()
        self.at(rate)
        return sorted(self.latencies_s)[int(len(self.latencies_s) * objective.quantile)] <= objective.seconds


@pytest.mark.parametrize("workers", [2, 4])
def test_finds_how_many_are_served_side_by_side(workers: int) -> None:
    found = measured(Run(16, workers, seed=1).at(0.8 * workers / 0.1), 16)
    assert found.servers == pytest.approx(workers, rel=0.35)
    assert found.service.mean_s == pytest.approx(0.1, rel=0.25)


def test_slots_that_do_not_slow_each_other_count_whole() -> None:
    found = measured(Run(8, 8, seed=2).at(0.7 * 8 / 0.1), 8)
    assert found.servers > 6
    assert found.service.mean_s == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("planned", [2.0, 4.0])
def test_the_advice_from_what_was_measured_meets_the_objective_within_one(planned: float) -> None:
    """Measured at one replica of four workers, planned for more; tried with replicas that share one line."""
    workers, base_rate = 4, 24.0
    objective = Objective(Kind.LATENCY, 0.95, 0.4)
    found = measured(Run(16, workers, seed=3).at(base_rate), 16)
    advised = Plan.of(found, 1, objective, base_rate * planned).least_replicas()
    least = 1
    while not Run(16 * least, workers * least, seed=4).met(base_rate * planned, objective):
        least += 1
    assert abs(advised - least) <= 1
