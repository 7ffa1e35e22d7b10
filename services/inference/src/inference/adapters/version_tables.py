"""The pool's tables of versions, roles, changes and comparisons; the migrations make them."""

from datetime import UTC, datetime
from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Double,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)

metadata = MetaData()
JOURNAL: Final = "inference_alembic_version"
"""Alembic's own table, under a name that leaves room for other services in the same database."""
ROW_ID: Final = BigInteger().with_variant(Integer, "sqlite")
"""SQLite counts up by itself for INTEGER alone."""


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


generation = Table(
    "model_generation",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("number", BigInteger, nullable=False),
)
versions = Table(
    "model_versions",
    metadata,
    Column("model", String(128), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("digest", String(71), nullable=False),
    Column("source", String(512), nullable=False),
    Column("registered_at", UtcDateTime, nullable=False),
    Column("registered_by", String(256), nullable=False),
)
variants = Table(
    "model_variants",
    metadata,
    Column("model", String(128), primary_key=True),
    Column("version", String(64), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("position", Integer, nullable=False),
    Column("served_by", String(128), nullable=False),
    Column("digest", String(71), nullable=False),
    Column("cost_nanos", BigInteger, nullable=False),
    Column("verdict", String(16)),
    Column("judged_at", UtcDateTime),
    Column("judged_by", String(256)),
    Column("report", Text),
)
roles = Table(
    "model_roles",
    metadata,
    Column("model", String(128), primary_key=True),
    Column("revision", BigInteger, nullable=False),
    Column("roles", JSON, nullable=False),
)
changes = Table(
    "model_changes",
    metadata,
    Column("id", ROW_ID, primary_key=True, autoincrement=True),
    Column("model", String(128), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("by", String(256), nullable=False),
    Column("action", String(16), nullable=False),
    Column("before", Text, nullable=False),
    Column("after", Text, nullable=False),
    Index("model_changes_by_model", "model", "id"),
)
comparisons = Table(
    "shadow_comparisons",
    metadata,
    Column("id", ROW_ID, primary_key=True, autoincrement=True),
    Column("model", String(128), nullable=False),
    Column("champion", String(64), nullable=False),
    Column("shadow", String(64), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("same", Boolean, nullable=False),
    Column("max_abs_diff", Double),
    Column("detail", String(256), nullable=False),
    Column("champion_ms", Double, nullable=False),
    Column("shadow_ms", Double, nullable=False),
    Column("failure", String(64), nullable=False),
    Index("shadow_comparisons_by_model", "model", "id"),
)
