"""The limit finds what a server can take, from its latency alone, whatever its nature."""

from collections.abc import Callable
from random import Random

import pytest
from servicekit.load.concurrency_limit import LONGEST_PROBE_GAP_S, ConcurrencyLimit, Pace

WORKERS = 20
SERVICE_S = 0.1


class Rig:
    """A limit whose rounds are played one by one: all of its room is used, and latency grows beyond the workers."""

    def __init__(self, first: int, workers: int = WORKERS, service_s: float = SERVICE_S, seed: int = 1) -> None:
        self.now_s = 50.0
        self.limit = ConcurrencyLimit(4, first, 1_000, self.now_s, Pace(slack_s=0.0))
        self.workers, self.service_s = workers, service_s
        self._random = Random(seed)

    def latency_s(self, running: int) -> float:
        """Return what a request takes while so many run; times vary by a fifth."""
        return self.service_s * max(1.0, running / self.workers) * self._random.uniform(0.8, 1.2)

    def round(self, running: int | None = None, note: Callable[[ConcurrencyLimit], None] | None = None) -> int:
        """Play one round, and the time it takes; return the limit after it."""
        limit, running = self.limit, running or self.limit.limit
        begun, seen = limit.round, 0
        while limit.round == begun and seen < 1_000:
            seen += 1
            latency_s = self.latency_s(running)
            self.now_s += latency_s / running
            if note is not None:
                note(limit)
            else:
                limit.sample(begun, latency_s, self.now_s, running)
        return limit.limit

    def settled(self, rounds: int) -> list[int]:
        """Play rounds; return the limits of those that were no probes."""
        limits = []
        for _ in range(rounds):
            self.round()
            if not self.limit.probing:
                limits.append(self.limit.limit)
        return limits


def fits(limit: int, workers: int = WORKERS) -> bool:
    """Every worker has something to do, and no more than as much again waits behind the gate."""
    return workers <= limit <= 2 * workers


@pytest.mark.parametrize("first", [4, 8, 20, 60])
def test_converges_within_20_rounds_from_too_low_and_from_a_little_too_high(first: int) -> None:
    rig = Rig(first)
    rig.settled(20)
    assert all(fits(limit) for limit in rig.settled(40))


@pytest.mark.parametrize("seed", range(5))
def test_converges_within_40_rounds_from_fifty_times_too_high(seed: int) -> None:
    rig = Rig(1_000, seed=seed)
    rig.settled(40)
    assert all(fits(limit) for limit in rig.settled(40))


@pytest.mark.parametrize("service_s", [0.002, 0.1, 30.0])
def test_a_server_that_is_slow_by_nature_gets_as_much_as_a_quick_one(service_s: float) -> None:
    rig = Rig(16, service_s=service_s)
    rig.settled(30)
    assert fits(rig.limit.limit) or rig.limit.probing
    assert all(fits(limit) for limit in rig.settled(30))


def test_follows_when_half_of_the_workers_go_and_when_they_come_back() -> None:
    rig = Rig(16)
    rig.settled(30)
    rig.workers = WORKERS // 2
    rig.settled(10)
    assert all(fits(limit, WORKERS // 2) for limit in rig.settled(20))
    rig.workers = WORKERS
    rig.settled(15)
    assert all(fits(limit) for limit in rig.settled(20))


def test_forgives_a_server_that_has_become_three_times_as_slow() -> None:
    rig = Rig(16)
    rig.settled(30)
    rig.service_s *= 3
    rig.now_s += LONGEST_PROBE_GAP_S
    rig.settled(30)
    assert all(fits(limit) for limit in rig.settled(20))


def test_does_not_drift_in_a_day_of_overload() -> None:
    rig = Rig(16)
    rig.settled(40)
    assert all(fits(limit) for limit in rig.settled(3_000))


def test_probes_cost_less_than_a_twentieth_of_the_time() -> None:
    rig = Rig(16)
    rig.settled(40)
    probing_s = start_s = 0.0
    start_s = rig.now_s
    while rig.now_s < start_s + 300:
        before_s, probing = rig.now_s, rig.limit.probing
        rig.round()
        probing_s += (rig.now_s - before_s) * probing
    assert 0 < probing_s < 0.05 * 300


def test_a_limit_that_is_not_in_use_stays() -> None:
    rig = Rig(100)
    for _ in range(20):
        rig.round(running=10)
    assert rig.limit.limit == 100


def test_news_from_before_the_last_change_are_no_news() -> None:
    limit = ConcurrencyLimit(4, 16, 100, 0.0)
    for _ in range(1_000):
        limit.sample(limit.round - 1, 9.0, 99.0, 16)
        limit.dropped(limit.round - 1, 99.0, 16)
    assert limit.limit == 16
    assert limit.unloaded_s is None


def test_a_server_that_turns_requests_away_gets_a_tenth_less_each_round_down_to_the_least() -> None:
    rig = Rig(100)
    limits = [rig.round(note=lambda limit: limit.dropped(limit.round, rig.now_s, limit.limit)) for _ in range(3)]
    assert limits == [90, 81, 73]
    for _ in range(60):
        rig.round(note=lambda limit: limit.dropped(limit.round, rig.now_s, limit.limit))
    assert rig.limit.limit == 4


def test_callers_whose_deadlines_are_too_short_cannot_push_the_limit_down() -> None:
    rig = Rig(16)
    rig.settled(30)
    before, unloaded_s = rig.limit.limit, rig.limit.unloaded_s
    for _ in range(5_000):
        rig.now_s += 0.001
        rig.limit.censored(rig.limit.round, 0.001, rig.now_s, before)
    assert (rig.limit.limit, rig.limit.unloaded_s) == (before, unloaded_s)


def test_callers_who_give_up_on_a_server_that_hangs_lower_the_limit() -> None:
    rig = Rig(64, workers=60)
    rig.settled(30)
    before = rig.limit.limit
    for _ in range(10):
        rig.round(note=lambda limit: limit.censored(limit.round, 10.0, rig.now_s, limit.limit))
    assert rig.limit.limit < before / 2


def test_never_leaves_its_bounds_and_takes_over_new_ones() -> None:
    limit, random = ConcurrencyLimit(4, 16, 50, 0.0, Pace(round_samples=8)), Random(7)
    for step in range(20_000):
        limit.sample(limit.round, random.choice([1e-9, 0.0, 0.01, 5.0]), step * 0.01, random.randint(1, 60))
        assert 4 <= limit.limit <= 50
    limit.keep_within(60, 80)
    assert limit.limit == 60
    limit.keep_within(1, 10)
    assert limit.limit == 10


def test_keeps_ahead_of_streams_that_begin_one_by_one_and_stay() -> None:
    limit, now_s = ConcurrencyLimit(8, 64, 512, 0.0), 0.0
    for running in range(1, 400):
        now_s += 0.02
        limit.sample(limit.round, 0.005, now_s, running)
        assert running < limit.limit


def test_streams_that_are_within_the_limit_are_not_held_back_for_a_probe() -> None:
    limit, now_s = ConcurrencyLimit(8, 64, 100, 0.0), 0.0
    for number in range(20_000):
        now_s += 0.02
        limit.sample(limit.round, 0.005, now_s, min(number, 95))
        assert not limit.probing
        assert number < 64 or limit.limit == 100


def probing_with(latency_s: float) -> tuple[ConcurrencyLimit, float]:
    """Return a limit of 64 that has just begun a probe, and what time it is."""
    limit, now_s = ConcurrencyLimit(8, 64, 64, 0.0), 0.0
    while not limit.probing:
        now_s += 0.02
        limit.sample(limit.round, latency_s, now_s, 64)
    assert limit.limit == 32
    return limit, now_s


@pytest.mark.parametrize(("latency_s", "patience_s"), [(0.005, 0.5), (0.5, 4.0)])
def test_a_probe_that_waits_for_places_of_long_streams_is_given_up(latency_s: float, patience_s: float) -> None:
    limit, now_s = probing_with(latency_s)
    limit.stream_left(now_s + patience_s - 0.01)
    assert limit.probing
    limit.stream_left(now_s + patience_s)
    assert (limit.probing, limit.limit) == (False, 64)
    limit.stream_left(now_s + 100.0)
    assert limit.limit == 64
    for step in range(1_000):
        limit.sample(limit.round, latency_s, now_s + patience_s + step * 0.02, 64)
        assert not limit.probing


def test_a_crowd_that_comes_at_once_does_not_pass_for_the_time_without_load() -> None:
    rig = Rig(64, workers=8)
    for _ in range(10):
        rig.round(running=8)
    for running in (16, 48, 100):
        rig.round(running=running)
    rig.settled(12)
    assert all(fits(limit, 8) for limit in rig.settled(40))


@pytest.mark.parametrize(("slack_s", "expected"), [(0.01, 64), (0.0, 40)])
def test_what_a_busy_process_adds_by_itself_does_not_lower_the_limit_of_a_quick_route(
    slack_s: float, expected: int
) -> None:
    limit, now_s = ConcurrencyLimit(8, 64, 64, 0.0, Pace(slack_s=slack_s)), 0.0
    for latency_s, running, times in ((0.003, 8, 100), (0.009, 64, 32)):
        for _ in range(times):
            now_s += 0.01
            limit.sample(limit.round, latency_s, now_s, running)
    assert limit.limit == expected


@pytest.mark.parametrize("slow_once", [False, True])
def test_a_crowd_of_long_streams_is_let_in_within_a_few_times_their_length(slow_once: bool) -> None:
    limit, now_s, asked = ConcurrencyLimit(8, 64, 512, 0.0), 0.0, 200
    ends: list[float] = []
    if slow_once:
        for latency_s in (0.005, 0.5):
            for _ in range(32):
                now_s += 0.01
                limit.sample(limit.round, latency_s, now_s, 64, goes_on=True)
        assert limit.limit < 64 + 16
    while len(ends) < asked:
        now_s += 0.01
        for end in [end for end in ends if end <= now_s]:
            ends.remove(end)
            limit.stream_left(now_s)
        while len(ends) < min(limit.limit, asked):
            ends.append(now_s + 4.0)
            limit.sample(limit.round, 0.005, now_s, len(ends), goes_on=True)
        assert now_s < 8 * 4.0
