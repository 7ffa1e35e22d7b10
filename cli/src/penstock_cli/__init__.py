"""The `penstock` command: run the platform on one machine, and use it."""
