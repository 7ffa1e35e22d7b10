"""The deadline of the work at hand, carried along the call and never widened."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


def remaining_s() -> float | None:
    """Return the seconds left, 0.0 when the deadline has passed, or None when there is none."""
    moment = _deadline.get()
    return None if moment is None else max(0.0, moment - time.monotonic())


@contextmanager
def within(timeout_s: float) -> Iterator[None]:
    """Narrow the deadline of what is awaited inside to `timeout_s` seconds from now."""
    moment = time.monotonic() + timeout_s
    current = _deadline.get()
    token = _deadline.set(moment if current is None else min(current, moment))
    try:
        yield
    finally:
        _deadline.reset(token)


def enter(timeout_s: float | None) -> None:
    """Set the deadline of a call that just came in; for the server's interceptor, whose context ends with the call."""
    _deadline.set(None if timeout_s is None else time.monotonic() + timeout_s)
