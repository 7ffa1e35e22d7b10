"""What a request waits for a load is no time of work: neither for the queue nor for the advice."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from inference.core import work_clock
from inference.core.resident import Residence
from inference.core.served_model import ServedModel
from inference_fakes import FakeTensors, model
from inference_replica_fakes import FakeClock, benches


class NotingWork:
    """Notes the pauses."""

    def __init__(self) -> None:
        self.pauses_s: list[float] = []

    def paused(self, seconds: float) -> None:
        self.pauses_s.append(seconds)


class SlowLeases:
    """Takes so many seconds of a clock for each lease."""

    def __init__(self, clock: FakeClock, *takes_s: float) -> None:
        self._clock = clock
        self._takes_s = list(takes_s)

    @asynccontextmanager
    async def lease(self, model: str, wait_s: float) -> AsyncIterator[str]:
        self._clock.now += self._takes_s.pop(0)
        yield "a:1"

    def missing(self, model: str, address: str) -> None:
        raise AssertionError("nothing is missing")

    def doubted(self, model: str, address: str) -> None:
        raise AssertionError("nothing is in doubt")

    def lost(self, address: str) -> None:
        raise AssertionError("nobody is lost")


async def test_the_wait_for_a_load_is_told_and_a_lease_at_once_is_none() -> None:
    replicas, _ = await benches("a:1")
    clock, work = FakeClock(), NotingWork()
    residence = Residence(SlowLeases(clock, 3.0, 0.0), "there", replicas, clock)
    work_clock.begin(work)
    for _ in range(2):
        await residence.once(lambda replica, _left_s: asyncio.sleep(0, replica.address), 10.0)
    assert work.pauses_s == [3.0]


async def test_a_pause_is_left_out_of_what_is_measured() -> None:
    served = ServedModel(model(), tensors=FakeTensors())
    for pause in (True, False):
        async with served.admitted():
            began_s = time.monotonic()
            await asyncio.sleep(0.05)
            if pause:
                work_clock.paused(time.monotonic() - began_s)
    (_, paused_s), (_, worked_s) = served.measures.workload._held
    assert paused_s < 0.02
    assert worked_s >= 0.05
