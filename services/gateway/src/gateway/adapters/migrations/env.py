"""Runs the migrations on the connection that sql.py hands over."""

from alembic import context

from gateway.adapters.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
