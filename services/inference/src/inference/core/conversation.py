"""The conversation that a model is to continue: its messages, their parts, and what tools were called in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from servicekit.errors import InvalidInput

ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool"})
IMAGE_SCHEMES: Final = ("https:", "data:")
"""A model's host is asked to open nothing else; Penstock itself opens none."""
MAX_TOOL_CALLS: Final = 128


@dataclass(frozen=True, slots=True)
class Text:
    """A part of a message that is text."""

    text: str


@dataclass(frozen=True, slots=True)
class Image:
    """A part of a message that is an image; `detail` is `auto`, `low`, `high` or empty."""

    url: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Audio:
    """A part of a message that is sound; `content` is base64."""

    content: str
    format: str


Part = Text | Image | Audio


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that a model asks for; `arguments` is JSON text or, in a stream, the next piece of it.

    In a stream only the first piece of a call has `id` and `name`.
    """

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message; what it says is in `content` or in `parts`."""

    role: str
    content: str = ""
    parts: Sequence[Part] = ()
    name: str = ""
    tool_calls: Sequence[ToolCall] = ()
    tool_call_id: str = ""
    refusal: str = ""

    def text(self) -> str:
        """Return what is said in words."""
        if self.parts:
            return "\n".join(part.text for part in self.parts if isinstance(part, Text))
        return self.content or self.refusal


def check_turns(turns: Sequence[Turn]) -> None:
    """Raise InvalidInput, naming the field, when there is no message or one is not what its role allows."""
    if not turns:
        raise InvalidInput("at least one message is needed", field="messages")
    for index, turn in enumerate(turns):
        if turn.role not in ROLES:
            raise InvalidInput("a role is system, developer, user, assistant or tool", field=f"messages[{index}].role")
        if turn.parts:
            _check_parts(turn, f"messages[{index}].content")
        if turn.tool_calls or turn.tool_call_id or turn.refusal or turn.role == "tool":
            _check_role(turn, f"messages[{index}]")


def _check_parts(turn: Turn, path: str) -> None:
    if turn.content:
        raise InvalidInput("a message has its content in one text or in parts, not both", field=path)
    for index, part in enumerate(turn.parts):
        if isinstance(part, Image) and not part.url[:6].lower().startswith(IMAGE_SCHEMES):
            raise InvalidInput("an image is an https: or data: URL", field=f"{path}[{index}].image_url.url")
        if isinstance(part, Image) and part.detail not in ("", "auto", "low", "high"):
            raise InvalidInput("detail is auto, low or high", field=f"{path}[{index}].image_url.detail")
        if isinstance(part, Image | Audio) and turn.role != "user":
            raise InvalidInput("images and sound come from the user alone", field=f"{path}[{index}]")


def _check_role(turn: Turn, path: str) -> None:
    if (turn.tool_calls or turn.refusal) and turn.role != "assistant":
        field = "tool_calls" if turn.tool_calls else "refusal"
        raise InvalidInput("only an assistant calls tools or refuses", field=f"{path}.{field}")
    if (turn.role == "tool") != bool(turn.tool_call_id):
        raise InvalidInput("role tool, and no other, names the call it answers", field=f"{path}.tool_call_id")
    if len(turn.tool_calls) > MAX_TOOL_CALLS:
        raise InvalidInput(f"at most {MAX_TOOL_CALLS} tools are called at once", field=f"{path}.tool_calls")
    for index, call in enumerate(turn.tool_calls):
        if not (call.id and call.name):
            raise InvalidInput("a call has an id and a name", field=f"{path}.tool_calls[{index}]")
