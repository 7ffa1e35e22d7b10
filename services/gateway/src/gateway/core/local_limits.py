"""Counts limits in the memory of a process: everything where there is one, a share where the shared store is lost."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from servicekit.telemetry.metrics import counter

from gateway.core.accounts import Limits, Subject
from gateway.core.budgets import Spending, day_of, month_of, start_of
from gateway.core.limit_ports import (
    SUBJECT_IDLE_S,
    Ask,
    DuplicateReservation,
    Grant,
    Measure,
    Purse,
    Quota,
    Refusal,
    Unseeded,
    Used,
    is_leased,
)
from gateway.core.rates import KEPT_S, Window

MOST_SUBJECTS: Final = 100_000
SLOT_WAIT_S: Final = 1.0
SOONEST_WAIT_S: Final = 0.001
SEARCHED: Final = 16
NEVER: Final = -1

FORGOTTEN = counter("penstock_gateway_limit_subjects_forgotten", "Subjects dropped while their limits counted")


class Moment(NamedTuple):
    """One moment as limits see it: seconds of a clock that only goes on, and the UTC day and month."""

    s: float
    second: int
    day: int
    month: int


class Lease(NamedTuple):
    """An open reservation of one subject: until when it stands, what it holds, and of which periods (-1: of none)."""

    until_s: float
    nanos: int
    day: int
    month: int


class Tally:
    """What one subject takes."""

    __slots__ = ("day", "leases", "month", "requests", "tokens", "touched_s")

    def __init__(self) -> None:
        self.touched_s = 0.0
        self.requests = Window()
        self.tokens = Window()
        self.leases: dict[str, Lease] = {}
        self.day: Spending | None = None
        self.month: Spending | None = None

    def enter(self, limits: Limits, moment: Moment) -> None:
        """Drop what has expired, and begin new periods."""
        self.touched_s = moment.s
        while self.leases:
            first = next(iter(self.leases))
            if self.leases[first].until_s > moment.s:
                break
            ended = self.leases.pop(first)
            self.close(ended, ended.nanos)
        if limits.budget_day_nanos is not None:
            self.day = self.day or Spending()
            self.day.enter(moment.day)
        if limits.budget_month_nanos is not None:
            self.month = self.month or Spending()
            self.month.enter(moment.month)

    def close(self, lease: Lease, used_nanos: int) -> None:
        """Count what a reservation came to; one that expired came to all it held, as the ledger has it, too."""
        if self.day is not None:
            self.day.settle(lease.day, lease.nanos, used_nanos)
        if self.month is not None:
            self.month.settle(lease.month, lease.nanos, used_nanos)

    def budgets(self, limits: Limits, moment: Moment) -> Iterator[tuple[Measure, int, Spending, int]]:
        """Yield the budgets of now: which, how much, what is spent of it, and the period's number."""
        if self.day is not None and limits.budget_day_nanos is not None:
            yield Measure.DAY, limits.budget_day_nanos, self.day, moment.day
        if self.month is not None and limits.budget_month_nanos is not None:
            yield Measure.MONTH, limits.budget_month_nanos, self.month, moment.month


class LocalLimits:
    """Implements LimitStore in memory, for at most `most_subjects` subjects: those idle longest are forgotten first.

    `processes` is among how many processes limits are divided; a limit of 1 or more leaves each process at least 1.
    `clock` only goes on, in seconds; `now` is in seconds since 1970.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        processes: int = 1,
        most_subjects: int = MOST_SUBJECTS,
    ) -> None:
        self._clock = clock
        self._now = now
        self._processes = processes
        self._most_subjects = most_subjects
        self._tallies: OrderedDict[tuple[str, str], Tally] = OrderedDict()
        self._day = self._month = 0

    def __len__(self) -> int:
        """Return how many subjects are remembered."""
        return len(self._tallies)

    def clear(self) -> None:
        """Forget everything."""
        self._tallies.clear()

    async def reserve(self, ask: Ask) -> Grant | Refusal | Unseeded:
        """Reserve of every subject or of none; raise DuplicateReservation when the id is open already."""
        moment = self._moment()
        tallies = [(subject, self._tally(subject, moment)) for subject in ask.subjects]
        unseeded = tuple(_unseeded(tallies, moment, ask.verified_after_s))
        if unseeded:
            return Unseeded(unseeded)
        refusals = [refusal for subject, tally in tallies for refusal in self._refusals(subject, tally, ask, moment)]
        if refusals:
            return max(refusals, key=_wait)
        for subject, tally in tallies:
            self._take(subject.limits, tally, ask, moment)
        return self._grant(ask, tallies, moment)

    async def settle(self, grant: Grant, used: Used, late: bool = False) -> None:
        """Replace what was reserved by what was used."""
        self._settle(grant, used, late)

    def settle_now(self, grant: Grant, used: Used) -> bool:
        """Replace what was reserved by what was used, without waiting."""
        self._settle(grant, used, late=False)
        return True

    def _settle(self, grant: Grant, used: Used, late: bool) -> None:
        moment = self._moment()
        for subject in grant.ask.subjects:
            tally = self._tallies.get((subject.kind, subject.id))
            if tally is None:
                continue
            tally.enter(subject.limits, moment)
            lease = tally.leases.pop(grant.ask.id, None)
            if not late:
                _settle_rates(subject.limits, tally, grant, used, moment)
            if lease is not None:
                tally.close(lease, used.cost_nanos)
            elif not late:
                _settle_unknown(subject.limits, tally, grant, used)

    async def renew(self, grant: Grant, lease_s: float) -> None:
        """Let an open reservation stand for `lease_s` seconds from now."""
        moment = self._moment()
        for subject in grant.ask.subjects:
            tally = self._tallies.get((subject.kind, subject.id))
            if tally is None:
                continue
            tally.enter(subject.limits, moment)
            lease = tally.leases.pop(grant.ask.id, None)
            if lease is not None:
                tally.leases[grant.ask.id] = lease._replace(until_s=moment.s + lease_s)

    async def seed(self, tenant: str, purse: Purse, spent_nanos: int) -> None:  # noqa: ARG002  the port's signature
        """Take what the ledger says was spent."""
        moment = self._moment()
        tally = self._tally(purse.subject, moment)
        spending = tally.day if purse.measure is Measure.DAY else tally.month
        if spending is not None and spending.number == purse.number:
            spending.seed(spent_nanos, moment.s)

    def _moment(self) -> Moment:
        s, day = self._clock(), day_of(self._now())
        if day != self._day:
            self._day, self._month = day, month_of(day)
        return Moment(s, int(s), day, self._month)

    def _tally(self, subject: Subject, moment: Moment) -> Tally:
        key = (subject.kind, subject.id)
        tally = self._tallies.get(key)
        if tally is None:
            tally = self._tallies[key] = Tally()
            self._make_room(moment)
        else:
            self._tallies.move_to_end(key)
        tally.enter(subject.limits, moment)
        return tally

    def _make_room(self, moment: Moment) -> None:
        """Drop what was idle longest, when it is long enough or when there are too many; open reservations stay."""
        for _ in range(SEARCHED):
            key, oldest = next(iter(self._tallies.items()))
            idle_s, crowded = moment.s - oldest.touched_s, len(self._tallies) > self._most_subjects
            if not crowded and idle_s < SUBJECT_IDLE_S:
                return
            if any(lease.until_s > moment.s for lease in oldest.leases.values()):
                self._tallies.move_to_end(key)
                continue
            if len(self._tallies) == 1:
                return
            del self._tallies[key]
            if idle_s < KEPT_S:
                FORGOTTEN.inc()

    def _share(self, limit: int) -> int:
        return limit if self._processes == 1 or limit == 0 else max(limit // self._processes, 1)

    def _refusals(self, subject: Subject, tally: Tally, ask: Ask, moment: Moment) -> Iterator[Refusal]:
        limits = subject.limits
        for measure, limit, window, amount in (
            (Measure.REQUESTS, limits.requests_per_minute, tally.requests, 1),
            (Measure.TOKENS, limits.tokens_per_minute, tally.tokens, ask.tokens),
        ):
            if limit is not None and amount:
                share, total = self._share(limit), window.total(moment.second)
                if total + amount > share:
                    wait_s = window.wait_s(moment.s, total + amount - share) if amount <= share else None
                    yield Refusal(subject, measure, wait_s, Quota(share, max(share - total, 0), float(KEPT_S)))
        if limits.concurrent_requests is not None:
            share, taken = self._share(limits.concurrent_requests), len(tally.leases)
            if taken >= share:
                wait_s = SLOT_WAIT_S if share else None
                yield Refusal(subject, Measure.CONCURRENCY, wait_s, Quota(share, 0, SLOT_WAIT_S))
        if ask.cost_nanos:
            yield from self._exhausted(subject, tally, ask, moment)
        if is_leased(limits) and ask.id in tally.leases:
            raise DuplicateReservation(f"the reservation {ask.id!r} is open already")

    def _exhausted(self, subject: Subject, tally: Tally, ask: Ask, moment: Moment) -> Iterator[Refusal]:
        for measure, budget, spending, number in tally.budgets(subject.limits, moment):
            left = spending.left(budget, self._processes)
            if left < ask.cost_nanos:
                reset_s = max(start_of(measure, number + 1).timestamp() - self._now(), SOONEST_WAIT_S)
                wait_s = reset_s if ask.cost_nanos <= budget else None
                yield Refusal(subject, measure, wait_s, Quota(budget, max(left, 0), reset_s))

    def _take(self, limits: Limits, tally: Tally, ask: Ask, moment: Moment) -> None:
        if limits.requests_per_minute is not None:
            tally.requests.add(moment.second, 1)
        if limits.tokens_per_minute is not None and ask.tokens:
            tally.tokens.add(moment.second, ask.tokens)
        if is_leased(limits):
            day = NEVER if limits.budget_day_nanos is None else moment.day
            month = NEVER if limits.budget_month_nanos is None else moment.month
            tally.leases[ask.id] = Lease(moment.s + ask.lease_s, ask.cost_nanos, day, month)
        for _, _, spending, _ in tally.budgets(limits, moment):
            spending.reserved += ask.cost_nanos

    def _grant(self, ask: Ask, tallies: list[tuple[Subject, Tally]], moment: Moment) -> Grant:
        requests: Quota | None = None
        tokens: Quota | None = None
        unchecked: list[Purse] = []
        for subject, tally in tallies:
            limits = subject.limits
            requests = self._tighter(requests, limits.requests_per_minute, tally.requests, moment)
            tokens = self._tighter(tokens, limits.tokens_per_minute, tally.tokens, moment)
            for measure, _, spending, number in tally.budgets(limits, moment):
                if self._processes == 1 and spending.is_due(moment.s):
                    unchecked.append(Purse(subject, measure, number))
        return Grant(ask, moment.s, moment.day, moment.month, requests, tokens, tuple(unchecked), shared=False)

    def _tighter(self, known: Quota | None, limit: int | None, window: Window, moment: Moment) -> Quota | None:
        if limit is None:
            return known
        share = self._share(limit)
        remaining = max(share - window.total(moment.second), 0)
        if known is not None and known.remaining <= remaining:
            return known
        return Quota(share, remaining, moment.second + KEPT_S - moment.s)


def _wait(refusal: Refusal) -> float:
    return float("inf") if refusal.wait_s is None else refusal.wait_s


def _unseeded(tallies: list[tuple[Subject, Tally]], moment: Moment, verified_after_s: float) -> Iterator[Purse]:
    for subject, tally in tallies:
        for measure, _, spending, number in tally.budgets(subject.limits, moment):
            if spending.seeded_s is None or spending.checked_s < verified_after_s <= moment.s:
                yield Purse(subject, measure, number)


def _settle_rates(limits: Limits, tally: Tally, grant: Grant, used: Used, moment: Moment) -> None:
    """What was not used goes back to the second it was taken in; what was used on top counts now."""
    if limits.requests_per_minute is not None and not used.requests:
        tally.requests.give_back(int(grant.at_s), 1)
    if limits.tokens_per_minute is not None:
        excess = used.tokens - grant.ask.tokens
        if excess > 0:
            tally.tokens.total(moment.second)
            tally.tokens.add(moment.second, excess)
        elif excess:
            tally.tokens.give_back(int(grant.at_s), -excess)


def _settle_unknown(limits: Limits, tally: Tally, grant: Grant, used: Used) -> None:
    for budget, spending, number in (
        (limits.budget_day_nanos, tally.day, grant.day),
        (limits.budget_month_nanos, tally.month, grant.month),
    ):
        if budget is not None and spending is not None:
            spending.settle_unknown(number, grant.at_s, grant.ask.cost_nanos, used.cost_nanos)
