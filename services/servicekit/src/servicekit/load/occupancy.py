"""How many places each class holds of late."""

import math
from collections.abc import Sequence
from typing import Final

from servicekit.load.priority import Priority

REMEMBERED_S: Final = 2.0
"""What was so long ago counts 1/e."""

SHORTEST_GAP_S: Final = 0.01
"""It is not looked at more often: a place is taken and left a thousand times a second."""


class Occupancy:
    """Means over time, in which old times fade (an exponentially weighted moving average)."""

    __slots__ = ("_looked_s", "_means")

    def __init__(self, now_s: float) -> None:
        self._means = [0.0 for _ in Priority]
        self._looked_s = now_s

    def look(self, running: Sequence[int], now_s: float) -> None:
        """Take in how many of each class have run until `now_s` (seconds)."""
        gap_s = now_s - self._looked_s
        if gap_s < SHORTEST_GAP_S:
            return
        kept = math.exp(-gap_s / REMEMBERED_S)
        self._looked_s = now_s
        self._means = [now + kept * (mean - now) for mean, now in zip(self._means, running, strict=True)]

    def of(self, priority: Priority) -> float:
        """Return how many places a class has held."""
        return self._means[priority]

    def above(self, priority: Priority) -> float:
        """Return how many places the more important classes have held together."""
        return sum(self._means[priority + 1 :])
