"""Reads OIP messages without parsing them: the few fields that routing needs, and where the tensors lie."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from servicekit.errors import InvalidInput

NAME, VERSION, ID = 1, 2, 3
"""The fields of every OIP request about a model; a ModelReadyRequest has no id, and only ModelInferRequest needs it."""
PARAMETERS: Final = {5: 4, 6: 2}
"""The inputs and outputs of a ModelInferRequest, and where the parameters of each stand in them."""
SHARED_MEMORY: Final = b"shared_memory_"
"""With parameters that begin so a tensor lies in memory that somebody has registered at the server."""
MOST_FIELDS: Final = 10_000
LONGEST_VARINT: Final = 10
VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class Head:
    """Whom a request is for; `version` and `id` may be empty."""

    name: str
    version: str
    id: str


def read_head(message: bytes | memoryview) -> Head:
    """Return the head of a serialised OIP request.

    All top-level fields are walked, because of a field sent twice the last one counts: a second name would otherwise
    reach a model that was never checked. Raises InvalidInput when the message is malformed, names no model, or wants a
    tensor read from or written to shared memory, which may be anybody's.
    """
    found: dict[int, bytes] = {}
    for number, start, end in fields(message):
        if number <= ID:
            found[number] = bytes(message[start:end])
        elif number in PARAMETERS and _mentions(message, start, end):
            _refuse_shared_memory(bytes(message[start:end]), PARAMETERS[number])
    name = _text(found.get(NAME, b""), "model_name")
    if not name:
        raise InvalidInput("the request names no model", field="model_name")
    return Head(name, _text(found.get(VERSION, b""), "model_version"), _text(found.get(ID, b""), "id"))


def _mentions(message: bytes | memoryview, start: int, end: int) -> bool:
    if isinstance(message, bytes):
        return message.find(SHARED_MEMORY, start, end) >= 0
    return SHARED_MEMORY in bytes(message[start:end])


def _refuse_shared_memory(tensor: bytes, parameters: int) -> None:
    """Raise InvalidInput when a parameter is about shared memory; names and contents may hold the word."""
    for number, start, end in fields(tensor):
        entry = tensor[start:end] if number == parameters else b""
        if any(of == 1 and entry.startswith(SHARED_MEMORY, at) for of, at, _ in fields(entry)):
            raise InvalidInput("shared memory is not offered here", reason="unsupported_parameter")


def read_model_name(message: bytes | memoryview) -> str:
    """Return the model's name in a serialised OIP request; raises as `read_head` does."""
    return read_head(message).name


def fields(message: bytes | memoryview) -> Iterator[tuple[int, int, int]]:
    """Yield number, start and end of each length-delimited field of a protobuf message; others are passed over.

    Raises InvalidInput when the message is malformed or has more than 10,000 fields.
    """
    position, end = 0, len(message)
    for _ in range(MOST_FIELDS):
        if position == end:
            return
        tag, position = _varint(message, position)
        if not tag >> 3:
            raise _malformed()
        if tag & 7 == LENGTH_DELIMITED:
            size, start = _varint(message, position)
            position = start + size
        else:
            start, position = 0, _skip(message, position, tag & 7)
        if position > end:
            raise _malformed()
        if tag & 7 == LENGTH_DELIMITED:
            yield tag >> 3, start, position
    raise InvalidInput(f"a request has at most {MOST_FIELDS} fields")


def tag_and_size(number: int, size: int) -> bytes:
    """Return what stands before a length-delimited field of `size` bytes."""
    return _as_varint(number << 3 | LENGTH_DELIMITED) + _as_varint(size)


def _as_varint(value: int) -> bytes:
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)


def _varint(message: bytes | memoryview, position: int) -> tuple[int, int]:
    value = 0
    if position < len(message) and message[position] < 0x80:
        return message[position], position + 1  # nearly always: a tag, or the size of something small
    for index, byte in enumerate(message[position : position + LONGEST_VARINT]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    raise _malformed()


def _skip(message: bytes | memoryview, position: int, wire_type: int) -> int:
    if wire_type == VARINT:
        return _varint(message, position)[1]
    if wire_type == FIXED64:
        return position + 8
    if wire_type == FIXED32:
        return position + 4
    raise _malformed()


def _text(value: bytes, field: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{field} is not UTF-8", field=field) from error


def _malformed() -> InvalidInput:
    return InvalidInput("the request is not a well-formed OIP message")
