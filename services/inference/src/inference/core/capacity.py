"""How many replicas of a model meet an objective at a rate: the least for which the queueing formulas say so."""

import math
from dataclasses import dataclass
from enum import Enum
from typing import Final

from servicekit.errors import InvalidInput

from inference.core.queueing import Arrivals, Line, Service, line
from inference.core.workload import Measured

MOST_SERVERS: Final = 20_000
"""Busy servers that are planned for at the most."""


class Kind(Enum):
    """What an objective times: the wait until the work begins, or wait and work together."""

    WAIT = "wait"
    LATENCY = "latency"


@dataclass(frozen=True, slots=True)
class Objective:
    """That a share of requests (`quantile`, such as 0.99) stays below so many seconds."""

    kind: Kind
    quantile: float
    seconds: float

    def check(self) -> None:
        """Raise InvalidInput for a quantile that is none, or for a time that is none."""
        if not 0 < self.quantile < 1:
            raise InvalidInput("a quantile is above 0 and below 1", field="objective.quantile")
        if not 0 < self.seconds < math.inf:
            raise InvalidInput("seconds are above 0", field="objective.seconds")

    def met_by(self, expected: Line, service: Service) -> bool:
        """Say whether a line meets it."""
        if expected.utilisation >= 1:
            return False
        if self.kind is Kind.WAIT:
            return expected.longer_than(self.seconds) <= 1 - self.quantile
        return expected.later_than(self.seconds, service) <= 1 - self.quantile


USUAL_OBJECTIVE: Final = Objective(Kind.WAIT, 0.95, 0.5)
"""What is planned for where the catalogue says nothing: 95 in 100 wait half a second at most."""


class ObjectiveUnreachable(InvalidInput):
    """The work alone takes longer than the objective allows, however many replicas there are."""

    default_reason = "objective_unreachable"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is planned for: so many requests a second, to be served by replicas that each serve so many side by side."""

    arrivals: Arrivals
    service: Service
    servers_each: float
    objective: Objective

    @classmethod
    def of(cls, measured: Measured, replicas: int, objective: Objective, rate: float | None = None) -> "Plan":
        """Return the plan for what was measured with so many replicas, at another rate if one is given (per second)."""
        objective.check()
        if rate is not None and not 0 <= rate < math.inf:
            raise InvalidInput("a rate is a number of requests a second, at or above 0", field="rate")
        arrivals = measured.arrivals if rate is None else Arrivals(rate, measured.arrivals.scv)
        return cls(arrivals, measured.service, max(1.0, measured.servers / max(replicas, 1)), objective)

    def expected(self, replicas: int) -> Line:
        """Return what is to be expected with so many replicas; with none, the line grows without end."""
        servers = int(replicas * self.servers_each + 1e-9)
        return line(servers, self.arrivals, self.service) if servers else Line(math.inf, 1.0, math.inf, 1.0)

    def least_replicas(self) -> int:
        """Return the least number of replicas that meets the objective, at least 1.

        Raises ObjectiveUnreachable when none does.
        """
        offered = self.arrivals.rate * self.service.mean_s
        if offered > MOST_SERVERS:
            raise InvalidInput("the rate is more than can be planned for", field="rate")
        if not self.objective.met_by(Line(0.0, 0.0, 0.0, 1.0), self.service):
            raise ObjectiveUnreachable("the work alone takes longer than that", field="objective.seconds")
        below, meets = 0, 1
        while not self._met(meets):
            below, meets = meets, meets * 2
        while meets - below > 1:
            middle = (below + meets) // 2
            below, meets = (below, middle) if self._met(middle) else (middle, meets)
        return meets

    def _met(self, replicas: int) -> bool:
        return self.objective.met_by(self.expected(replicas), self.service)
