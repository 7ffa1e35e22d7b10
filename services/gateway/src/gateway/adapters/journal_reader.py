"""Reads a journal's segments in order and pairs each begin with its end."""

import logging
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from servicekit.telemetry.metrics import counter

from gateway.adapters.journal_lines import Begun, CorruptLine, Ended, parse, row_line
from gateway.core.attempts import Attempt, Settled

CHUNK_BYTES: Final = 64 * 1024
LARGEST_BAD_FILE_BYTES: Final = 64 * 1024 * 1024
APPEND: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
CORRUPT = counter("penstock_gateway_ledger_corrupt_lines", "Journal lines that could not be read", ("kind",))
log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Segment:
    """One file of a journal. `size` bytes of it are whole lines; `waiting` attempts that began in it are not stored."""

    path: Path
    size: int = 0
    read: int = 0
    waiting: int = 0
    closed: bool = False


@dataclass(frozen=True, slots=True)
class BadLines:
    """The file of what cannot be stored: corrupt lines, and rows that the store refuses."""

    path: Path

    def keep(self, kind: str, line: bytes) -> None:
        """Count a line and add it to the file, as long as the file is not too large and the disk not full."""
        CORRUPT.labels(kind).inc()
        log.error("a line of the ledger's journal is put aside (%s): see %s", kind, self.path)
        try:
            with os.fdopen(os.open(self.path, APPEND, 0o600), "ab") as file:
                if file.tell() < LARGEST_BAD_FILE_BYTES:
                    file.write(line.removesuffix(b"\n") + b"\n")
        except OSError as error:
            log.error("the line could not be kept: %s", error.strerror)  # noqa: TRY400  the reason is all there is


@dataclass(slots=True)
class JournalReader:
    """Goes once through the segments, which may still grow if `live`: then another writes them in this process."""

    segments: list[Segment]
    bad: BadLines
    live: bool
    _open: dict[str, tuple[Attempt, Segment]] = field(default_factory=dict)
    _early: dict[str, Ended] = field(default_factory=dict)
    _lines: deque[bytes] = field(default_factory=deque)
    _returned: list[Segment] = field(default_factory=list)
    _at: int = 0

    def read(self, limit: int) -> list[Settled]:
        """Return the next attempts that have ended, at most `limit`; fewer only when there are no more."""
        rows: list[Settled] = []
        while len(rows) < limit and (self._lines or self._refill()):
            row = self._take(self._lines.popleft())
            if row is not None:
                rows.append(row)
        return rows

    def stored(self) -> list[Segment]:
        """Say that all that was read is stored; return the segments that are needed no more, and drop them."""
        for segment in self._returned:
            segment.waiting -= 1
        self._returned.clear()
        passed = self.segments[: self._at]
        done = [segment for segment in passed if not segment.waiting]
        self.segments = [segment for segment in self.segments if segment not in done]
        self._at -= len(done)
        return done

    def begun_in(self, segment: Segment) -> list[Attempt]:
        """Return the attempts that began in a segment and have no end yet."""
        return [attempt for attempt, begun_in in self._open.values() if begun_in is segment]

    def passed(self) -> Sequence[Segment]:
        """Return the segments that are read to their end and still needed."""
        return self.segments[: self._at]

    def move(self, attempt: Attempt, old: Segment, new: Segment) -> None:
        """Say that the begin of an open attempt now stands in another segment as well."""
        self._open[attempt.id] = attempt, new
        old.waiting -= 1
        new.waiting += 1

    def unfinished(self) -> list[Attempt]:
        """Return the attempts that have no end."""
        return [attempt for attempt, _ in self._open.values()]

    def _take(self, line: bytes) -> Settled | None:
        if not line:
            return None
        try:
            said = parse(line)
        except CorruptLine:
            self.bad.keep("corrupt", line)
            return None
        return self._begun(said) if isinstance(said, Begun) else self._ended(said)

    def _begun(self, said: Begun) -> Settled | None:
        attempt, segment = said.attempt, self.segments[self._at]
        if said.carried and self.live:
            return None
        if attempt.id in self._open:
            return None
        segment.waiting += 1
        early = self._early.pop(attempt.id, None)
        if early is not None:
            return self._pair(attempt, segment, early)
        self._open[attempt.id] = attempt, segment
        return None

    def _ended(self, said: Ended) -> Settled | None:
        begun = self._open.pop(said.attempt_id, None)
        if begun is not None:
            return self._pair(*begun, said)
        if not self.live:  # its begin may come later, carried; if it does not, the row was stored before the crash
            self._early[said.attempt_id] = said
        return None

    def _pair(self, attempt: Attempt, segment: Segment, said: Ended) -> Settled:
        self._returned.append(segment)
        return Settled(attempt, said.outcome, said.ended_at)

    def _refill(self) -> bool:
        """Fetch more lines, going on to the next segment at the end of a closed one; False when there are none."""
        while self._at < len(self.segments):
            segment = self.segments[self._at]
            if segment.read < segment.size:
                self._fetch(segment)
                return True
            if not segment.closed:
                return False
            self._at += 1
        return False

    def _fetch(self, segment: Segment) -> None:
        piece = _piece(segment, CHUNK_BYTES)
        whole = piece.rfind(b"\n") + 1
        if not whole:
            piece = _piece(segment, segment.size)
            whole = piece.rfind(b"\n") + 1
        if not whole:  # a crash tore the last line
            if torn := piece.strip(b"\0"):
                self.bad.keep("torn", torn)
            segment.read = segment.size
            self._lines.append(b"")
            return
        segment.read += whole
        self._lines.extend(piece[: whole - 1].split(b"\n"))


def refused(bad: BadLines, row: Settled) -> None:
    """Put a row aside that the store will never take."""
    bad.keep("refused", row_line(row))


def _piece(segment: Segment, size: int) -> bytes:
    with segment.path.open("rb") as file:
        file.seek(segment.read)
        return file.read(min(size, segment.size - segment.read))
