"""Three times what can be served, in virtual time: the important stays quick, nothing is wasted, nobody starves."""

from collections.abc import Sequence

import pytest
from gateway.core.accounts import Priority
from gateway.core.configuration import AdmissionPolicy
from gateway_load_fakes import Caller, Simulation

MEAN_S = 0.1
SLO_S = 5 * MEAN_S
"""What interactive callers are promised for 99 in 100: five times what an answer takes without load."""

CAPACITY_PARTS = {Priority.INTERACTIVE: 0.6, Priority.STANDARD: 0.9, Priority.BATCH: 1.5}
SECONDS, WARM_S = 60.0, 15.0


def callers(capacity: float, parts: dict[Priority, float], tenants: int = 3) -> list[Caller]:
    """Return equal tenants of each class, which together ask for these parts of the capacity."""
    return [
        Caller(f"tenant-{number}", priority, capacity * part / tenants)
        for priority, part in parts.items()
        for number in range(tenants)
    ]


def policy(first: int) -> AdmissionPolicy:
    return AdmissionPolicy(least_running=4, most_running=512, first_running=first)


def goodput(simulation: Simulation, measured_s: float) -> float:
    return sum(simulation.served(priority) for priority in Priority) / measured_s


def interactive_p99_s(told: Simulation) -> float:
    return max(each.p99_s() for caller, each in told.told.items() if caller.priority is Priority.INTERACTIVE)


def assert_least_important_is_shed_first(simulation: Simulation) -> None:
    assert simulation.shed_share(Priority.INTERACTIVE) == 0
    assert simulation.shed_share(Priority.STANDARD) + 0.1 < simulation.shed_share(Priority.BATCH)


@pytest.mark.parametrize(
    ("workers", "first", "seed"), [(10, 4, 1), (10, 16, 1), (10, 16, 2), (10, 64, 1), (10, 64, 5), (40, 64, 1)]
)
def test_three_times_capacity_with_three_priorities(workers: int, first: int, seed: int) -> None:
    simulation = Simulation(policy(first), workers, MEAN_S, seed)
    rate = simulation.server.rate
    simulation.run(callers(rate, CAPACITY_PARTS), SECONDS, WARM_S)
    assert interactive_p99_s(simulation) <= SLO_S
    assert goodput(simulation, SECONDS - WARM_S) >= 0.9 * rate
    assert_least_important_is_shed_first(simulation)
    assert all(simulation.evenness(priority) >= 0.8 for priority in Priority)
    assert simulation.most_running <= max(simulation.limits) + max(simulation.limits) ** 0.5 + 1


def test_without_the_gate_the_same_load_serves_nobody_in_time() -> None:
    simulation = Simulation(AdmissionPolicy(100_000, 100_000, 100_000), 10, MEAN_S, 1)
    simulation.run(callers(simulation.server.rate, CAPACITY_PARTS), SECONDS, WARM_S)
    assert interactive_p99_s(simulation) > 10 * SLO_S


def test_half_of_the_capacity_goes_in_the_middle_of_it() -> None:
    simulation = Simulation(policy(16), 20, MEAN_S, 5)
    rate = simulation.server.rate
    parts = {Priority.INTERACTIVE: 0.3, Priority.STANDARD: 1.0, Priority.BATCH: 1.7}
    simulation.change = (30.0, 10)
    simulation.run(callers(rate, parts), SECONDS, 35.0)
    assert interactive_p99_s(simulation) <= 2 * SLO_S
    assert goodput(simulation, SECONDS - 35.0) >= 0.9 * rate / 2
    assert_least_important_is_shed_first(simulation)


def test_interactive_alone_above_capacity_is_served_within_its_patience() -> None:
    simulation = Simulation(policy(16), 10, MEAN_S, 3)
    rate = simulation.server.rate
    simulation.run(callers(rate, {Priority.INTERACTIVE: 3.0}), SECONDS, WARM_S)
    assert interactive_p99_s(simulation) <= 2.0 + SLO_S
    assert goodput(simulation, SECONDS - WARM_S) >= 0.9 * rate
    assert simulation.evenness(Priority.INTERACTIVE) >= 0.8


def tenants_served(simulation: Simulation, priority: Priority) -> dict[str, int]:
    return {
        caller.tenant: len(told.served_s) for caller, told in simulation.told.items() if caller.priority is priority
    }


@pytest.mark.parametrize("others", [3, 30])
def test_a_tenant_that_floods_takes_nothing_from_those_that_ask_for_their_part(others: int) -> None:
    simulation = Simulation(policy(16), 10, MEAN_S, 4)
    rate = simulation.server.rate
    modest: Sequence[Caller] = callers(rate, {Priority.STANDARD: 0.5}, others)
    simulation.run([*modest, Caller("flood", Priority.STANDARD, 3 * rate)], SECONDS, WARM_S)
    shed = sum(simulation.told[caller].shed for caller in modest)
    served = sum(len(simulation.told[caller].served_s) for caller in modest)
    assert shed <= 0.01 * served
    assert 0.3 * served <= tenants_served(simulation, Priority.STANDARD)["flood"]


def test_batch_is_never_starved_for_ever() -> None:
    simulation = Simulation(policy(16), 10, MEAN_S, 6)
    rate = simulation.server.rate
    simulation.run(
        callers(rate, {Priority.INTERACTIVE: 1.2, Priority.STANDARD: 1.2, Priority.BATCH: 0.6}), SECONDS, WARM_S
    )
    everything = sum(simulation.served(priority) for priority in Priority)
    assert simulation.served(Priority.BATCH) >= 0.03 * everything
    assert simulation.served(Priority.STANDARD) >= 0.06 * everything


def test_what_is_told_about_retries_is_within_bounds_and_grows_with_the_wait() -> None:
    simulation = Simulation(policy(16), 10, MEAN_S, 1)
    simulation.run(callers(simulation.server.rate, CAPACITY_PARTS), SECONDS, WARM_S)
    told = [seconds for each in simulation.told.values() for seconds in each.retry_after_s]
    assert len(told) > 5_000
    assert all(1 <= seconds <= 120 for seconds in told)
    assert max(told) > 1


def test_below_capacity_nobody_is_turned_away() -> None:
    simulation = Simulation(policy(16), 10, MEAN_S, 2)
    simulation.run(callers(simulation.server.rate, dict.fromkeys(Priority, 0.25)), SECONDS)
    assert all(simulation.shed_share(priority) == 0 for priority in Priority)
    assert interactive_p99_s(simulation) <= SLO_S
