"""The messages of OpenAI's chat schema: every role, and content in parts."""

from typing import Annotated, Any, Final, Literal

from penstock.inference.v1 import inference_pb2 as inference
from pydantic import Field
from servicekit.errors import InvalidInput

from gateway.api.body import Body

Role = Literal["system", "developer", "user", "assistant", "tool"]


class TextPart(Body):
    """A piece of text in a message."""

    type: Literal["text"]
    text: str


class TextMessage(Body):
    """One turn of a conversation in text alone. `developer` is read as `system`."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    def text(self) -> str:
        """Return the turn's text; parts are joined by a line break."""
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class ImageUrl(Body):
    """An image, as an `https:` or `data:` URL. It is handed to the model's host; nothing here opens it."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class InputAudio(Body):
    """Sound, in base64."""

    data: str
    format: Literal["wav", "mp3"]


class Part(Body):
    """A part of a message: what `type` names."""

    type: Literal["text", "image_url", "input_audio", "refusal"]
    text: str | None = None
    image_url: ImageUrl | None = None
    input_audio: InputAudio | None = None
    refusal: str | None = None

    def check(self, path: str) -> None:
        """Raise InvalidInput unless the part has what its type names, and that alone."""
        for name in PART_FIELDS:
            if (getattr(self, name) is not None) != (name == self.type):
                wrong = "is missing" if name == self.type else f"does not belong to a part of type {self.type}"
                raise InvalidInput(f"{name!r} {wrong}", reason="invalid_input", field=f"{path}.{name}")

    def fill(self, part: inference.ContentPart) -> None:
        """Write it into a typed part, in place: an image is copied once."""
        if self.image_url is not None:
            part.image.url = self.image_url.url
            part.image.detail = self.image_url.detail or ""
        elif self.input_audio is not None:
            part.audio.content = self.input_audio.data
            part.audio.format = self.input_audio.format
        else:
            part.text = self.text or ""


PART_FIELDS: Final = ("text", "image_url", "input_audio", "refusal")


class FunctionCall(Body):
    """The function that an assistant called, with its arguments as the text that the model wrote."""

    name: Annotated[str, Field(min_length=1)]
    arguments: str


class ToolCall(Body):
    """A call that an assistant asked for."""

    id: Annotated[str, Field(min_length=1)]
    type: Literal["function"]
    function: FunctionCall
    index: Annotated[Any, Field(description="Accepted and not used: the order counts.")] = None


class ChatMessage(Body):
    """One turn."""

    role: Role
    content: str | list[Part] | None = None
    name: Annotated[str, Field(max_length=64)] | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=128)] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    audio: None = None
    function_call: None = None
    annotations: Annotated[list[None] | None, Field(max_length=0)] = None

    def fill(self, message: inference.Message, path: str) -> None:
        """Write it into a typed turn, in place; raise InvalidInput when it is not what its role allows."""
        message.role = self.role
        if isinstance(self.content, str):
            message.content = self.content
        elif self.content is not None:
            self._add_parts(message, self.content, f"{path}.content")
        elif self.role != "assistant" or not (self.tool_calls or self.refusal):
            raise InvalidInput(f"'{path}.content' is missing", reason="missing_parameter", field=f"{path}.content")
        if RARE & self.model_fields_set:
            self._fill_rare(message)

    def _fill_rare(self, message: inference.Message) -> None:
        message.name = self.name or ""
        message.tool_call_id = self.tool_call_id or ""
        message.refusal = message.refusal or self.refusal or ""
        for position, call in enumerate(self.tool_calls or ()):
            function = call.function
            message.tool_calls.add(index=position, id=call.id, name=function.name, arguments=function.arguments)

    def _add_parts(self, message: inference.Message, parts: list[Part], path: str) -> None:
        if not parts:
            raise InvalidInput("a message has at least one part", field=path)
        for position, part in enumerate(parts):
            part.check(f"{path}[{position}]")
            if part.type != "refusal":
                part.fill(message.parts.add())
            elif self.role != "assistant":
                raise InvalidInput("only an assistant refuses", field=f"{path}[{position}].type")
            else:
                message.refusal += part.refusal or ""
        if len(message.parts) == 1 and message.parts[0].HasField("text"):
            message.content = message.parts[0].text
            del message.parts[:]


RARE: Final = frozenset({"name", "tool_call_id", "tool_calls", "refusal"})
