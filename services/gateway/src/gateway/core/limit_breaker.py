"""Stands between metering and a shared store that may be slow or gone: stops asking it, and acts by declared policy."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final, TypeVar

from servicekit.errors import Unavailable
from servicekit.telemetry.metrics import counter, gauge

from gateway.core.limit_ports import Ask, Grant, LimitStore, Purse, Refusal, Unseeded, Used
from gateway.core.local_limits import LocalLimits

FAILURES: Final = 3
OPEN_S: Final = 5.0
MOST_UNSETTLED: Final = 10_000
SETTLED_AT_ONCE: Final = 16
LONGEST_WAIT_S: Final = 120.0
GIVEN_BACK: Final = Used(0, 0, 0)

log = logging.getLogger(__name__)
FAILED = counter("penstock_gateway_limit_store_failures", "Questions the shared store of limits did not answer")
FALLBACK = counter("penstock_gateway_limit_fallbacks", "Reservations decided without the shared store", ["policy"])
LOST = counter("penstock_gateway_limit_settlements_lost", "Settlements given up; their leases run out")
OPEN = gauge("penstock_gateway_limit_breaker_open", "1 while the shared store of limits is not asked")

Answer = TypeVar("Answer")


class LimitsUnavailable(Unavailable):
    """The shared store of limits cannot be used, and the policy is to serve nobody without it."""

    default_reason = "limits_unavailable"


class GuardedLimits:
    """Implements LimitStore over a shared store, and over `local`, or nothing (policy `closed`), while that is lost.

    After `failures` failures in a row the shared store is left alone for `open_s` seconds; then one call tries it.
    Questions that were open together count as one failure.
    Settlements it did not take are kept, a bounded number, and sent when it is back. `clock` only goes on, in seconds.
    """

    def __init__(
        self,
        shared: LimitStore,
        local: LocalLimits | None,
        failures: int = FAILURES,
        open_s: float = OPEN_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shared = shared
        self._local = local
        self._most_failures = failures
        self._open_s = open_s
        self._clock = clock
        self._failures = 0
        self._open_until_s: float | None = None
        self._is_probing = False
        self._was_lost = False
        self._verified_after_s = 0.0
        self._tries = 0
        self._unsettled: deque[tuple[Grant, Used]] = deque()

    @property
    def is_open(self) -> bool:
        """Whether the shared store is left alone."""
        return self._open_until_s is not None

    async def reserve(self, ask: Ask) -> Grant | Refusal | Unseeded:
        """Reserve in the shared store, or by the policy; raise LimitsUnavailable where that is `closed`."""
        answer = await self._ask_shared(ask)
        if answer is not None and self._unsettled:
            await self._send_unsettled()
            if isinstance(answer, Refusal):  # perhaps only because of what was not settled yet
                answer = await self._ask_shared(ask)
        if answer is None:
            return await self._by_policy(ask)
        if isinstance(answer, Grant):
            if self._was_lost:
                self._found_again(answer)
            if answer.ask.verified_after_s < self._verified_after_s:
                await self.settle(answer, GIVEN_BACK)
                return await self.reserve(ask)
        return answer

    async def _ask_shared(self, ask: Ask) -> Grant | Refusal | Unseeded | None:
        asked = self._worded(ask)
        unseen = Grant(asked, 0.0, 0, 0, None, None, (), shared=True)
        return await self._try(lambda: self._shared.reserve(asked), (unseen, GIVEN_BACK))

    def _worded(self, ask: Ask) -> Ask:
        """Return how the shared store is asked; under an id of its own while an earlier try may still stand there."""
        if self._unsettled:
            self._tries += 1
            return replace(ask, id=f"{ask.id}~{self._tries}", verified_after_s=self._verified_after_s)
        return replace(ask, verified_after_s=self._verified_after_s) if self._verified_after_s else ask

    async def settle(self, grant: Grant, used: Used, late: bool = False) -> None:
        """Settle where it was reserved, now or when that store is back; does not fail."""
        if not grant.shared:
            if self._local is not None:
                await self._local.settle(grant, used, late)
        elif self._may_ask():
            await self._try(lambda: _done(self._shared.settle(grant, used, late)), (grant, used))
        else:
            self._keep(grant, used)

    def settle_now(self, grant: Grant, used: Used) -> bool:
        """Settle what this process reserved by itself; the shared store has to be waited for."""
        return not grant.shared and self._local is not None and self._local.settle_now(grant, used)

    async def renew(self, grant: Grant, lease_s: float) -> None:
        """Renew where it was reserved; a lost store renews nothing, and the next renewal may come in time."""
        if grant.shared:
            await self._try(lambda: _done(self._shared.renew(grant, lease_s)))
        elif self._local is not None:
            await self._local.renew(grant, lease_s)

    async def seed(self, tenant: str, purse: Purse, spent_nanos: int) -> None:
        """Tell the store that asked what was spent; when it is lost in between, the next one asks again."""
        if purse.shared:
            await self._try(lambda: _done(self._shared.seed(tenant, purse, spent_nanos)))
        elif self._local is not None:
            await self._local.seed(tenant, purse, spent_nanos)

    async def _try(
        self, ask: Callable[[], Awaitable[Answer]], unsettled: tuple[Grant, Used] | None = None
    ) -> Answer | None:
        """Return what the shared store says, or None when it is not asked or does not answer.

        A question without an answer may have changed it, also that of a caller who left: `unsettled` makes that good.
        """
        if not self._may_ask():
            return None
        probes = self._is_probing = self._open_until_s is not None
        failures = self._failures
        try:
            answer = await ask()
        except Unavailable:
            self._failed(failures)
            if unsettled is not None:
                self._keep(*unsettled)
            return None
        except asyncio.CancelledError:
            if unsettled is not None:
                self._keep(*unsettled)
            raise
        finally:
            if probes:
                self._is_probing = False
        self._went_well()
        return answer

    def _may_ask(self) -> bool:
        return self._open_until_s is None or (self._clock() >= self._open_until_s and not self._is_probing)

    def _failed(self, before: int) -> None:
        """Count a failure, `before` being how many there were when it was asked: a short silence fails many at once."""
        FAILED.inc()
        if before != self._failures:
            return
        self._failures += 1
        if self._failures < self._most_failures:
            return
        if self._open_until_s is None:
            log.warning("the shared store of limits does not answer; limits are kept by the declared policy")
            OPEN.set(1)
        self._open_until_s = self._clock() + self._open_s

    def _went_well(self) -> None:
        self._failures = 0
        if self._open_until_s is not None:
            self._open_until_s = None
            log.warning("the shared store of limits answers again")
            OPEN.set(0)

    async def _by_policy(self, ask: Ask) -> Grant | Refusal | Unseeded:
        if self._local is None:
            FALLBACK.labels("closed").inc()
            wait_s = 1.0 if self._open_until_s is None else self._open_until_s - self._clock()
            wait_s = min(max(wait_s, 1.0), LONGEST_WAIT_S)
            raise LimitsUnavailable("limits cannot be checked now", retry_after_s=wait_s)
        FALLBACK.labels("local").inc()
        self._was_lost = True
        return await self._local.reserve(ask)

    def _found_again(self, grant: Grant) -> None:
        """Distrust what the shared store knows of spend: it did not see what was spent without it."""
        self._was_lost = False
        self._verified_after_s = grant.at_s
        if self._local is not None:
            self._local.clear()

    def _keep(self, grant: Grant, used: Used) -> None:
        if len(self._unsettled) >= MOST_UNSETTLED:
            self._unsettled.popleft()
            LOST.inc()
        self._unsettled.append((grant, used))

    async def _send_unsettled(self) -> None:
        for _ in range(SETTLED_AT_ONCE):
            if not self._unsettled or self._failures:
                return
            grant, used = self._unsettled.popleft()
            await self.settle(grant, used, late=True)


async def _done(action: Awaitable[None]) -> bool:
    await action
    return True
