"""Reserves what a call may take, before it takes it, and settles afterwards what it really took."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final
from weakref import WeakValueDictionary

from servicekit.errors import QuotaExceeded, Unavailable
from servicekit.telemetry.metrics import counter

from gateway.core import quotas
from gateway.core.accounts import Account, Limits, Subject
from gateway.core.budgets import start_of
from gateway.core.limit_ports import (
    LONGEST_LEASE_S,
    Ask,
    Grant,
    LimitStore,
    Measure,
    Purse,
    Quota,
    Refusal,
    SpendSource,
    Unseeded,
    Used,
)
from gateway.core.pricing import MOST_NANOS

LEASE_S: Final = 900.0
SEEDING_TRIES: Final = 4
SHORTEST_WAIT_S: Final = 1.0
LONGEST_WAIT_S: Final = 120.0
BUDGETS: Final = {Measure.DAY: ("daily", "00:00 UTC"), Measure.MONTH: ("monthly", "the first of the month, UTC")}
LIMITS: Final = {
    Measure.REQUESTS: "requests per minute",
    Measure.TOKENS: "tokens per minute",
    Measure.CONCURRENCY: "concurrent requests",
}

REFUSED = counter(
    "penstock_gateway_limit_refusals", "Calls that a limit or budget refused", ["measure", "subject_kind"]
)
UNVERIFIED = counter("penstock_gateway_limit_unverified_spend", "Comparisons with the ledger not made")


class RateLimited(QuotaExceeded):
    """A limit of requests, tokens or concurrent requests is used up; `reason` says which.

    `retry_after_s` is when it can go well, 1 to 120. `retry` is False when the call alone is over the limit. `quota` is
    the limit that refused; `measure` says what it counts.
    """

    def __init__(self, refusal: Refusal) -> None:
        what, quota, subject = LIMITS[refusal.measure], refusal.quota, refusal.subject
        message = f"the {subject.kind} {subject.id} may take {quota.limit} {what}, and {quota.remaining} are left"
        super().__init__(message, reason=refusal.measure.value, retry_after_s=_waiting(refusal))
        self.retry = refusal.wait_s is not None
        self.measure = refusal.measure
        self.quota = quota


class BudgetExhausted(QuotaExceeded):
    """What is left of a budget does not pay for this call. Clients must not try again by themselves."""

    default_reason = "budget_exhausted"
    retry: ClassVar[bool] = False

    def __init__(self, refusal: Refusal) -> None:
        period, start = BUDGETS[refusal.measure]
        subject = refusal.subject
        message = (
            f"the {period} budget of the {subject.kind} {subject.id} does not cover this call; it renews at {start}"
        )
        super().__init__(message, retry_after_s=_waiting(refusal))
        self.measure = refusal.measure


class SpendUnknown(Unavailable):
    """What was spent from a budget cannot be told now, so nothing may be spent from it."""

    default_reason = "spend_unknown"


@dataclass(frozen=True, slots=True)
class Estimate:
    """The most that a call or an attempt is expected to take: tokens of both directions, nano-dollars; 0 is free.

    `likely_input_tokens` is what a backend has read by then, probably, whose caller leaves before it says a word.
    """

    tokens: int
    cost_nanos: int
    likely_input_tokens: int = 0


@dataclass(slots=True, eq=False)
class Reservation:
    """What one call holds until it is settled. `requests` and `tokens` are the tightest quotas, for headers."""

    id: str
    grant: Grant | None = None
    renew_at_s: float = 0.0
    is_open: bool = True

    @property
    def requests(self) -> Quota | None:
        """Requests per minute as they stand, None when they are not limited."""
        return self.grant.requests if self.grant else None

    @property
    def tokens(self) -> Quota | None:
        """Tokens per minute as they stand, None when they are not limited."""
        return self.grant.tokens if self.grant else None


NOTHING_RESERVED: Final = Reservation("", None, is_open=False)
"""The reservation of every account without limits."""


class Meter:
    """Keeps the limits of all subjects of an account: none is passed, however many calls come at once.

    `lease_s` is how long a reservation stands without being renewed, at most an hour. `clock` only goes on, in seconds.
    """

    def __init__(
        self,
        store: LimitStore,
        spend: SpendSource,
        clock: Callable[[], float] = time.monotonic,
        lease_s: float = LEASE_S,
    ) -> None:
        if not 1 <= lease_s <= LONGEST_LEASE_S:
            raise ValueError(f"a lease lasts 1 to {LONGEST_LEASE_S} s")
        self._store = store
        self._spend = spend
        self._clock = clock
        self._lease_s = lease_s
        self._seeding: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def reserve(self, account: Account, reservation_id: str, estimate: Estimate) -> Reservation:
        """Reserve of all of an account's subjects, or of none.

        Raise RateLimited or BudgetExhausted when a limit is in the way; Unavailable when limits cannot be told.
        """
        subjects = _limited(account.subjects)
        if not subjects:
            return NOTHING_RESERVED
        tokens, cost_nanos = estimate.tokens, estimate.cost_nanos
        if not (0 <= tokens <= MOST_NANOS and 0 <= cost_nanos <= MOST_NANOS):
            raise ValueError("an estimate is 0 or more, and less than 2**53")
        ask = Ask(reservation_id, account.tenant, subjects, tokens, cost_nanos, self._lease_s)
        answer = await self._store.reserve(ask)
        if isinstance(answer, Unseeded):
            answer = await self._seed_and_reserve(ask, answer)
        quotas.tell(answer)
        if isinstance(answer, Grant):
            return Reservation(reservation_id, answer, self._clock() + self._lease_s / 2)
        REFUSED.labels(answer.measure.value, answer.subject.kind).inc()
        raise BudgetExhausted(answer) if answer.measure in BUDGETS else RateLimited(answer)

    async def settle(self, reservation: Reservation, tokens: int, cost_nanos: int) -> None:
        """Replace what was reserved by what was used, more or less; free the slot. The second time does nothing."""
        await self._close(reservation, _used(tokens, cost_nanos))

    def settle_now(self, reservation: Reservation, tokens: int, cost_nanos: int) -> bool:
        """Settle where that needs no waiting, which spares a task; return False, with nothing done, where it does."""
        grant = reservation.grant
        if grant is None or not reservation.is_open:
            return True
        if grant.unchecked or not self._store.settle_now(grant, _used(tokens, cost_nanos)):
            return False
        reservation.is_open = False
        return True

    async def release(self, reservation: Reservation) -> None:
        """Give everything back, the request too: no upstream was asked. Do not use it when one was."""
        await self._close(reservation, Used(0, 0, 0))

    async def renew(self, reservation: Reservation) -> None:
        """Keep a long call's reservation; may be called for every chunk, for it works twice per lease at most."""
        grant = reservation.grant
        if grant is None or not reservation.is_open or self._clock() < reservation.renew_at_s:
            return
        reservation.renew_at_s = self._clock() + self._lease_s / 2
        await self._store.renew(grant, self._lease_s)

    async def _close(self, reservation: Reservation, used: Used) -> None:
        grant = reservation.grant
        if grant is None or not reservation.is_open:
            return
        reservation.is_open = False
        await self._store.settle(grant, used)
        for purse in grant.unchecked:
            await self._check(grant.ask.tenant, purse)

    async def _seed_and_reserve(self, ask: Ask, answer: Unseeded) -> Grant | Refusal:
        """Ask the ledger what was spent, for one call of a tenant at a time; the others find it done."""
        lock = self._seeding.setdefault(ask.tenant, asyncio.Lock())
        is_done_by_another = lock.locked()
        async with lock:
            for _ in range(SEEDING_TRIES):
                if not is_done_by_another:
                    for purse in answer.purses:
                        await self._seed(ask.tenant, purse)
                again = await self._store.reserve(ask)
                if not isinstance(again, Unseeded):
                    return again
                answer, is_done_by_another = again, False
        raise SpendUnknown("what was spent from a budget is not known yet", retry_after_s=SHORTEST_WAIT_S)

    async def _seed(self, tenant: str, purse: Purse) -> None:
        since = start_of(purse.measure, purse.number)
        spent = await self._spend.spent(purse.subject.kind, purse.subject.id, since)
        await self._store.seed(tenant, purse, spent)

    async def _check(self, tenant: str, purse: Purse) -> None:
        """Compare with the ledger after a call has been answered; next time will do when it cannot be asked now."""
        try:
            await self._seed(tenant, purse)
        except Unavailable:
            UNVERIFIED.inc()


def _used(tokens: int, cost_nanos: int) -> Used:
    """Return what one request took, within what a store can count."""
    return Used(1, min(max(tokens, 0), MOST_NANOS), min(max(cost_nanos, 0), MOST_NANOS))


def _limited(subjects: tuple[Subject, ...]) -> tuple[Subject, ...]:
    """Return the subjects that have any limit."""
    for subject in subjects:
        if _is_unlimited(subject.limits):
            return tuple([subject for subject in subjects if not _is_unlimited(subject.limits)])
    return subjects


def _is_unlimited(limits: Limits) -> bool:
    return (
        limits.requests_per_minute is None
        and limits.tokens_per_minute is None
        and limits.concurrent_requests is None
        and limits.budget_day_nanos is None
        and limits.budget_month_nanos is None
    )


def _waiting(refusal: Refusal) -> float:
    """Return what a client is told to wait, 1 to 120 s, which is as long as clients honour."""
    if refusal.wait_s is None:
        return LONGEST_WAIT_S
    return min(max(refusal.wait_s, SHORTEST_WAIT_S), LONGEST_WAIT_S)
