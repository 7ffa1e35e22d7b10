"""Takes a replica out of rotation for a model whose calls fail there, and lets it back in step by step."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class BreakerLimits:
    """When a breaker opens, for how long, and what closes it again.

    `in_a_row` failures open it. So does a share of failures of at least `outlying_share` that is `outlying_times` that
    of the better half of the peers, once `least_calls` were counted. It stays open `shortest_s`, twice as
    long each time, up to `longest_s` seconds; then `trials` calls have to go well.
    """

    in_a_row: int = 5
    outlying_share: float = 0.2
    outlying_times: float = 3.0
    least_calls: int = 20
    shortest_s: float = 1.0
    longest_s: float = 30.0
    trials: int = 5


class Position(Enum):
    """What a breaker lets through: all, nothing, or calls on trial."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """Counts how the calls of one model end on one replica; the moments are seconds of a monotonic clock."""

    __slots__ = ("_calls", "_failures", "_left_trials", "_limits", "_row", "_stays_open_s", "_until", "position")

    def __init__(self, limits: BreakerLimits = BreakerLimits()) -> None:
        self.position = Position.CLOSED
        self._limits = limits
        self._row = 0
        self._calls = 0.0
        self._failures = 0.0
        self._left_trials = 0
        self._stays_open_s = limits.shortest_s
        self._until = 0.0

    @property
    def calls(self) -> float:
        """How many calls the latest seconds saw; older ones count less and less."""
        return self._calls

    @property
    def failure_share(self) -> float:
        """Which share of the latest calls failed, 0 to 1."""
        return self._failures / self._calls if self._calls else 0.0

    def succeeded(self) -> None:
        """Count a call that went well; enough of them on trial close the breaker."""
        self._row = 0
        self._calls += 1
        if self.position is Position.HALF_OPEN:
            self._left_trials -= 1
            if self._left_trials <= 0:
                self.position = Position.CLOSED
                self._stays_open_s = self._limits.shortest_s

    def failed(self, now: float) -> bool:
        """Count a call that failed; return whether the breaker has opened for it."""
        self._row += 1
        self._calls += 1
        self._failures += 1
        if self.position is Position.OPEN:
            return False
        if self.position is Position.HALF_OPEN or self._row >= self._limits.in_a_row:
            self.open(now)
            return True
        return False

    def timed_out(self) -> None:
        """Count a call without an answer in time; it opens nothing by itself, as callers choose their time."""
        self._calls += 1
        self._failures += 1

    def open(self, now: float) -> None:
        """Let nothing through for a while, which is longer each time."""
        self.position = Position.OPEN
        self._until = now + self._stays_open_s
        self._stays_open_s = min(2 * self._stays_open_s, self._limits.longest_s)

    def due(self, now: float) -> bool:
        """Tell whether an open breaker has been so for long enough to try again."""
        return self.position is Position.OPEN and now >= self._until

    def try_again(self) -> None:
        """Let calls through on trial: the first that fails opens the breaker again."""
        self.position = Position.HALF_OPEN
        self._left_trials = self._limits.trials
        self._row, self._calls, self._failures = 0, 0.0, 0.0

    def age(self, share_left: float) -> None:
        """Let what was counted so far weigh less."""
        self._calls *= share_left
        self._failures *= share_left


def outliers(breakers: Sequence[Breaker], limits: BreakerLimits = BreakerLimits()) -> list[Breaker]:
    """Return the closed breakers whose calls fail far more often than those of their peers, the worst first.

    At most half of all are ever out at a time: where most fail, it is not a replica that is at fault.
    """
    out = sum(each.position is Position.OPEN for each in breakers)
    room = len(breakers) // 2 - out
    suspects = [each for each in breakers if each.position is Position.CLOSED and _outlies(each, breakers, limits)]
    return sorted(suspects, key=lambda each: each.failure_share, reverse=True)[: max(0, room)]


def _outlies(breaker: Breaker, breakers: Sequence[Breaker], limits: BreakerLimits) -> bool:
    if breaker.calls < limits.least_calls or breaker.failure_share < limits.outlying_share:
        return False
    peers = [each for each in breakers if each is not breaker and each.calls >= limits.least_calls]
    if not peers:
        return False
    better = sorted(each.failure_share for each in peers)[: (len(peers) + 1) // 2]
    return breaker.failure_share >= limits.outlying_times * sum(better) / len(better)
