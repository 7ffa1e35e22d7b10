"""What a request to write text is made of, and what comes back."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from servicekit.errors import InvalidInput

ROLES: Final = frozenset({"system", "user", "assistant"})
MAX_STOPS: Final = 4
MAX_STOP_CHARACTERS: Final = 256


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation; `role` is `system`, `user` or `assistant`."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample; None leaves a choice to the next one who has a say."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None

    def check(self) -> None:
        """Raise InvalidInput, naming the field, when a value is out of its range."""
        if self.max_tokens is not None and self.max_tokens < 1:
            raise InvalidInput("max_tokens has to be 1 or more", field="sampling.max_tokens")
        if self.temperature is not None and not 0 <= self.temperature <= 2:
            raise InvalidInput("temperature has to be from 0 to 2", field="sampling.temperature")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InvalidInput("top_p has to be above 0 and at most 1", field="sampling.top_p")
        if len(self.stop) > MAX_STOPS:
            raise InvalidInput(f"at most {MAX_STOPS} stop texts are allowed", field="sampling.stop")
        for index, text in enumerate(self.stop):
            if not 0 < len(text) <= MAX_STOP_CHARACTERS:
                raise InvalidInput(
                    f"a stop text has 1 to {MAX_STOP_CHARACTERS} characters", field=f"sampling.stop[{index}]"
                )

    def over(self, default: "Sampling", context_tokens: int) -> "Sampling":
        """Return this with the gaps filled from a model's default, and max_tokens within its context (0: unknown)."""
        max_tokens = default.max_tokens if self.max_tokens is None else self.max_tokens
        if context_tokens:
            max_tokens = context_tokens if max_tokens is None else min(max_tokens, context_tokens)
        return Sampling(
            max_tokens=max_tokens,
            temperature=default.temperature if self.temperature is None else self.temperature,
            top_p=default.top_p if self.top_p is None else self.top_p,
            stop=self.stop or default.stop,
            seed=default.seed if self.seed is None else self.seed,
        )


def check_turns(turns: Sequence[Turn]) -> None:
    """Raise InvalidInput when there is no message or one has an unknown role."""
    if not turns:
        raise InvalidInput("at least one message is needed", field="messages")
    for index, turn in enumerate(turns):
        if turn.role not in ROLES:
            raise InvalidInput("a role is system, user or assistant", field=f"messages[{index}].role")


class FinishReason(Enum):
    """Why an answer ended, in the words of the GenAI conventions."""

    STOP = "stop"
    LENGTH = "length"
    CONTENT_FILTER = "content_filter"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the backend counted them; `reported` is False when it did not."""

    input_tokens: int = 0
    output_tokens: int = 0
    reported: bool = False


@dataclass(frozen=True, slots=True)
class Finished:
    """The answer is complete."""

    reason: FinishReason
    usage: Usage


@dataclass(frozen=True, slots=True)
class Piece:
    """What came at a time of an answer: all of a short one may be one piece, and no piece is empty.

    The first has `version`, which is what the backend calls the model that answers; the last has `finished`.
    """

    version: str | None = None
    text: str = ""
    finished: Finished | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """A checked request as a backend gets it."""

    turns: Sequence[Turn]
    sampling: Sampling
