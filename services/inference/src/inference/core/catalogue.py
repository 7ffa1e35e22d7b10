"""The models there are: what each does, where it runs and how much it may be asked."""

from dataclasses import dataclass, field
from enum import Enum

from inference.core.capabilities import PLAIN
from inference.core.capacity import USUAL_OBJECTIVE, Objective
from inference.core.generation import Sampling


class Task(Enum):
    """What a model does."""

    GENERATE = "generate"
    EMBED = "embed"
    TENSOR = "tensor"


class Provider(Enum):
    """Who runs a model."""

    TRITON = "triton"
    OPENAI = "openai"


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """How many requests of a model run at once, and how many more may wait.

    With a `least_concurrent` the number that run is learned from latency, between that and `max_concurrent`.
    """

    max_concurrent: int
    max_waiting: int
    least_concurrent: int | None = None


@dataclass(frozen=True, slots=True)
class Price:
    """US micro-dollars per million tokens."""

    input_micros: int
    output_micros: int


@dataclass(frozen=True, slots=True)
class Model:
    """An entry of the catalogue; `timeout_s` bounds a request with its wait, `context_tokens` is 0 when unknown."""

    name: str
    task: Task
    provider: Provider
    queue: QueueLimits
    timeout_s: float
    context_tokens: int = 0
    description: str = ""
    sampling: Sampling = field(default_factory=Sampling)
    region: str = ""
    capabilities: frozenset[str] = PLAIN
    price: Price | None = None
    objective: Objective = USUAL_OBJECTIVE
