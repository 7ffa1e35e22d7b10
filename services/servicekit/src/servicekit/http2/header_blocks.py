"""Header blocks (RFC 7541): what we write stands for itself, what we read may be anything.

A block of literals that enter no table is a constant for constant headers, and is read without a decoder's state, and
once: answers and their ends look alike.
"""

from collections.abc import Iterable
from typing import Final

from hpack import Decoder
from hpack.exceptions import HPACKError

from servicekit.http2.frames import COMPRESSION_ERROR, Http2Error

Header = tuple[bytes, bytes]

MOST_REMEMBERED: Final = 256
LONGEST_REMEMBERED: Final = 128
STATIC: Final[dict[int, Header]] = {
    1: (b":authority", b""),
    2: (b":method", b"GET"),
    3: (b":method", b"POST"),
    4: (b":path", b"/"),
    6: (b":scheme", b"http"),
    7: (b":scheme", b"https"),
    8: (b":status", b"200"),
    13: (b":status", b"404"),
    14: (b":status", b"500"),
}
"""The part of the table that gRPC meets; whatever else is named goes to the decoder."""


def write(headers: Iterable[Header]) -> bytes:
    """Return a block, or a part of one: each header as a literal that enters no table."""
    return b"".join(b"\0%b%b%b%b" % (_length(len(name)), name, _length(len(value)), value) for name, value in headers)


def _length(size: int) -> bytes:
    """Return the length of a string that is not Huffman-coded: an integer with a prefix of seven bits."""
    if size < 127:
        return b"%c" % size
    left, octets = size - 127, bytearray(b"\x7f")
    while left > 127:
        octets.append(left & 127 | 128)
        left >>= 7
    octets.append(left)
    return bytes(octets)


class Reader:
    """Reads the blocks of one connection, in the order in which they came."""

    def __init__(self) -> None:
        self._decoder = Decoder()
        self._known: dict[bytes, tuple[Header, ...]] = {}

    def read(self, block: bytes) -> tuple[Header, ...]:
        """Return the headers; raise Http2Error for what is none."""
        known = self._known.get(block)
        if known is not None:
            return known
        plain = _plain(block)
        if plain is None:
            return self._decoded(block)
        if len(block) <= LONGEST_REMEMBERED and len(self._known) < MOST_REMEMBERED:
            self._known[block] = plain
        return plain

    def _decoded(self, block: bytes) -> tuple[Header, ...]:
        try:
            return tuple((bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True))
        except HPACKError as error:
            raise Http2Error(COMPRESSION_ERROR, "a header block cannot be read") from error


def _plain(block: bytes) -> tuple[Header, ...] | None:
    """Return the headers of a block that neither uses nor changes the table, or None for any other."""
    headers: list[Header] = []
    at, size = 0, len(block)
    try:
        while at < size:
            first = block[at]
            at += 1
            if first & 0x80:
                headers.append(STATIC[first & 0x7F])
                continue
            if first & 0x60:  # enters the table, or changes its size
                return None
            if first & 0x0F:
                name = STATIC[first & 0x0F][0]
            else:
                name, at = _text(block, at)
            value, at = _text(block, at)
            headers.append((name, value))
    except (KeyError, IndexError, ValueError):
        return None
    return tuple(headers)


def _text(block: bytes, at: int) -> tuple[bytes, int]:
    """Return a string that is not Huffman-coded and where it ends; raise ValueError for any other."""
    size = block[at]
    at += 1
    if size >= 127:
        if size != 127:
            raise ValueError
        shift = 0
        while True:
            octet = block[at]
            at += 1
            size += (octet & 127) << shift
            shift += 7
            if octet < 128:
                break
    end = at + size
    if end > len(block):
        raise ValueError
    return block[at:end], end
