"""What the core needs from outside: an encoder and a tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

TokenIds: TypeAlias = bytes
"""The token ids of one text, special tokens included: int64, little-endian. Eight bytes a token."""

Vector: TypeAlias = bytes
"""A unit vector: float32, little-endian. Four bytes a dimension."""

TOKEN_BYTES = 8
FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Which encoder made a vector; vectors are comparable only when their digests are equal."""

    model: str
    version: str
    digest: str
    dimensions: int
    pooling: str
    max_tokens: int


class Encoder(Protocol):
    """Runs the model."""

    async def fingerprint(self) -> Fingerprint:
        """Return what serves now. Raises NotFound, Unavailable or TimedOut."""
        ...

    async def encode(self, texts: Sequence[TokenIds], dimensions: int) -> Sequence[Vector]:
        """Return one vector per text, in order. Raises Unavailable or TimedOut."""
        ...


class Tokenizer(Protocol):
    """Turns text into token ids."""

    async def tokenize(self, texts: Sequence[str], max_tokens: int) -> Sequence[TokenIds]:
        """Return the ids of each text, in order, each cut to `max_tokens`, none padded."""
        ...

    def frame(self, tokens: Sequence[Sequence[int]], max_tokens: int) -> Sequence[TokenIds]:
        """Return what `tokenize` would of texts that read as these tokens: special tokens added, and cut as well."""
        ...

    @property
    def vocabulary(self) -> int:
        """How many tokens there are; their ids go from 0 to one less."""
        ...
