"""One text on its way through the encoder, and the callers that wait for it."""

import asyncio
import contextvars
import math
import time
from collections.abc import Callable

from servicekit.errors import TimedOut

from embedding.core.ports import TOKEN_BYTES, Fingerprint, TokenIds, Vector


class Waiter:
    """One caller waiting for several flights; wakes once, when the last has landed or the first has failed."""

    __slots__ = ("context", "deadline_s", "done", "flights", "missing")

    def __init__(self, remaining_s: float | None) -> None:
        """Take the caller's context and, in seconds from now, his deadline."""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.flights: list[Flight] = []
        self.missing = 0
        self.context = contextvars.copy_context()
        self.deadline_s = math.inf if remaining_s is None else time.monotonic() + remaining_s

    def join(self, flight: "Flight") -> None:
        """Wait for this flight too."""
        flight.waiters[self] = None
        self.flights.append(flight)
        self.missing += 1

    async def wait(self) -> None:
        """Return when every flight has landed; raise the error of the first that failed, TimedOut at the deadline."""
        if not self.missing:
            return
        if self.deadline_s == math.inf:
            await self.done
            return
        # one timer, where asyncio.timeout makes three objects and looks the task up twice
        left_s = self.deadline_s - time.monotonic()
        timer = asyncio.get_running_loop().call_later(left_s, self._expire)
        try:
            await self.done
        finally:
            timer.cancel()

    def _expire(self) -> None:
        if not self.done.done():
            self.done.set_exception(TimedOut("the deadline passed while the texts were being encoded"))

    def leave(self) -> list["Flight"]:
        """Stop waiting; return the flights that nobody waits for any more."""
        if not self.done.cancel() and not self.done.cancelled():
            self.done.exception()  # seen, so that asyncio does not report it
        left = [flight for flight in self.flights if flight.waiters.pop(self, self) is None]
        return [flight for flight in left if not flight.waiters]


class Flight:
    """A distinct text being encoded. It ends exactly once: `land`, `fail` or `abandon`."""

    __slots__ = ("_settle", "fingerprint", "key", "length", "queued_at_s", "tokens", "vector", "waiters")

    def __init__(
        self, key: bytes, tokens: TokenIds, fingerprint: Fingerprint, settle: Callable[["Flight"], None]
    ) -> None:
        """Remember whom to tell about the end: `settle` sees the vector, or None when there is none."""
        self.key = key
        self.tokens = tokens
        self.length = len(tokens) // TOKEN_BYTES
        self.fingerprint = fingerprint
        self.queued_at_s = time.monotonic()
        self.vector: Vector | None = None
        self.waiters: dict[Waiter, None] = {}
        self._settle = settle

    def land(self, vector: Vector) -> None:
        """Hand the vector to every waiter."""
        self.vector = vector
        self._settle(self)
        for waiter in self.waiters:
            waiter.missing -= 1
            if not waiter.missing and not waiter.done.done():
                waiter.done.set_result(None)
        self.waiters.clear()

    def fail(self, error: BaseException) -> None:
        """Hand the error to every waiter."""
        self._settle(self)
        for waiter in self.waiters:
            if not waiter.done.done():
                waiter.done.set_exception(error)
        self.waiters.clear()

    def abandon(self) -> None:
        """End without anybody waiting; the next caller of this text starts anew."""
        self._settle(self)
