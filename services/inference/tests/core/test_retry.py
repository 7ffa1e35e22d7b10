"""What may be tried again elsewhere, and how often."""

import pytest
from inference.core.ports import BackendLost
from inference.core.retry import RetryBudget, may_go_elsewhere
from inference_replica_fakes import FakeClock
from servicekit.errors import Forbidden, InvalidInput, PenstockError, TimedOut, Unavailable

REASONS: list[tuple[PenstockError, bool]] = [
    (BackendLost("x"), True),
    (Unavailable("x", reason="queue_full"), True),
    (Unavailable("x", reason="not_loaded"), True),
    (Unavailable("x", reason="loading"), True),
    (Unavailable("x", reason="draining"), True),
    (Unavailable("x", reason="backend_failed"), False),
    (Unavailable("x", reason="queue_timeout"), False),
    (Unavailable("x", reason="rate_limited"), False),
    (InvalidInput("x"), False),
    (TimedOut("x"), False),
    (Forbidden("x"), False),
]


@pytest.mark.parametrize(("error", "expected"), REASONS, ids=lambda value: getattr(value, "reason", str(value)))
def test_the_reason_decides(error: PenstockError, expected: bool) -> None:
    assert may_go_elsewhere(error) is expected


def test_a_tenth_of_the_calls_may_be_repeated() -> None:
    budget = RetryBudget(FakeClock(), most=5.0, per_s=0.0)
    while budget.spend():
        pass
    granted = 0
    for _ in range(1000):
        budget.earn()
        granted += budget.spend()
    assert 99 <= granted <= 100


def test_a_service_with_few_calls_may_retry_now_and_then() -> None:
    clock = FakeClock()
    budget = RetryBudget(clock, most=5.0, per_s=1.0)
    assert sum(budget.spend() for _ in range(100)) == 5
    clock.now += 2.5
    assert sum(budget.spend() for _ in range(100)) == 2


def test_what_is_kept_is_bounded() -> None:
    budget = RetryBudget(FakeClock(), most=5.0)
    for _ in range(100_000):
        budget.earn()
    assert sum(budget.spend() for _ in range(100)) == 5
