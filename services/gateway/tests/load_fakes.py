"""A world in virtual time: a server with few workers, and callers."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Final

from gateway.core.accounts import Account, Priority
from gateway.core.configuration import AdmissionPolicy
from gateway.core.load import Gate
from servicekit.errors import Unavailable
from servicekit.virtual_time import VirtualLoop, in_virtual_time


def account(tenant: str = "acme", priority: Priority = Priority.STANDARD) -> Account:
    """A caller of a tenant and a class."""
    return Account(tenant, "default", "key-1", "tester", frozenset(), priority=priority)


class Server:
    """What stands behind the gate: so many workers, and a queue without end before them, first come first served."""

    def __init__(self, workers: int, mean_s: float, random: Random) -> None:
        self.workers = workers
        self.mean_s = mean_s
        self.busy = 0
        self._random = random
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def rate(self) -> float:
        """The most it can answer in a second."""
        return self.workers / self.mean_s

    async def answer(self) -> None:
        """Answer one request: wait for a worker, then work; times vary with a coefficient of 0.5."""
        if self.busy >= self.workers:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._queue.append(turn)
            await turn
        else:
            self.busy += 1
        await asyncio.sleep(self._random.gammavariate(4, self.mean_s / 4))
        self.busy -= 1
        while self._queue and self.busy < self.workers:
            self.busy += 1
            self._queue.popleft().set_result(None)


@dataclass(frozen=True, slots=True)
class Caller:
    """Sends requests at random moments, so many a second, whatever becomes of them."""

    tenant: str
    priority: Priority
    rate: float


@dataclass(slots=True)
class Told:
    """What became of the requests of one caller since the measuring began; times are seconds, gate and server."""

    served_s: list[float] = field(default_factory=list)
    shed: int = 0
    retry_after_s: list[float] = field(default_factory=list)

    def p99_s(self) -> float:
        """Return the 99th percentile of the time to the answer."""
        return sorted(self.served_s)[int(len(self.served_s) * 0.99)]


class Simulation:
    """Callers, a gate and a server in virtual time. `limits` has the limit as it was every half second.

    At `change[0]` seconds the server's workers become `change[1]`.
    """

    change: tuple[float, int] | None = None

    def __init__(
        self, policy: AdmissionPolicy, workers: int, mean_s: float, seed: int, most_waiting: int = 128
    ) -> None:
        self.random = Random(seed)
        self.server = Server(workers, mean_s, self.random)
        self.limits: list[int] = []
        self.told: dict[Caller, Told] = {}
        self.most_running = 0
        self._policy, self._most_waiting = policy, most_waiting

    def run(self, callers: Sequence[Caller], seconds: float, measured_from_s: float = 0.0) -> None:
        """Let the callers call for so long; count what becomes of those that began at `measured_from_s` or later."""
        self.told = {caller: Told() for caller in callers}

        async def world(loop: VirtualLoop) -> None:
            self.gate = Gate(self._policy, self._most_waiting, clock_s=loop.time, remaining_s=lambda: None)
            start_s = loop.time()
            self._from_s, self._end_s = start_s + measured_from_s, start_s + seconds
            if self.change is not None:
                loop.call_later(self.change[0], setattr, self.server, "workers", self.change[1])
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._watch(loop))
                for caller in callers:
                    tasks.create_task(self._call(caller, loop, tasks))

        in_virtual_time(world)

    def served(self, priority: Priority) -> int:
        """Return how many of a class were answered."""
        return sum(len(told.served_s) for caller, told in self.told.items() if caller.priority == priority)

    def shed_share(self, priority: Priority) -> float:
        """Return the share of a class that was turned away."""
        shed = sum(told.shed for caller, told in self.told.items() if caller.priority == priority)
        return shed / max(1, shed + self.served(priority))

    def evenness(self, priority: Priority) -> float:
        """Return what the tenant served least got, over what the one served most got."""
        served = [len(told.served_s) for caller, told in self.told.items() if caller.priority == priority]
        return min(served) / max(served)

    async def _watch(self, loop: VirtualLoop) -> None:
        while loop.time() < self._end_s:
            self.limits.append(self.gate.limit_of("chat"))
            await asyncio.sleep(0.5)

    async def _call(self, caller: Caller, loop: VirtualLoop, tasks: asyncio.TaskGroup) -> None:
        while loop.time() < self._end_s:
            tasks.create_task(self._request(caller, loop))
            await asyncio.sleep(self.random.expovariate(caller.rate))

    async def _request(self, caller: Caller, loop: VirtualLoop) -> None:
        told, start_s = self.told[caller], loop.time()
        measured = start_s >= self._from_s
        try:
            async with self.gate.admitted(account(caller.tenant, caller.priority), "chat"):
                self.most_running = max(self.most_running, sum(self.gate.counts.running))
                await self.server.answer()
        except Unavailable as refusal:
            told.shed += measured
            assert refusal.retry_after_s is not None
            told.retry_after_s.append(refusal.retry_after_s)
            return
        if measured and loop.time() <= self._end_s:
            told.served_s.append(loop.time() - start_s)


ROOM: Final = dict.fromkeys(Priority, 4)


class World:
    """A gate of a fixed limit in virtual time, and requests that run until they are let go."""

    def __init__(
        self, loop: VirtualLoop, limit: int = 2, most_waiting: int = 8, room: Mapping[Priority, int] = ROOM
    ) -> None:
        self.left_s: float | None = None
        self.loop = loop
        policy = AdmissionPolicy(limit, limit, limit, room)
        self.gate = Gate(policy, most_waiting, clock_s=loop.time, remaining_s=lambda: self.left_s)
        self.order: list[str] = []
        self.go: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def ask(
        self, name: str, priority: Priority = Priority.STANDARD, tenant: str = "acme", route: str = "chat"
    ) -> asyncio.Task[None]:
        """Begin a request, and let it get as far as it can."""
        self.go[name] = asyncio.Event()

        async def request() -> None:
            async with self.gate.admitted(account(tenant, priority), route):
                self.order.append(name)
                await self.go[name].wait()

        self.tasks[name] = asyncio.create_task(request())
        await settle()
        return self.tasks[name]

    async def finish(self, name: str) -> None:
        """Let a running request end, a little later."""
        await asyncio.sleep(0.1)
        self.go[name].set()
        await settle()

    async def end(self) -> None:
        """Let everything end, and see that nothing is left behind."""
        for event in self.go.values():
            event.set()
        ends = await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        assert all(isinstance(end, (Unavailable, asyncio.CancelledError, type(None))) for end in ends)
        assert self.gate.counts.running == [0, 0, 0]
        assert self.gate.counts.waiting == [0, 0, 0]


async def settle() -> None:
    """Let everything go as far as it can without time passing."""
    for _ in range(5):
        await asyncio.sleep(0)


@asynccontextmanager
async def world(loop: VirtualLoop, **how: object) -> AsyncIterator[World]:
    """Make a world; at the end, see that nothing is left behind."""
    made = World(loop, **how)  # type: ignore[arg-type]
    yield made
    await made.end()


async def measured(here: World, seconds: float, route: str = "chat", times: int = 10) -> None:
    """Let the gate see some requests that take so long."""
    for _ in range(times):
        async with here.gate.admitted(account(), route):
            await asyncio.sleep(seconds)


def refusal(task: "asyncio.Task[None]") -> Unavailable:
    """Return why a request was turned away."""
    error = task.exception()
    assert isinstance(error, Unavailable)
    return error
