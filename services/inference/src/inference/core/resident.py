"""Runs a model that is loaded on request: each attempt holds a lease, which says where the model is."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Final, Protocol, TypeVar

from servicekit.errors import PenstockError, Unavailable

from inference.core import work_clock
from inference.core.attempt import Attempt
from inference.core.golden import Outcome
from inference.core.ports import BACKEND_FAILED, GOLDEN_INVALID, LOADING, NOT_LOADED, BackendLost
from inference.core.replica import Replica
from inference.core.replicas import Replicas
from inference.core.retry import RetryBudget, may_go_elsewhere

MOST_ATTEMPTS: Final = 3
PROOF_TIMEOUT_S: Final = 30.0
PROOF_PERIOD_S: Final = 0.05
LOST_AFTER_S: Final = 3.0
T = TypeVar("T")


class Leases(Protocol):
    """Says where a model is loaded, and keeps it there while that is in use."""

    def lease(self, model: str, wait_s: float) -> AbstractAsyncContextManager[str]:
        """Yield an address where the model stays loaded inside; raise Unavailable when there is none in time."""
        ...

    def missing(self, model: str, address: str) -> None:
        """Learn that a server did not have the model after all."""
        ...

    def doubted(self, model: str, address: str) -> None:
        """Learn that a model's answers at an address cannot be trusted any more."""
        ...

    def lost(self, address: str) -> None:
        """Learn that a server died."""
        ...


class Residence:
    """One model of a server group whose models are loaded on request; `name` is the model's at the servers."""

    def __init__(
        self, leases: Leases, name: str, replicas: Replicas, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Take who gives leases, and the model's replicas; the clock is in seconds."""
        self._leases = leases
        self._name = name
        self._replicas = replicas
        self._clock = clock
        self._budget = RetryBudget(clock)

    async def once(self, run: Callable[[Replica, float], Awaitable[T]], timeout_s: float, key: str = "") -> T:  # noqa: ARG002
        """Return what one answer brings, within `timeout_s` for the wait and all attempts together.

        Where the model is loaded decides, and no key.
        """
        end = self._clock() + timeout_s
        self._budget.earn()
        for attempt in range(MOST_ATTEMPTS):
            asked = self._clock()
            async with self._leases.lease(self._name, end - asked) as address:
                work_clock.paused(self._clock() - asked)
                replica = await self._at(address)
                try:
                    with Attempt(replica):
                        return await run(replica, max(0.0, end - self._clock()))
                except PenstockError as error:
                    if not self._goes_on(replica, error, attempt):
                        raise
        raise AssertionError("the last attempt returns or raises")

    async def streamed(
        self,
        run: Callable[[Replica, float], AsyncGenerator[T, None]],
        timeout_s: float,
        key: str = "",  # noqa: ARG002
    ) -> AsyncGenerator[T, None]:
        """Yield what comes; there is no other attempt once anything has."""
        end, begun = self._clock() + timeout_s, False
        self._budget.earn()
        for attempt in range(MOST_ATTEMPTS):
            asked = self._clock()
            async with self._leases.lease(self._name, end - asked) as address:
                work_clock.paused(self._clock() - asked)
                replica = await self._at(address)
                try:
                    with Attempt(replica):
                        async with aclosing(run(replica, max(0.0, end - self._clock()))) as parts:
                            async for part in parts:
                                begun = True
                                yield part
                except PenstockError as error:
                    if not self._goes_on(replica, error, MOST_ATTEMPTS if begun else attempt):
                        raise
                else:
                    return

    async def _at(self, address: str) -> Replica:
        """Return the replica at an address; raise Unavailable when it cannot be trusted, even at a second look."""
        replica = self._replicas.at(address)
        if replica is not None and not replica.sound:
            await replica.check()
        if replica is None or not replica.sound:
            self._leases.doubted(self._name, address)
            raise Unavailable(f"{self._replicas.model} is not ready", reason=BACKEND_FAILED, retry_after_s=1.0)
        return replica

    def _goes_on(self, replica: Replica, error: PenstockError, attempt: int) -> bool:
        """Pass a failure on to who gives the leases, and tell whether there is to be another attempt."""
        if isinstance(error, BackendLost):
            self._leases.lost(replica.address)
        elif error.reason in (NOT_LOADED, LOADING):
            self._leases.missing(self._name, replica.address)
        return attempt + 1 < MOST_ATTEMPTS and may_go_elsewhere(error) and self._budget.spend()


async def prove(replica: Replica, clock: Callable[[], float] = time.monotonic) -> str:
    """Look at a replica whose model has just been loaded; return what is wrong with its answers, or nothing.

    Raises BackendLost when its server has not answered for some seconds; a connection that comes up anew may take one.
    """
    replica.doubt()
    answered = clock()
    try:
        async with asyncio.timeout(PROOF_TIMEOUT_S):
            while True:
                await replica.check()
                if replica.sound:
                    return ""
                if replica.state.reason == GOLDEN_INVALID:
                    return replica.state.detail
                if replica.verdict is not None and replica.verdict.outcome is Outcome.WRONG:
                    return replica.verdict.detail
                if replica.state.reason != BACKEND_FAILED:
                    answered = clock()
                elif clock() - answered > LOST_AFTER_S:
                    raise BackendLost(f"the server of {replica.model} is gone", retry_after_s=1.0)
                await asyncio.sleep(PROOF_PERIOD_S)
    except TimeoutError:
        return "it did not answer its golden questions"
