"""What embedding does: limits, cache, single flight and batching."""
