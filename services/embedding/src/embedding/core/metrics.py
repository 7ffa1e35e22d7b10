"""What the embedding service counts."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from servicekit.telemetry.metrics import SHORT_BUCKETS_S, counter, histogram

from embedding.core.flight import Flight

TEXTS = counter("penstock_embedding_texts", "Texts asked for", ("model",))
CACHE_HITS = counter("penstock_embedding_cache_hits", "Texts whose vector was cached", ("model",))
JOINED = counter("penstock_embedding_joined_texts", "Texts that another caller was already having encoded", ("model",))
BATCH_TEXTS = histogram("penstock_embedding_batch_texts", "Texts per batch", ("model",), (1, 2, 4, 8, 16, 32, 64, 128))
TOKENS = counter("penstock_embedding_tokens", "Tokens encoded, padding left out", ("model",))
PADDING = counter("penstock_embedding_padding_tokens", "Padding tokens encoded", ("model",))
QUEUE_S = histogram(
    "penstock_embedding_queue_seconds",
    "Longest wait among a batch's texts",
    ("model",),
    SHORT_BUCKETS_S,
)
ENCODE_S = histogram("penstock_embedding_encode_seconds", "Time to encode a batch", ("model",), SHORT_BUCKETS_S)
BATCHES = counter("penstock_embedding_batches", "Batches by how they ended", ("model", "outcome"))


def asked(model: str, texts: int, hits: int) -> None:
    """Count one request's texts, and the distinct ones among them that were cached."""
    TEXTS.labels(model).inc(texts)
    if hits:
        CACHE_HITS.labels(model).inc(hits)


def joined(model: str, texts: int) -> None:
    """Count texts that wait for another caller's flight."""
    if texts:
        JOINED.labels(model).inc(texts)


@contextmanager
def batch(model: str, flights: Sequence[Flight]) -> Iterator[None]:
    """Measure one batch from its departure to its end."""
    start = time.monotonic()
    tokens = sum(flight.length for flight in flights)
    BATCH_TEXTS.labels(model).observe(len(flights))
    QUEUE_S.labels(model).observe(start - min(flight.queued_at_s for flight in flights))
    outcome = "failed"
    try:
        yield
        outcome = "encoded"
        TOKENS.labels(model).inc(tokens)
        PADDING.labels(model).inc(len(flights) * max(flight.length for flight in flights) - tokens)
    finally:
        ENCODE_S.labels(model).observe(time.monotonic() - start)
        BATCHES.labels(model, outcome).inc()
