"""What is asked: a question, how to search for it, and how to write the answer."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from servicekit.errors import InvalidInput

MAX_CHARS: Final = 8_192
MAX_PASSAGES: Final = 20
MAX_HITS: Final = 100
DEFAULT_HITS: Final = 5
KNOWLEDGE_BASE: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
ROLES: Final = frozenset({"system", "user", "assistant"})

Scalar = str | float | bool


class SearchMode(Enum):
    """Which signals rank the passages."""

    HYBRID = "hybrid"
    DENSE = "dense"
    LEXICAL = "lexical"


class Comparison(Enum):
    """How a metadata field is compared; UNSPECIFIED is for the search to refuse."""

    UNSPECIFIED = 0
    EQUAL = 1
    NOT_EQUAL = 2
    LESS = 3
    LESS_OR_EQUAL = 4
    GREATER = 5
    GREATER_OR_EQUAL = 6
    IN = 7


@dataclass(frozen=True, slots=True)
class Condition:
    """One test on a metadata field."""

    field: str
    comparison: Comparison
    value: Scalar | tuple[Scalar, ...] | None


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample; what is None is the model's own default."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None


DEFAULTS: Final = Sampling()


@dataclass(frozen=True, slots=True)
class Question:
    """A question for a knowledge base of `tenant`; empty `model` and zero `top_k` mean the pipeline's own."""

    tenant: str
    knowledge_base: str
    text: str
    model: str = ""
    top_k: int = 0
    filter: tuple[Condition, ...] = ()
    sampling: Sampling = DEFAULTS
    history: tuple[Message, ...] = ()
    min_revision: int = 0

    def check(self) -> None:
        """Raise InvalidInput, naming the field, for what no pipeline can answer."""
        check_knowledge_base(self.knowledge_base, "question.knowledge_base")
        check_text(self.text, "question.text")
        if self.top_k > MAX_PASSAGES:
            raise InvalidInput(f"top_k is {self.top_k}; at most {MAX_PASSAGES}", field="question.top_k")
        check_roles(self.history)


def check_knowledge_base(name: str, field: str) -> None:
    """Raise InvalidInput for what cannot be the name of a knowledge base."""
    if not KNOWLEDGE_BASE.fullmatch(name):
        raise InvalidInput(
            "a knowledge base is named by 1 to 64 of a-z, 0-9, '-', '_', '.', and begins with a letter or digit",
            field=field,
        )


def check_text(text: str, field: str) -> None:
    """Raise InvalidInput for an empty or overlong question."""
    if not text.strip():
        raise InvalidInput("the question is empty", field=field)
    if len(text) > MAX_CHARS:
        raise InvalidInput(f"the question has {len(text)} characters; at most {MAX_CHARS}", field=field)


def check_roles(history: Sequence[Message]) -> None:
    """Raise InvalidInput for a turn of an unknown role."""
    for place, message in enumerate(history):
        if message.role not in ROLES:
            raise InvalidInput(
                f"role {message.role[:32]!r} is none of system, user, assistant",
                field=f"question.history[{place}].role",
            )
