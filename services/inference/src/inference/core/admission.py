"""The bounded queue in front of a model: who runs, who waits and in which order, and who is refused at once."""

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from servicekit.errors import TimedOut, Unavailable
from servicekit.load.concurrency_limit import USUAL_PACE, Pace
from servicekit.load.counts import Counts
from servicekit.load.lane import Lane, Shared, Slot, Why
from servicekit.load.priority import Priority
from servicekit.load.room import make_room

from inference.core.catalogue import QueueLimits
from inference.core.measures import LIMIT, REFUSED

USUAL: Final = 0.9
"""A request waits while it has the time left that nine of ten answers take: work begun for nothing is lost to all."""

HEADROOM: Final = 1 / 16
"""So many slots are kept from lesser classes, at most, while the interactive one uses as many: else a request of it
would wait for somebody's end, however empty its class is."""

FOREVER: Final = dict.fromkeys(Priority, math.inf)
"""How long each class waits: its deadline alone bounds it. The gateway's classes have bounds of their own."""

LATE: Final = {Why.TOO_LONG, Why.LATE}
DRAINING_RETRY_S: Final = 1.0

Asker = Callable[[], tuple[str, Priority]]
"""Tells for which tenant the request at hand is, and how important it is."""


def nobody() -> tuple[str, Priority]:
    """Return the one tenant there is where callers are not told apart."""
    return "", Priority.STANDARD


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """The bounds of a model's queue, as a lane takes them; a limit that can move begins at its highest."""

    least_running: int
    most_running: int
    first_running: int
    waiting: Mapping[Priority, int] = field(default_factory=dict)


class QueueReporter:
    """Tells callers and metrics what becomes of requests that ask for a slot of one model."""

    __slots__ = ("_model", "draining")

    def __init__(self, model: str) -> None:
        self._model = model
        self.draining = False

    def refusal(self, slot: Slot, why: Why, _left_s: float, retry_after_s: float) -> Unavailable:
        """Return Unavailable with reason draining, queue_timeout or queue_full; count it."""
        if self.draining:
            reason, message, retry_after_s = "draining", "the pool is shutting down", DRAINING_RETRY_S
        elif why in LATE:
            reason, message = "queue_timeout", f"no slot of {self._model} comes free in time"
        else:
            reason, message = "queue_full", f"the queue of {self._model} is full"
        REFUSED.labels(self._model, slot.priority.label, reason).inc()
        return Unavailable(message, reason=reason, retry_after_s=retry_after_s)

    def waited(self, slot: Slot, seconds: float) -> None:
        """Nothing: the wait of every request is measured, whether it had to wait or not."""

    def limit_is(self, route: str, limit: int) -> None:
        """Show the limit."""
        LIMIT.labels(route).set(limit)


class Admission:
    """Hands out the slots of one model: the more important first, and inside a class each tenant its fair part.

    How many there are is learned from latency where the limits leave room for it. One per model and event loop.
    """

    def __init__(
        self,
        model: str,
        limits: QueueLimits,
        asker: Asker = nobody,
        clock: Callable[[], float] = time.monotonic,
        pace: Pace = USUAL_PACE,
    ) -> None:
        self._model = model
        self._asker = asker
        self._counts = Counts(limits.max_waiting)
        self._reporter = QueueReporter(model)
        shared = Shared(
            clock,
            _no_deadline,
            pace,
            self._counts,
            self._make_room,
            self._reporter,
            longest_wait_s=FOREVER,
            usual=USUAL,
            headroom=HEADROOM,
        )
        most = limits.max_concurrent
        waiting = dict.fromkeys(Priority, limits.max_waiting)
        self._lane = Lane(model, QueuePolicy(limits.least_concurrent or most, most, most, waiting), shared)

    @property
    def running(self) -> int:
        """How many hold a slot."""
        return self._lane.in_flight

    @property
    def waiting(self) -> int:
        """How many wait for one."""
        return self._lane.queue.waiting

    @property
    def limit(self) -> int:
        """How many slots there are now."""
        return self._lane.limiter.limit

    async def enter(self, wait_s: float) -> Slot:
        """Take a slot for a request that has to be answered in `wait_s` seconds; return it, for `leave`.

        Raises Unavailable with reason queue_full, queue_timeout (at once, when the wait and the work would take longer)
        or draining, and when a retry may do; TimedOut when no time is left.
        """
        tenant, priority = self._asker()
        lane = self._lane
        slot = Slot(lane, tenant, priority)
        if self._reporter.draining:
            raise self._reporter.refusal(slot, Why.FULL, wait_s, DRAINING_RETRY_S)
        if wait_s <= 0.0:
            raise TimedOut(f"the time for {self._model} was over before it could start")
        if not lane.enter(slot, wait_s):
            await lane.wait(slot, wait_s)
        return slot

    def leave(self, slot: Slot, error: BaseException | None = None) -> None:
        """Give a slot back, and learn from how it went."""
        if isinstance(error, GeneratorExit):
            error = asyncio.CancelledError()
        if isinstance(error, (TimedOut, asyncio.CancelledError)):
            self._lane.gave_up(slot)  # else only quick answers would say how long answers take
        self._lane.leave(slot, error, slot.answered)

    def drain(self) -> None:
        """Refuse whoever waits and whoever comes from now on; those who run are left alone."""
        self._reporter.draining = True
        queue = self._lane.queue
        for priority in Priority:
            while queue.waiting_in(priority):
                self._lane.shed(queue.newest(priority))

    def _make_room(self, lane: Lane, newcomer: Slot) -> bool:
        return make_room((lane,), self._counts, lane, newcomer)


def _no_deadline() -> None:
    return None
