"""The ledger's journal in files: appended to by one process, taken over by another when that one is dead."""

import contextlib
import fcntl
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from gateway.adapters.journal_lines import begin_line, end_line, writable
from gateway.adapters.journal_live import MOST_KEPT, LiveReader
from gateway.adapters.journal_reader import BadLines, JournalReader, Segment, refused
from gateway.core.attempts import Attempt, Outcome, Settled
from gateway.core.ledger_ports import LedgerFull

SEGMENT_BYTES: Final = 8 * 1024 * 1024
LIMIT_BYTES: Final = 1024 * 1024 * 1024
SEGMENTS_BEHIND: Final = 2
"""So many newer segments there are before what is open in an old one is written again, and the old one deleted."""

RETRY_S: Final = 5.0
LOCK: Final = "owner.lock"
SUFFIX: Final = ".journal"
APPEND: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
log = logging.getLogger(__name__)


class FileJournal:
    """A folder of this process under a root shared with others: a lock that is held as long as the process lives, and
    segments of lines. A line is given to the operating system before the call returns, so the process may die then.

    At `limit_bytes` no attempt may begin any more; what has begun may still end. At most `most_kept` rows that nobody
    has read are in memory, too.
    """

    def __init__(
        self,
        root: Path,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        limit_bytes: int = LIMIT_BYTES,
        most_kept: int = MOST_KEPT,
    ) -> None:
        """Take a new folder under `root`, which is made when it is not there. Raises OSError."""
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._root = root
        self._segment_bytes = segment_bytes
        self._limit_bytes = limit_bytes
        self._bad = BadLines(root / "refused.bad")
        self._folder, self._lock = _own_folder(root)
        self._count = 0
        self._bytes = 0
        self._late: list[bytes] = []
        self._failure: str | None = None
        self._torn = False
        self._reader = LiveReader([], self._bad, live=True, most_kept=most_kept)
        self._file, self._current = self._new_segment()

    def __enter__(self) -> Self:
        """Return the journal."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let the folder go: a later process takes over what is left in it; an empty one is deleted."""
        os.close(self._file)
        self._current.closed = True
        self.read(1)
        if not self._late and all(not segment.waiting and segment.read == segment.size for segment in self._segments):
            _delete(self._folder)
        os.close(self._lock)

    @property
    def _segments(self) -> list[Segment]:
        return self._reader.segments

    def begin(self, attempt: Attempt) -> None:
        """Append the begin of an attempt; raise LedgerFull when that cannot be done."""
        reason = self.trouble()
        if reason is None:
            attempt, line = writable(attempt)
            reason = self._append(line)
        if reason is not None:
            raise LedgerFull("the ledger takes no more calls now", retry_after_s=RETRY_S)
        self._reader.begun(attempt, self._current)

    def end(self, attempt_id: str, outcome: Outcome, ended_at: float) -> None:
        """Append the end of an attempt, or remember it until `mend` can."""
        line = end_line(attempt_id, outcome, ended_at)
        if self._late or self._append(line) is not None:
            self._late.append(line)
        self._reader.ended(attempt_id, outcome, ended_at, self._current)

    def read(self, limit: int) -> Sequence[Settled]:
        """Return attempts that have ended and were not read yet, at most `limit`."""
        return self._reader.latest(limit, all_written=not self._late)

    def forget(self) -> None:
        """Delete the segments that hold nothing but stored rows; write again what is open in old ones."""
        behind = len(self._segments) - SEGMENTS_BEHIND
        for segment in list(self._reader.passed())[: max(behind, 0)]:
            self._carry(segment)
        for segment in self._reader.stored():
            segment.path.unlink(missing_ok=True)
            self._bytes -= segment.size

    def refuse(self, row: Settled) -> None:
        """Put a row aside that the store will never take."""
        refused(self._bad, row)

    def mend(self) -> None:
        """Try again to write what could not be written; an empty line is the probe."""
        if self._failure is None:
            return
        while self._late:
            if self._append(self._late[0]) is not None:
                return
            del self._late[0]
        self._append(b"\n")

    def trouble(self) -> str | None:
        """Say why no attempt can begin now, or None."""
        if self._bytes >= self._limit_bytes:
            return f"the ledger's journal has reached its limit of {self._limit_bytes} bytes"
        return self._failure

    def size_bytes(self) -> int:
        """Return the bytes of all segments of this process."""
        return self._bytes

    def sync(self) -> None:
        """Force the current segment to the disk; blocks."""
        os.fdatasync(self._file)

    @contextlib.contextmanager
    def orphan(self) -> Iterator["OrphanJournal | None"]:
        """Take over a folder whose process is dead, or None when there is none."""
        for folder in sorted(self._root.iterdir()):
            if folder == self._folder or not folder.is_dir():
                continue
            lock = _take_over(folder)
            if lock is not None:
                try:
                    yield OrphanJournal(folder, JournalReader(_segments(folder), self._bad, live=False), self._bad)
                finally:
                    os.close(lock)
                return
        yield None

    def _append(self, line: bytes) -> str | None:
        """Write a line whole or not at all; say why not."""
        try:
            if self._torn or self._current.size >= self._segment_bytes:
                self._rotate()
            _write(self._file, line)
        except OSError as error:
            self._undo()
            if self._failure is None:
                log.error("the ledger's journal cannot be written: %s", error.strerror)  # noqa: TRY400  no bug here
            self._failure = f"the ledger's journal cannot be written: {error.strerror}"
            return self._failure
        self._current.size += len(line)
        self._bytes += len(line)
        self._failure = None if not self._late else self._failure
        return None

    def _undo(self) -> None:
        try:
            os.ftruncate(self._file, self._current.size)
        except OSError:
            self._torn = True

    def _rotate(self) -> None:
        file, segment = self._new_segment()
        os.close(self._file)
        self._current.closed = True
        self._file, self._current, self._torn = file, segment, False

    def _new_segment(self) -> tuple[int, Segment]:
        path = self._folder / f"{self._count + 1:08}{SUFFIX}"
        file = os.open(path, APPEND, 0o600)
        self._count += 1
        segment = Segment(path)
        self._segments.append(segment)
        return file, segment

    def _carry(self, segment: Segment) -> None:
        for attempt in self._reader.begun_in(segment):
            if self._append(begin_line(attempt, carried=True)) is not None:
                return
            self._reader.move(attempt, segment, self._current)


@dataclass(frozen=True, slots=True)
class OrphanJournal:
    """The folder of a dead process; whoever made this holds its lock."""

    folder: Path
    reader: JournalReader
    bad: BadLines

    def read(self, limit: int) -> Sequence[Settled]:
        """Return attempts that had ended and were not read yet, at most `limit`."""
        return self.reader.read(limit)

    def unfinished(self) -> Sequence[Attempt]:
        """Return the attempts without an end."""
        return self.reader.unfinished()

    def refuse(self, row: Settled) -> None:
        """Put a row aside that the store will never take."""
        refused(self.bad, row)

    def remove(self) -> None:
        """Delete the folder."""
        _delete(self.folder)


def _write(file: int, line: bytes) -> None:
    written = os.write(file, line)
    while written < len(line):
        written += os.write(file, line[written:])


def _own_folder(root: Path) -> tuple[Path, int]:
    """Make a folder with a lock that we hold; another process may take it for an orphan before we do: then again."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=root))
        try:
            lock = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue
        if _holds(lock, folder / LOCK):
            return folder, lock
        os.close(lock)


def _take_over(folder: Path) -> int | None:
    try:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:  # it is being made, or a crash came while it was deleted: then it is empty
        with contextlib.suppress(OSError):
            folder.rmdir()
        return None
    except OSError as error:
        log.warning("the journal in %s cannot be taken over: %s", folder, error.strerror)
        return None
    if _holds(lock, folder / LOCK):
        return lock
    os.close(lock)
    return None


def _holds(lock: int, path: Path) -> bool:
    """Lock a file, and make sure that it is still the one at the path."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.fstat(lock).st_ino == path.stat().st_ino
    except (BlockingIOError, FileNotFoundError):
        return False


def _segments(folder: Path) -> list[Segment]:
    paths = sorted(folder.glob(f"*{SUFFIX}"))
    return [Segment(path, size=path.stat().st_size, closed=True) for path in paths]


def _delete(folder: Path) -> None:
    """Delete a folder, its lock last: until then a crash leaves an orphan, and after it an empty folder."""
    for path in folder.glob(f"*{SUFFIX}"):
        path.unlink(missing_ok=True)
    (folder / LOCK).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()
