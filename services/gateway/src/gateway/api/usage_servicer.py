"""The typed door to usage: translates messages; who may see what is decided in the core."""
# ruff: noqa: ARG002  the signature is gRPC's

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp
from penstock.gateway.v1 import usage_pb2 as pb
from penstock.gateway.v1.usage_pb2_grpc import UsageServiceServicer, add_UsageServiceServicer_to_server
from servicekit.errors import InvalidInput
from servicekit.rpc import Service

from gateway.core.accounts import current
from gateway.core.attempts import Settled
from gateway.core.turns import in_turns
from gateway.core.usage import Usage, UsageQuery, UsageSum, microseconds

NAME: Final = "penstock.gateway.v1.UsageService"
DEFAULT_PAGE: Final = 100
NAMES: Final = ("tenant", "project", "key", "model")
SAME_IN_ATTEMPT: Final = (
    *("id", "call_id", "number", "retry_of", "retry_count", "kind", "door", "tenant", "project", "principal", "alias"),
    *("model", "input_price_micros", "output_price_micros", "reserved_nanos", "trace_id"),
)
SAME_IN_OUTCOME: Final = (
    *("model_version", "digest", "provider", "region", "status", "reason", "http_status", "queue_ms", "first_token_ms"),
    *("duration_ms", "input_tokens", "output_tokens", "cached_input_tokens", "cost_nanos"),
)


class UsageServicer(UsageServiceServicer):
    """UsageService over the questions that REST asks, too."""

    def __init__(self, usage: Usage, clock: Callable[[], float] = time.time) -> None:
        self._usage = usage
        self._clock = clock

    async def SumUsage(self, request: pb.SumUsageRequest, context: Any) -> pb.SumUsageResponse:
        query = self._query(request, by=tuple(request.by))
        found = await self._usage.sums(current(), query, admin=request.filter.administered)
        return pb.SumUsageResponse(sums=await in_turns(found.entries, _sum), next_page_token=found.next_page_token)

    async def ListAttempts(self, request: pb.ListAttemptsRequest, context: Any) -> pb.ListAttemptsResponse:
        query = self._query(request, call_id=request.call_id)
        found = await self._usage.rows(current(), query, admin=request.filter.administered)
        attempts = await in_turns(found.entries, _attempt)
        return pb.ListAttemptsResponse(attempts=attempts, next_page_token=found.next_page_token)

    def _query(self, request: Any, **more: Any) -> UsageQuery:
        asked: pb.UsageFilter = request.filter
        now = datetime.fromtimestamp(self._clock(), UTC)
        month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        return UsageQuery(
            since=_moment(asked, "since", month),
            until=_moment(asked, "until", now + timedelta(hours=1)),
            tenant=asked.tenant,
            project=asked.project,
            key_id=asked.key,
            model=asked.model,
            limit=request.page_size or DEFAULT_PAGE,
            page_token=request.page_token,
            **more,
        )


def usage_service(usage: Usage) -> Service:
    """Return the typed door to usage. Its methods need no scope here: the core checks for both doors."""
    methods = pb.DESCRIPTOR.services_by_name["UsageService"].methods
    scopes: Mapping[str, str] = {method.name: "" for method in methods}
    return Service(NAME, add_UsageServiceServicer_to_server, UsageServicer(usage), scopes)


def _moment(asked: pb.UsageFilter, name: str, default: datetime) -> datetime:
    if not asked.HasField(name):  # type: ignore[arg-type]  # one of its names
        return default
    try:
        moment: datetime = getattr(asked, name).ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidInput(f"{name} is no moment", field=name) from error
    return moment


def _sum(found: UsageSum) -> pb.UsageSum:
    group = dict(found.group)
    begin = group.get("hour", group.get("day"))
    return pb.UsageSum(
        **{name: str(group[name]) for name in NAMES if name in group},
        begin=Timestamp(seconds=begin) if isinstance(begin, int) else None,
        calls=found.calls,
        attempts=found.attempts,
        cancelled=found.cancelled,
        failed=found.failed,
        abandoned=found.abandoned,
        input_tokens=found.input_tokens,
        output_tokens=found.output_tokens,
        cached_input_tokens=found.cached_input_tokens,
        cost_nanos=found.cost_nanos,
    )


def _attempt(row: Settled) -> pb.UsageAttempt:
    fields: dict[str, Any] = {name: getattr(row.attempt, name) for name in SAME_IN_ATTEMPT}
    fields |= {name: getattr(row.outcome, name) for name in SAME_IN_OUTCOME}
    return pb.UsageAttempt(
        **fields,
        key=row.attempt.key_id,
        tokens_reported=row.outcome.reported,
        started_at=_timestamp(row.attempt.started_at),
        ended_at=_timestamp(row.ended_at),
    )


def _timestamp(moment_s: float) -> Timestamp:
    made = Timestamp()
    made.FromMicroseconds(microseconds(moment_s))
    return made
