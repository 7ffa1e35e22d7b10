"""How fast the error budgets of the routes burn: service level objectives, watched over four windows.

A burn rate is the share of bad events over the share that the objective allows; at 1 the budget lasts exactly its
period (Google, "The Site Reliability Workbook", chapter 5). Everything is counted in rings of half-minute buckets.
"""

import time
from array import array
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from servicekit.telemetry.metrics import gauge

from gateway.core.configuration import SloTarget

BUCKET_S: Final = 30
WINDOWS_S: Final[Mapping[str, int]] = {"5m": 300, "30m": 1_800, "1h": 3_600, "6h": 21_600}
BUCKETS: Final = max(WINDOWS_S.values()) // BUCKET_S
OBJECTIVES: Final = ("availability", "latency")

BURN_RATE = gauge(
    "penstock_gateway_slo_burn_rate",
    "Share of bad calls over the share that the objective allows; 1 uses the budget up exactly in its period",
    ("route", "objective", "window"),
)


class _Ring:
    """Calls of one route by half minute: all, failed, answered, answered late."""

    __slots__ = ("_calls", "_failed", "_late", "_newest", "_past", "target")

    def __init__(self, target: SloTarget, bucket: int) -> None:
        self.target = target
        self._calls, self._failed, self._late = (array("Q", bytes(8 * BUCKETS)) for _ in range(3))
        self._newest = bucket
        self._past: dict[int, tuple[int, tuple[int, ...]]] = {}

    def count(self, bucket: int, failed: bool, late: bool) -> None:
        """Count one call."""
        if bucket > self._newest:
            self._turn(bucket)
        place = self._newest % BUCKETS
        self._calls[place] += 1
        if failed:
            self._failed[place] += 1
        elif late:
            self._late[place] += 1

    def rates(self, bucket: int, window_s: int) -> tuple[float, float]:
        """Return the burn rates of availability and latency over a window that ends with this bucket.

        Changes no count, so that metrics may be read from another thread.
        """
        place, behind = self._newest % BUCKETS, bucket - self._newest
        current = (
            (0, 0, 0)
            if behind >= window_s // BUCKET_S
            else (self._calls[place], self._failed[place], self._late[place])
        )
        calls, failed, late = (now + past for now, past in zip(current, self._before(bucket, window_s), strict=True))
        answered = calls - failed
        return (
            failed / calls / (1 - self.target.availability) if calls else 0.0,
            late / answered / (1 - self.target.latency_share) if answered else 0.0,
        )

    def _before(self, bucket: int, window_s: int) -> tuple[int, ...]:
        """Return the sums of the window without the newest bucket, which alone still changes."""
        known = self._past.get(window_s)
        if known is None or known[0] != bucket:
            first = max(bucket - window_s // BUCKET_S, self._newest - BUCKETS) + 1
            places = [past % BUCKETS for past in range(first, self._newest)]
            sums = tuple(sum(ring[place] for place in places) for ring in (self._calls, self._failed, self._late))
            known = self._past[window_s] = (bucket, sums)
        return known[1]

    def _turn(self, bucket: int) -> None:
        """Empty the buckets of the time since the newest one; a clock that goes back changes nothing."""
        for past in range(max(self._newest + 1, bucket - BUCKETS + 1), bucket + 1):
            place = past % BUCKETS
            self._calls[place] = self._failed[place] = self._late[place] = 0
        self._newest = bucket


class SloTracker:
    """Watches the routes that have targets; others are not counted, so what is kept is bounded by the configuration."""

    def __init__(self, targets: Mapping[str, SloTarget], clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._rings: dict[str, _Ring] = {}
        self.watch(targets)

    def watch(self, targets: Mapping[str, SloTarget]) -> None:
        """Take over new targets; a route that stays keeps its counts, one that goes leaves the metrics, too."""
        for route in self._rings.keys() - targets.keys():
            del self._rings[route]
            for objective in OBJECTIVES:
                for window in WINDOWS_S:
                    BURN_RATE.remove(route, objective, window)
        for route, target in targets.items():
            if route in self._rings:
                self._rings[route].target = target
            else:
                self._rings[route] = _Ring(target, self._bucket())
                self._export(route)

    def record(self, route: str, served: bool, first_byte_s: float = 0.0) -> None:
        """Count a call that has ended; `first_byte_s` is the seconds until its answer began.

        `served` is False for what the service got wrong (5xx, shed, cut off). A mistake of the caller's (4xx) and a
        call that the caller gave up are not recorded at all.
        """
        ring = self._rings.get(route)
        if ring is not None:
            ring.count(self._bucket(), not served, first_byte_s * 1_000 > ring.target.latency_ms)

    def burn_rate(self, route: str, objective: str, window: str) -> float:
        """Return the burn rate of `availability` or `latency` over `5m`, `30m`, `1h` or `6h`; 0.0 without calls."""
        ring = self._rings.get(route)
        return ring.rates(self._bucket(), WINDOWS_S[window])[OBJECTIVES.index(objective)] if ring else 0.0

    def _bucket(self) -> int:
        return int(self._clock_s() // BUCKET_S)

    def _export(self, route: str) -> None:
        for objective in OBJECTIVES:
            for window in WINDOWS_S:
                BURN_RATE.labels(route, objective, window).set_function(
                    partial(self.burn_rate, route, objective, window)
                )
