"""How callers reach the feature store."""
