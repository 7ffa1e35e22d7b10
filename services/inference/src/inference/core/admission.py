"""The bounded queue in front of a model: so many run, so many wait, in the order they came."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from servicekit.errors import Unavailable

from inference.core.catalogue import QueueLimits

LONGEST_RETRY_AFTER_S: Final = 60.0
SMOOTHING: Final = 0.1


class Admission:
    """Hands out the slots of one model, first come, first served."""

    def __init__(self, model: str, limits: QueueLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._model = model
        self._limits = limits
        self._clock = clock
        self._running = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._mean_hold_s = 0.0
        self._draining = False

    @property
    def running(self) -> int:
        """How many hold a slot."""
        return self._running

    @property
    def waiting(self) -> int:
        """How many wait for one."""
        return len(self._waiting)

    def slot(self, wait_s: float) -> "Slot":
        """Hold a slot inside an `async with`, after waiting for it at most `wait_s` seconds; raise as `enter` does."""
        return Slot(self, wait_s)

    async def enter(self, wait_s: float) -> float:
        """Take a slot, after waiting for it at most `wait_s` seconds; return the moment, which `leave` is to be told.

        Raises Unavailable with reason queue_full, queue_timeout or draining, and when a retry may do.
        """
        if self._draining:
            raise self._refused()
        if self._running < self._limits.max_concurrent:
            self._running += 1
        else:
            await self._wait(wait_s)
        return self._clock()

    def leave(self, entered: float) -> None:
        """Give back a slot that was taken at the moment `entered`."""
        self._mean_hold_s += SMOOTHING * (self._clock() - entered - self._mean_hold_s)
        self._pass_on()

    def drain(self) -> None:
        """Refuse whoever waits and whoever comes from now on; those who run are left alone."""
        self._draining = True
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(self._refused())

    async def _wait(self, wait_s: float) -> None:
        if len(self._waiting) >= self._limits.max_waiting:
            raise Unavailable(
                f"the queue of {self._model} is full", reason="queue_full", retry_after_s=self._retry_after_s()
            )
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(wait_s):
                await turn
        except TimeoutError as error:
            self._give_up(turn)
            raise Unavailable(
                f"no slot of {self._model} came free in time",
                reason="queue_timeout",
                retry_after_s=self._retry_after_s(),
            ) from error
        except asyncio.CancelledError:
            self._give_up(turn)
            raise

    def _give_up(self, turn: asyncio.Future[None]) -> None:
        """Leave the queue; a slot that was handed over in the same moment goes to the next."""
        if turn in self._waiting:
            self._waiting.remove(turn)
        elif not turn.cancelled() and turn.exception() is None:
            self._pass_on()

    def _pass_on(self) -> None:
        """Give the slot to who has waited longest, or put it back."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._running -= 1

    def _retry_after_s(self) -> float:
        """Estimate when a slot is free for one more: those ahead, each as long as the latest ones took."""
        ahead = len(self._waiting) + 1
        return min(max(1.0, ahead * self._mean_hold_s / self._limits.max_concurrent), LONGEST_RETRY_AFTER_S)

    def _refused(self) -> Unavailable:
        return Unavailable("the pool is shutting down", reason="draining", retry_after_s=1.0)


class Slot:
    """A slot held inside an `async with`; a class, because a generator would cost each request twice as much."""

    __slots__ = ("_admission", "_entered", "_wait_s")

    def __init__(self, admission: Admission, wait_s: float) -> None:
        """Take whose slot it is and how long to wait for it."""
        self._admission = admission
        self._wait_s = wait_s
        self._entered = 0.0

    async def __aenter__(self) -> None:
        """Wait for the slot."""
        self._entered = await self._admission.enter(self._wait_s)

    async def __aexit__(self, *_: object) -> None:
        """Give the slot back."""
        self._admission.leave(self._entered)
