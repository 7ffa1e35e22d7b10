"""Settles what processes had reserved that died, as soon as another one has their rows: no slot waits for its lease."""

from collections.abc import Sequence
from typing import Final

from gateway.core.accounts import Limits, Subject
from gateway.core.attempts import Attempt, Settled
from gateway.core.ledger import spenders
from gateway.core.limit_ports import Ask, Grant, LimitStore, Used

LEASED: Final = Limits(concurrent_requests=1)
"""Whatever the limits were: these say that there may be a lease, and the lease itself says what it holds."""


class LeftReservations:
    """Asks the store of limits that all processes share. What is not open there any more changes nothing."""

    def __init__(self, store: LimitStore) -> None:
        self._store = store

    async def settle(self, rows: Sequence[Settled]) -> None:
        """Settle the reservations of a dead process's attempts at what their rows cost. Raises Unavailable."""
        for row in rows:
            await self._store.settle(_grant(row.attempt), Used(1, 0, row.outcome.cost_nanos), late=True)


def _grant(attempt: Attempt) -> Grant:
    """Return what an attempt was granted, as far as a late settlement needs it: its id, and whose it was."""
    subjects = tuple([Subject(kind, id_, LEASED) for kind, id_, _ in spenders(attempt)])
    ask = Ask(attempt.id, attempt.tenant, subjects, 0, attempt.reserved_nanos, 0)
    return Grant(ask, attempt.started_at, 0, 0, None, None, (), shared=True)
