"""Lets what many streams receive wait for one another for a moment, so that all of it is worked on in one go."""

import asyncio
from collections.abc import Callable
from typing import Final

PER_STREAM_S: Final = 0.000_025
LONGEST_S: Final = 0.005
SHORTEST_S: Final = 0.001
"""What a timer of the loop can tell apart; with fewer streams nothing waits."""


class Gathering:
    """Work of streams that have begun; the more of them there are, the longer it waits, up to LONGEST_S seconds.

    Work on one token alone finds every cache cold, and pays alone for waking up whoever is next; a hundred together
    cost a third of it each.
    """

    __slots__ = ("_due", "streams")

    def __init__(self) -> None:
        self.streams = 0
        """How many streams take part now."""
        self._due: list[Callable[[], None]] = []

    def put(self, work: Callable[[], None]) -> None:
        """Do some work, which must not raise, with what else comes; at once where little comes."""
        if self._due:
            self._due.append(work)
            return
        wait_s = min(self.streams * PER_STREAM_S, LONGEST_S)
        if wait_s < SHORTEST_S:
            work()
            return
        self._due.append(work)
        asyncio.get_running_loop().call_later(wait_s, self._do)

    def _do(self) -> None:
        due, self._due = self._due, []
        for work in due:
            work()
