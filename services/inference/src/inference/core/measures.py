"""The numbers the pool keeps per model; GPU metrics do not give them."""

from servicekit.telemetry.metrics import SHORT_BUCKETS_S, counter, gauge, histogram

QUEUE_WAIT = histogram(
    "penstock_inference_queue_wait_seconds", "Wait for a slot of the model", ("model",), SHORT_BUCKETS_S
)
DURATION = histogram("penstock_inference_seconds", "Duration of requests, wait included", ("model",))
FIRST_TOKEN = histogram(
    "penstock_inference_time_to_first_token_seconds", "From the request to the first text", ("model",)
)
TOKENS = counter("penstock_inference_tokens", "Tokens read and written, as backends count them", ("model", "direction"))
FAILURES = counter("penstock_inference_failures", "Requests that failed, by reason", ("model", "reason"))
IN_FLIGHT = gauge("penstock_inference_in_flight", "Requests that hold a slot", ("model",))
WAITING = gauge("penstock_inference_waiting", "Requests that wait for a slot", ("model",))
READY = gauge("penstock_inference_model_ready", "1 when the model would serve a request now", ("model",))


class Measures:
    """The metrics of one model, looked up once."""

    def __init__(self, model: str) -> None:
        self._model = model
        self.queue_wait_s = QUEUE_WAIT.labels(model)
        self.duration_s = DURATION.labels(model)
        self.first_token_s = FIRST_TOKEN.labels(model)
        self.input_tokens = TOKENS.labels(model, "input")
        self.output_tokens = TOKENS.labels(model, "output")
        self.in_flight = IN_FLIGHT.labels(model)
        self.waiting = WAITING.labels(model)
        self.ready = READY.labels(model)

    def failed(self, reason: str) -> None:
        """Count a failure."""
        FAILURES.labels(self._model, reason).inc()
