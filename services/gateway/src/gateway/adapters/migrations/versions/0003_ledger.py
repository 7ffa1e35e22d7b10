"""The ledger and its hourly sums."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "ledger",
        sa.Column("id", sa.String(64), primary_key=True),
        *_texts(call_id=64, kind=16, tenant=64, project=64, key_id=64, principal=256, model=256, alias=256, door=16),
        *_texts(retry_of=64, idempotency_key=64, trace_id=64),
        *_numbers("number", "priority", "reserved_nanos", "input_price_micros", "output_price_micros", "retry_count"),
        *_texts(status=16, reason=64, model_version=128, digest=128, provider=64, region=64),
        *_numbers("input_tokens", "output_tokens", "cached_input_tokens", "cost_nanos", "http_status"),
        sa.Column("reported", sa.Boolean, nullable=False),
        sa.Column("queue_ms", sa.Float),
        sa.Column("first_token_ms", sa.Float),
        sa.Column("duration_ms", sa.Float),
        *_numbers("started_us", "ended_us"),
    )
    op.create_index("ledger_by_tenant", "ledger", ["tenant", "started_us"])
    op.create_index("ledger_by_start", "ledger", ["started_us"])
    op.create_index("ledger_by_call", "ledger", ["call_id"])
    op.create_index("ledger_by_idempotency_key", "ledger", ["idempotency_key"])
    op.create_table(
        "usage_hourly",
        sa.Column("tenant", sa.String(64), primary_key=True),
        sa.Column("hour", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("project", sa.String(64), primary_key=True),
        sa.Column("key_id", sa.String(64), primary_key=True),
        sa.Column("model", sa.String(256), primary_key=True),
        *_numbers("attempts", "calls", "cancelled", "failed", "abandoned"),
        *_numbers("input_tokens", "output_tokens", "cached_input_tokens", "cost_nanos"),
    )
    op.create_index("usage_hourly_by_hour", "usage_hourly", ["hour"])
    op.create_index("usage_hourly_by_key", "usage_hourly", ["key_id", "hour"])


def downgrade() -> None:
    """Drop it again."""
    op.drop_table("usage_hourly")
    op.drop_table("ledger")


def _texts(**lengths: int) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.String(length), nullable=False) for name, length in lengths.items()]


def _numbers(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.BigInteger, nullable=False) for name in names]
