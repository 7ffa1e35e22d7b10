"""Runs the migrations on the connection that sql.py hands over."""

from alembic import context

from inference.adapters.version_tables import JOURNAL, metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, version_table=JOURNAL)
context.run_migrations()
