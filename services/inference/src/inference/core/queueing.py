"""How long requests wait at k alike servers with one line, from the moments of service and arrivals (GI/G/k).

The mean is Allen and Cunneen's, (ca2 + cs2) / 2 times that of M/M/k, with the corrections of W. Whitt, "Approximations
for the GI/G/m queue", Production and Operations Management 2 (1993), equations 2.16 to 2.24; whether one waits is
Erlang's C formula; how the waits of those who wait are spread has his squared coefficient of variation (3.2), exact
for M/G/1. All times are seconds.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

CLOSE: Final = 1e-4
LARGEST_CORRECTION: Final = 0.24
LEAST_SCV: Final = 0.01


@dataclass(frozen=True, slots=True)
class Service:
    """How long service takes: its mean, squared coefficient of variation and third moment over the mean's cube.

    `times_s` are values that stand for the distribution, each for as much of it as any other.
    """

    mean_s: float
    scv: float
    third: float
    times_s: Sequence[float]

    @classmethod
    def of(cls, times_s: Sequence[float], points: int = 256) -> "Service":
        """Return the service of measured times; there has to be one, and their mean is above 0."""
        count = len(times_s)
        mean_s = max(sum(times_s) / count, 1e-9)
        scv = sum((each - mean_s) ** 2 for each in times_s) / count / mean_s**2
        third = sum(each**3 for each in times_s) / count / mean_s**3
        return cls(mean_s, scv, third, _shortened(sorted(times_s), points))


@dataclass(frozen=True, slots=True)
class Arrivals:
    """How many come in a second, and the squared coefficient of variation of the times between (1: at random)."""

    rate: float
    scv: float = 1.0


@dataclass(frozen=True, slots=True)
class Line:
    """What is to be expected at k servers: how busy they are, who waits, and how long."""

    utilisation: float
    waiting_share: float
    mean_wait_s: float
    wait_scv: float

    def longer_than(self, seconds: float) -> float:
        """Return the share of requests that wait longer than so many seconds (at or above 0: 1.0 for less)."""
        if seconds < 0:
            return 1.0
        if self.utilisation >= 1:
            return 1.0
        if not self.mean_wait_s:
            return 0.0
        return self.waiting_share * _survival(seconds, self.mean_wait_s / self.waiting_share, self.wait_scv)

    def wait_s(self, quantile: float) -> float:
        """Return a quantile of the wait, infinite when the line grows without end."""
        return _quantile(self.longer_than, quantile, self.utilisation >= 1)

    def latency_s(self, quantile: float, service: Service) -> float:
        """Return a quantile of wait and service together."""
        return _quantile(lambda seconds: self.later_than(seconds, service), quantile, self.utilisation >= 1)

    def later_than(self, seconds: float, service: Service) -> float:
        """Return the share of requests whose wait and service together take longer."""
        times_s = service.times_s
        return sum(self.longer_than(seconds - each) for each in times_s) / len(times_s)


def line(servers: int, arrivals: Arrivals, service: Service) -> Line:
    """Return what is to be expected at so many servers."""
    offered = arrivals.rate * service.mean_s
    utilisation = offered / servers
    if utilisation >= 1:
        return Line(utilisation, 1.0, math.inf, 1.0)
    if not offered:
        return Line(0.0, 0.0, 0.0, 1.0)
    waits = erlang_c(servers, offered)
    plain_s = waits * service.mean_s / (servers * (1 - utilisation))
    spread = (arrivals.scv + service.scv) / 2
    mean_wait_s = _correction(servers, utilisation, arrivals.scv, service.scv) * spread * plain_s
    wait_scv = 2 * utilisation - 1 + 4 * (1 - utilisation) * service.third / (3 * (service.scv + 1) ** 2)
    return Line(utilisation, waits, mean_wait_s, max(wait_scv, LEAST_SCV))


def erlang_c(servers: int, offered: float) -> float:
    """Return the share that waits in M/M/k; `offered` (below `servers`) is the mean number of busy servers."""
    blocked = 1.0
    for each in range(1, servers + 1):
        blocked = offered * blocked / (each + offered * blocked)
    return blocked / (1 - offered / servers * (1 - blocked))


def _correction(servers: int, utilisation: float, arrival_scv: float, service_scv: float) -> float:
    """Return Whitt's factor on Allen and Cunneen's mean wait."""
    total = arrival_scv + service_scv
    if not total:
        return 0.0
    if servers == 1 and arrival_scv == 1:
        return 1.0  # Pollaczek and Khinchine's formula, which is exact
    light = (1 - utilisation) * (servers - 1) * (math.sqrt(4 + 5 * servers) - 2) / (16 * servers * utilisation)
    light = min(LARGEST_CORRECTION, light)
    regular_service = 1 + light
    regular_arrivals = (1 - 4 * light) * math.exp(-2 * (1 - utilisation) / (3 * utilisation))
    middle: float = min(1.0, (regular_service + regular_arrivals) / 2) ** max(0.0, 2 - total)
    if arrival_scv >= service_scv:
        scale = 4 * arrival_scv - 3 * service_scv
        return (4 * (arrival_scv - service_scv) * regular_service + service_scv * middle) / scale
    scale = 2 * total
    return ((service_scv - arrival_scv) * regular_arrivals + (service_scv + 3 * arrival_scv) * middle) / scale


def _survival(seconds: float, mean_s: float, scv: float) -> float:
    """Return P(X > seconds) for a time of this mean and squared coefficient of variation.

    Above 1 it is two exponentials of balanced means, below a constant and an exponential.
    """
    if scv > 1:
        first = (1 + math.sqrt((scv - 1) / (scv + 1))) / 2
        second = 1 - first
        return first * math.exp(-2 * first * seconds / mean_s) + second * math.exp(-2 * second * seconds / mean_s)
    spread = math.sqrt(scv)
    constant_s = mean_s * (1 - spread)
    return math.exp(-(seconds - constant_s) / (mean_s * spread)) if seconds > constant_s else 1.0


def _quantile(beyond: Callable[[float], float], quantile: float, endless: bool) -> float:
    """Return where `beyond`, which falls, comes to 1 - quantile."""
    if endless:
        return math.inf
    share = 1 - quantile
    if beyond(0.0) <= share:
        return 0.0
    low_s, high_s = 0.0, 1e-6
    while beyond(high_s) > share:
        low_s, high_s = high_s, high_s * 2
    while high_s - low_s > CLOSE * high_s:
        middle_s = (low_s + high_s) / 2
        low_s, high_s = (middle_s, high_s) if beyond(middle_s) > share else (low_s, middle_s)
    return high_s


def _shortened(ordered: Sequence[float], points: int) -> list[float]:
    if len(ordered) <= points:
        return list(ordered)
    step = len(ordered) / points
    return [ordered[int((each + 0.5) * step)] for each in range(points)]
