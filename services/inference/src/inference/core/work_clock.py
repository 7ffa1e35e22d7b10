"""Keeps the wait for a load out of the time that a request's work takes, from which limits and advice are learned."""

from contextvars import ContextVar
from typing import Final, Protocol

SHORTEST_S: Final = 0.001
"""A shorter wait for a lease is none."""


class Work(Protocol):
    """A request at work."""

    def paused(self, seconds: float) -> None:
        """Learn that it has not been at work for so long."""
        ...


_current: ContextVar[Work | None] = ContextVar("work", default=None)


def begin(work: Work) -> None:
    """Note what the call at hand works on."""
    _current.set(work)


def paused(seconds: float) -> None:
    """Say that the call at hand has waited for a load."""
    work = _current.get()
    if work is not None and seconds >= SHORTEST_S:
        work.paused(seconds)
