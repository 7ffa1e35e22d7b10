"""The gateway's tables of who may call; the migrations make them."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    TypeDecorator,
)

metadata = MetaData()


class UtcDateTime(TypeDecorator[datetime]):
    """A moment, kept as UTC without a zone, which every database can."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Turn a moment into UTC and drop the zone."""
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Say that it is UTC."""
        return None if value is None else value.replace(tzinfo=UTC)


JSON_OR_NULL = JSON(none_as_null=True)
ROW_ID = BigInteger().with_variant(Integer, "sqlite")
"""SQLite counts up by itself for INTEGER alone."""


def _limits() -> list[Column[Any]]:
    return [
        Column("requests_per_minute", BigInteger),
        Column("tokens_per_minute", BigInteger),
        Column("concurrent_requests", BigInteger),
        Column("budget_day_nanos", BigInteger),
        Column("budget_month_nanos", BigInteger),
        Column("models", JSON_OR_NULL),
    ]


tenants = Table(
    "tenants",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("region", String(64), nullable=False),
    Column("highest_priority", Integer, nullable=False),
    Column("source", String(16), nullable=False),
    Column("version", Integer, nullable=False),
    *_limits(),
)

projects = Table(
    "projects",
    metadata,
    Column("tenant", String(64), ForeignKey("tenants.id"), primary_key=True),
    Column("id", String(64), primary_key=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("source", String(16), nullable=False),
    Column("version", Integer, nullable=False),
    *_limits(),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("public_id", String(32), primary_key=True),
    Column("secret_hash", String(64), nullable=False),
    Column("tenant", String(64), nullable=False),
    Column("name", String(128), nullable=False),
    Column("scopes", String(512), nullable=False),
    Column("role", String(16), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime),
    Column("revoked_at", UtcDateTime),
    Column("project", String(64), nullable=False, server_default="default"),
    Column("priority", Integer, nullable=False, server_default="1"),
    Column("replaces", String(32), nullable=False, server_default=""),
    Column("line", String(32), nullable=False, server_default=""),
    Column("version", Integer, nullable=False, server_default="1"),
    *_limits(),
    Index("api_keys_by_tenant", "tenant"),
)

admin_changes = Table(
    "admin_changes",
    metadata,
    Column("id", ROW_ID, primary_key=True, autoincrement=True),
    Column("at", UtcDateTime, nullable=False),
    Column("actor", String(256), nullable=False),
    Column("actor_tenant", String(64), nullable=False),
    Column("action", String(32), nullable=False),
    Column("tenant", String(64), nullable=False),
    Column("target", String(160), nullable=False),
    Column("before", JSON_OR_NULL),
    Column("after", JSON_OR_NULL),
    Index("admin_changes_by_tenant", "tenant", "id"),
)
