"""The bounds of a lane, as a service states them."""

from collections.abc import Mapping
from typing import Protocol

from servicekit.load.priority import Priority


class LanePolicy(Protocol):
    """The bounds of a lane: how many may run at once, and how many may wait."""

    @property
    def least_running(self) -> int:
        """The least that may run at once, whatever the latency."""
        ...

    @property
    def most_running(self) -> int:
        """The most that may run at once."""
        ...

    @property
    def first_running(self) -> int:
        """Where the limit begins."""
        ...

    @property
    def waiting(self) -> Mapping[Priority, int]:
        """How many of each class may wait."""
        ...
