"""What the ledger needs of the outside: a journal that outlives the process, and a store that keeps rows for good."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from servicekit.errors import InvalidInput, Unavailable

from gateway.core.attempts import Attempt, Outcome, Settled


class RowRefused(InvalidInput):
    """The store can be used, but it will never take this row."""

    default_reason = "row_refused"


class LedgerFull(Unavailable):
    """No attempt can be written down now, so none may begin."""

    default_reason = "ledger_full"


class Journal(Protocol):
    """What one process has begun and ended, in the order it happened; it survives the death of the process."""

    def begin(self, attempt: Attempt) -> None:
        """Write down that an attempt begins; raise LedgerFull when it cannot be written."""
        ...

    def end(self, attempt_id: str, outcome: Outcome, ended_at: float) -> None:
        """Write down how it ended. Does not fail: what cannot be written now is written later."""
        ...

    def read(self, limit: int) -> Sequence[Settled]:
        """Return attempts that have ended and were not read yet, at most `limit`, in the order they ended."""
        ...

    def forget(self) -> None:
        """Everything that was read is in the store: what holds nothing else is deleted."""
        ...

    def refuse(self, row: Settled) -> None:
        """Put a row aside that the store will never take, where an operator finds it."""
        ...

    def mend(self) -> None:
        """Write what could not be written before, and find out whether attempts can begin again."""
        ...

    def trouble(self) -> str | None:
        """Say why no attempt can begin now, or None when one can; costs next to nothing."""
        ...

    def size_bytes(self) -> int:
        """Return how much is written and not deleted yet."""
        ...

    def sync(self) -> None:
        """Force what is written to the disk; blocks."""
        ...

    def orphan(self) -> AbstractContextManager["Orphan | None"]:
        """Take over the journal of a process that is dead, or None when there is none; inside nobody else has it."""
        ...


class Orphan(Protocol):
    """The journal of a dead process."""

    def read(self, limit: int) -> Sequence[Settled]:
        """Return attempts that had ended and were not read yet, at most `limit`."""
        ...

    def unfinished(self) -> Sequence[Attempt]:
        """Return the attempts without an end, once everything is read."""
        ...

    def refuse(self, row: Settled) -> None:
        """Put a row aside that the store will never take."""
        ...

    def remove(self) -> None:
        """Everything is in the store: delete the journal."""
        ...


class LedgerStore(Protocol):
    """Where rows are kept for good. Every method raises Unavailable when the store cannot be used."""

    async def add(self, rows: Sequence[Settled]) -> None:
        """Keep rows, all or none; a row whose attempt id is there already changes nothing. Raise RowRefused."""
        ...

    async def spent(self, subject_kind: str, subject_id: str, since_hour: int) -> int:
        """Return the nano-dollars of a tenant, project or key since an hour, counted from 1970."""
        ...

    async def prune(self, before: float, limit: int) -> int:
        """Delete at most `limit` rows of attempts that began before a moment; sums stay. Return how many they were."""
        ...
