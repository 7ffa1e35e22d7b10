"""What metering needs of the outside: a store that counts atomically, and a ledger that knows what was spent."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

from servicekit.errors import Conflict

from gateway.core.accounts import Limits, Subject

LONGEST_LEASE_S: Final = 3600.0
"""No reservation stands longer than this without being renewed."""

SUBJECT_IDLE_S: Final = 600
"""A subject nobody asked for this long is forgotten, unless a reservation of its is open; spend is in the ledger."""

CHECK_EVERY_S: Final = 300
"""How often what was spent is compared with the ledger."""


class Measure(StrEnum):
    """What is limited; also the reason a caller reads when it is used up."""

    REQUESTS = "requests_per_minute"
    TOKENS = "tokens_per_minute"
    CONCURRENCY = "concurrent_requests"
    DAY = "budget_day"
    MONTH = "budget_month"


class DuplicateReservation(Conflict):
    """A reservation with this id is open already."""

    default_reason = "duplicate_reservation"


@dataclass(frozen=True, slots=True)
class Ask:
    """One reservation to be made: one request, these tokens at most, this much money at most, of every subject.

    Spend that was last compared with the ledger before `verified_after_s`, in the store's own time, is not believed.
    """

    id: str
    tenant: str
    subjects: tuple[Subject, ...]
    tokens: int
    cost_nanos: int
    lease_s: float
    verified_after_s: float = 0.0


def is_leased(limits: Limits) -> bool:
    """Say whether a reservation of these limits stays open until it is settled."""
    return not (limits.concurrent_requests is limits.budget_day_nanos is limits.budget_month_nanos is None)


class Used(NamedTuple):
    """What a reservation came to in the end; no request at all when it is given back."""

    requests: int
    tokens: int
    cost_nanos: int


class Quota(NamedTuple):
    """How a limit stands: what is left of it now, and in how many seconds all of it is there again."""

    limit: int
    remaining: int
    reset_s: float


class Purse(NamedTuple):
    """A budget of one subject in one period: `number` counts days, or months, since the start of 1970.

    `shared` says whether it is a store that all processes see that asks.
    """

    subject: Subject
    measure: Measure
    number: int
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Grant:
    """A reservation that was made, with what is needed to settle it. `at_s` is the store's own time, in seconds.

    `requests` and `tokens` are the tightest of the subjects' quotas, None where there is no such limit. `unchecked`
    are budgets whose spend it is time to compare with the ledger. `shared` says that all processes see it.
    """

    ask: Ask
    at_s: float
    day: int
    month: int
    requests: Quota | None
    tokens: Quota | None
    unchecked: tuple[Purse, ...]
    shared: bool


class Refusal(NamedTuple):
    """Why nothing was reserved: the limit that stands in the way longest. `wait_s` is None when waiting cannot help."""

    subject: Subject
    measure: Measure
    wait_s: float | None
    quota: Quota


class Unseeded(NamedTuple):
    """Nothing was reserved, because the store does not know what was spent from these budgets."""

    purses: tuple[Purse, ...]


class LimitStore(Protocol):
    """Counts what subjects take. Every method is one atomic step, and raises Unavailable when the store cannot be used.

    A reservation that is neither settled nor renewed within its lease ends by itself: its slot is free, its
    money counts as spent, for the upstream may have been paid.
    """

    async def reserve(self, ask: Ask) -> Grant | Refusal | Unseeded:
        """Reserve of every subject or of none; raise DuplicateReservation when the id is open already."""
        ...

    async def settle(self, grant: Grant, used: Used, late: bool = False) -> None:
        """Replace what was reserved by what was used; `late` marks a repetition, which counts only if still open."""
        ...

    def settle_now(self, grant: Grant, used: Used) -> bool:
        """Settle where that needs no waiting; return False, with nothing done, where it does."""
        ...

    async def renew(self, grant: Grant, lease_s: float) -> None:
        """Let an open reservation stand for `lease_s` seconds from now."""
        ...

    async def seed(self, tenant: str, purse: Purse, spent_nanos: int) -> None:
        """Take what the ledger says was spent; what is known never becomes less, open calls are not counted twice."""
        ...


class SpendSource(Protocol):
    """The ledger: what really was spent."""

    async def spent(self, subject_kind: str, subject_id: str, since: datetime) -> int:
        """Return the nano-dollars a tenant, project or key spent since a moment; raise Unavailable."""
        ...
