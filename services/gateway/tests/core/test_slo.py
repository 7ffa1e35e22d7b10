"""Burn rates over four windows, by a clock turned by hand."""

from collections.abc import Iterator

import pytest
from gateway.core.configuration import SloTarget
from gateway.core.slo import BURN_RATE, OBJECTIVES, WINDOWS_S, SloTracker

TARGET = SloTarget(availability=0.99, latency_ms=500, latency_share=0.9)


class Clock:
    now_s = 90_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def slo(clock: Clock) -> Iterator[SloTracker]:
    BURN_RATE.clear()  # of routes that other tests left in the process
    tracker = SloTracker({"chat": TARGET}, clock)
    yield tracker
    tracker.watch({})


def exported() -> dict[tuple[str, str, str], float]:
    return {
        (each.labels["route"], each.labels["objective"], each.labels["window"]): each.value
        for metric in BURN_RATE.collect()
        for each in metric.samples
    }


def test_without_calls_nothing_burns(slo: SloTracker) -> None:
    assert set(exported().values()) == {0.0}
    assert len(exported()) == len(OBJECTIVES) * len(WINDOWS_S)


def test_failures_burn_availability_and_late_answers_burn_latency(slo: SloTracker) -> None:
    for number in range(100):
        slo.record("chat", served=number >= 5, first_byte_s=0.6 if number >= 80 else 0.5)
    assert slo.burn_rate("chat", "availability", "5m") == pytest.approx(5.0)
    assert slo.burn_rate("chat", "latency", "5m") == pytest.approx(20 / 95 / 0.1)
    assert exported()["chat", "availability", "6h"] == pytest.approx(5.0)


def test_only_failures_is_a_hundred_times_a_budget_of_a_hundredth(slo: SloTracker) -> None:
    slo.record("chat", served=False)
    assert slo.burn_rate("chat", "availability", "5m") == pytest.approx(100.0)
    assert slo.burn_rate("chat", "latency", "5m") == 0.0


def test_each_window_forgets_after_its_own_time(slo: SloTracker, clock: Clock) -> None:
    slo.record("chat", served=False)
    for name, length_s in WINDOWS_S.items():
        clock.now_s = Clock.now_s + length_s - 31
        assert slo.burn_rate("chat", "availability", name) == pytest.approx(100.0), name
        clock.now_s = Clock.now_s + length_s
        assert slo.burn_rate("chat", "availability", name) == 0.0, name


def test_a_window_mixes_old_and_new_as_they_are(slo: SloTracker, clock: Clock) -> None:
    for _ in range(60):
        slo.record("chat", served=False)
        clock.now_s += 30
    for _ in range(60):
        slo.record("chat", served=True)
        clock.now_s += 30
        slo.burn_rate("chat", "availability", "1h")
    clock.now_s -= 30
    assert slo.burn_rate("chat", "availability", "30m") == 0.0
    assert slo.burn_rate("chat", "availability", "1h") == pytest.approx(50.0)
    slo.record("chat", served=False)
    assert slo.burn_rate("chat", "availability", "1h") == pytest.approx(100 * 61 / 121)


def test_a_day_without_calls_forgets_everything_and_a_clock_that_goes_back_nothing(
    slo: SloTracker, clock: Clock
) -> None:
    slo.record("chat", served=False)
    clock.now_s -= 7_200
    slo.record("chat", served=True)
    clock.now_s += 7_200
    assert slo.burn_rate("chat", "availability", "5m") == pytest.approx(50.0)
    clock.now_s += 86_400
    assert slo.burn_rate("chat", "availability", "6h") == 0.0
    slo.record("chat", served=True)
    assert slo.burn_rate("chat", "availability", "6h") == 0.0


def test_a_year_of_counting_agrees_with_a_plain_list(slo: SloTracker, clock: Clock) -> None:
    events: list[tuple[int, bool]] = []
    for step in range(5_000):
        clock.now_s += (step * 7919) % 97
        served = (step * 31) % 7 > 0
        slo.record("chat", served)
        events.append((int(clock.now_s // 30), served))
        if step % 50 == 0:
            for name, length_s in WINDOWS_S.items():
                inside = [good for bucket, good in events if bucket > clock.now_s // 30 - length_s // 30]
                share = sum(not good for good in inside) / len(inside)
                assert slo.burn_rate("chat", "availability", name) == pytest.approx(share * 100)


def test_routes_without_a_target_are_not_counted(slo: SloTracker) -> None:
    for number in range(1_000):
        slo.record(f"made-up-{number}", served=False)
    assert slo.burn_rate("made-up-1", "availability", "5m") == 0.0
    assert {route for route, _, _ in exported()} == {"chat"}


def test_new_targets_keep_the_counts_of_a_route_that_stays(slo: SloTracker) -> None:
    slo.record("chat", served=False)
    slo.watch({"chat": SloTarget(availability=0.9), "ask": TARGET})
    assert slo.burn_rate("chat", "availability", "5m") == pytest.approx(10.0)
    slo.watch({"ask": TARGET})
    assert {route for route, _, _ in exported()} == {"ask"}
    assert slo.burn_rate("chat", "availability", "5m") == 0.0
