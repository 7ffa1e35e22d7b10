"""The numbers the pool keeps per model; GPU metrics do not give them."""

from servicekit.telemetry.metrics import SHORT_BUCKETS_S, counter, gauge, histogram

from inference.core.workload import Workload

QUEUE_WAIT = histogram(
    "penstock_inference_queue_wait_seconds", "Wait for a slot of the model", ("model",), SHORT_BUCKETS_S
)
DURATION = histogram("penstock_inference_seconds", "Duration of requests, wait included", ("model",))
ARRIVALS = counter("penstock_inference_arrivals", "Requests that came, refused ones included", ("model",))
SERVICE = histogram("penstock_inference_service_seconds", "Time that answered requests held a slot", ("model",))
INTER_TOKEN = histogram(
    "penstock_inference_inter_token_seconds",
    "Time per output token after the first text of a stream",
    ("model",),
    SHORT_BUCKETS_S,
)
WAIT_P95 = gauge(
    "penstock_inference_queue_wait_p95_seconds",
    "95th percentile of the wait, last minute, renewed every 5 s",
    ("model",),
)
DESIRED_REPLICAS = gauge(
    "penstock_inference_desired_replicas",
    "Replicas that meet the model's objective at the rate of the last minute",
    ("model",),
)
UTILISATION = gauge(
    "penstock_inference_utilisation", "Work asked for over what the replicas in rotation can do", ("model",)
)
FIRST_TOKEN = histogram(
    "penstock_inference_time_to_first_token_seconds", "From the request to the first text", ("model",)
)
TOKENS = counter("penstock_inference_tokens", "Tokens read and written, as backends count them", ("model", "direction"))
FAILURES = counter("penstock_inference_failures", "Requests that failed, by reason", ("model", "reason"))
IN_FLIGHT = gauge("penstock_inference_in_flight", "Requests that hold a slot", ("model",))
REFUSED = counter(
    "penstock_inference_refused", "Requests that got no slot of the model", ("model", "priority", "reason")
)
LIMIT = gauge("penstock_inference_concurrency_limit", "How many requests of the model may run at once", ("model",))
WAITING = gauge("penstock_inference_waiting", "Requests that wait for a slot", ("model",))
READY = gauge("penstock_inference_model_ready", "1 when the model would serve a request now", ("model",))


class Measures:
    """The metrics of one model, looked up once."""

    def __init__(self, model: str) -> None:
        self._model = model
        self.workload = Workload()
        self.queue_wait_s = QUEUE_WAIT.labels(model)
        self.arrivals = ARRIVALS.labels(model)
        self.service_s = SERVICE.labels(model)
        self.inter_token_s = INTER_TOKEN.labels(model)
        self.wait_p95_s = WAIT_P95.labels(model)
        self.desired_replicas = DESIRED_REPLICAS.labels(model)
        self.utilisation = UTILISATION.labels(model)
        self.duration_s = DURATION.labels(model)
        self.first_token_s = FIRST_TOKEN.labels(model)
        self.input_tokens = TOKENS.labels(model, "input")
        self.output_tokens = TOKENS.labels(model, "output")
        self.in_flight = IN_FLIGHT.labels(model)
        self.waiting = WAITING.labels(model)
        self.ready = READY.labels(model)

    def arrived(self, now_s: float) -> None:
        """Count a request that comes now."""
        self.arrivals.inc()
        self.workload.arrived(now_s)

    def began(self, now_s: float, waited_s: float) -> None:
        """Take in how long a request waited that begins now."""
        self.queue_wait_s.observe(waited_s)
        self.workload.waited(now_s, waited_s)

    def answered(self, beside: int, held_s: float) -> None:
        """Take in how long an answered request held its slot, and how many did when it began, itself included."""
        self.service_s.observe(held_s)
        self.workload.answered(beside, held_s)

    def first_text(self, since_s: float) -> None:
        """Take in how long the first text of a stream took."""
        self.first_token_s.observe(since_s)
        self.workload.first_token_s.append(since_s)

    def token_every(self, seconds: float) -> None:
        """Take in how long each token after the first text of a stream took."""
        self.inter_token_s.observe(seconds)
        self.workload.inter_token_s.append(seconds)

    def failed(self, reason: str) -> None:
        """Count a failure."""
        FAILURES.labels(self._model, reason).inc()
