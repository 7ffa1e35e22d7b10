"""What the usage calls answer with: as OpenAPI shows it, and made of the core's own."""

from datetime import UTC, datetime
from typing import Any, Literal

from gateway.api.responses import Shown
from gateway.core.attempts import Settled
from gateway.core.pricing import dollars_of_nanos
from gateway.core.usage import UsageSum


class UsageSumShown(Shown):
    """The sums of a group; a column of the group that was not asked for is absent. `day` and `hour` are their begin."""

    object: Literal["usage"]
    tenant: str | None = None
    project: str | None = None
    key: str | None = None
    model: str | None = None
    day: str | None = None
    hour: str | None = None
    attempts: int
    calls: int
    cancelled: int
    failed: int
    abandoned: int
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    cost_nanos: int
    cost_usd: str


class UsageSums(Shown):
    """Sums by group."""

    object: Literal["list"]
    data: list[UsageSumShown]
    next_page_token: str | None


class AttemptShown(Shown):
    """One attempt to have a model answer; durations in milliseconds, prices in micro-dollars per million tokens."""

    object: Literal["attempt"]
    id: str
    call_id: str
    number: int
    retry_of: str | None
    retry_count: int
    kind: str
    door: str
    tenant: str
    project: str
    key: str
    principal: str
    alias: str
    model: str
    model_version: str
    digest: str
    provider: str
    region: str
    status: Literal["ok", "cancelled", "failed", "abandoned"]
    reason: str | None
    http_status: int | None
    started_at: str
    ended_at: str
    queue_ms: float | None
    first_token_ms: float | None
    duration_ms: float | None
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    tokens_reported: bool
    input_price_micros: int
    output_price_micros: int
    reserved_nanos: int
    cost_nanos: int
    cost_usd: str
    trace_id: str | None


class Attempts(Shown):
    """Attempts, the latest first."""

    object: Literal["list"]
    data: list[AttemptShown]
    next_page_token: str | None


def sum_json(found: UsageSum) -> dict[str, Any]:
    """Return sums as JSON."""
    group = {name: _moment(value) if isinstance(value, int) else value for name, value in found.group.items()}
    return {
        "object": "usage",
        **group,
        "attempts": found.attempts,
        "calls": found.calls,
        "cancelled": found.cancelled,
        "failed": found.failed,
        "abandoned": found.abandoned,
        "input_tokens": found.input_tokens,
        "output_tokens": found.output_tokens,
        "cached_input_tokens": found.cached_input_tokens,
        "cost_nanos": found.cost_nanos,
        "cost_usd": dollars_of_nanos(found.cost_nanos),
    }


def attempt_json(row: Settled) -> dict[str, Any]:
    """Return a row as JSON."""
    attempt, outcome = row.attempt, row.outcome
    return {
        "object": "attempt",
        "id": attempt.id,
        "call_id": attempt.call_id,
        "number": attempt.number,
        "retry_of": attempt.retry_of or None,
        "retry_count": attempt.retry_count,
        "kind": attempt.kind,
        "door": attempt.door,
        "tenant": attempt.tenant,
        "project": attempt.project,
        "key": attempt.key_id,
        "principal": attempt.principal,
        "alias": attempt.alias,
        "model": attempt.model,
        "model_version": outcome.model_version,
        "digest": outcome.digest,
        "provider": outcome.provider,
        "region": outcome.region,
        "status": outcome.status,
        "reason": outcome.reason or None,
        "http_status": outcome.http_status or None,
        "started_at": _moment(attempt.started_at),
        "ended_at": _moment(row.ended_at),
        "queue_ms": outcome.queue_ms,
        "first_token_ms": outcome.first_token_ms,
        "duration_ms": outcome.duration_ms,
        "input_tokens": outcome.input_tokens,
        "output_tokens": outcome.output_tokens,
        "cached_input_tokens": outcome.cached_input_tokens,
        "tokens_reported": outcome.reported,
        "input_price_micros": attempt.input_price_micros,
        "output_price_micros": attempt.output_price_micros,
        "reserved_nanos": attempt.reserved_nanos,
        "cost_nanos": outcome.cost_nanos,
        "cost_usd": dollars_of_nanos(outcome.cost_nanos),
        "trace_id": attempt.trace_id or None,
    }


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
