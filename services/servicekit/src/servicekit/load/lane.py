"""One route under load: who runs, who waits in which order, and who is turned away."""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Final, Protocol

from servicekit.errors import TimedOut, Unavailable
from servicekit.load.concurrency_limit import ConcurrencyLimit, Pace
from servicekit.load.counts import Counts
from servicekit.load.fair_queue import SHARES, FairQueue, Share
from servicekit.load.lane_policy import LanePolicy
from servicekit.load.occupancy import Occupancy
from servicekit.load.priority import Priority

LONGEST_WAIT_S: Final = {Priority.BATCH: 30.0, Priority.STANDARD: 10.0, Priority.INTERACTIVE: 2.0}
"""How long a request waits at most, whatever its deadline; an answer later than that is of no use."""

SHORTEST_RETRY_S: Final = 1
LONGEST_RETRY_S: Final = 120
BELIEVED_S: Final = 10.0
"""How long a measured service time may refuse requests; then one is let through, and measured."""

CAUTION: Final = 1.0
"""By so many standard deviations (of as many waits as are ahead) a wait may be longer than expected."""
SMALLEST_PART: Final = 0.01
REMEMBERED_TIMES: Final = 64
FEWEST_TIMES: Final = 8
QUICK: Final = 0.1
MEAN_WEIGHT: Final = 1 / 32


class Why(Enum):
    """Why a request is turned away: no room, pushed out by another, waits (or would wait) too long, or is too late."""

    FULL = "full"
    PUSHED_OUT = "pushed_out"
    TOO_LONG = "too_long"
    LATE = "late"


class Reporter(Protocol):
    """What a service says of its lanes, to callers and in metrics."""

    def refusal(self, slot: "Slot", why: Why, left_s: float, retry_after_s: float) -> Unavailable:
        """Return the error for one that is turned away, and count it; `left_s` is the time left to one that is late."""
        ...

    def waited(self, slot: "Slot", seconds: float) -> None:
        """Take note of how long one waited, whatever came of it."""
        ...

    def limit_is(self, route: str, limit: int) -> None:
        """Take note of a route's limit, at first and whenever it moves."""
        ...


class Slot:
    """A request's place: `async with gate.admitted(account, route) as slot`. It is held to the end of the block."""

    __slots__ = (
        "_lane",
        "answered",
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
        self.answered = False

    def first_byte(self) -> None:
        """Say that the answer has begun: a stream's latency is that of its first byte. The first call counts."""
        if not self.answered:
            self.answered = True
            self._lane.answered(self)

    async def __aenter__(self) -> "Slot":
        """Wait for a place; raise Unavailable when there will be none in time."""
        left_s = self._lane.remaining_s()
        if not self._lane.enter(self, left_s):
            await self._lane.wait(self, left_s)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give the place back, and let the limit learn from how it went."""
        self._lane.leave(self, error, self.answered)


@dataclass(frozen=True, slots=True)
class Shared:
    """What the lanes of a gate share: clocks, bounds, how one makes room on another, and who tells of them.

    A request waits only while it has the time left that this part (`usual`, a quantile) of recent answers took. Of the
    places, up to `headroom` (a share) are kept from lesser classes while the most important one uses as many.
    """

    clock_s: Callable[[], float]
    remaining_s: Callable[[], float | None]
    pace: Pace
    counts: Counts
    make_room: "Callable[[Lane, Slot], bool]"
    reporter: Reporter
    longest_wait_s: Mapping[Priority, float] = field(default_factory=lambda: LONGEST_WAIT_S)
    usual: float = QUICK
    headroom: float = 0.0


class Lane:
    """One route: its limit, who runs and who waits."""

    __slots__ = (
        "_clock_s",
        "_counts",
        "_headroom",
        "_last_grant_s",
        "_longest_wait_s",
        "_make_room",
        "_mean_held_s",
        "_measured_s",
        "_occupancy",
        "_quick_s",
        "_reporter",
        "_running",
        "_times",
        "_usual",
        "_usual_s",
        "_waited_s",
        "in_flight",
        "limiter",
        "queue",
        "remaining_s",
        "room",
        "route",
        "used_s",
    )

    def __init__(self, route: str, policy: LanePolicy, shared: Shared) -> None:
        self.route = route
        self._clock_s, self.remaining_s = shared.clock_s, shared.remaining_s
        self._counts, self._make_room, self._reporter = shared.counts, shared.make_room, shared.reporter
        now_s = self.used_s = self._clock_s()
        self.limiter = ConcurrencyLimit(
            policy.least_running, policy.first_running, policy.most_running, now_s, shared.pace
        )
        self.room = [policy.waiting.get(priority, 0) for priority in Priority]
        self.queue: FairQueue[Slot] = FairQueue()
        self.in_flight = 0
        self._running = [0 for _ in Priority]
        self._mean_held_s = 0.0
        self._quick_s = self._usual_s = 0.0
        self._usual, self._headroom = shared.usual, shared.headroom
        self._occupancy = Occupancy(now_s)
        self._longest_wait_s = shared.longest_wait_s
        self._measured_s = now_s
        self._times: deque[float] = deque(maxlen=REMEMBERED_TIMES)
        self._waited_s = [0.0 for _ in Priority]
        self._last_grant_s = [now_s for _ in Priority]
        self._reporter.limit_is(route, self.limiter.limit)

    def enter(self, slot: Slot, left_s: float | None) -> bool:
        """Begin at once if there is a free place and nobody waits; raise Unavailable when too little time is left."""
        now_s = self._clock_s()
        if self.queue.waiting_from(slot.priority) or self.in_flight >= self._open_to(slot.priority):
            return False
        if left_s is not None and left_s <= self._needed_s(self._quick_s, now_s):
            raise self._refusal(slot, Why.LATE, left_s)
        self._begin(slot, now_s)
        return True

    async def wait(self, slot: Slot, left_s: float | None) -> None:
        """Line up and wait for a place, at most `left_s` seconds. A wait that ends without one leaves no trace."""
        slot.since_s = self._clock_s()
        patience_s, late = self._patience(slot, left_s)
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
        self._reporter.waited(slot, self._clock_s() - slot.since_s)
        if refusal is not None:
            raise refusal

    def answered(self, slot: Slot) -> None:
        """Learn from the first byte of a stream."""
        now_s = self._clock_s()
        limit = self.limiter.limit
        self.limiter.sample(slot.round, now_s - slot.began_s, now_s, self.in_flight, goes_on=True)
        if self.limiter.limit != limit:
            self.limit_moved()

    def leave(self, slot: Slot, error: BaseException | None, answered: bool) -> None:
        """Take a place back, learn from how it went, and give it to who is next."""
        now_s = self._clock_s()
        held_s = now_s - slot.began_s
        limit = self.limiter.limit
        if error is None:
            self._remember(held_s, now_s)
            if not answered and not self.limiter.fixed:
                self.limiter.sample(slot.round, held_s, now_s, self.in_flight)
        elif not answered and isinstance(error, Unavailable):
            self.limiter.dropped(slot.round, now_s, self.in_flight)
        elif not answered and isinstance(error, (TimedOut, asyncio.CancelledError)):
            self.limiter.censored(slot.round, held_s, now_s, self.in_flight)
        if answered:
            self.limiter.stream_left(now_s)
        mean_s = self._mean_held_s
        self._mean_held_s = mean_s + MEAN_WEIGHT * (held_s - mean_s) if mean_s else held_s
        self._end(slot, held_s, now_s)
        if self.limiter.limit != limit:
            self.limit_moved()
        elif self.queue.waiting:
            self._grant()

    def gave_up(self, slot: Slot) -> None:
        """Learn that a request would have taken longer than it was given, if that is longer than usual."""
        now_s = self._clock_s()
        held_s = now_s - slot.began_s
        if held_s > self._usual_s:
            self._remember(held_s, now_s)

    def limit_moved(self) -> None:
        """Show the new limit, and admit those it has room for."""
        self._reporter.limit_is(self.route, self.limiter.limit)
        self._grant()

    def shed(self, slot: Slot) -> None:
        """Turn away one that waits."""
        if self._forget(slot) and not slot.future.done():
            slot.future.set_result(self._refusal(slot, Why.PUSHED_OUT))

    def expected_wait_s(self, tenant: str, priority: Priority) -> float:
        """Return how long (seconds) a newcomer would wait; 0.0 before anything was measured.

        More important ones who come meanwhile go first, so only what they leave of late counts, and no less than the
        class's own share.
        """
        return self._expected(tenant, priority)[0]

    def _expected(self, tenant: str, priority: Priority) -> tuple[float, float]:
        """Return the wait expected of a newcomer, and how much longer it may well be (seconds)."""
        limit, queue = self.limiter.limit, self.queue
        lesser = sum(SHARES[each] for each in Priority if each < priority and queue.waiting_in(each))
        left = self._open_to(priority) - self._occupancy.above(priority) - lesser * limit
        ahead, own = queue.ahead_of(tenant, priority)
        all_s = (ahead + 1) * self._mean_held_s / max(left, SMALLEST_PART)
        own_s = (own + 1) * self._mean_held_s / max(SHARES[priority] * limit, SMALLEST_PART)
        if own_s < all_s:
            ahead, all_s = own, own_s
        return all_s, all_s * CAUTION * math.sqrt(ahead) / (ahead + 1)

    def _patience(self, slot: Slot, left_s: float | None) -> tuple[float, bool]:
        """Return how long a request may wait, and whether that is for its deadline; raise when that is too short."""
        longest_s = self._longest_wait_s[slot.priority]
        expected_s, spread_s = self._expected(slot.tenant, slot.priority)
        if left_s is not None:
            spare_s = left_s - self._needed_s(self._usual_s, slot.since_s)
            if spare_s <= expected_s + spread_s or spare_s <= 0:
                raise self._refusal(slot, Why.LATE, left_s)
            if spare_s < longest_s:
                return spare_s, True
        if expected_s > longest_s:
            raise self._refusal(slot, Why.TOO_LONG)
        return longest_s, False

    def _line_up(self, slot: Slot) -> None:
        priority = slot.priority
        if self.queue.waiting_in(priority) >= self.room[priority]:
            victim = self.queue.victim(slot)
            if victim is slot:
                raise self._refusal(slot, Why.FULL)
            self.shed(victim)
        elif not self._counts.has_room(priority) and not self._make_room(self, slot):
            raise self._refusal(slot, Why.FULL)
        if not self.queue.waiting_in(priority):
            self._last_grant_s[priority] = slot.since_s
        self.queue.add(slot, self._mean_held_s, self._mean_held_s * self.limiter.limit)
        self._counts.waiting[priority] += 1

    def _give_up(self, slot: Slot, late: bool) -> None:
        """End a wait that has lasted too long."""
        if self._forget(slot) and not slot.future.done():
            needed_s = self._needed_s(self._usual_s, self._clock_s())
            slot.future.set_result(self._refusal(slot, Why.LATE if late else Why.TOO_LONG, needed_s))

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
        while queue.waiting and self.in_flight < self._open_to(queue.highest()):
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

    def _open_to(self, priority: Priority) -> int:
        """Return how many places a class may fill: all, or all but those that are kept for the most important one."""
        limit = self.limiter.limit
        if not self._headroom or priority == Priority.INTERACTIVE:
            return limit
        return limit - min(int(limit * self._headroom), round(self._occupancy.of(Priority.INTERACTIVE)))

    def _begin(self, slot: Slot, now_s: float) -> None:
        self._occupancy.look(self._running, now_s)
        slot.held = True
        slot.began_s = now_s
        slot.round = self.limiter.round
        self.in_flight += 1
        self._running[slot.priority] += 1
        self._counts.running[slot.priority] += 1

    def _end(self, slot: Slot, held_s: float, now_s: float) -> None:
        self._occupancy.look(self._running, now_s)
        slot.held = False
        self.used_s = now_s
        self.in_flight -= 1
        self._running[slot.priority] -= 1
        self._counts.running[slot.priority] -= 1
        if slot.share is not None:
            slot.share.settle(slot.charged_s, held_s)

    def _remember(self, held_s: float, now_s: float) -> None:
        """Keep how long an answered request took, and now and then what quick and usual ones took."""
        times = self._times
        times.append(held_s)
        if len(times) < REMEMBERED_TIMES or now_s - self._measured_s > 1.0:
            ordered = sorted(times)
            self._quick_s = ordered[int(len(ordered) * QUICK)]
            self._usual_s = ordered[int(len(ordered) * self._usual)]
            self._measured_s = now_s

    def _needed_s(self, took_s: float, now_s: float) -> float:
        """Return a time that was measured, or 0.0 when it is not known any more."""
        known = len(self._times) >= FEWEST_TIMES and now_s - self._measured_s < BELIEVED_S
        return took_s if known else 0.0

    def _retry_after_s(self, slot: Slot) -> float:
        """Return when a retry may help: the wait expected, that of late, or the time since its class was served."""
        priority = slot.priority
        hungry_s = self._clock_s() - self._last_grant_s[priority] if self.queue.waiting_in(priority) else 0.0
        expected_s = max(self.expected_wait_s(slot.tenant, priority), self._waited_s[priority], hungry_s)
        return float(min(max(math.ceil(expected_s), SHORTEST_RETRY_S), LONGEST_RETRY_S))

    def _refusal(self, slot: Slot, why: Why, left_s: float = 0.0) -> Unavailable:
        return self._reporter.refusal(slot, why, left_s, self._retry_after_s(slot))
