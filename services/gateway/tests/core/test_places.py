"""No place is ever lost and none is given twice, whoever is cancelled in whatever moment."""

import asyncio
from random import Random

from gateway.core.accounts import Account, Priority
from gateway.core.configuration import AdmissionPolicy
from gateway.core.load import Gate, Overloaded
from gateway_load_fakes import World, account, settle, world
from hypothesis import given, settings
from hypothesis import strategies as st
from servicekit.virtual_time import VirtualLoop, in_virtual_time


def test_a_cancelled_wait_leaves_no_trace() -> None:
    async def story(loop: VirtualLoop) -> None:
        async with world(loop, limit=1) as here:
            for name in ("running", "gone", "next"):
                await here.ask(name)
            here.tasks["gone"].cancel()
            await settle()
            assert here.gate.counts.waiting == [0, 1, 0]
            await here.finish("running")
            assert here.order == ["running", "next"]

    in_virtual_time(story)


def test_a_wait_cancelled_after_it_was_given_a_place_hands_it_on() -> None:
    async def story(loop: VirtualLoop) -> None:
        async with world(loop, limit=1) as here:

            async def first() -> None:
                async with here.gate.admitted(account(), "chat"):
                    await asyncio.sleep(1)
                assert here.gate.counts.running == [0, 1, 0]
                here.tasks["given"].cancel()

            running = asyncio.create_task(first())
            await settle()
            for name in ("given", "last"):
                await here.ask(name)
            await running
            await settle()
            assert here.order == ["last"]

    in_virtual_time(story)


def test_waiters_cancelled_in_the_moment_a_place_is_free_are_passed_over() -> None:
    async def story(loop: VirtualLoop) -> None:
        async with world(loop, limit=1) as here:
            await here.ask("running")
            for name in ("gone", "next"):
                await here.ask(name)
            here.go["running"].set()
            here.tasks["gone"].cancel()
            await settle()
            assert here.order == ["running", "next"]

    in_virtual_time(story)


class Storm:
    """Requests that begin, end, are cancelled and wait as an example says; counts what runs by itself."""

    def __init__(self, here: World, limit: int, most_waiting: int) -> None:
        self._here, self._limit, self._most_waiting = here, limit, most_waiting
        self.running = 0
        self._tasks: list[tuple[asyncio.Task[None], asyncio.Event]] = []

    async def request(self, caller: Account, go: asyncio.Event) -> None:
        async with self._here.gate.admitted(caller, "chat"):
            self.running += 1
            assert self.running <= self._limit
            try:
                await go.wait()
            finally:
                self.running -= 1

    async def act(self, action: str, number: int, caller: Account) -> None:
        alive = [(task, go) for task, go in self._tasks if not task.done()]
        if action == "ask":
            go = asyncio.Event()
            self._tasks.append((asyncio.create_task(self.request(caller, go)), go))
        elif action == "wait":
            await asyncio.sleep(number % 3)
        elif alive and action == "finish":
            alive[number % len(alive)][1].set()
        elif alive:
            alive[number % len(alive)][0].cancel()

    def check(self) -> None:
        counts = self._here.gate.counts
        assert sum(counts.waiting) <= self._most_waiting
        assert not sum(counts.waiting) or sum(counts.running) >= self._limit

    async def end(self) -> None:
        for _, go in self._tasks:
            go.set()
        ends = await asyncio.gather(*(task for task, _ in self._tasks), return_exceptions=True)
        assert all(isinstance(end, (Overloaded, asyncio.CancelledError, type(None))) for end in ends)
        assert self.running == 0


CALLERS = st.builds(account, st.sampled_from("abc"), st.sampled_from(list(Priority)))
ACTION = st.sampled_from(["ask", "ask", "ask", "finish", "cancel", "wait"])


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(ACTION, st.integers(0, 30), CALLERS), max_size=80), st.integers(1, 5), st.integers(0, 12))
def test_never_more_than_the_limit_and_no_place_lost(
    actions: list[tuple[str, int, Account]], limit: int, most_waiting: int
) -> None:
    async def story(loop: VirtualLoop) -> None:
        async with world(loop, limit=limit, most_waiting=most_waiting) as here:
            storm = Storm(here, limit, most_waiting)
            for action in actions:
                await storm.act(*action)
                storm.check()
            await storm.end()
            for number in range(limit):
                await here.ask(f"after-{number}")
            assert len(here.order) == limit

    in_virtual_time(story)


def test_real_callers_cancelled_at_random_lose_no_place() -> None:
    async def storm() -> None:
        gate, random, running, most = Gate(AdmissionPolicy(5, 5, 5), most_waiting=40), Random(3), 0, 0

        async def request(number: int) -> None:
            nonlocal running, most
            async with gate.admitted(account(f"t{number % 7}", Priority(number % 3)), "chat"):
                running += 1
                most = max(most, running)
                try:
                    for _ in range(random.randint(0, 5)):
                        await asyncio.sleep(0)
                finally:
                    running -= 1

        tasks: list[asyncio.Task[None]] = []
        for number in range(3_000):
            tasks.append(asyncio.create_task(request(number)))
            if random.random() < 0.4:
                random.choice(tasks[-30:]).cancel()
            if random.random() < 0.6:
                await asyncio.sleep(0)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert most == 5
        assert (gate.counts.running, gate.counts.waiting) == ([0, 0, 0], [0, 0, 0])

    asyncio.run(storm())
