"""Makes the table of provenance."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the table and the index that expiry uses."""
    op.create_table(
        "provenance",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("tenant", sa.String(255), nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_provenance_created_at", "provenance", ["created_at"])


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("provenance")
