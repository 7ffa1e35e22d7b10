"""How callers reach embedding."""
