"""Counts what was taken in the last minute, second by second."""

from typing import Final

KEPT_S: Final = 61
"""A second of the clock counts until the last moment of it is a whole minute ago: never more than the limit in 60 s."""

STEP_BACK_S: Final = 2
"""A clock that goes back no more than this is taken to stand still."""


class Window:
    """Amounts of the last minute in buckets of a second, at most 61 of them."""

    __slots__ = ("_buckets", "_total")

    def __init__(self) -> None:
        self._buckets: list[list[int]] = []
        self._total = 0

    def total(self, second: int) -> int:
        """Return the sum of the last minute. After a clock went back, all there is counts as taken this second."""
        buckets = self._buckets
        if buckets and second < buckets[-1][0] - STEP_BACK_S:
            buckets.clear()
            buckets.append([second, self._total])
        if buckets and buckets[0][0] <= second - KEPT_S:
            kept = [bucket for bucket in buckets if bucket[0] > second - KEPT_S]
            self._buckets = kept
            self._total = sum(amount for _, amount in kept)
        return self._total

    def add(self, second: int, amount: int) -> None:
        """Count an amount in a second, which is the latest unless the clock went back a little."""
        self._total += amount
        if self._buckets and second <= self._buckets[-1][0]:
            self._buckets[-1][1] += amount
        else:
            self._buckets.append([second, amount])

    def give_back(self, second: int, amount: int) -> None:
        """Take an amount out of the second in which it was counted, if that still counts."""
        for bucket in reversed(self._buckets):
            if bucket[0] <= second:
                if bucket[0] == second:
                    returned = min(amount, bucket[1])
                    bucket[1] -= returned
                    self._total -= returned
                return

    def wait_s(self, now_s: float, excess: int) -> float:
        """Return in how many seconds at least `excess` of what counts now will have left."""
        left = 0
        for second, amount in self._buckets:
            left += amount
            if left >= excess:
                return second + KEPT_S - now_s
        return float(KEPT_S)
