"""Header blocks (RFC 7541): what we write stands for itself, what we read may be anything.

A block of literals that enter no table is a constant for constant headers. What leaves the decoder's table as it is
stands for the same headers until another block changes that, and is read once: answers and their ends look alike.
"""

from collections.abc import Iterable
from typing import Final

from hpack import Decoder
from hpack.exceptions import HPACKError

from servicekit.http2.frames import COMPRESSION_ERROR, Http2Error

Header = tuple[bytes, bytes]

MOST_REMEMBERED: Final = 64
LONGEST_REMEMBERED: Final = 1_024
LONG_INDEX: Final = 0xFF
"""Begins the index of a header that does not fit into seven bits."""
HEADER_OVERHEAD: Final = 32
"""What a header counts on top of its bytes (RFC 9113, section 6.5.2)."""


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
        """What blocks say that leave the decoder's table as it is, until another changes it."""

    def read(self, block: bytes) -> tuple[Header, ...]:
        """Return the headers; raise Http2Error for what is none."""
        known = self._known.get(block)
        if known is not None:
            return known
        plain = self._plain(block)
        if plain is None:
            self._known.clear()
            return self._decoded(block)
        if len(block) <= LONGEST_REMEMBERED:
            if len(self._known) >= MOST_REMEMBERED:
                self._known.clear()
            self._known[block] = plain
        return plain

    def _decoded(self, block: bytes) -> tuple[Header, ...]:
        try:
            return tuple((bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True))
        except HPACKError as error:
            raise Http2Error(COMPRESSION_ERROR, "a header block cannot be read") from error

    def _plain(self, block: bytes) -> tuple[Header, ...] | None:
        """Return the headers of a block that leaves the table as it is and needs no decoder, or None for any other."""
        headers: list[Header] = []
        entry = self._decoder.header_table.get_by_index
        at, size, listed = 0, len(block), 0
        try:
            while at < size:
                first = block[at]
                at += 1
                if first & 0x80:
                    if first == LONG_INDEX:
                        return None
                    name, value = entry(first & 0x7F)
                elif first & 0x60:  # enters the table, or changes its size
                    return None
                elif first & 0x0F:
                    if first & 0x0F == 0x0F:
                        return None
                    name = entry(first & 0x0F)[0]
                    value, at = _text(block, at)
                else:
                    name, at = _text(block, at)
                    value, at = _text(block, at)
                headers.append((name, value))
                listed += len(name) + len(value) + HEADER_OVERHEAD
        except (HPACKError, IndexError, ValueError):
            return None
        return tuple(headers) if listed <= self._decoder.max_header_list_size else None


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
