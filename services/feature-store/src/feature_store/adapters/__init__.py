"""How the feature store reaches SQLite and Feast."""
