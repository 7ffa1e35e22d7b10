"""Admits requests of each route up to what it can take, lets a few wait in a fair order, and sheds the rest at once."""

import time
from collections.abc import Callable
from functools import partial
from typing import Final

from servicekit import deadline
from servicekit.telemetry.metrics import gauge

from gateway.core.accounts import Account, Priority
from gateway.core.concurrency_limit import USUAL_PACE, Pace
from gateway.core.configuration import AdmissionPolicy
from gateway.core.lane import LIMIT, Counts, DeadlineUnreachable, Lane, Overloaded, Shared, Slot

__all__ = ["DeadlineUnreachable", "Gate", "Overloaded", "Slot"]

MOST_ROUTES: Final = 256
"""Routes with a limit of their own; when all are busy, further ones share one."""

OVERFLOW: Final = "other"
USUAL_POLICY: Final = AdmissionPolicy()
IN_FLIGHT = gauge("penstock_gateway_admitted_in_flight", "Admitted requests now running", ("priority",))
WAITING = gauge("penstock_gateway_admission_waiting", "Requests waiting to be admitted", ("priority",))


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
        self._shared = Shared(clock_s, remaining_s, pace, self.counts, self._make_room)
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
        """Turn away one that waits, on whichever route, for a newcomer; return False when that is the least."""
        for priority in Priority:
            if priority < newcomer.priority and self.counts.waiting[priority] > self.counts.reserve(priority):
                crowded = max(self._lanes.values(), key=lambda each: each.queue.waiting_in(priority))
                if crowded.queue.waiting_in(priority):
                    crowded.shed(crowded.queue.newest(priority))
                    return True
        priority = newcomer.priority
        crowded = max(self._lanes.values(), key=lambda each: each.queue.waiting_in(priority))
        if crowded is not lane and crowded.queue.waiting_in(priority) > lane.queue.waiting_in(priority) + 1:
            crowded.shed(crowded.queue.newest(priority))
            return True
        victim = lane.queue.victim(newcomer)
        if victim is not newcomer:
            lane.shed(victim)
        return victim is not newcomer

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
