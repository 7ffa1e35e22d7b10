"""Knows what this process has written to its journal without reading it again, as long as that is not too much."""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from gateway.adapters.journal_reader import JournalReader, Segment
from gateway.core.attempts import Attempt, Outcome, Settled

MOST_KEPT: Final = 20_000
"""Rows that are kept in memory, some 25 MB; of more than that none is, until the store has caught up."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A row, the segment that its begin stands in, and the place right after its end."""

    row: Settled
    begun_in: Segment
    ended_in: Segment
    offset: int


@dataclass(slots=True)
class LiveReader(JournalReader):
    """Returns rows from memory. When there are too many it lets them go and reads the files, from the place that it
    has come to, until it is at their end.
    """

    most_kept: int = MOST_KEPT
    _kept: deque[Kept] = field(default_factory=deque)
    _behind: bool = False

    def begun(self, attempt: Attempt, segment: Segment) -> None:
        """Note a begin that was just written at the end of a segment."""
        if not self._behind:
            self._open[attempt.id] = attempt, segment
            segment.waiting += 1

    def ended(self, attempt_id: str, outcome: Outcome, ended_at: float, segment: Segment) -> None:
        """Note an end that was just written at the end of a segment, or will be written later."""
        if self._behind:
            return
        begun = self._open.pop(attempt_id, None)
        if begun is None:
            return
        self._kept.append(Kept(Settled(begun[0], outcome, ended_at), begun[1], segment, segment.size))
        if len(self._kept) > self.most_kept:
            self._fall_behind()

    def latest(self, limit: int, *, all_written: bool) -> list[Settled]:
        """Return the next attempts that have ended, at most `limit`; fewer only when there are no more.

        Say whether all ends are written: one that will be written later can only be found in the files.
        """
        rows: list[Settled] = []
        if self._behind:
            rows = self.read(limit)
            self._behind = len(rows) == limit or not all_written
            return rows
        while self._kept and len(rows) < limit:
            kept = self._kept.popleft()
            rows.append(kept.row)
            self._returned.append(kept.begun_in)
            self._pass(kept.ended_in, kept.offset)
        if not self._kept:
            self._pass(self.segments[-1], self.segments[-1].size)
        return rows

    def _pass(self, segment: Segment, offset: int) -> None:
        """Count the files as read up to a place."""
        while self.segments[self._at] is not segment:
            self.segments[self._at].read = self.segments[self._at].size
            self._at += 1
        segment.read = offset

    def _fall_behind(self) -> None:
        self._behind = True
        for kept in self._kept:
            self._open[kept.row.attempt.id] = kept.row.attempt, kept.begun_in
        self._kept.clear()
