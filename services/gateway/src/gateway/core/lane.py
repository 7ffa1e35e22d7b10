"""One route under load: who runs, who waits in which order, and who is turned away."""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final

from servicekit.errors import TimedOut, Unavailable
from servicekit.telemetry.metrics import SHORT_BUCKETS_S, counter, gauge, histogram

from gateway.core.accounts import Priority
from gateway.core.concurrency_limit import ConcurrencyLimit, Pace
from gateway.core.configuration import AdmissionPolicy
from gateway.core.fair_queue import SHARES, FairQueue, Share

LONGEST_WAIT_S: Final = {Priority.BATCH: 30.0, Priority.STANDARD: 10.0, Priority.INTERACTIVE: 2.0}
"""How long a request waits at most, whatever its deadline; an answer later than that is of no use."""

SHORTEST_RETRY_S: Final = 1
LONGEST_RETRY_S: Final = 120
BELIEVED_S: Final = 10.0
"""How long a measured service time may refuse requests; then one is let through, and measured."""

REMEMBERED_TIMES: Final = 64
FEWEST_TIMES: Final = 8
QUICK: Final = 0.1
MEAN_WEIGHT: Final = 1 / 32
LABELS: Final = tuple(priority.label for priority in Priority)

SHED = counter("penstock_gateway_shed_requests", "Requests turned away under load", ("priority", "reason"))
WAITED = histogram(
    "penstock_gateway_admission_wait_seconds",
    "Time that requests which had to wait, waited",
    ("priority",),
    SHORT_BUCKETS_S,
)
LIMIT = gauge("penstock_gateway_concurrency_limit", "How many requests of a route may run at once", ("route",))
WAITED_OF: Final = tuple(WAITED.labels(label) for label in LABELS)


class Overloaded(Unavailable):
    """More is asked for than can be served, and others are more important or were first."""

    default_reason = "overloaded"


class DeadlineUnreachable(Unavailable):
    """The time left is less than the wait and the quickest answers of this route take."""

    default_reason = "deadline_unreachable"


class Slot:
    """A request's place: `async with gate.admitted(account, route) as slot`. It is held to the end of the block."""

    __slots__ = (
        "_answered",
        "_lane",
        "began_s",
        "charged_s",
        "future",
        "held",
        "priority",
        "round",
        "share",
        "since_s",
        "tenant",
    )

    began_s: float
    since_s: float
    round: int
    future: "asyncio.Future[Unavailable | None]"

    def __init__(self, lane: "Lane", tenant: str, priority: Priority) -> None:
        self._lane = lane
        self.tenant = tenant
        self.priority = priority
        self.share: Share | None = None
        self.charged_s = 0.0
        self.held = False
        self._answered = False

    def first_byte(self) -> None:
        """Say that the answer has begun: a stream's latency is that of its first byte. The first call counts."""
        if not self._answered:
            self._answered = True
            self._lane.answered(self)

    async def __aenter__(self) -> "Slot":
        """Wait for a place; raise Overloaded or DeadlineUnreachable when there will be none in time."""
        if not self._lane.enter(self):
            await self._lane.wait(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give the place back, and let the limit learn from how it went."""
        self._lane.leave(self, error, self._answered)


class Counts:
    """What all routes together have running and waiting, by class; `most` may wait."""

    __slots__ = ("most", "running", "waiting")

    def __init__(self, most: int) -> None:
        self.most = most
        self.running = [0 for _ in Priority]
        self.waiting = [0 for _ in Priority]

    def has_room(self, priority: Priority) -> bool:
        """Say whether one more of a class may wait; lesser classes keep the part of the room that is their share."""
        kept = sum(max(0, self.reserve(lesser) - self.waiting[lesser]) for lesser in Priority if lesser < priority)
        return sum(self.waiting) + kept < self.most

    def reserve(self, priority: Priority) -> int:
        """Return how many of a class may wait even while more important ones have to go."""
        return int(SHARES[priority] * self.most)


@dataclass(frozen=True, slots=True)
class Shared:
    """What the lanes of a gate share: clocks, bounds, and how one makes room on another."""

    clock_s: Callable[[], float]
    remaining_s: Callable[[], float | None]
    pace: Pace
    counts: Counts
    make_room: "Callable[[Lane, Slot], bool]"


class Lane:
    """One route: its limit, who runs and who waits."""

    __slots__ = (
        "_clock_s",
        "_counts",
        "_last_grant_s",
        "_make_room",
        "_mean_held_s",
        "_measured_s",
        "_quick_s",
        "_remaining_s",
        "_running",
        "_times",
        "_waited_s",
        "in_flight",
        "limiter",
        "queue",
        "room",
        "route",
        "used_s",
    )

    def __init__(self, route: str, policy: AdmissionPolicy, shared: Shared) -> None:
        self.route = route
        self._clock_s, self._remaining_s = shared.clock_s, shared.remaining_s
        self._counts, self._make_room = shared.counts, shared.make_room
        now_s = self.used_s = self._clock_s()
        self.limiter = ConcurrencyLimit(
            policy.least_running, policy.first_running, policy.most_running, now_s, shared.pace
        )
        self.room = [policy.waiting.get(priority, 0) for priority in Priority]
        self.queue: FairQueue[Slot] = FairQueue()
        self.in_flight = 0
        self._running = [0 for _ in Priority]
        self._mean_held_s = 0.0
        self._quick_s = 0.0
        self._measured_s = now_s
        self._times: deque[float] = deque(maxlen=REMEMBERED_TIMES)
        self._waited_s = [0.0 for _ in Priority]
        self._last_grant_s = [now_s for _ in Priority]
        LIMIT.labels(route).set(self.limiter.limit)

    def enter(self, slot: Slot) -> bool:
        """Begin at once if there is a free place and nobody waits; raise DeadlineUnreachable when that is no use."""
        now_s = self._clock_s()
        if self.queue.waiting or self.in_flight >= self.limiter.limit:
            return False
        left_s = self._remaining_s()
        if left_s is not None and left_s <= self._needed_s(now_s):
            raise self._unreachable(slot, left_s)
        self._begin(slot, now_s)
        return True

    async def wait(self, slot: Slot) -> None:
        """Line up and wait for a place. A wait that ends without one leaves no trace."""
        slot.since_s = self._clock_s()
        patience_s, late = self._patience(slot)
        self._line_up(slot)
        loop = asyncio.get_running_loop()
        slot.future = loop.create_future()
        timer = loop.call_later(patience_s, self._give_up, slot, late)
        try:
            refusal = await slot.future
        except asyncio.CancelledError:
            self._withdraw(slot)
            raise
        finally:
            timer.cancel()
        WAITED_OF[slot.priority].observe(self._clock_s() - slot.since_s)
        if refusal is not None:
            raise refusal

    def answered(self, slot: Slot) -> None:
        """Learn from the first byte of a stream."""
        now_s = self._clock_s()
        limit = self.limiter.limit
        self.limiter.sample(slot.round, now_s - slot.began_s, now_s, self.in_flight)
        if self.limiter.limit != limit:
            self.limit_moved()

    def leave(self, slot: Slot, error: BaseException | None, answered: bool) -> None:
        """Take a place back, learn from how it went, and give it to who is next."""
        now_s = self._clock_s()
        held_s = now_s - slot.began_s
        limit = self.limiter.limit
        if error is None:
            self._remember(held_s, now_s)
            if not answered:
                self.limiter.sample(slot.round, held_s, now_s, self.in_flight)
        elif not answered and isinstance(error, Unavailable):
            self.limiter.dropped(slot.round, now_s, self.in_flight)
        elif not answered and isinstance(error, (TimedOut, asyncio.CancelledError)):
            self.limiter.censored(slot.round, held_s, now_s, self.in_flight)
        mean_s = self._mean_held_s
        self._mean_held_s = mean_s + MEAN_WEIGHT * (held_s - mean_s) if mean_s else held_s
        self._end(slot, held_s, now_s)
        if self.limiter.limit != limit:
            self.limit_moved()
        elif self.queue.waiting:
            self._grant()

    def limit_moved(self) -> None:
        """Show the new limit, and admit those it has room for."""
        LIMIT.labels(self.route).set(self.limiter.limit)
        self._grant()

    def shed(self, slot: Slot) -> None:
        """Turn away one that waits."""
        if self._forget(slot) and not slot.future.done():
            slot.future.set_result(self._overloaded(slot))

    def expected_wait_s(self, tenant: str, priority: Priority) -> float:
        """Return how long (seconds) a newcomer would wait if no other came; 0.0 before anything was measured."""
        return (self.queue.ahead_of(tenant, priority) + 1) * self._mean_held_s / self.limiter.limit

    def _patience(self, slot: Slot) -> tuple[float, bool]:
        """Return how long a request may wait, and whether that is for its deadline; raise when that is too short."""
        left_s, longest_s = self._remaining_s(), LONGEST_WAIT_S[slot.priority]
        expected_s = self.expected_wait_s(slot.tenant, slot.priority)
        if left_s is not None:
            spare_s = left_s - self._needed_s(slot.since_s)
            if spare_s <= expected_s or spare_s <= 0:
                raise self._unreachable(slot, left_s)
            if spare_s < longest_s:
                return spare_s, True
        if expected_s > longest_s:
            raise self._overloaded(slot)
        return longest_s, False

    def _line_up(self, slot: Slot) -> None:
        priority = slot.priority
        if self.queue.waiting_in(priority) >= self.room[priority]:
            victim = self.queue.victim(slot)
            if victim is slot:
                raise self._overloaded(slot)
            self.shed(victim)
        elif not self._counts.has_room(priority) and not self._make_room(self, slot):
            raise self._overloaded(slot)
        if not self.queue.waiting_in(priority):
            self._last_grant_s[priority] = slot.since_s
        self.queue.add(slot, self._mean_held_s, self._mean_held_s * self.limiter.limit)
        self._counts.waiting[priority] += 1

    def _give_up(self, slot: Slot, late: bool) -> None:
        """End a wait that has lasted too long."""
        if self._forget(slot) and not slot.future.done():
            slot.future.set_result(
                self._unreachable(slot, self._needed_s(self._clock_s())) if late else self._overloaded(slot)
            )

    def _withdraw(self, slot: Slot) -> None:
        """Undo what a cancelled wait has got so far: a line, or already a place."""
        if slot.held:
            self._refund(slot)
            self._end(slot, 0.0, self._clock_s())
            self._grant()
        else:
            self._forget(slot)

    def _forget(self, slot: Slot) -> bool:
        removed = self.queue.remove(slot)
        self._counts.waiting[slot.priority] -= removed
        return removed

    def _grant(self) -> None:
        queue = self.queue
        while queue.waiting and self.in_flight < self.limiter.limit:
            slot = queue.take(self._running, self.limiter.limit)
            priority = slot.priority
            self._counts.waiting[priority] -= 1
            if slot.future.done():
                self._refund(slot)
                continue
            now_s = self._clock_s()
            self._begin(slot, now_s)
            self._last_grant_s[priority] = now_s
            self._waited_s[priority] += 0.2 * (now_s - slot.since_s - self._waited_s[priority])
            slot.future.set_result(None)

    def _refund(self, slot: Slot) -> None:
        """Take back the charge of a place that was not used."""
        if slot.share is not None:
            slot.share.served_s -= slot.charged_s
            slot.share = None

    def _begin(self, slot: Slot, now_s: float) -> None:
        slot.held = True
        slot.began_s = now_s
        slot.round = self.limiter.round
        self.in_flight += 1
        self._running[slot.priority] += 1
        self._counts.running[slot.priority] += 1

    def _end(self, slot: Slot, held_s: float, now_s: float) -> None:
        slot.held = False
        self.used_s = now_s
        self.in_flight -= 1
        self._running[slot.priority] -= 1
        self._counts.running[slot.priority] -= 1
        if slot.share is not None:
            slot.share.settle(slot.charged_s, held_s)

    def _remember(self, held_s: float, now_s: float) -> None:
        """Keep how long an answered request took, and now and then what the quickest tenth took."""
        times = self._times
        times.append(held_s)
        if len(times) < REMEMBERED_TIMES or now_s - self._measured_s > 1.0:
            self._quick_s = sorted(times)[int(len(times) * QUICK)]
            self._measured_s = now_s

    def _needed_s(self, now_s: float) -> float:
        """Return what a request takes that is as quick as the quickest tenth; 0.0 when that is not known any more."""
        known = len(self._times) >= FEWEST_TIMES and now_s - self._measured_s < BELIEVED_S
        return self._quick_s if known else 0.0

    def _retry_after_s(self, slot: Slot) -> float:
        """Return when a retry may help: the wait expected, that of late, or the time since its class was served."""
        priority = slot.priority
        hungry_s = self._clock_s() - self._last_grant_s[priority] if self.queue.waiting_in(priority) else 0.0
        expected_s = max(self.expected_wait_s(slot.tenant, priority), self._waited_s[priority], hungry_s)
        return float(min(max(math.ceil(expected_s), SHORTEST_RETRY_S), LONGEST_RETRY_S))

    def _overloaded(self, slot: Slot) -> Overloaded:
        SHED.labels(LABELS[slot.priority], Overloaded.default_reason).inc()
        return Overloaded(
            "too much is asked for now; this request was not begun", retry_after_s=self._retry_after_s(slot)
        )

    def _unreachable(self, slot: Slot, left_s: float) -> DeadlineUnreachable:
        SHED.labels(LABELS[slot.priority], DeadlineUnreachable.default_reason).inc()
        message = f"{left_s * 1e3:.0f} ms are left, too little for an answer; this request was not begun"
        return DeadlineUnreachable(message, retry_after_s=self._retry_after_s(slot))
