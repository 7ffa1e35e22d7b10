"""Migrations of the key store, run at start."""
