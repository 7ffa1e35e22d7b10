"""Remembers who presented a credential: for a few seconds, within bounds, one look-up at a time."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeVar

from servicekit.errors import PenstockError, Unavailable

from gateway.core.accounts import Account

FRESH_S: Final = 3.0
"""After this one request looks a caller up again, while others still use what is remembered."""
CACHE_S: Final = 4.0
"""How long a caller is believed without a look-up; a revocation is live everywhere within 5 s."""

RETRY_S: Final = 1.0
"""How long to wait after a look-up that could not be made, as long as the caller is still believed."""
KNOWN_CALLERS: Final = 10_000
UNKNOWN_CALLERS: Final = 1_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Resolved:
    """An account, and the wall-clock moment from which its credential no longer works."""

    account: Account
    ends_at: datetime | None


LookUp = Callable[[], Awaitable[Resolved | None]]


@dataclass(slots=True)
class _Entry:
    resolved: Resolved
    fresh_until_s: float
    believed_until_s: float
    refreshing: bool = False
    outage_until_s: float = 0.0


class CallerCache:
    """Filed under digests: no credential is held in memory. Bad ones cannot push good ones out."""

    def __init__(self, clock_s: Callable[[], float], outage_s: float = 0.0) -> None:
        """`outage_s`: how long past CACHE_S a caller is still believed while he cannot be looked up (seconds)."""
        self._clock_s = clock_s
        self._outage_s = outage_s
        self._known: OrderedDict[bytes, _Entry] = OrderedDict()
        self._unknown: OrderedDict[bytes, float] = OrderedDict()
        self._flights: dict[bytes, asyncio.Future[Resolved | None]] = {}

    async def resolve(self, digest: bytes, look_up: LookUp) -> Resolved | None:
        """Return who the credential with this digest belongs to, or None; raises what `look_up` raises.

        The account is the same object until something about it changes.
        """
        entry, clock_s = self._known.get(digest), self._clock_s()
        if entry is not None:
            believed_until_s = max(entry.believed_until_s, entry.outage_until_s)
            if clock_s < entry.fresh_until_s or (entry.refreshing and clock_s < believed_until_s):
                return entry.resolved
            return await self._again(digest, entry, look_up)
        if self._unknown.get(digest, clock_s) > clock_s:
            return None
        return await self._shared(digest, look_up)

    def __len__(self) -> int:
        """Return how many credentials are remembered, good and bad."""
        return len(self._known) + len(self._unknown) + len(self._flights)

    async def _again(self, digest: bytes, entry: _Entry, look_up: LookUp) -> Resolved | None:
        entry.refreshing = True
        try:
            return await self._shared(digest, look_up)
        except Unavailable:
            clock_s, end_s = self._clock_s(), entry.believed_until_s + self._outage_s
            if clock_s >= end_s:
                raise
            entry.fresh_until_s = min(clock_s + RETRY_S, end_s)
            entry.outage_until_s = end_s
            return entry.resolved
        finally:
            entry.refreshing = False

    async def _shared(self, digest: bytes, look_up: LookUp) -> Resolved | None:
        """Let one look-up of a credential run at a time; whoever comes meanwhile gets its answer, or its error."""
        while (flight := self._flights.get(digest)) is not None:
            await asyncio.wait({flight})
            if not flight.cancelled():
                return flight.result()
        flight = self._flights[digest] = asyncio.get_running_loop().create_future()
        try:
            clock_s = self._clock_s()
            resolved = self._keep(digest, clock_s, await look_up())
            flight.set_result(resolved)
        except PenstockError as error:
            flight.set_exception(error)
            flight.exception()  # whether anybody waits or not, it is not lost: it is raised here
            raise
        finally:
            del self._flights[digest]
            flight.cancel()  # does nothing to one that is done; otherwise another one that waits looks up
        return resolved

    def _keep(self, digest: bytes, clock_s: float, resolved: Resolved | None) -> Resolved | None:
        """Remember an answer from the moment it was asked for, not from when it came."""
        if resolved is None:
            self._known.pop(digest, None)
            _remember(self._unknown, digest, clock_s + CACHE_S, UNKNOWN_CALLERS)
            return None
        before = self._known.get(digest)
        if before is not None and before.resolved == resolved:
            resolved = before.resolved
        _remember(self._known, digest, _Entry(resolved, clock_s + FRESH_S, clock_s + CACHE_S), KNOWN_CALLERS)
        return resolved


def _remember(entries: OrderedDict[bytes, T], digest: bytes, entry: T, limit: int) -> None:
    entries[digest] = entry
    entries.move_to_end(digest)
    if len(entries) > limit:
        entries.popitem(last=False)
