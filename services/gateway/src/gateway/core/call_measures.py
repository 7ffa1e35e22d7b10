"""What callers see of their calls, as metrics: OpenTelemetry's GenAI names for servers, and what the platform adds.

Labels name what the catalogue and the code know, never a caller, a key or a text of theirs.
"""

import asyncio
from dataclasses import dataclass
from typing import Any, Final

from servicekit.errors import PenstockError
from servicekit.telemetry.metrics import histogram

OPERATIONS: Final = {"chat": "chat", "embed": "embeddings", "ask": "invoke_workflow", "search": "retrieval"}
"""The conventions' name of each kind of call that they know."""

LABELS: Final = (
    "gen_ai_operation_name",
    "gen_ai_provider_name",
    "gen_ai_request_model",
    "gen_ai_response_model",
    "error_type",
)
TOKEN_BUCKETS: Final = tuple(float(4**power) for power in range(14))
OVERHEAD_BUCKETS_S: Final = (0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0)
PER_TOKEN_BUCKETS_S: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)

DURATION = histogram("gen_ai_server_request_duration_seconds", "Calls from the door to their end", LABELS)
FIRST_TOKEN = histogram(
    "gen_ai_server_time_to_first_token_seconds", "Streams from the door to their first piece", LABELS
)
PER_TOKEN = histogram(
    "gen_ai_server_time_per_output_token_seconds",
    "Streams after their first piece, by token",
    LABELS,
    PER_TOKEN_BUCKETS_S,
)
TOKENS = histogram("gen_ai_client_token_usage", "Tokens by call", (*LABELS[:-1], "gen_ai_token_type"), TOKEN_BUCKETS)
OVERHEAD = histogram(
    "penstock_gateway_overhead_seconds",
    "Calls less the time their model's backend took: all that the platform adds",
    ("gen_ai_operation_name",),
    OVERHEAD_BUCKETS_S,
)


@dataclass(frozen=True, slots=True)
class Took:
    """What a call that was answered took: seconds from the door, None for what was not streamed, and tokens.

    `backend_s` is what the model's backend says it worked, 0.0 where it does not say.
    """

    duration_s: float
    first_s: float | None
    backend_s: float
    input_tokens: int
    output_tokens: int
    reported: bool


class CallMeasures:
    """Records calls; the metrics of each kind are looked up once."""

    def __init__(self) -> None:
        self._served: dict[tuple[str, ...], tuple[Any, ...]] = {}
        self._overhead = {operation: OVERHEAD.labels(operation) for operation in OPERATIONS.values()}

    def failed(self, kind: str, models: tuple[str, str, str], error: BaseException, duration_s: float) -> None:
        """Record a call that ended in an error; `models` are provider, model asked for and model asked."""
        operation = OPERATIONS.get(kind)
        if operation is not None:
            DURATION.labels(operation, *models, _error_type(error)).observe(duration_s)

    def served(self, kind: str, models: tuple[str, str, str], took: Took) -> None:
        """Record a call that was answered."""
        operation = OPERATIONS.get(kind)
        if operation is None:
            return
        place = (operation, *models)
        found = self._served.get(place)
        if found is None:
            first = tuple(metric.labels(*place, "") for metric in (DURATION, FIRST_TOKEN, PER_TOKEN))
            found = self._served[place] = (*first, *(TOKENS.labels(*place, kind) for kind in ("input", "output")))
        duration, first_token, per_token, read, written = found
        duration.observe(took.duration_s)
        if took.first_s is not None:
            first_token.observe(took.first_s)
            if took.output_tokens > 1:
                per_token.observe((took.duration_s - took.first_s) / (took.output_tokens - 1))
        if took.reported:
            read.observe(took.input_tokens)
            written.observe(took.output_tokens)
        if took.backend_s:
            self._overhead[operation].observe(max(0.0, took.duration_s - took.backend_s))


def _error_type(error: BaseException) -> str:
    """Return a name of which there are few: a reason, who left, or the class of a bug."""
    if isinstance(error, PenstockError):
        return error.reason
    return "cancelled" if isinstance(error, (asyncio.CancelledError, GeneratorExit)) else type(error).__name__
