"""The ledger: every attempt that begins ends in exactly one row, whatever happens to the process or the store."""

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Final, Protocol

from servicekit.errors import Conflict, Unavailable
from servicekit.telemetry.metrics import SHORT_BUCKETS_S, counter, gauge, histogram

from gateway.core.attempts import ABANDONED, Attempt, Outcome, Settled, abandoned
from gateway.core.ledger_ports import Journal, LedgerFull, LedgerStore, Orphan, RowRefused

__all__ = ["Attempt", "Ledger", "LedgerFull", "Outcome"]

HOUR_S: Final = 3600
BATCH: Final = 512
SLICE: Final = 64
"""Rows are read in slices, and the event loop has its turn after each: a slice takes about a millisecond."""

PERIOD_S: Final = 0.5
PERHAPS_UNSETTLED: Final = 256
"""So many of the rows that a dead process had ended may be of reservations that it had not settled yet."""

RETRY_S: Final = 2.0
ADOPT_PERIOD_S: Final = 10.0
LONGEST_ATTEMPT_S: Final = 3600.0

ROWS = counter("penstock_gateway_ledger_rows", "Rows that reached the store, by how the attempt ended", ("status",))
IGNORED = counter("penstock_gateway_ledger_ignored_ends", "Ends of attempts that had ended, or had never begun")
BACKLOG = gauge("penstock_gateway_ledger_backlog_rows", "Rows that have ended and are not in the store yet")
JOURNAL = gauge("penstock_gateway_ledger_journal_bytes", "Bytes of the files of this process's journal")
SECONDS = histogram("penstock_gateway_ledger_store_seconds", "Time a batch takes into the store", (), SHORT_BUCKETS_S)
log = logging.getLogger(__name__)

Spender = tuple[str, str, int]
"""Kind and id of a subject, and an hour counted from 1970."""


class Readable(Protocol):
    """A journal as far as it can be read: this process's own or an orphan."""

    def read(self, limit: int) -> Sequence[Settled]: ...
    def refuse(self, row: Settled) -> None: ...


class Ledger:
    """Writes begins and ends to the journal at once, and moves finished rows to the store in the background.

    While the store is away the rows stay in the journal; when that is full no attempt may begin. An attempt of a
    process that died, or that nobody ends within `longest_s` seconds, ends as `abandoned` at the cost reserved for it.
    `settle_left` is told of those, and of what ended last before the death: their reservations may still be open.
    """

    def __init__(
        self,
        journal: Journal,
        store: LedgerStore,
        clock: Callable[[], float] = time.time,
        longest_s: float = LONGEST_ATTEMPT_S,
        settle_left: Callable[[Sequence[Settled]], Awaitable[None]] | None = None,
    ) -> None:
        self._journal = journal
        self._store = store
        self._clock = clock
        self._longest_s = longest_s
        self._settle_left = settle_left
        self._open: dict[str, Attempt] = {}
        self._unstored: Counter[Spender] = Counter()
        self._backlog = 0
        self._moving = asyncio.Lock()
        self._held: list[Settled] = []
        self._failing = False

    def begin(self, attempt: Attempt) -> None:
        """Write down that an attempt begins; its upstream may be asked after that. Takes microseconds.

        Raises LedgerFull when it cannot be written, and Conflict when an attempt with this id is open.
        """
        if attempt.id in self._open:
            raise Conflict(f"there is an attempt {attempt.id} already")
        self._journal.begin(attempt)
        self._open[attempt.id] = attempt

    def end(self, attempt_id: str, outcome: Outcome) -> None:
        """Write down how an attempt ended. Only the first end counts. Takes microseconds and does not fail."""
        attempt = self._open.pop(attempt_id, None)
        if attempt is None:
            IGNORED.inc()
            return
        self._journal.end(attempt_id, outcome, self._clock())
        self._backlog += 1
        if outcome.cost_nanos:
            for spender in spenders(attempt):
                self._unstored[spender] += outcome.cost_nanos

    def usable(self) -> bool:
        """Say whether attempts may begin; costs next to nothing."""
        return self._journal.trouble() is None

    async def check(self) -> str | None:
        """Say why attempts cannot begin now, or None: for readiness. A store that is away is no reason."""
        return self._journal.trouble()

    async def spent(self, subject_kind: str, subject_id: str, since: datetime) -> int:
        """Return the nano-dollars that attempts of a tenant, project or key cost which began since a moment.

        Whole hours count. Included is what this process has settled to this moment, and of other processes what has
        reached the store. Raises Unavailable when the store cannot be asked.
        """
        hour = int(since.timestamp()) // HOUR_S
        async with self._moving:
            stored = await self._store.spent(subject_kind, subject_id, hour)
            fresh = [
                nanos
                for (kind, id_, begun), nanos in self._unstored.items()
                if kind == subject_kind and id_ == subject_id and begun >= hour
            ]
        return stored + sum(fresh)

    async def flush(self) -> None:
        """Move everything that has ended into the store; raise Unavailable when it cannot take it."""
        self._journal.mend()
        while await self._move():
            pass

    async def adopt(self) -> None:
        """Move what dead processes left into the store; what they had not finished is abandoned."""
        while True:
            with self._journal.orphan() as orphan:
                if orphan is None:
                    return
                await self._adopt(orphan)

    async def close(self, timeout_s: float = 5.0) -> None:
        """Move what has ended into the store, for at most so many seconds; what is left stays in the journal."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.flush()
        except (Unavailable, TimeoutError):
            log.warning("%d rows stay in the ledger's journal for the next process", self._backlog)

    async def run(self) -> None:
        """Move rows, and take over from dead processes, until cancelled; a store that is away is asked again."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._repeat(self._step, PERIOD_S))
            tasks.create_task(self._repeat(self.adopt, ADOPT_PERIOD_S))

    async def _repeat(self, step: Callable[[], Awaitable[None]], period_s: float) -> None:
        while True:
            try:
                await step()
            except Unavailable as error:
                if not self._failing:
                    log.warning("rows stay in the ledger's journal: %s", error.message)
                self._failing = True
                await asyncio.sleep(RETRY_S)
            else:
                await asyncio.sleep(period_s)

    async def _step(self) -> None:
        self._end_forgotten()
        try:
            await self.flush()
            if self._failing:
                log.info("the ledger's store is back")
            self._failing = False
        except Unavailable:
            await asyncio.to_thread(self._journal.sync)
            raise
        finally:
            BACKLOG.set(self._backlog)
            JOURNAL.set(self._journal.size_bytes())

    async def _move(self) -> bool:
        async with self._moving:
            if not self._held:
                await _fill(self._held, self._journal)
            if not self._held:
                return False
            await self._keep(self._held, self._journal)
            for row in self._held:
                self._forget(row)
            self._backlog -= len(self._held)
            self._held.clear()
            self._journal.forget()
        return True

    def _forget(self, row: Settled) -> None:
        if not row.outcome.cost_nanos:
            return
        for spender in spenders(row.attempt):
            self._unstored[spender] -= row.outcome.cost_nanos
            if not self._unstored[spender]:
                del self._unstored[spender]

    async def _adopt(self, orphan: Orphan) -> None:
        rows: list[Settled] = []
        last: deque[Settled] = deque(maxlen=PERHAPS_UNSETTLED)
        while await _fill(rows, orphan):
            await self._keep(rows, orphan)
            last.extend(rows)
            rows.clear()
        now = self._clock()
        lost = [abandoned(attempt, "process_died", now) for attempt in orphan.unfinished()]
        for start in range(0, len(lost), BATCH):
            await self._keep(lost[start : start + BATCH], orphan)
        if lost:
            log.warning("%d attempts of a process that died are abandoned at the cost reserved for them", len(lost))
        if self._settle_left is not None:
            await self._settle_left([*last, *lost])
        orphan.remove()

    async def _keep(self, rows: list[Settled], journal: Readable) -> None:
        """Put rows into the store; one that it refuses is put aside alone, and counted."""
        try:
            with SECONDS.time():
                await self._store.add(rows)
        except RowRefused as error:
            if len(rows) == 1:
                log.warning("the ledger's store refuses the row of attempt %s: %s", rows[0].attempt.id, error.message)
                journal.refuse(rows[0])
                return
            middle = len(rows) // 2
            await self._keep(rows[:middle], journal)
            await self._keep(rows[middle:], journal)
            return
        for status, count in Counter(row.outcome.status for row in rows).items():
            ROWS.labels(status).inc(count)

    def _end_forgotten(self) -> None:
        """End what has been open too long: the first of the open ones are the oldest."""
        before = self._clock() - self._longest_s
        while self._open:
            attempt = next(iter(self._open.values()))
            if attempt.started_at >= before:
                return
            log.error("attempt %s was begun and never ended", attempt.id)
            self.end(attempt.id, Outcome(status=ABANDONED, reason="never_ended", cost_nanos=attempt.reserved_nanos))


async def _fill(rows: list[Settled], journal: Readable) -> bool:
    """Add a batch to `rows` in slices, so that nothing that was read is lost when this is cancelled."""
    while len(rows) < BATCH and (more := journal.read(SLICE)):
        rows.extend(more)
        await asyncio.sleep(0)
    return bool(rows)


def spenders(attempt: Attempt) -> tuple[Spender, Spender, Spender]:
    """Return who pays for an attempt, as limits name them, with the hour it counts in."""
    hour = int(attempt.started_at) // HOUR_S
    return (
        ("tenant", attempt.tenant, hour),
        ("project", f"{attempt.tenant}/{attempt.project}", hour),
        ("key", attempt.key_id, hour),
    )
