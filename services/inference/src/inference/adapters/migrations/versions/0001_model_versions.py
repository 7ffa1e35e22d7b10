"""Versions of models, their roles, the journal of changes, and comparisons with shadows."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

ROW_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make the tables, and the one row that counts writes."""
    counter = op.create_table(
        "model_generation",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("number", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(counter, [{"id": 1, "number": 0}])
    op.create_table(
        "model_versions",
        sa.Column("model", sa.String(128), primary_key=True),
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("digest", sa.String(71), nullable=False),
        sa.Column("source", sa.String(512), nullable=False),
        sa.Column("registered_at", sa.DateTime, nullable=False),
        sa.Column("registered_by", sa.String(256), nullable=False),
    )
    op.create_table(
        "model_variants",
        sa.Column("model", sa.String(128), primary_key=True),
        sa.Column("version", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("served_by", sa.String(128), nullable=False),
        sa.Column("digest", sa.String(71), nullable=False),
        sa.Column("cost_nanos", sa.BigInteger, nullable=False),
        sa.Column("verdict", sa.String(16)),
        sa.Column("judged_at", sa.DateTime),
        sa.Column("judged_by", sa.String(256)),
        sa.Column("report", sa.Text),
    )
    op.create_table(
        "model_roles",
        sa.Column("model", sa.String(128), primary_key=True),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("roles", sa.JSON, nullable=False),
    )
    op.create_table(
        "model_changes",
        sa.Column("id", ROW_ID, primary_key=True, autoincrement=True),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("at", sa.DateTime, nullable=False),
        sa.Column("by", sa.String(256), nullable=False),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("before", sa.Text, nullable=False),
        sa.Column("after", sa.Text, nullable=False),
    )
    op.create_index("model_changes_by_model", "model_changes", ["model", "id"])
    op.create_table(
        "shadow_comparisons",
        sa.Column("id", ROW_ID, primary_key=True, autoincrement=True),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("champion", sa.String(64), nullable=False),
        sa.Column("shadow", sa.String(64), nullable=False),
        sa.Column("at", sa.DateTime, nullable=False),
        sa.Column("same", sa.Boolean, nullable=False),
        sa.Column("max_abs_diff", sa.Double),
        sa.Column("detail", sa.String(256), nullable=False),
        sa.Column("champion_ms", sa.Double, nullable=False),
        sa.Column("shadow_ms", sa.Double, nullable=False),
        sa.Column("failure", sa.String(64), nullable=False),
    )
    op.create_index("shadow_comparisons_by_model", "shadow_comparisons", ["model", "id"])


def downgrade() -> None:
    """Drop them again."""
    for name in (
        "shadow_comparisons",
        "model_changes",
        "model_roles",
        "model_variants",
        "model_versions",
        "model_generation",
    ):
        op.drop_table(name)
