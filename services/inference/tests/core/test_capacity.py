"""The advice against a simulation: within one of the least number of replicas that meets the objective."""

import heapq
import math
from collections.abc import Callable
from random import Random

import pytest
from inference.core.capacity import Kind, Objective, ObjectiveUnreachable, Plan
from inference.core.queueing import Arrivals, Service
from servicekit.errors import InvalidInput

Draw = Callable[[], float]
REQUESTS = 60_000


def lognormal(random: Random, scv: float) -> Draw:
    variance = math.log(1 + scv)
    return lambda: random.lognormvariate(-variance / 2, math.sqrt(variance))


def bimodal(random: Random, share: float, ratio: float) -> Draw:
    short_s = 1 / (1 - share + share * ratio)
    return lambda: short_s * ratio if random.random() < share else short_s


SERVICES: dict[str, Callable[[Random], Draw]] = {
    "exponential": lambda random: lambda: random.expovariate(1.0),
    "deterministic": lambda _: lambda: 1.0,
    "lognormal": lambda random: lognormal(random, 0.5),
    "wide lognormal": lambda random: lognormal(random, 4.0),
    "bimodal": lambda random: bimodal(random, 0.1, 10.0),
}


class Simulated:
    """First come, first served at k servers; the least k that meets an objective, by trying. Service is 1 s long."""

    def __init__(self, draw: Draw, rate: float) -> None:
        self._draw, self._rate = draw, rate
        self._seen: dict[int, dict[Kind, list[float]]] = {}

    def least(self, objective: Objective) -> int:
        servers = math.floor(self._rate) + 1
        while not self._met(servers, objective):
            servers += 1
        return servers

    def _met(self, servers: int, objective: Objective) -> bool:
        if servers not in self._seen:
            self._seen[servers] = self._run(servers)
        times_s = self._seen[servers][objective.kind]
        return times_s[int(len(times_s) * objective.quantile)] <= objective.seconds

    def _run(self, servers: int) -> dict[Kind, list[float]]:
        random = Random(5)
        free_s, now_s = [0.0] * servers, 0.0
        waits_s, latencies_s = [], []
        for _ in range(REQUESTS):
            now_s += random.expovariate(self._rate)
            took_s = self._draw()
            begins_s = max(now_s, heapq.heappop(free_s))
            heapq.heappush(free_s, begins_s + took_s)
            waits_s.append(begins_s - now_s)
            latencies_s.append(begins_s - now_s + took_s)
        return {Kind.WAIT: sorted(waits_s[1000:]), Kind.LATENCY: sorted(latencies_s[1000:])}


@pytest.mark.parametrize("load", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("name", SERVICES)
def test_the_advice_is_within_one_of_the_least_that_meets_the_objective(name: str, load: float) -> None:
    draw = SERVICES[name](Random(1))
    times_s = [draw() for _ in range(20_000)]
    slow_s = sorted(times_s)[int(len(times_s) * 0.99)]
    for servers in (2, 8):
        rate = load * servers
        simulated = Simulated(draw, rate)
        for objective in (
            Objective(Kind.WAIT, 0.99, 0.5),
            Objective(Kind.WAIT, 0.95, 2.0),
            Objective(Kind.LATENCY, 0.99, slow_s * 1.05 + 0.5),
        ):
            advised = Plan(Arrivals(rate), Service.of(times_s), 1.0, objective).least_replicas()
            assert abs(advised - simulated.least(objective)) <= 1, (servers, objective)


def plan(objective: Objective, rate: float = 10.0, servers_each: float = 1.0) -> Plan:
    return Plan(Arrivals(rate), Service.of([0.5, 1.0, 1.5]), servers_each, objective)


WAIT = Objective(Kind.WAIT, 0.95, 0.5)


def test_it_is_the_least_that_meets_it() -> None:
    here = plan(WAIT)
    least = here.least_replicas()
    assert WAIT.met_by(here.expected(least), here.service)
    assert not WAIT.met_by(here.expected(least - 1), here.service)
    assert plan(WAIT, rate=0.0).least_replicas() == 1


def test_a_replica_that_serves_several_side_by_side_counts_for_as_many() -> None:
    single, quadruple = plan(WAIT).least_replicas(), plan(WAIT, servers_each=4.0).least_replicas()
    assert quadruple == math.ceil(single / 4)


def test_an_objective_below_the_work_itself_is_refused() -> None:
    with pytest.raises(ObjectiveUnreachable) as caught:
        plan(Objective(Kind.LATENCY, 0.99, 1.2)).least_replicas()
    assert caught.value.field == "objective.seconds"


@pytest.mark.parametrize(
    ("quantile", "seconds", "field"),
    [
        (0.0, 1.0, "objective.quantile"),
        (1.0, 1.0, "objective.quantile"),
        (math.nan, 1.0, "objective.quantile"),
        (0.9, 0.0, "objective.seconds"),
        (0.9, -1.0, "objective.seconds"),
        (0.9, math.inf, "objective.seconds"),
        (0.9, math.nan, "objective.seconds"),
    ],
)
def test_an_objective_that_is_none_is_refused(quantile: float, seconds: float, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Objective(Kind.WAIT, quantile, seconds).check()
    assert caught.value.field == field


def test_a_rate_beyond_all_planning_is_refused_and_not_computed_for_ever() -> None:
    with pytest.raises(InvalidInput) as caught:
        plan(WAIT, rate=1e12).least_replicas()
    assert caught.value.field == "rate"
