"""The queue of a model: how many run, who is next, and who is refused at once."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from inference.core.admission import Admission
from inference.core.catalogue import QueueLimits
from prometheus_client import REGISTRY
from servicekit.errors import TimedOut, Unavailable
from servicekit.load.concurrency_limit import Pace
from servicekit.load.priority import Priority
from servicekit.testing import eventually
from servicekit.virtual_time import VirtualLoop, in_virtual_time

B, S, I = Priority  # noqa: E741


class Who:
    """Says for whom the next request is."""

    def __init__(self) -> None:
        self.tenant, self.priority = "acme", S

    def __call__(self) -> tuple[str, Priority]:
        return self.tenant, self.priority


@asynccontextmanager
async def slot(queue: Admission, wait_s: float) -> AsyncIterator[None]:
    """Hold a slot, as a served model does."""
    held = await queue.enter(wait_s)
    try:
        yield
    finally:
        queue.leave(held)


class Worker:
    """Holds slots until told, and notes the order in which they came."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.order: list[int] = []
        self.leave = asyncio.Event()

    async def work(self, number: int) -> None:
        async with slot(self.admission, 5.0):
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
    async with slot(queue, 1.0):
        with pytest.raises(Unavailable) as caught:
            async with slot(queue, 1.0):
                raise AssertionError("two at once")
    assert caught.value.reason == "queue_full"
    assert caught.value.retry_after_s is not None
    assert caught.value.retry_after_s >= 1.0
    async with slot(queue, 1.0):
        assert queue.running == 1


async def test_waits_no_longer_than_allowed() -> None:
    queue = admission(1, 1)
    async with slot(queue, 1.0):
        with pytest.raises(Unavailable) as caught:
            async with slot(queue, 0.01):
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
        await held.enter_async_context(slot(worker.admission, 1.0))
        waiting = tasks.create_task(worker.work(1))
        await eventually(lambda: worker.admission.waiting == 1)
        await held.aclose()  # hands the slot over; the waiter has not woken yet
        waiting.cancel()
    assert worker.order == []
    assert worker.admission.running == 0


async def test_a_failure_inside_gives_the_slot_back() -> None:
    queue = admission(1, 0)
    with pytest.raises(ZeroDivisionError):
        async with slot(queue, 1.0):
            raise ZeroDivisionError
    assert queue.running == 0


async def test_draining_refuses_who_waits_and_who_comes_and_lets_the_running_end() -> None:
    queue = admission(1, 1)
    async with slot(queue, 1.0):
        refused = asyncio.ensure_future(_enter(queue))
        await eventually(lambda: queue.waiting == 1)
        queue.drain()
        assert await refused == "draining"
        assert await _enter(queue) == "draining"
        assert queue.running == 1
    assert queue.running == 0


async def _enter(queue: Admission) -> str:
    try:
        async with slot(queue, 1.0):
            return "served"
    except Unavailable as error:
        return error.reason


async def test_no_time_left_is_no_start() -> None:
    queue = admission(1, 1)
    with pytest.raises(TimedOut):
        await queue.enter(0.0)
    assert queue.running == 0


class Story:
    """A queue in virtual time, and requests that hold a slot until they are let go."""

    def __init__(self, loop: VirtualLoop, max_concurrent: int, max_waiting: int) -> None:
        self.loop = loop
        self.who = Who()
        self.queue = Admission("story", QueueLimits(max_concurrent, max_waiting), self.who, loop.time)
        self.order: list[str] = []
        self.refused: dict[str, Unavailable] = {}
        self.go: dict[str, asyncio.Event] = {}
        self.tasks: list[asyncio.Task[None]] = []

    async def ask(self, name: str, priority: Priority = S, tenant: str = "acme", wait_s: float = 60.0) -> None:
        """Begin a request, and let it get as far as it can."""
        self.go[name] = asyncio.Event()
        self.tasks.append(asyncio.create_task(self._request(name, priority, tenant, wait_s)))
        await settle()

    async def finish(self, name: str) -> None:
        """Let a request end."""
        self.go[name].set()
        await settle()

    async def measured(self, seconds: float, times: int = 10) -> None:
        """Let the queue see some requests that take so long."""
        for _ in range(times):
            async with slot(self.queue, 60.0):
                await asyncio.sleep(seconds)

    async def end(self) -> None:
        """Let everything end, and see that nothing is left behind."""
        for event in self.go.values():
            event.set()
        await asyncio.gather(*self.tasks)
        assert (self.queue.running, self.queue.waiting) == (0, 0)

    async def _request(self, name: str, priority: Priority, tenant: str, wait_s: float) -> None:
        self.who.tenant, self.who.priority = tenant, priority
        try:
            async with slot(self.queue, wait_s):
                self.order.append(name)
                await self.go[name].wait()
        except Unavailable as refusal:
            self.refused[name] = refusal


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_the_more_important_goes_first_and_then_the_other_tenant() -> None:
    async def story(loop: VirtualLoop) -> None:
        here = Story(loop, 1, 20)
        await here.ask("first")
        for name, priority, tenant in (
            ("batch", B, "acme"),
            ("a1", S, "acme"),
            ("a2", S, "acme"),
            ("b1", S, "other"),
            ("person", I, "acme"),
        ):
            await here.ask(name, priority, tenant)
        for name in ("first", "person", "a1", "b1", "a2"):
            await asyncio.sleep(0.1)
            await here.finish(name)
        assert here.order == ["first", "person", "a1", "b1", "a2", "batch"]
        await here.end()

    in_virtual_time(story)


def test_a_full_queue_loses_the_least_important_and_then_the_greediest() -> None:
    async def story(loop: VirtualLoop) -> None:
        here = Story(loop, 1, 3)
        await here.ask("runs")
        for name in ("s1", "s2"):
            await here.ask(name, S, "greedy")
        await here.ask("batch", B)
        await here.ask("person", I)
        assert list(here.refused) == ["batch"]
        await here.ask("modest", S, "modest")
        assert list(here.refused) == ["batch", "s2"]
        await here.ask("s3", S, "greedy")
        assert list(here.refused) == ["batch", "s2", "s3"]
        assert {refusal.reason for refusal in here.refused.values()} == {"queue_full"}
        assert all((refusal.retry_after_s or 0) >= 1.0 for refusal in here.refused.values())
        await here.end()

    in_virtual_time(story)


def test_one_whose_deadline_the_wait_and_the_work_would_miss_is_refused_at_once() -> None:
    async def story(loop: VirtualLoop) -> None:
        here = Story(loop, 2, 50)
        await here.measured(1.0)
        for number in range(6):
            await here.ask(f"{number}")
        before_s = loop.time()
        await here.ask("hasty", wait_s=2.0)
        assert here.refused["hasty"].reason == "queue_timeout"
        assert loop.time() == before_s
        assert here.refused["hasty"].retry_after_s == 3.0
        await here.ask("patient", wait_s=4.6)
        assert "patient" not in here.refused
        await asyncio.sleep(3.7)  # now there is less time than the work takes
        assert here.refused["patient"].reason == "queue_timeout"
        await here.end()

    in_virtual_time(story)


def test_a_refusal_is_counted_by_its_reason_and_the_callers_priority() -> None:
    async def story(loop: VirtualLoop) -> None:
        here = Story(loop, 1, 0)
        await here.ask("runs")
        labels = {"model": "story", "priority": "batch", "reason": "queue_full"}
        before = REGISTRY.get_sample_value("penstock_inference_refused_total", labels) or 0.0
        await here.ask("batch", B)
        assert REGISTRY.get_sample_value("penstock_inference_refused_total", labels) == before + 1
        await here.end()

    in_virtual_time(story)


async def test_a_refusal_waits_for_nothing() -> None:
    queue = admission(1, 200)
    held = await queue.enter(60.0)
    waiting = [asyncio.ensure_future(queue.enter(60.0)) for _ in range(190)]  # ten places are kept for batch
    await eventually(lambda: queue.waiting == 190)
    for _ in range(200):
        with pytest.raises(Unavailable):
            queue.enter(60.0).send(None)
    queue.drain()
    assert {type(each) for each in await asyncio.gather(*waiting, return_exceptions=True)} == {Unavailable}
    queue.leave(held)
    assert queue.running == 0


@pytest.mark.parametrize(("least", "expected"), [(1, range(4, 20)), (None, range(64, 65))])
def test_a_limit_with_room_is_learned_and_one_without_stays(least: int | None, expected: range) -> None:
    """Behind the queue only four work at once: what more run wait there."""

    async def story(loop: VirtualLoop) -> None:
        queue = Admission("learns", QueueLimits(64, 500, least), clock=loop.time, pace=Pace(probe_every_s=5.0))
        workers = asyncio.Semaphore(4)
        limits: Counter[int] = Counter()

        async def caller() -> None:
            for _ in range(20):
                async with slot(queue, 600.0), workers:
                    await asyncio.sleep(0.05)
                limits[queue.limit] += 1

        for _ in range(2):
            limits.clear()
            await asyncio.gather(*(caller() for _ in range(100)))
        assert limits.most_common(1)[0][0] in expected

    in_virtual_time(story)
