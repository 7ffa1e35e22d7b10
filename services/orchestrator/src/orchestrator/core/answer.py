"""What is answered: the text, what it stands on, and how it fell short of what was asked for."""

from dataclasses import dataclass
from enum import Enum

from orchestrator.core.passage import Passage


class Rung(Enum):
    """Which rung of the degradation ladder gave the answer."""

    CHOSEN_MODEL = "chosen_model"
    EXTRACTIVE_READER = "extractive_reader"
    PASSAGES_ONLY = "passages_only"


class FinishReason(Enum):
    """Why the model ended."""

    UNSPECIFIED = 0
    STOP = 1
    LENGTH = 2
    CONTENT_FILTER = 3


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What really wrote the answer."""

    model: str
    version: str
    digest: str
    provider: str


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens as the backend counted them; zeros when it `reported` none."""

    input_tokens: int
    output_tokens: int
    reported: bool


@dataclass(frozen=True, slots=True)
class Degradation:
    """Why an answer is less than what was asked for: the step, a stable reason, and words for people."""

    step: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class StepTiming:
    """How long a step took, in seconds."""

    step: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Citation:
    """A place that supports the answer; `start` and `end` are characters of the document, where `quote` stands."""

    number: int
    document_id: str
    document_title: str
    chunk_index: int
    start: int
    end: int
    quote: str


@dataclass(frozen=True, slots=True)
class Grounded:
    """A text whose citations are verified; `groundedness` is 0 to 1, None where it says nothing."""

    text: str
    citations: tuple[Citation, ...]
    groundedness: float | None
    declined: bool
    removed_citations: int


@dataclass(frozen=True, slots=True)
class Written:
    """A grounded text and who wrote it; `served`, `usage` and `finish_reason` are None when no model did."""

    grounded: Grounded
    rung: Rung
    served: ServedModel | None = None
    usage: TokenUsage | None = None
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished answer; number n of a citation is the n-th of `passages`."""

    id: str
    written: Written
    passages: tuple[Passage, ...]
    degradations: tuple[Degradation, ...]
    timings: tuple[StepTiming, ...]


@dataclass(frozen=True, slots=True)
class Provenance:
    """What an answer was made from; `created_at` is in seconds since 1970, `reranked_by` None when nothing did."""

    answer: Answer
    tenant: str
    created_at: float
    pipeline: str
    prompt_template: str
    prompt_template_digest: str
    knowledge_base: str
    knowledge_base_revision: int
    encoder_digest: str
    trace_id: str
    reranked_by: ServedModel | None = None
