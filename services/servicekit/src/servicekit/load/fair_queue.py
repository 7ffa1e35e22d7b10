"""Who waits, and who is next: the more important class first, and inside a class each tenant its fair part.

Fairness counts the time that a tenant holds slots, as Sheng et al., "Fairness in Serving Large Language Models" (OSDI
2024), count tokens: each tenant has a counter of what it was given, the waiting tenant with the lowest counter is next,
and a counter is lifted when a tenant comes to wait, so that nobody saves up credit while away. A slot is charged with
the tenant's mean when it is given and corrected when it is given back.
"""

from collections import OrderedDict
from typing import Final, Generic, Protocol, TypeVar

from servicekit.load.priority import Priority

REMEMBERED_TENANTS: Final = 1_000
"""Tenants of a class whose counter is remembered while none of their requests waits."""

SHARES: Final = {Priority.BATCH: 0.05, Priority.STANDARD: 0.10, Priority.INTERACTIVE: 0.0}
"""The part of the slots that a class gets even while more important ones wait."""

MEAN_WEIGHT: Final = 1 / 8


class Share:
    """What one tenant was given of one class: `served_s` seconds of slots, `mean_s` for each."""

    __slots__ = ("mean_s", "served_s")

    def __init__(self, mean_s: float) -> None:
        self.served_s = 0.0
        self.mean_s = mean_s

    def settle(self, charged_s: float, held_s: float) -> None:
        """Replace what was charged for a slot by how long it was held."""
        self.served_s += held_s - charged_s
        self.mean_s += MEAN_WEIGHT * (held_s - self.mean_s)


class Waiter(Protocol):
    """What can wait here; `share` and `charged_s` are set when it is taken out to be served."""

    tenant: str
    priority: Priority
    share: Share | None
    charged_s: float


AnyWaiter = TypeVar("AnyWaiter", bound=Waiter)


class _Line(Generic[AnyWaiter]):
    """The waiting requests of one tenant in one class, oldest first."""

    __slots__ = ("share", "waiters")

    def __init__(self, share: Share) -> None:
        self.share = share
        self.waiters: OrderedDict[AnyWaiter, None] = OrderedDict()


class _ClassQueue(Generic[AnyWaiter]):
    """The waiting requests of one class."""

    __slots__ = ("_floor_s", "_shares", "lines", "waiting")

    def __init__(self) -> None:
        self.waiting = 0
        self.lines: dict[str, _Line[AnyWaiter]] = {}
        self._shares: OrderedDict[str, Share] = OrderedDict()
        self._floor_s = 0.0

    def add(self, waiter: AnyWaiter, mean_s: float, round_s: float) -> None:
        line = self.lines.get(waiter.tenant)
        if line is None:
            line = self.lines[waiter.tenant] = _Line(self._joining(waiter.tenant, mean_s, round_s))
        line.waiters[waiter] = None
        self.waiting += 1

    def take(self) -> AnyWaiter:
        line = min(self.lines.values(), key=lambda each: each.share.served_s)
        waiter = next(iter(line.waiters))
        share = line.share
        self._floor_s = share.served_s
        waiter.share, waiter.charged_s = share, share.mean_s
        share.served_s += share.mean_s
        self.remove(waiter)
        return waiter

    def remove(self, waiter: AnyWaiter) -> bool:
        line = self.lines.get(waiter.tenant)
        if line is None or waiter not in line.waiters:
            return False
        del line.waiters[waiter]
        self.waiting -= 1
        if not line.waiters:
            del self.lines[waiter.tenant]
        return True

    def longest(self) -> _Line[AnyWaiter]:
        return max(self.lines.values(), key=lambda each: len(each.waiters))

    def waiting_of(self, tenant: str) -> int:
        line = self.lines.get(tenant)
        return len(line.waiters) if line else 0

    def _joining(self, tenant: str, mean_s: float, round_s: float) -> Share:
        """Return a tenant's counter, within one round of the slots of where the others are."""
        share = self._shares.get(tenant)
        if share is None:
            share = self._shares[tenant] = Share(mean_s)
            if len(self._shares) > REMEMBERED_TENANTS:
                self._shares.popitem(last=False)
        else:
            self._shares.move_to_end(tenant)
        floor_s = min((line.share.served_s for line in self.lines.values()), default=self._floor_s)
        share.served_s = min(max(share.served_s, floor_s), floor_s + round_s)
        return share


class FairQueue(Generic[AnyWaiter]):
    """The waiting requests of one route. It bounds nothing itself: `victim` says who goes when somebody has to."""

    __slots__ = ("_classes", "_credit", "waiting")

    def __init__(self) -> None:
        self._classes: tuple[_ClassQueue[AnyWaiter], ...] = tuple(_ClassQueue() for _ in Priority)
        self._credit = [0.0 for _ in Priority]
        self.waiting = 0

    def waiting_in(self, priority: Priority) -> int:
        """Return how many wait in a class."""
        return self._classes[priority].waiting

    def waiting_from(self, priority: Priority) -> int:
        """Return how many wait in a class and in those above it."""
        return self.waiting and sum(queue.waiting for queue in self._classes[priority:])

    def highest(self) -> Priority:
        """Return the most important class of which something waits; something has to."""
        return next(priority for priority in reversed(Priority) if self._classes[priority].waiting)

    def add(self, waiter: AnyWaiter, mean_s: float, round_s: float) -> None:
        """Let a request wait. `mean_s` is how long a slot is held here; `round_s` the work of all slots held once."""
        self._classes[waiter.priority].add(waiter, max(mean_s, 1e-6), round_s)
        self.waiting += 1

    def remove(self, waiter: AnyWaiter) -> bool:
        """Take a request out; return False when it does not wait here."""
        removed = self._classes[waiter.priority].remove(waiter)
        self.waiting -= removed
        return removed

    def take(self, running: list[int], limit: int) -> AnyWaiter:
        """Take out the next to be served, its slot charged. `running` counts by class; something has to wait."""
        waiter = self._classes[self._next_class(running, limit)].take()
        self.waiting -= 1
        return waiter

    def victim(self, newcomer: AnyWaiter) -> AnyWaiter:
        """Return who goes so that a newcomer's class does not grow: the newest of the tenant with the most waiting.

        That is the newcomer itself unless another tenant would still have more than its own.
        """
        queue = self._classes[newcomer.priority]
        if not queue.waiting:
            return newcomer
        longest = queue.longest().waiters
        return next(reversed(longest)) if len(longest) > queue.waiting_of(newcomer.tenant) + 1 else newcomer

    def newest(self, priority: Priority) -> AnyWaiter:
        """Return the newest of the tenant that has the most waiting in a class that has some."""
        return next(reversed(self._classes[priority].longest().waiters))

    def ahead_of(self, tenant: str, priority: Priority) -> tuple[int, int]:
        """Return how many go before a newcomer of this tenant if no other comes: all, and those of its class."""
        queue = self._classes[priority]
        own = queue.waiting_of(tenant)
        turns = min(queue.waiting, (own + 1) * len(queue.lines) - (own > 0))
        return turns + sum(each.waiting for each in self._classes[priority + 1 :]), turns

    def _next_class(self, running: list[int], limit: int) -> int:
        """Return the most important class that waits, or a lesser one that has its share coming."""
        waiting = [level for level, queue in enumerate(self._classes) if queue.waiting]
        due = -1
        for level in waiting[:-1]:
            share = SHARES[Priority(level)]
            self._credit[level] = min(self._credit[level] + share, 1.0)
            if self._credit[level] > 1.0 - 1e-9 and running[level] < max(1, share * limit):
                due = level
        if due < 0:
            return waiting[-1]
        self._credit[due] = 0.0
        return due
