"""Tenants, projects, what keys may take, and the journal of changes."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

LIMITS = ("requests_per_minute", "tokens_per_minute", "concurrent_requests", "budget_day_nanos", "budget_month_nanos")


def upgrade() -> None:
    """Make the tables; every tenant that has a key gets a row without limits and the project `default`."""
    op.create_table(
        "tenants",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("region", sa.String(64), nullable=False),
        sa.Column("highest_priority", sa.Integer, nullable=False),
        sa.Column("source", sa.String(16), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        *_limits(),
    )
    op.create_table(
        "projects",
        sa.Column("tenant", sa.String(64), sa.ForeignKey("tenants.id"), primary_key=True),
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("source", sa.String(16), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        *_limits(),
    )
    op.create_table(
        "admin_changes",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("at", sa.DateTime, nullable=False),
        sa.Column("actor", sa.String(256), nullable=False),
        sa.Column("actor_tenant", sa.String(64), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("target", sa.String(160), nullable=False),
        sa.Column("before", sa.JSON),
        sa.Column("after", sa.JSON),
    )
    op.create_index("admin_changes_by_tenant", "admin_changes", ["tenant", "id"])
    op.add_column("api_keys", sa.Column("project", sa.String(64), nullable=False, server_default="default"))
    op.add_column("api_keys", sa.Column("priority", sa.Integer, nullable=False, server_default="1"))
    op.add_column("api_keys", sa.Column("replaces", sa.String(32), nullable=False, server_default=""))
    op.add_column("api_keys", sa.Column("line", sa.String(32), nullable=False, server_default=""))
    op.add_column("api_keys", sa.Column("version", sa.Integer, nullable=False, server_default="1"))
    for column in _limits():
        op.add_column("api_keys", column)
    op.execute(
        "INSERT INTO tenants (id, created_at, region, highest_priority, source, version) "
        "SELECT tenant, MIN(created_at), '', 2, 'api', 1 FROM api_keys GROUP BY tenant"
    )
    op.execute(
        "INSERT INTO projects (tenant, id, created_at, source, version) "
        "SELECT id, 'default', created_at, 'api', 1 FROM tenants"
    )


def downgrade() -> None:
    """Drop it again."""
    with op.batch_alter_table("api_keys") as batch:
        for name in ("project", "priority", "replaces", "line", "version", *LIMITS, "models"):
            batch.drop_column(name)
    for table in ("admin_changes", "projects", "tenants"):
        op.drop_table(table)


def _limits() -> list[sa.Column[Any]]:
    return [*(sa.Column(name, sa.BigInteger) for name in LIMITS), sa.Column("models", sa.JSON)]
