"""One attempt to have a model answer, as the ledger knows it: what was asked before, what became of it after."""

from dataclasses import dataclass
from typing import Final, Literal

Status = Literal["ok", "cancelled", "failed", "abandoned"]

OK: Final = "ok"
CANCELLED: Final = "cancelled"
FAILED: Final = "failed"
ABANDONED: Final = "abandoned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What is known before an upstream is asked. `id` is unique for ever; `number` counts from 1 within a call.

    `model` is the candidate that is asked, `alias` what the caller named. Prices are micro-dollars per million tokens.
    `reserved_nanos` is the most it was expected to cost, in nano-dollars. `retry_of` is the earlier call that the same
    client call made, `idempotency_key` the fingerprint that links them (`retries.fingerprint`): never a header's own
    text. `started_at` is in seconds since 1970 and says to which hour, day and month the cost belongs.
    """

    id: str
    call_id: str
    number: int
    kind: str
    tenant: str
    project: str
    key_id: str
    principal: str
    model: str
    alias: str
    door: str
    started_at: float
    priority: int = 1
    reserved_nanos: int = 0
    input_price_micros: int = 0
    output_price_micros: int = 0
    retry_of: str = ""
    retry_count: int = 0
    idempotency_key: str = ""
    trace_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an attempt ended. `reported` says whether the upstream counted the tokens itself.

    `input_tokens` include the cached ones; the cost is in nano-dollars; durations are in milliseconds, None where it
    never came to that; `http_status` is what the caller was answered, 0 where he was not.
    """

    status: Status
    reason: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    reported: bool = False
    cost_nanos: int = 0
    model_version: str = ""
    digest: str = ""
    provider: str = ""
    region: str = ""
    queue_ms: float | None = None
    first_token_ms: float | None = None
    duration_ms: float | None = None
    http_status: int = 0


@dataclass(frozen=True, slots=True)
class Settled:
    """An attempt that has ended, and when: seconds since 1970."""

    attempt: Attempt
    outcome: Outcome
    ended_at: float


def abandoned(attempt: Attempt, reason: str, ended_at: float) -> Settled:
    """Return the row of an attempt whose end nobody saw: it costs what was reserved, for it may have cost that much."""
    return Settled(attempt, Outcome(status=ABANDONED, reason=reason, cost_nanos=attempt.reserved_nanos), ended_at)
