"""gRPC on HTTP/2 as bytes: messages, the timeout, and the status that ends a call.

Source: PROTOCOL-HTTP2.md of gRPC.
"""

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from typing import Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

import grpc

from servicekit.http2 import frames, header_blocks
from servicekit.http2.connection import Connection, Stream
from servicekit.http2.frame_reader import Part
from servicekit.http2.header_blocks import Header
from servicekit.landed import LEAST_LANDED_BYTES, Land, Landed, Message

PREFIX_BYTES: Final = 5
LARGEST_MESSAGE_BYTES: Final = 64 * 1024 * 1024
CONTENT_TYPE: Final = b"application/grpc"
DETAILS_KEY: Final = "grpc-status-details-bin"
READABLE: Final = bytes(range(0x20, 0x7F)).replace(b"%", b"").decode()
UNIT_S: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
LONGEST_TIMEOUT_DIGITS: Final = 8
CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
CODE_OF_RESET: Final = {
    frames.REFUSED_STREAM: grpc.StatusCode.UNAVAILABLE,
    frames.CANCEL: grpc.StatusCode.CANCELLED,
    frames.ENHANCE_YOUR_CALM: grpc.StatusCode.RESOURCE_EXHAUSTED,
    frames.INADEQUATE_SECURITY: grpc.StatusCode.PERMISSION_DENIED,
}
CODE_OF_HTTP: Final = {
    b"400": grpc.StatusCode.INTERNAL,
    b"401": grpc.StatusCode.UNAUTHENTICATED,
    b"403": grpc.StatusCode.PERMISSION_DENIED,
    b"404": grpc.StatusCode.UNIMPLEMENTED,
    b"429": grpc.StatusCode.UNAVAILABLE,
    b"502": grpc.StatusCode.UNAVAILABLE,
    b"503": grpc.StatusCode.UNAVAILABLE,
    b"504": grpc.StatusCode.UNAVAILABLE,
}


class CallFailed(Exception):
    """How a call failed, as the wire has it: code, message, and a serialized google.rpc.Status, empty for none."""

    def __init__(self, code: grpc.StatusCode, message: str, details: bytes = b"") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details


class CallLost(CallFailed):
    """Nobody knows what became of a call: its connection or its stream ended without an answer."""


def pack(message: bytes) -> bytes:
    """Return a message as it travels."""
    return b"\0%b%b" % (len(message).to_bytes(4, "big"), message)


class Messages:
    """Puts messages together from the data of one stream."""

    __slots__ = ("_head", "_landed", "_parts", "land", "missing")

    def __init__(self) -> None:
        self.land: Land | None = None
        """Says where a large message is to be received."""
        self._landed: Landed | None = None
        self.missing = 0
        """How many bytes of a message that has begun are still to come."""
        self._head = b""
        self._parts: list[Part] = []

    def feed(self, part: Part) -> Sequence[Message]:
        """Return the messages that are complete now; raise CallFailed for one that cannot be taken."""
        if not self.missing and not self._head:
            size = len(part) - PREFIX_BYTES
            if 0 <= size <= LARGEST_MESSAGE_BYTES and int.from_bytes(part[:PREFIX_BYTES], "big") == size:
                return (bytes(part[PREFIX_BYTES:]),)  # nearly always: one message, and all of it
        return self._pieces(part)

    @property
    def broken_off(self) -> bool:
        """Whether the stream cannot end here."""
        return bool(self.missing or self._head)

    def _pieces(self, part: Part) -> list[Message]:
        messages: list[Message] = []
        at, size = 0, len(part)
        while at < size:
            if not self.missing:
                start = at
                at = min(size, start + PREFIX_BYTES - len(self._head))
                self._head += bytes(part[start:at])
                if len(self._head) < PREFIX_BYTES:
                    break
                self.missing, self._head = _announced(self._head), b""
                if self.land is not None and self.missing >= LEAST_LANDED_BYTES:
                    self._landed = self.land(self.missing)
            piece = part[at : at + self.missing]
            at += len(piece)
            self._keep(piece)
            self.missing -= len(piece)
            if not self.missing:
                messages.append(b"".join(self._parts) if self._landed is None else self._landed)
                self._parts, self._landed = [], None
        return messages

    def _keep(self, piece: Part) -> None:
        if self._landed is None:
            self._parts.append(piece)
        else:
            start = len(self._landed) - self.missing
            self._landed.view[start : start + len(piece)] = piece


class MessageStream(Stream):
    """A stream of HTTP/2 that carries messages: one that has been announced is let in whole."""

    __slots__ = ("_admitted", "_messages")

    def __init__(self, connection: Connection, number: int) -> None:
        super().__init__(connection, number)
        self._messages = Messages()
        self._admitted = 0

    def put_together(self, part: Part) -> Sequence[Message]:
        """Return the messages that are complete now; raise CallFailed for one that cannot be taken."""
        messages = self._messages.feed(part)
        missing = self._messages.missing
        if missing or self._admitted:
            admitted = max(0, self._admitted - len(part))
            if missing > admitted:
                self.admit(missing - admitted)
            self._admitted = missing
        return messages

    def dealt_with(self, message: Message) -> None:
        """Let the other side send as much again."""
        self.taken(len(message) + PREFIX_BYTES)


def _announced(head: bytes) -> int:
    """Return the size of the message that begins."""
    if head[0]:
        raise CallFailed(grpc.StatusCode.UNIMPLEMENTED, "compressed messages are not taken")
    size = int.from_bytes(head[1:], "big")
    if size > LARGEST_MESSAGE_BYTES:
        most = LARGEST_MESSAGE_BYTES
        raise CallFailed(grpc.StatusCode.RESOURCE_EXHAUSTED, f"a message has {size} bytes, and {most} is the most")
    return size


def write_timeout(seconds: float) -> bytes:
    """Return the value of `grpc-timeout`: at most eight digits and a unit."""
    for unit in (b"u", b"m", b"S"):
        value = b"%d" % max(1, round(seconds / UNIT_S[unit]))
        if len(value) <= LONGEST_TIMEOUT_DIGITS:
            return value + unit
    return b"99999999S"


def read_timeout(value: bytes) -> float:
    """Return the seconds of `grpc-timeout`; raise CallFailed for what is none."""
    digits, unit = value[:-1], value[-1:]
    if not digits.isdigit() or len(digits) > LONGEST_TIMEOUT_DIGITS or unit not in UNIT_S:
        raise CallFailed(grpc.StatusCode.INTERNAL, "grpc-timeout is malformed")
    return int(digits) * UNIT_S[unit]


def write_status(failed: CallFailed) -> Iterable[Header]:
    """Return the headers that end a call with an error."""
    yield b"grpc-status", b"%d" % failed.code.value[0]
    if failed.message:
        yield b"grpc-message", quote_from_bytes(failed.message.encode("utf-8", "replace"), safe=READABLE).encode()
    if failed.details:
        yield DETAILS_KEY.encode(), base64.b64encode(failed.details).rstrip(b"=")


def read_status(headers: Mapping[bytes, bytes]) -> CallFailed | None:
    """Return how a call failed that ended with these headers, or None for one that did not."""
    said = headers.get(b"grpc-status")
    if said == b"0":
        return None
    if said is None:
        http = headers.get(b":status", b"")
        code = CODE_OF_HTTP.get(http, grpc.StatusCode.UNKNOWN)
        return CallFailed(code, f"the answer has HTTP status {http.decode('latin-1') or 'none'} and no grpc-status")
    code = CODES.get(int(said), grpc.StatusCode.UNKNOWN) if said.isdigit() else grpc.StatusCode.UNKNOWN
    message = unquote_to_bytes(headers.get(b"grpc-message", b"")).decode("utf-8", "replace")
    return CallFailed(code, message, _binary(headers.get(DETAILS_KEY.encode(), b"")))


def of_reset(code: int) -> CallLost:
    """Return how a call failed whose stream the other side gave up."""
    return CallLost(CODE_OF_RESET.get(code, grpc.StatusCode.INTERNAL), f"the stream was reset with code {code}")


def _binary(value: bytes) -> bytes:
    """Return the value of a header whose name ends in -bin; one that is not base64 counts as none."""
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except binascii.Error:
        return b""


ANSWER: Final = header_blocks.write(((b":status", b"200"), (b"content-type", CONTENT_TYPE)))
SUCCESS: Final = header_blocks.write(((b"grpc-status", b"0"),))
