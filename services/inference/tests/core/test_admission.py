"""The queue of a model."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from inference.core.admission import Admission
from inference.core.catalogue import QueueLimits
from servicekit.errors import Unavailable
from servicekit.testing import eventually


class Worker:
    """Holds slots until told, and notes the order in which they came."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.order: list[int] = []
        self.leave = asyncio.Event()

    async def work(self, number: int) -> None:
        async with self.admission.slot(5.0):
            self.order.append(number)
            await self.leave.wait()


def admission(max_concurrent: int, max_waiting: int) -> Admission:
    return Admission("m", QueueLimits(max_concurrent, max_waiting))


async def test_runs_at_most_so_many_and_serves_in_order() -> None:
    worker = Worker(admission(2, 10))
    async with asyncio.TaskGroup() as tasks:
        for number in range(6):
            tasks.create_task(worker.work(number))
        await eventually(lambda: worker.admission.waiting == 4)
        assert worker.admission.running == 2
        assert worker.order == [0, 1]
        worker.leave.set()
    assert worker.order == [0, 1, 2, 3, 4, 5]
    assert worker.admission.running == 0


async def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    queue = admission(1, 0)
    async with queue.slot(1.0):
        with pytest.raises(Unavailable) as caught:
            async with queue.slot(1.0):
                raise AssertionError("two at once")
    assert caught.value.reason == "queue_full"
    assert caught.value.retry_after_s is not None
    assert caught.value.retry_after_s >= 1.0
    async with queue.slot(1.0):
        assert queue.running == 1


async def test_waits_no_longer_than_allowed() -> None:
    queue = admission(1, 1)
    async with queue.slot(1.0):
        with pytest.raises(Unavailable) as caught:
            async with queue.slot(0.01):
                raise AssertionError("two at once")
        assert caught.value.reason == "queue_timeout"
        assert queue.waiting == 0
    assert queue.running == 0


async def test_a_cancelled_waiter_leaves_its_place_to_the_next() -> None:
    worker = Worker(admission(1, 2))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(worker.work(0))
        second = tasks.create_task(worker.work(1))
        tasks.create_task(worker.work(2))
        await eventually(lambda: worker.admission.waiting == 2)
        second.cancel()
        await eventually(lambda: worker.admission.waiting == 1)
        worker.leave.set()
    assert worker.order == [0, 2]
    assert worker.admission.running == 0


async def test_a_slot_handed_to_one_who_is_cancelled_in_that_moment_is_not_lost() -> None:
    worker = Worker(admission(1, 2))
    async with asyncio.TaskGroup() as tasks, AsyncExitStack() as held:
        await held.enter_async_context(worker.admission.slot(1.0))
        waiting = tasks.create_task(worker.work(1))
        await eventually(lambda: worker.admission.waiting == 1)
        await held.aclose()  # hands the slot over; the waiter has not woken yet
        waiting.cancel()
    assert worker.order == []
    assert worker.admission.running == 0


async def test_a_failure_inside_gives_the_slot_back() -> None:
    queue = admission(1, 0)
    with pytest.raises(ZeroDivisionError):
        async with queue.slot(1.0):
            raise ZeroDivisionError
    assert queue.running == 0


async def test_draining_refuses_who_waits_and_who_comes_and_lets_the_running_end() -> None:
    queue = admission(1, 1)
    async with queue.slot(1.0):
        refused = asyncio.ensure_future(_enter(queue))
        await eventually(lambda: queue.waiting == 1)
        queue.drain()
        assert await refused == "draining"
        assert await _enter(queue) == "draining"
        assert queue.running == 1
    assert queue.running == 0


async def _enter(queue: Admission) -> str:
    try:
        async with queue.slot(1.0):
            return "served"
    except Unavailable as error:
        return error.reason
