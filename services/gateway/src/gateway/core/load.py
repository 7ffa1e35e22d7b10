"""Admits requests of each route up to what it can take, lets a few wait in a fair order, and sheds the rest at once."""

import time
from collections.abc import Callable
from functools import partial
from typing import Final

from servicekit import deadline
from servicekit.errors import Unavailable
from servicekit.load.concurrency_limit import USUAL_PACE, Pace
from servicekit.load.counts import Counts
from servicekit.load.lane import Lane, Shared, Slot, Why
from servicekit.load.room import make_room
from servicekit.telemetry.metrics import SHORT_BUCKETS_S, counter, gauge, histogram

from gateway.core.accounts import Account, Priority
from gateway.core.configuration import AdmissionPolicy

MOST_ROUTES: Final = 256
"""Routes with a limit of their own; when all are busy, further ones share one."""

OVERFLOW: Final = "other"
USUAL_POLICY: Final = AdmissionPolicy()
IN_FLIGHT = gauge("penstock_gateway_admitted_in_flight", "Admitted requests now running", ("priority",))
WAITING = gauge("penstock_gateway_admission_waiting", "Requests waiting to be admitted", ("priority",))
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


class GateReporter:
    """Tells callers and metrics what becomes of requests at the gate."""

    def refusal(self, slot: Slot, why: Why, left_s: float, retry_after_s: float) -> Unavailable:
        """Return DeadlineUnreachable to one that is late, Overloaded to any other; count it."""
        if why is Why.LATE:
            SHED.labels(LABELS[slot.priority], DeadlineUnreachable.default_reason).inc()
            message = f"{left_s * 1e3:.0f} ms are left, too little for an answer; this request was not begun"
            return DeadlineUnreachable(message, retry_after_s=retry_after_s)
        SHED.labels(LABELS[slot.priority], Overloaded.default_reason).inc()
        return Overloaded("too much is asked for now; this request was not begun", retry_after_s=retry_after_s)

    def waited(self, slot: Slot, seconds: float) -> None:
        """Put a wait into its class's histogram."""
        WAITED_OF[slot.priority].observe(seconds)

    def limit_is(self, route: str, limit: int) -> None:
        """Show a route's limit."""
        LIMIT.labels(route).set(limit)


class Gate:
    """Where every request passes before it costs anything behind us. One per process; it belongs to one event loop.

    `most_waiting` bounds what waits on all routes together; when it is reached, a less important request that waits
    makes room for a more important one.
    """

    def __init__(
        self,
        policy: AdmissionPolicy = USUAL_POLICY,
        most_waiting: int = 512,
        clock_s: Callable[[], float] = time.monotonic,
        remaining_s: Callable[[], float | None] = deadline.remaining_s,
        pace: Pace = USUAL_PACE,
    ) -> None:
        self.counts = Counts(most_waiting)
        self._policy = policy
        self._shared = Shared(clock_s, remaining_s, pace, self.counts, self._make_room, GateReporter())
        self._lanes: dict[str, Lane] = {}

    def admitted(self, account: Account, route: str) -> Slot:
        """Return the place of a request, to be used with `async with`; `route` names what has a limit of its own."""
        lane = self._lanes.get(route)
        return Slot(lane or self._lane(route), account.tenant, account.priority)

    def limit_of(self, route: str) -> int:
        """Return how many requests of a route may run at once now."""
        return (self._lanes.get(route) or self._lane(route)).limiter.limit

    def follow(self, policy: AdmissionPolicy) -> None:
        """Take over another policy; what runs goes on, and what waits beyond the new room goes on waiting."""
        self._policy = policy
        for lane in self._lanes.values():
            lane.limiter.keep_within(policy.least_running, policy.most_running)
            lane.room = [policy.waiting.get(priority, 0) for priority in Priority]
            lane.limit_moved()

    def publish(self) -> None:
        """Make this gate the one whose requests the metrics count."""
        for priority in Priority:
            IN_FLIGHT.labels(priority.label).set_function(partial(self.counts.running.__getitem__, priority))
            WAITING.labels(priority.label).set_function(partial(self.counts.waiting.__getitem__, priority))

    def _make_room(self, lane: Lane, newcomer: Slot) -> bool:
        return make_room(self._lanes.values(), self.counts, lane, newcomer)

    def _lane(self, route: str) -> Lane:
        """Make the lane of a route; when there are too many, one that is idle goes first."""
        if len(self._lanes) >= MOST_ROUTES:
            idle = [lane for lane in self._lanes.values() if not lane.in_flight and not lane.queue.waiting]
            if idle:
                oldest = min(idle, key=lambda lane: lane.used_s)
                del self._lanes[oldest.route]
                LIMIT.remove(oldest.route)
            else:
                route = OVERFLOW
        lane = self._lanes.get(route)
        if lane is None:
            lane = self._lanes[route] = Lane(route, self._policy, self._shared)
        return lane
