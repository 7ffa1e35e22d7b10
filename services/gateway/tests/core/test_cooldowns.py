"""Models that fail are left alone for a while, and come back through one probe."""

import pytest
from gateway.core.cooldowns import MOST_MODELS, CooldownPolicy, Cooldowns
from servicekit.errors import Forbidden, InvalidInput, PenstockError, QuotaExceeded, TimedOut, Unavailable

POLICY = CooldownPolicy(failures=3, window_s=5, longest_s=12, patience_s=4, probe_s=10)
BROKEN = Unavailable("it failed", reason="backend_failed")


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cooldowns(clock: Clock) -> Cooldowns:
    return Cooldowns(POLICY, clock)


def attempt(cooldowns: Cooldowns, error: PenstockError | None = None, model: str = "m") -> bool:
    """Make an attempt; say whether it was let through."""
    trial = cooldowns.begin(model)
    if trial is None:
        return False
    if error is None:
        trial.succeeded()
    else:
        trial.failed(error)
    return True


def trip(cooldowns: Cooldowns, model: str = "m") -> None:
    for _ in range(POLICY.failures):
        assert attempt(cooldowns, BROKEN, model)


def test_enough_failures_in_a_row_take_a_model_out_at_once(cooldowns: Cooldowns, clock: Clock) -> None:
    trip(cooldowns)
    assert not attempt(cooldowns)
    assert cooldowns.left_s("m") == 5
    clock.now_s = 4.999
    assert not attempt(cooldowns)
    assert cooldowns.left_s("other") == 0


def test_a_success_between_failures_starts_the_count_anew(cooldowns: Cooldowns) -> None:
    for _ in range(10):
        attempt(cooldowns, BROKEN)
        attempt(cooldowns, BROKEN)
        attempt(cooldowns)
    assert cooldowns.left_s("m") == 0


def test_after_the_window_one_probe_goes_through_and_its_success_brings_the_model_back(
    cooldowns: Cooldowns, clock: Clock
) -> None:
    trip(cooldowns)
    clock.now_s = 5
    assert cooldowns.left_s("m") == 0
    probe = cooldowns.begin("m")
    assert probe is not None
    assert cooldowns.begin("m") is None
    assert cooldowns.left_s("m") > 0
    probe.succeeded()
    assert cooldowns.left_s("m") == 0
    assert attempt(cooldowns, BROKEN)
    assert attempt(cooldowns)


def test_a_probe_that_fails_doubles_the_window_up_to_the_longest(cooldowns: Cooldowns, clock: Clock) -> None:
    trip(cooldowns)
    windows = []
    for _ in range(3):
        clock.now_s += cooldowns.left_s("m")
        assert attempt(cooldowns, BROKEN)
        windows.append(cooldowns.left_s("m"))
    assert windows == [10, 12, 12]


def test_a_probe_nobody_ends_does_not_keep_the_model_out_for_ever(cooldowns: Cooldowns, clock: Clock) -> None:
    trip(cooldowns)
    clock.now_s = 5
    assert cooldowns.begin("m") is not None
    clock.now_s = 14.9
    assert cooldowns.begin("m") is None
    clock.now_s = 15
    assert cooldowns.begin("m") is not None


def test_a_caller_who_leaves_during_the_probe_lets_the_next_one_probe(cooldowns: Cooldowns, clock: Clock) -> None:
    trip(cooldowns)
    clock.now_s = 5
    probe = cooldowns.begin("m")
    assert probe is not None
    probe.abandoned()
    assert attempt(cooldowns)


def test_what_began_before_the_model_was_taken_out_neither_prolongs_nor_ends_it(
    cooldowns: Cooldowns, clock: Clock
) -> None:
    early = [cooldowns.begin("m") for _ in range(20)]
    trip(cooldowns)
    clock.now_s = 2
    for position, trial in enumerate(early):
        assert trial is not None
        if position % 2:
            trial.failed(BROKEN)
        else:
            trial.succeeded()
    assert cooldowns.left_s("m") == 3


def test_a_host_that_asks_for_a_pause_gets_it_at_once(cooldowns: Cooldowns) -> None:
    attempt(cooldowns, Unavailable("slow down", reason="rate_limited", retry_after_s=30.2))
    assert cooldowns.left_s("m") == 31


@pytest.mark.parametrize(("asked_s", "given_s"), [(100_000.0, 120.0), (0.0, 1.0), (-5.0, 1.0)])
def test_a_pause_stays_within_what_is_sane(cooldowns: Cooldowns, asked_s: float, given_s: float) -> None:
    attempt(cooldowns, Unavailable("slow down", reason="rate_limited", retry_after_s=asked_s))
    assert cooldowns.left_s("m") == given_s


def test_a_host_that_limits_without_saying_how_long_counts_as_a_failure(cooldowns: Cooldowns) -> None:
    attempt(cooldowns, Unavailable("slow down", reason="rate_limited"))
    assert cooldowns.left_s("m") == 0
    trip(cooldowns, "n")
    assert cooldowns.left_s("n") == 5


@pytest.mark.parametrize(
    "error",
    [
        InvalidInput("bad schema"),
        Forbidden("no"),
        QuotaExceeded("no money", reason="budget_exhausted"),
        Unavailable("full", reason="queue_full"),
        Unavailable("full", reason="queue_timeout"),
        TimedOut("the caller gave 10 ms"),
    ],
    ids=lambda error: f"{type(error).__name__} {error.reason}",
)
def test_what_is_not_the_models_fault_cools_nothing(cooldowns: Cooldowns, error: PenstockError) -> None:
    for _ in range(50):
        assert attempt(cooldowns, error)


def test_callers_with_short_deadlines_cannot_take_a_model_from_others_but_a_silent_model_is_taken_out(
    cooldowns: Cooldowns, clock: Clock
) -> None:
    for _ in range(POLICY.failures):
        trial = cooldowns.begin("m")
        assert trial is not None
        clock.now_s += 4
        trial.failed(TimedOut("nothing came"))
    assert cooldowns.left_s("m") == 5


def test_a_trial_is_over_once(cooldowns: Cooldowns) -> None:
    trial = cooldowns.begin("m")
    assert trial is not None
    for _ in range(10):
        trial.failed(BROKEN)
    assert cooldowns.left_s("m") == 0


def test_what_is_remembered_is_bounded(cooldowns: Cooldowns) -> None:
    for number in range(MOST_MODELS + 500):
        attempt(cooldowns, BROKEN, f"m{number}")
    assert len(cooldowns._records) == MOST_MODELS
    assert attempt(cooldowns)
    assert "m" not in cooldowns._records


def test_a_probe_the_model_answers_with_a_refusal_of_the_request_brings_it_back(
    cooldowns: Cooldowns, clock: Clock
) -> None:
    trip(cooldowns)
    clock.now_s = 5
    assert attempt(cooldowns, InvalidInput("this prompt is too long"))
    assert cooldowns.left_s("m") == 0
