"""Reads the one field that routing needs out of an OIP message, and leaves the tensors alone."""

from typing import Final

from servicekit.errors import InvalidInput

NAME_FIELD: Final = 1
"""Every OIP request about a model carries the model's name in field 1."""
MOST_FIELDS: Final = 10_000
LONGEST_VARINT: Final = 10
VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5


def read_model_name(message: bytes) -> str:
    """Return the model's name in a serialised OIP request.

    All top-level fields are walked, because of a field sent twice the last one counts: a second name would otherwise
    reach a model that was never checked. Raises InvalidInput when the message is malformed or names no model.
    """
    position, end, name = 0, len(message), b""
    for _ in range(MOST_FIELDS):
        if position == end:
            return _text(name)
        tag, position = _varint(message, position)
        if tag & 7 == LENGTH_DELIMITED:
            size, position = _varint(message, position)
            if tag >> 3 == NAME_FIELD:
                name = message[position : position + size]
            position += size
        else:
            position = _skip(message, position, tag & 7)
        if position > end:
            raise _malformed()
    raise InvalidInput(f"a request has at most {MOST_FIELDS} fields")


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(message[position : position + LONGEST_VARINT]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    raise _malformed()


def _skip(message: bytes, position: int, wire_type: int) -> int:
    if wire_type == VARINT:
        return _varint(message, position)[1]
    if wire_type == FIXED64:
        return position + 8
    if wire_type == FIXED32:
        return position + 4
    raise _malformed()


def _text(name: bytes) -> str:
    if not name:
        raise InvalidInput("the request names no model", field="model_name")
    try:
        return name.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput("the model's name is not UTF-8", field="model_name") from error


def _malformed() -> InvalidInput:
    return InvalidInput("the request is not a well-formed OIP message")
