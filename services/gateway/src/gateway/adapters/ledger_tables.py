"""The ledger's tables: a row per attempt, and sums per hour that outlive the rows; the migrations make them."""

from typing import Any, Final

from sqlalchemy import BigInteger, Boolean, Column, Float, Index, String, Table

from gateway.adapters.tables import metadata


def _texts(**lengths: int) -> list[Column[Any]]:
    return [Column(name, String(length), nullable=False) for name, length in lengths.items()]


def _numbers(*names: str) -> list[Column[Any]]:
    return [Column(name, BigInteger, nullable=False) for name in names]


ledger: Final = Table(
    "ledger",
    metadata,
    Column("id", String(64), primary_key=True),
    *_texts(call_id=64, kind=16, tenant=64, project=64, key_id=64, principal=256, model=256, alias=256, door=16),
    *_texts(retry_of=64, idempotency_key=64, trace_id=64),
    *_numbers("number", "priority", "reserved_nanos", "input_price_micros", "output_price_micros", "retry_count"),
    *_texts(status=16, reason=64, model_version=128, digest=128, provider=64, region=64),
    *_numbers("input_tokens", "output_tokens", "cached_input_tokens", "cost_nanos", "http_status"),
    Column("reported", Boolean, nullable=False),
    Column("queue_ms", Float),
    Column("first_token_ms", Float),
    Column("duration_ms", Float),
    *_numbers("started_us", "ended_us"),
    Index("ledger_by_tenant", "tenant", "started_us"),
    Index("ledger_by_start", "started_us"),
    Index("ledger_by_call", "call_id"),
    Index("ledger_by_idempotency_key", "idempotency_key"),
)

SUMS: Final = (
    "attempts",
    "calls",
    "cancelled",
    "failed",
    "abandoned",
    "input_tokens",
    "output_tokens",
    "cached_input_tokens",
    "cost_nanos",
)
usage_hourly: Final = Table(
    "usage_hourly",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("hour", BigInteger, primary_key=True, autoincrement=False),
    Column("project", String(64), primary_key=True),
    Column("key_id", String(64), primary_key=True),
    Column("model", String(256), primary_key=True),
    *_numbers(*SUMS),
    Index("usage_hourly_by_hour", "hour"),
    Index("usage_hourly_by_key", "key_id", "hour"),
)
