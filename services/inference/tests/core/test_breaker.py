"""When a breaker opens, and how it closes again."""

from inference.core.breaker import Breaker, BreakerLimits, Position, outliers

LIMITS = BreakerLimits(in_a_row=3, shortest_s=1.0, longest_s=5.0, trials=2)


def opened() -> Breaker:
    breaker = Breaker(LIMITS)
    for _ in range(3):
        breaker.failed(100.0)
    return breaker


def counted(successes: int, failures: int) -> Breaker:
    breaker = Breaker(BreakerLimits(in_a_row=10_000))
    for _ in range(failures):
        breaker.failed(0.0)
    for _ in range(successes):
        breaker.succeeded()
    return breaker


def test_opens_after_so_many_failures_in_a_row_and_only_then() -> None:
    breaker = Breaker(LIMITS)
    assert [breaker.failed(1.0), breaker.failed(1.0)] == [False, False]
    breaker.succeeded()
    assert [breaker.failed(1.0), breaker.failed(1.0), breaker.failed(1.0)] == [False, False, True]
    assert breaker.position is Position.OPEN


def test_is_due_when_its_time_is_over_and_closes_after_its_trials() -> None:
    breaker = opened()
    assert [breaker.due(100.9), breaker.due(101.0)] == [False, True]
    breaker.try_again()
    assert breaker.position is Position.HALF_OPEN
    breaker.succeeded()
    assert breaker.position is Position.HALF_OPEN
    breaker.succeeded()
    assert breaker.position is Position.CLOSED


def test_a_failure_on_trial_opens_it_for_twice_as_long_up_to_a_bound() -> None:
    breaker, now, waits = opened(), 100.0, []
    for _ in range(5):
        start = now
        while not breaker.due(now):
            now += 0.5
        waits.append(now - start)
        breaker.try_again()
        assert breaker.failed(now)
    assert waits == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_callers_who_give_too_little_time_do_not_open_it() -> None:
    breaker = Breaker(LIMITS)
    for _ in range(1000):
        breaker.timed_out()
    assert breaker.position is Position.CLOSED
    assert breaker.failure_share == 1.0


def test_failures_while_open_change_nothing() -> None:
    breaker = opened()
    assert not breaker.failed(100.5)
    assert breaker.due(101.0)


def test_who_fails_far_more_often_than_the_peers_is_an_outlier() -> None:
    bad, good, fine = counted(30, 20), counted(50, 1), counted(50, 0)
    assert outliers([bad, good, fine]) == [bad]


def test_where_all_fail_alike_nobody_is_an_outlier() -> None:
    assert outliers([counted(10, 40), counted(10, 40), counted(12, 38)]) == []


def test_few_calls_and_small_shares_prove_nothing() -> None:
    peers = [counted(100, 0), counted(100, 0)]
    assert outliers([counted(0, 19), *peers]) == []
    assert outliers([counted(90, 10), *peers]) == []


def test_at_most_half_are_out_the_worst_first() -> None:
    worst, bad, good, fine = counted(5, 45), counted(25, 25), counted(500, 0), counted(500, 0)
    three = counted(25, 24)
    assert outliers([bad, worst, three, good, fine]) == [worst, bad]
    worst.open(0.0)
    bad.open(0.0)
    assert outliers([bad, worst, three, good, fine]) == []


def test_a_lone_replica_has_no_peers_to_be_compared_with() -> None:
    assert outliers([counted(0, 100)]) == []


def test_what_was_counted_weighs_less_with_time() -> None:
    breaker = counted(50, 50)
    breaker.age(0.1)
    assert (breaker.calls, breaker.failure_share) == (10.0, 0.5)
