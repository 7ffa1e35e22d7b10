"""Prometheus metrics: made once at import of the module that records them, served by rpc.serve."""

from collections.abc import Sequence

from prometheus_client import Counter, Gauge, Histogram

from servicekit.telemetry.genai import DURATION_BUCKETS_S

SHORT_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


def counter(name: str, help_text: str, labels: Sequence[str] = ()) -> Counter:
    """Return a counter; Prometheus adds `_total` to its name."""
    return Counter(name, help_text, labels)


def gauge(name: str, help_text: str, labels: Sequence[str] = ()) -> Gauge:
    """Return a gauge."""
    return Gauge(name, help_text, labels)


def histogram(
    name: str, help_text: str, labels: Sequence[str] = (), buckets: Sequence[float] = DURATION_BUCKETS_S
) -> Histogram:
    """Return a histogram; name and buckets in seconds unless the name says otherwise."""
    return Histogram(name, help_text, labels, buckets=buckets)
