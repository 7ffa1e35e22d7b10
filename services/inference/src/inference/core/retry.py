"""Decides whether a failed attempt may be repeated on another replica: by its reason, and within a budget."""

from collections.abc import Callable
from typing import Final

from servicekit.errors import PenstockError

from inference.core.ports import DRAINING, LOADING, NOT_LOADED, QUEUE_FULL, BackendLost

NOT_STARTED: Final = frozenset({QUEUE_FULL, NOT_LOADED, LOADING, DRAINING})
"""Reasons with which a server refuses what it has not begun."""


def may_go_elsewhere(error: PenstockError) -> bool:
    """Tell whether another replica may succeed without harm: this one refused to begin, or it died.

    A server that lives and failed is left out: a request that breaks it would break the next one as well. So are a
    wrong request and a deadline that has passed.
    """
    return isinstance(error, BackendLost) or error.reason in NOT_STARTED


class RetryBudget:
    """Lets so many retries through for the calls there are, so that failing backends are not buried in them.

    Each call earns `share` of a retry, and each second `per_s` of one; at most `most` are kept, which are there at the
    start. The clock is in seconds.
    """

    __slots__ = ("_clock", "_kept", "_most", "_per_s", "_share", "_since")

    def __init__(
        self, clock: Callable[[], float], *, share: float = 0.1, per_s: float = 1.0, most: float = 20.0
    ) -> None:
        self._clock = clock
        self._share = share
        self._per_s = per_s
        self._most = most
        self._kept = most
        self._since = clock()

    def earn(self) -> None:
        """Count a call."""
        self._kept += self._share

    def spend(self) -> bool:
        """Take one retry; return False when there is none."""
        now = self._clock()
        self._kept = min(self._kept + self._per_s * (now - self._since), self._most)
        self._since = now
        if self._kept < 1:
            return False
        self._kept -= 1
        return True
