"""The numbers the pool keeps per model and replica; a replica is labelled with its address."""

from servicekit.telemetry.metrics import counter, gauge

IN_ROTATION = gauge(
    "penstock_inference_replica_in_rotation", "1 when the replica may get requests of the model", ("model", "replica")
)
GOLDEN = gauge(
    "penstock_inference_replica_golden",
    "1 when the latest golden probe passed, 0 when it did not",
    ("model", "replica"),
)
OUTSTANDING = gauge(
    "penstock_inference_replica_outstanding", "Requests that the server has not answered yet", ("model", "replica")
)
CALLS = counter("penstock_inference_replica_calls", "Attempts of requests on the replica", ("model", "replica"))
EJECTIONS = counter(
    "penstock_inference_replica_ejections",
    "Times the replica left rotation: backend_failed, not_loaded, golden_failed, breaker, outlier",
    ("model", "replica", "reason"),
)
RETRIES = counter("penstock_inference_retries", "Attempts repeated on another replica, by reason", ("model", "reason"))
RETRIES_REFUSED = counter("penstock_inference_retries_refused", "Retries for which there was no budget", ("model",))


class ReplicaMeasures:
    """The metrics of one model on one replica, looked up once."""

    def __init__(self, model: str, replica: str) -> None:
        self._labels = (model, replica)
        self.in_rotation = IN_ROTATION.labels(*self._labels)
        self._metrics = {IN_ROTATION, OUTSTANDING, CALLS}
        self._reasons: set[str] = set()
        self.outstanding = OUTSTANDING.labels(*self._labels)
        self.calls = CALLS.labels(*self._labels)

    def golden(self, *, passed: bool) -> None:
        """Tell what the latest golden probe showed; before the first one there is nothing to tell."""
        self._metrics.add(GOLDEN)
        GOLDEN.labels(*self._labels).set(passed)

    def ejected(self, reason: str) -> None:
        """Count that the replica left rotation."""
        self._reasons.add(reason)
        EJECTIONS.labels(*self._labels, reason).inc()

    def forget(self) -> None:
        """Drop what is told of a replica that is gone: pods come and go, each with an address of its own."""
        for metric in self._metrics:
            metric.remove(*self._labels)
        for reason in self._reasons:
            EJECTIONS.remove(*self._labels, reason)
