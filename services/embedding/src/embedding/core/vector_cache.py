"""Keeps the vectors of texts seen lately, within a bound in bytes."""

from collections import OrderedDict
from dataclasses import dataclass

from embedding.core.ports import Vector

ENTRY_OVERHEAD_BYTES = 330
"""Measured: key, entry, the headers of both byte strings and the slot in the ordered dict."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One text's vector, and how many tokens of the text were read."""

    vector: Vector
    tokens: int


class VectorCache:
    """Least recently used out first. Holds successes only; belongs to one encoder fingerprint."""

    def __init__(self, max_bytes: int) -> None:
        """Hold at most `max_bytes`, overhead included; 0 keeps nothing."""
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[bytes, Encoded] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> Encoded | None:
        """Return the entry, now the most recently used, or None."""
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    def put(self, key: bytes, entry: Encoded) -> None:
        """Keep the entry; forget the least recently used ones while over the bound."""
        if key in self._entries:
            return
        self._entries[key] = entry
        self._bytes += len(entry.vector) + ENTRY_OVERHEAD_BYTES
        while self._bytes > self._max_bytes:
            _, oldest = self._entries.popitem(last=False)
            self._bytes -= len(oldest.vector) + ENTRY_OVERHEAD_BYTES
