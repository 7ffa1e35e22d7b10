"""What tests of limits share: clocks turned by hand, a ledger, stores that fail, and a real Redis server."""

import asyncio
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from gateway.adapters.redis import RedisLimits, redis_limits
from gateway.core.accounts import Account, Limits, Subject
from gateway.core.limit_ports import Ask, Grant, LimitStore, Purse, Refusal, Unseeded, Used
from gateway.core.local_limits import LocalLimits
from gateway.core.metering import BudgetExhausted, Estimate, Meter, RateLimited
from servicekit.errors import Unavailable

FREE = Estimate(0, 0)
START = datetime(2026, 3, 15, 12, tzinfo=UTC)


def account(
    tenant: Limits | None = None, project: Limits | None = None, key: Limits | None = None, name: str = "acme"
) -> Account:
    """Return an account of one tenant, project and key with these limits."""
    subjects = (
        Subject("tenant", name, tenant or Limits()),
        Subject("project", f"{name}-p", project or Limits()),
        Subject("key", f"{name}-k", key or Limits()),
    )
    return Account(name, f"{name}-p", f"{name}-k", "tester", frozenset(), subjects)


async def admitted(meter: Meter, who: Account, calls: int, estimate: Estimate = FREE, name: str = "r") -> int:
    """Make calls at once; return how many were let in. None of them is settled."""

    async def one(number: int) -> bool:
        try:
            await meter.reserve(who, f"{name}-{number}", estimate)
        except (RateLimited, BudgetExhausted):
            return False
        return True

    return sum(await asyncio.gather(*(one(number) for number in range(calls))))


class HandClock:
    """A clock turned by hand: one that only goes on, and one on the wall, both in seconds."""

    def __init__(self, start: datetime = START) -> None:
        self.running_s = 1000.25
        self.put(start)

    def put(self, moment: datetime) -> None:
        """Set the clock on the wall."""
        self.wall_s = moment.timestamp()
        self._ahead_s = self.wall_s - time.time()

    def turn(self, seconds: float) -> None:
        self.wall_s += seconds
        self._ahead_s += seconds
        self.running_s += seconds

    def wall(self) -> float:
        return self.wall_s

    def running(self) -> float:
        return self.running_s

    def shift_s(self) -> float:
        """Return by how much a server's own clock, which goes on between two turns, is behind."""
        return self._ahead_s


class FakeSpend:
    """A ledger: what each subject spent, and how often that was asked."""

    def __init__(self) -> None:
        self.spent_nanos: Counter[tuple[str, str]] = Counter()
        self.asked: list[tuple[str, str, datetime]] = []
        self.is_down = False

    async def spent(self, subject_kind: str, subject_id: str, since: datetime) -> int:
        await asyncio.sleep(0)
        if self.is_down:
            raise Unavailable("the ledger is down")
        self.asked.append((subject_kind, subject_id, since))
        return self.spent_nanos[subject_kind, subject_id]

    def book(self, who: Account, nanos: int) -> None:
        """Write down what an account spent."""
        for subject in who.subjects:
            self.spent_nanos[subject.kind, subject.id] += nanos


class FailingStore:
    """A shared store that can be lost: before it acts (`down`), after it acted (`mute`), or hanging."""

    def __init__(self, inside: LimitStore) -> None:
        self.inside = inside
        self.state = "up"
        self.calls = 0
        self.hanging = asyncio.Event()

    async def _enter(self) -> None:
        self.calls += 1
        if self.state == "down":
            raise Unavailable("down")

    async def _leave(self) -> None:
        if self.state == "mute":
            raise Unavailable("no answer")
        if self.state == "hang":
            self.hanging.set()
            await asyncio.Event().wait()

    async def reserve(self, ask: Ask) -> Grant | Refusal | Unseeded:
        await self._enter()
        answer = await self.inside.reserve(ask)
        await self._leave()
        return shared(answer)

    async def settle(self, grant: Grant, used: Used, late: bool = False) -> None:
        await self._enter()
        await self.inside.settle(grant, used, late)
        await self._leave()

    def settle_now(self, grant: Grant, used: Used) -> bool:
        return False

    async def renew(self, grant: Grant, lease_s: float) -> None:
        await self._enter()
        await self.inside.renew(grant, lease_s)

    async def seed(self, tenant: str, purse: Purse, spent_nanos: int) -> None:
        await self._enter()
        await self.inside.seed(tenant, purse, spent_nanos)


def shared(answer: Grant | Refusal | Unseeded) -> Grant | Refusal | Unseeded:
    """Return an answer as one of a store that all processes see."""
    if isinstance(answer, Grant):
        purses = tuple(purse._replace(shared=True) for purse in answer.unchecked)
        return Grant(
            answer.ask, answer.at_s, answer.day, answer.month, answer.requests, answer.tokens, purses, shared=True
        )
    if isinstance(answer, Unseeded):
        return Unseeded(tuple(purse._replace(shared=True) for purse in answer.purses))
    return answer


def _free_port() -> int:
    """Return a free port whose tenth thousand above, which is a cluster's, is a port too."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port < 55_000:
            return port


class RedisServer:
    """A Redis server of a test's own."""

    def __init__(self, folder: Path, *options: str) -> None:
        program = shutil.which("redis-server")
        if program is None:
            pytest.skip("there is no redis-server on this machine")
        self._program, self._folder, self._options = program, folder, options
        self.port = _free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        fixed = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.process = subprocess.Popen(
            [self._program, *fixed, "--dir", str(self._folder), *self._options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + 10
        while not self._answers():
            assert time.monotonic() < end, "redis-server does not start"
            time.sleep(0.01)

    def kill(self) -> None:
        """End it at once."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait(10)
            self.process = None

    def pause(self) -> None:
        """Let it hang: connections stay, answers do not come."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(7) in {b"+PONG\r\n", b"-NOAUTH"}
        except OSError:
            return False


@contextmanager
def redis_server(folder: Path, *options: str) -> Iterator[RedisServer]:
    """Run a Redis server while the block lasts; skip where there is none to run."""
    server = RedisServer(folder, *options)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@asynccontextmanager
async def redis_store(
    server: RedisServer, shift_s: Callable[[], float], timeout_s: float = 5.0
) -> AsyncIterator[RedisLimits]:
    """Open an empty store in a running server, with time shifted by a hand clock."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(b"FLUSHALL\r\n")
        assert connection.recv(5) == b"+OK\r\n"
    async with redis_limits(server.url, timeout_s, shift_s) as store:
        yield store


def local_store(clock: HandClock, processes: int = 1) -> LocalLimits:
    """Return a store in memory that goes by a hand clock."""
    return LocalLimits(clock.running, clock.wall, processes)
