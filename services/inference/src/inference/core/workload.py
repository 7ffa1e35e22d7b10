"""What a model is asked and how long it takes: the latest arrivals, waits and times of service, and their moments."""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from inference.core.queueing import Arrivals, Service

REMEMBERED_ARRIVALS: Final = 4096
REMEMBERED: Final = 1024
WINDOW_S: Final = 60.0
"""How far back arrivals count."""

FEWEST: Final = 8
"""Values that say anything of their mean."""

APART: Final = 2.0
"""How much more there has to be beside a request so that a difference of times says anything."""

SLOWER: Final = 1.25
"""How much longer is longer."""

LEAST_ARRIVAL_SCV: Final = 1.0
LARGEST_ARRIVAL_SCV: Final = 64.0
"""Arrivals more regular than random ones are planned for as random: what smooths them is not ours."""


@dataclass(frozen=True, slots=True)
class Percentiles:
    """The 50th, 95th and 99th (seconds)."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Percentiles | None":
        """Return those of some values, None without any."""
        if not values:
            return None
        ordered = sorted(values)
        return cls(*(ordered[min(int(len(ordered) * part), len(ordered) - 1)] for part in (0.5, 0.95, 0.99)))


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured: arrivals; service as it is without load; and how many are served side by side (`servers`).

    `held` is how long a slot is held, whatever the load (percentiles, seconds).
    """

    arrivals: Arrivals
    service: Service
    servers: float
    wait: Percentiles | None
    held: Percentiles | None
    first_token: Percentiles | None
    inter_token: Percentiles | None


class Workload:
    """The latest of one model; what it keeps is bounded, whatever comes."""

    __slots__ = ("_arrivals", "_clock_s", "_held", "_since_s", "_waited", "arrived", "first_token_s", "inter_token_s")

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._since_s = clock_s()
        self._arrivals: deque[float] = deque(maxlen=REMEMBERED_ARRIVALS)
        self._held: deque[tuple[int, float]] = deque(maxlen=REMEMBERED)
        self._waited: deque[tuple[float, float]] = deque(maxlen=REMEMBERED)
        self.first_token_s: deque[float] = deque(maxlen=REMEMBERED)
        self.inter_token_s: deque[float] = deque(maxlen=REMEMBERED)
        self.arrived = self._arrivals.append
        """Note that a request came, at a moment of the clock."""

    def waited(self, now_s: float, wait_s: float) -> None:
        """Note how long a request waited that got its slot now."""
        self._waited.append((now_s, wait_s))

    def answered(self, beside: int, held_s: float) -> None:
        """Note how long a request held its slot, and how many did when it began, itself included."""
        self._held.append((beside, held_s))

    def measured(self, limit: int) -> Measured | None:
        """Return what was measured with so many slots, None before anything was answered."""
        if not self._held:
            return None
        times_s, servers = _alone(list(self._held), limit)
        return Measured(
            arrivals=self._arriving(),
            service=Service.of(times_s),
            servers=servers,
            wait=self.wait(),
            held=Percentiles.of([held_s for _, held_s in list(self._held)]),
            first_token=Percentiles.of(list(self.first_token_s)),
            inter_token=Percentiles.of(list(self.inter_token_s)),
        )

    def wait(self) -> Percentiles | None:
        """Return how long those waited that got a slot of late, None when none did."""
        from_s = self._clock_s() - WINDOW_S
        return Percentiles.of([wait_s for moment_s, wait_s in list(self._waited) if moment_s > from_s])

    def _arriving(self) -> Arrivals:
        now_s = self._clock_s()
        times_s = [each for each in self._arrivals if each > now_s - WINDOW_S]
        if not times_s:
            return Arrivals(0.0)
        full = len(times_s) == REMEMBERED_ARRIVALS
        span_s = now_s - times_s[0] if full else min(now_s - self._since_s, WINDOW_S)
        gaps_s = [later - earlier for earlier, later in pairwise(times_s)]
        rate = len(times_s) / max(span_s, 1e-3)
        if len(gaps_s) < FEWEST or not sum(gaps_s):
            return Arrivals(rate)
        mean_s = sum(gaps_s) / len(gaps_s)
        scv = sum((each - mean_s) ** 2 for each in gaps_s) / len(gaps_s) / mean_s**2
        return Arrivals(rate, min(max(scv, LEAST_ARRIVAL_SCV), LARGEST_ARRIVAL_SCV))


def _alone(held: list[tuple[int, float]], limit: int) -> tuple[list[float], float]:
    """Return the times as they would be without load, and how many requests are served side by side.

    A backend that has fewer workers than there are slots takes longer the more it is given. The third of the answers
    that had least beside them is compared with the third that had most: where these took longer, time grows in step
    with load from where both meet, and that is the number of workers. Where they did not, there are at least as many
    workers as were ever busy, up to twice as many where that was tried; never more than slots.
    """
    ordered = sorted(held)
    third = len(ordered) // 3
    if third < FEWEST:
        return [held_s for _, held_s in held], float(limit)
    (few, quick_s), (many, slow_s) = _means(ordered[:third]), _means(ordered[-third:])
    if many < APART * few:
        return [held_s for _, held_s in held], min(max(1.0, many), limit)
    if slow_s <= SLOWER * quick_s:
        return [held_s for _, held_s in held], min(APART * many, limit)
    each_s = slow_s / many
    times_s = [held_s * quick_s / max(quick_s, beside * each_s) for beside, held_s in held]
    return times_s, min(max(1.0, quick_s / each_s), limit)


def _means(held: list[tuple[int, float]]) -> tuple[float, float]:
    count = len(held)
    mean_s = math.fsum(held_s for _, held_s in held) / count
    return sum(beside for beside, _ in held) / count, max(mean_s, 1e-9)
