"""Says how much of its share a shadow may take: less when the champion's callers wait longer beside it."""

from collections import deque
from collections.abc import Callable
from typing import Final

PERIOD_S: Final = 2.0
QUIET_S: Final = 0.1
"""So long in every period no shadow is started, to see how fast the champion is alone."""
KEPT: Final = 256
ENOUGH_ALONE: Final = 16
ENOUGH_BESIDE: Final = 32
QUANTILE: Final = 0.9
WORSE: Final = 1.08
LOWEST: Final = 0.01
STEP: Final = 0.1


class ShadowGuard:
    """Compares the champion's durations with and without its shadow, and sets the level, from LOWEST to 1.

    The level falls by half when the 90th percentile beside the shadow is over 8% above that alone, and grows by a tenth
    when it is not (additive increase, multiplicative decrease).
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """Take the time, in seconds."""
        self.level = 1.0
        self._clock = clock
        self._running = 0
        self._last_busy = float("-inf")
        self._alone: deque[float] = deque(maxlen=KEPT)
        self._beside: deque[float] = deque(maxlen=KEPT)

    @property
    def running(self) -> int:
        """How many shadow requests run."""
        return self._running

    def quiet(self) -> bool:
        """Tell whether no shadow may be started now."""
        return self._clock() % PERIOD_S < QUIET_S

    def started(self) -> None:
        """Note that a shadow request begins."""
        self._running += 1

    def ended(self) -> None:
        """Note that a shadow request is over."""
        self._running -= 1
        self._last_busy = self._clock()

    def answered(self, seconds: float) -> None:
        """Note that the champion has answered after `seconds`, now."""
        if self._running or self._last_busy >= self._clock() - seconds:
            self._beside.append(seconds)
            if len(self._beside) >= ENOUGH_BESIDE and len(self._alone) >= ENOUGH_ALONE:
                self._judge()
        else:
            self._alone.append(seconds)

    def _judge(self) -> None:
        if _quantile(self._beside) > WORSE * _quantile(self._alone):
            self.level = max(LOWEST, self.level / 2)
        else:
            self.level = min(1.0, self.level + STEP)
        self._beside.clear()


def _quantile(values: deque[float]) -> float:
    return sorted(values)[int(QUANTILE * (len(values) - 1))]
