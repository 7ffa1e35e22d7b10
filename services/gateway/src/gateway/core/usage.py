"""What was used and what it cost: who may see which sums and rows, and how they are asked for in pages."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Generic, Protocol, TypeVar

from servicekit.errors import Forbidden, InvalidInput

from gateway.core.accounts import Account
from gateway.core.attempts import Settled
from gateway.core.scopes import ADMIN, TENANT_ADMIN, MissingScope

GROUPS: Final = ("tenant", "project", "key", "model", "day", "hour")
"""What sums can be taken by. A day is a UTC day; day and hour are the moment they begin."""

LARGEST_PAGE: Final = 1000
LONGEST_TOKEN: Final = 2048
LONGEST_NAME: Final = 256
LARGEST_NUMBER: Final = 2**53
Place = tuple[str | int, ...]
"""The last thing of a page, by the columns it is sorted by."""

Entry = TypeVar("Entry")


class NotYours(Forbidden):
    """The usage of another tenant."""

    default_reason = "other_tenant"


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageQuery:
    """What is asked: attempts that began from `since` on and before `until`; an empty name is any.

    For sums, whole hours count, and `by` says what they are taken by. For rows, `call_id` narrows to one call and the
    calls that retried it. `limit` is at most 1,000.
    """

    since: datetime
    until: datetime
    tenant: str = ""
    project: str = ""
    key_id: str = ""
    model: str = ""
    call_id: str = ""
    by: tuple[str, ...] = ()
    limit: int = 100
    page_token: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageSum:
    """The sums of a group, which is what `by` asked for. `calls` are calls of clients, each of one attempt or more."""

    group: Mapping[str, str | int]
    attempts: int
    calls: int
    cancelled: int
    failed: int
    abandoned: int
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    cost_nanos: int


@dataclass(frozen=True, slots=True)
class Page(Generic[Entry]):
    """Some of the entries, and how to ask for those after them; an empty token says that there are no more."""

    entries: Sequence[Entry]
    next_page_token: str


class UsageSource(Protocol):
    """Where sums and rows are. Raises Unavailable, and TimedOut when the question takes too long."""

    async def sums(self, query: UsageQuery, after: Place | None) -> Sequence[UsageSum]:
        """Return at most `query.limit` sums, sorted by group, after a place."""
        ...

    async def rows(self, query: UsageQuery, after: Place | None) -> Sequence[Settled]:
        """Return at most `query.limit` rows, the latest first, after a place: start in microseconds, and id."""
        ...


class Usage:
    """Answers who used what. The callers' rights are checked here, under every door."""

    def __init__(self, source: UsageSource) -> None:
        self._source = source

    async def sums(self, account: Account, query: UsageQuery, *, admin: bool) -> Page[UsageSum]:
        """Return sums; `admin` asks beyond the caller's own project. Raises InvalidInput, Forbidden, TimedOut."""
        seen = _visible(account, _checked(query), admin=admin)
        kinds: list[type] = [int if name in {"day", "hour"} else str for name in query.by]
        entries = await self._source.sums(seen, _place(query.page_token, kinds))
        full = len(entries) == query.limit and query.by
        return Page(entries, _token(tuple(entries[-1].group[name] for name in query.by)) if full else "")

    async def rows(self, account: Account, query: UsageQuery, *, admin: bool) -> Page[Settled]:
        """Return rows, the latest first; `admin` asks beyond the caller's own project."""
        seen = _visible(account, _checked(query), admin=admin)
        entries = await self._source.rows(seen, _place(query.page_token, [int, str]))
        if len(entries) < query.limit:
            return Page(entries, "")
        last = entries[-1].attempt
        return Page(entries, _token((microseconds(last.started_at), last.id)))


def microseconds(moment_s: float) -> int:
    """Return a moment in whole microseconds, as rows are sorted by it."""
    return round(moment_s * 1e6)


def _visible(account: Account, query: UsageQuery, *, admin: bool) -> UsageQuery:
    """Narrow a query to what its asker may see: all, his tenant, or his project."""
    if admin and ADMIN in account.scopes:
        return query
    if query.tenant not in {"", account.tenant}:
        raise NotYours("this is the usage of another tenant", field="tenant")
    if admin and TENANT_ADMIN in account.scopes:
        return replace(query, tenant=account.tenant)
    if admin:
        raise MissingScope(f"the caller lacks the scope {ADMIN!r} or {TENANT_ADMIN!r}")
    if query.project not in {"", account.project}:
        raise NotYours("this is the usage of another project", field="project")
    return replace(query, tenant=account.tenant, project=account.project)


def _checked(query: UsageQuery) -> UsageQuery:
    if not 1 <= query.limit <= LARGEST_PAGE:
        raise InvalidInput(f"a page has 1 to {LARGEST_PAGE} entries", field="page_size")
    for field in ("tenant", "project", "key_id", "model", "call_id"):
        if not _storable(getattr(query, field)):
            raise InvalidInput(f"a name has at most {LONGEST_NAME} characters that can be printed", field=field)
    if unknown := [name for name in query.by if name not in GROUPS]:
        raise InvalidInput(f"{unknown[0]!r} is none of {', '.join(GROUPS)}", field="by")
    if len(set(query.by)) < len(query.by):
        raise InvalidInput("a group is named twice", field="by")
    if query.since.tzinfo is None or query.until.tzinfo is None:
        raise InvalidInput("a moment needs its zone, such as Z", field="since")
    if query.since >= query.until:
        raise InvalidInput("the end has to be after the beginning", field="until")
    return query


def _token(place: Place) -> str:
    return base64.urlsafe_b64encode(json.dumps(place, separators=(",", ":")).encode()).decode().rstrip("=")


def _place(token: str, kinds: list[type]) -> Place | None:
    if not token:
        return None
    refused = InvalidInput("the page token is not one of this question", field="page_token")
    if len(token) > LONGEST_TOKEN:
        raise refused
    try:
        place = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except (ValueError, RecursionError) as error:
        raise refused from error
    if not isinstance(place, list) or [type(part) for part in place] != kinds or not all(map(_storable, place)):
        raise refused
    return tuple(place)


def _storable(part: str | int) -> bool:
    """Say whether a database can compare with this at all."""
    if isinstance(part, int):
        return abs(part) < LARGEST_NUMBER
    return len(part) <= LONGEST_NAME and part.isprintable()
