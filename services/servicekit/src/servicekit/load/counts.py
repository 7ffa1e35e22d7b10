"""What runs and what waits on several routes together, and how much room the classes have."""

from servicekit.load.fair_queue import SHARES
from servicekit.load.priority import Priority


class Counts:
    """What all routes together have running and waiting, by class; `most` may wait."""

    __slots__ = ("most", "running", "waiting")

    def __init__(self, most: int) -> None:
        self.most = most
        self.running = [0 for _ in Priority]
        self.waiting = [0 for _ in Priority]

    def has_room(self, priority: Priority) -> bool:
        """Say whether one more of a class may wait; lesser classes keep the part of the room that is their share."""
        kept = sum(max(0, self.reserve(lesser) - self.waiting[lesser]) for lesser in Priority if lesser < priority)
        return sum(self.waiting) + kept < self.most

    def reserve(self, priority: Priority) -> int:
        """Return how many of a class may wait even while more important ones have to go."""
        return int(SHARES[priority] * self.most)
