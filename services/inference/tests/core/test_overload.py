"""Three times what a model can serve, in virtual time: nothing is wasted, and the important hardly notice."""

import asyncio
from dataclasses import dataclass, field
from random import Random

import pytest
from inference.core.admission import Admission
from inference.core.catalogue import QueueLimits
from servicekit.errors import TimedOut, Unavailable
from servicekit.load.priority import Priority
from servicekit.virtual_time import VirtualLoop, in_virtual_time

SLOTS, MEAN_S, DEADLINE_S = 8, 0.1, 1.0
CAPACITY = SLOTS / MEAN_S
SECONDS, WARM_S = 60.0, 10.0
PARTS = {Priority.INTERACTIVE: 0.4, Priority.STANDARD: 1.3, Priority.BATCH: 1.3}


@dataclass(slots=True)
class Told:
    """What became of the requests of a class: seconds until the answer, the slot, or the refusal."""

    answered_s: list[float] = field(default_factory=list)
    waited_s: list[float] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)
    late: int = 0

    def p99_s(self) -> float:
        return sorted(self.answered_s)[int(len(self.answered_s) * 0.99)]


class Simulation:
    """Open arrivals of each class at a model whose work takes random times; a deadline ends it."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.told = {priority: Told() for priority in Priority}
        self.asking = ("acme", Priority.STANDARD)
        self.start_s = 0.0

    def run(self, parts: dict[Priority, float]) -> None:
        async def world(loop: VirtualLoop) -> None:
            queue = Admission("m", QueueLimits(SLOTS, 256), lambda: self.asking, loop.time)
            self.start_s = loop.time()
            async with asyncio.TaskGroup() as tasks:
                for priority, part in parts.items():
                    tasks.create_task(self._arrivals(loop, queue, tasks, priority, part))
            assert (queue.running, queue.waiting) == (0, 0)

        in_virtual_time(world)

    async def _arrivals(
        self, loop: VirtualLoop, queue: Admission, tasks: asyncio.TaskGroup, priority: Priority, part: float
    ) -> None:
        while loop.time() < self.start_s + SECONDS:
            await asyncio.sleep(self.random.expovariate(part * CAPACITY))
            told = self.told[priority] if loop.time() > self.start_s + WARM_S else Told()
            tasks.create_task(self._request(loop, queue, priority, told))

    async def _request(self, loop: VirtualLoop, queue: Admission, priority: Priority, told: Told) -> None:
        self.asking = (self.random.choice("abc"), priority)
        began_s = loop.time()
        try:
            slot = await queue.enter(DEADLINE_S)
        except Unavailable:
            told.refused_s.append(loop.time() - began_s)
            return
        told.waited_s.append(loop.time() - began_s)
        error: BaseException | None = None
        try:
            async with asyncio.timeout(DEADLINE_S - (loop.time() - began_s)):
                await asyncio.sleep(self.random.gammavariate(4, MEAN_S / 4))
            told.answered_s.append(loop.time() - began_s)
        except TimeoutError:
            told.late += 1
            error = TimedOut("too late")
        queue.leave(slot, error)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_three_times_capacity(seed: int) -> None:
    alone, loaded = Simulation(seed), Simulation(seed)
    alone.run({Priority.INTERACTIVE: PARTS[Priority.INTERACTIVE]})
    loaded.run(PARTS)
    answered = sum(len(told.answered_s) for told in loaded.told.values())
    assert answered >= 0.9 * CAPACITY * (SECONDS - WARM_S)
    assert all(max(told.waited_s) <= DEADLINE_S for told in loaded.told.values())
    person = loaded.told[Priority.INTERACTIVE]
    assert person.refused_s == []
    refused = [second for told in loaded.told.values() for second in told.refused_s]
    assert sum(second <= 0.005 for second in refused) >= 0.95 * len(refused), "nobody is left to wait in vain"
    assert person.p99_s() <= 1.3 * alone.told[Priority.INTERACTIVE].p99_s()
    assert loaded.told[Priority.BATCH].answered_s, "batch is slow, and does not stop"
