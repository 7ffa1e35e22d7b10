"""What comes back from a model: the pieces of an answer as they come, or all of it at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from inference.core.conversation import ToolCall, Turn


class FinishReason(Enum):
    """Why an answer ended, in the words of the GenAI conventions."""

    STOP = "stop"
    LENGTH = "length"
    CONTENT_FILTER = "content_filter"
    TOOL_CALLS = "tool_calls"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the backend counted them, cached and reasoning ones included; `reported` is False when it did not.

    `backend_s` is how long it took, in seconds, from being asked to the last of its answer.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    reported: bool = False
    cached_input_tokens: int = 0
    reasoning_output_tokens: int = 0
    backend_s: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class Served:
    """What the backend says of itself; empty where it says nothing. `version` is its own name of the model.

    Where a registered version was chosen, `version` and `digest` are that one's.
    """

    version: str
    response_id: str = ""
    system_fingerprint: str = ""
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Delta:
    """The next piece of one of the `n` choices; the last one of a choice has its `finish_reason`."""

    text: str = ""
    finish_reason: FinishReason | None = None
    choice: int = 0
    tool_calls: Sequence[ToolCall] = ()
    refusal: str = ""
    logprobs_json: str = ""


@dataclass(frozen=True, slots=True)
class Piece:
    """What came at a time of an answer: all of a short one may be one piece, and no piece is empty.

    The first has `served`; the last has `usage`, and by then every choice has its finish reason.
    """

    served: Served | None = None
    deltas: Sequence[Delta] = ()
    usage: Usage | None = None


TakeText = Callable[[int, str], bool]
"""Is offered more text of a choice whose answer has begun, and says whether it took it; it must not raise.

It is the short way of what most of an answer is, past every iteration between a backend and the wire.
"""


@dataclass(frozen=True, slots=True)
class Choice:
    """One whole answer of `n`; the turn is the assistant's."""

    index: int
    turn: Turn
    finish_reason: FinishReason
    logprobs_json: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """All of an answer: n choices in order of their index."""

    served: Served
    choices: Sequence[Choice]
    usage: Usage
