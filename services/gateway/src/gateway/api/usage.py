"""/v1/usage and /v1/admin/usage: what was used and what it cost, in sums and attempt by attempt."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from servicekit.errors import InvalidInput
from starlette.requests import Request
from starlette.responses import Response

from gateway.api import usage_responses as shown
from gateway.api.body import json_response
from gateway.api.openapi import Shape
from gateway.core.accounts import current
from gateway.core.turns import in_turns
from gateway.core.usage import Usage, UsageQuery

FILTERS: Final = ("since", "until", "tenant", "project", "key", "model", "page_size", "page_token")
OF_SUMS: Final = ("by", *FILTERS)
OF_ROWS: Final = ("call_id", *FILTERS)
LONGEST_NUMBER: Final = 9


class UsageRoutes:
    """Translates requests; who may see what is decided in the core.

    Without `since` it is this month's usage. A moment is RFC 3339, or a date; one without a zone is UTC.
    """

    def __init__(self, usage: Usage, clock: Callable[[], float] = time.time) -> None:
        self._usage = usage
        self._clock = clock

    async def own_sums(self, request: Request) -> Response:
        """Return sums of the caller's project."""
        return await self._sums(request, admin=False)

    async def own_rows(self, request: Request) -> Response:
        """Return attempts of the caller's project."""
        return await self._rows(request, admin=False)

    async def all_sums(self, request: Request) -> Response:
        """Return sums of every tenant, or of the caller's tenant if he administers no more."""
        return await self._sums(request, admin=True)

    async def all_rows(self, request: Request) -> Response:
        """Return attempts of every tenant, or of the caller's tenant if he administers no more."""
        return await self._rows(request, admin=True)

    async def _sums(self, request: Request, *, admin: bool) -> Response:
        found = await self._usage.sums(current(), self._query(request, OF_SUMS), admin=admin)
        return _listed(await in_turns(found.entries, shown.sum_json), found.next_page_token)

    async def _rows(self, request: Request, *, admin: bool) -> Response:
        found = await self._usage.rows(current(), self._query(request, OF_ROWS), admin=admin)
        return _listed(await in_turns(found.entries, shown.attempt_json), found.next_page_token)

    def _query(self, request: Request, known: tuple[str, ...]) -> UsageQuery:
        asked = request.query_params
        if unknown := sorted(set(asked) - set(known)):
            raise InvalidInput(f"unknown parameter {unknown[0]!r}", reason="unknown_parameter", field=unknown[0])
        now = datetime.fromtimestamp(self._clock(), UTC)
        month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        return UsageQuery(
            since=_moment(asked.get("since"), "since", month),
            until=_moment(asked.get("until"), "until", now + timedelta(hours=1)),
            tenant=asked.get("tenant", ""),
            project=asked.get("project", ""),
            key_id=asked.get("key", ""),
            model=asked.get("model", ""),
            call_id=asked.get("call_id", ""),
            by=tuple(name for name in asked.get("by", "").split(",") if name),
            limit=_page_size(asked.get("page_size", "100")),
            page_token=asked.get("page_token", ""),
        )


def usage_operations(routes: UsageRoutes) -> list[tuple[str, str, str, Callable[[Request], Any], Shape]]:
    """Return name, method, path, endpoint and shape of every usage call."""
    sums, rows = Shape(shown.UsageSums, query=OF_SUMS), Shape(shown.Attempts, query=OF_ROWS)
    return [
        ("get_usage", "GET", "/v1/usage", routes.own_sums, sums),
        ("list_attempts", "GET", "/v1/usage/attempts", routes.own_rows, rows),
        ("get_all_usage", "GET", "/v1/admin/usage", routes.all_sums, sums),
        ("list_all_attempts", "GET", "/v1/admin/usage/attempts", routes.all_rows, rows),
    ]


def _listed(entries: list[dict[str, Any]], next_page_token: str) -> Response:
    return json_response({"object": "list", "data": entries, "next_page_token": next_page_token or None})


def _moment(text: str | None, field: str, default: datetime) -> datetime:
    if text is None:
        return default
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidInput("a moment is written as 2026-11-30 or 2026-11-30T18:00:00Z", field=field) from error


def _page_size(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= LONGEST_NUMBER):
        raise InvalidInput("page_size has to be a whole number", field="page_size")
    return int(text)
