"""Turn texts into vectors: each distinct text is encoded at most once at a time, and not again while it is cached."""

import asyncio
import hashlib
import logging
from array import array
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from servicekit import deadline
from servicekit.errors import NotFound, PenstockError, Unavailable

from embedding.core import metrics
from embedding.core.batcher import Batcher
from embedding.core.flight import Flight, Waiter
from embedding.core.limits import TextLimits, WrongDimensions
from embedding.core.ports import Encoder, Fingerprint, TokenIds, Tokenizer
from embedding.core.vector_cache import Encoded, VectorCache

KEY_BYTES = 16
ASK_AGAIN_S = 0.5
TEXT, TOKENS = b"text", b"tokens"
Reader = Callable[[Sequence[int], int], Awaitable[Sequence[TokenIds]]]
"""Returns what the encoder reads of the texts at these places, each cut to so many tokens."""
log = logging.getLogger(__name__)


class UnknownModel(NotFound):
    """The model asked for is not the one this service encodes with."""

    default_reason = "model_not_found"


@dataclass(frozen=True, slots=True)
class Embedding:
    """Vectors and token counts of a request's texts, in order, all of one encoder."""

    encoder: Fingerprint
    texts: Sequence[Encoded]

    @property
    def vectors(self) -> bytes:
        """All vectors in a row: float32, little-endian, [texts, dimensions]."""
        return b"".join([text.vector for text in self.texts])


@dataclass(eq=False, slots=True)
class _Era:
    """What is known under one fingerprint; it ends, as a whole, when the encoder changes."""

    fingerprint: Fingerprint
    cache: VectorCache
    flights: dict[bytes, Flight] = field(default_factory=dict)

    def settle(self, flight: Flight) -> None:
        if self.flights.get(flight.key) is flight:
            del self.flights[flight.key]
        if flight.vector is not None:
            self.cache.put(flight.key, Encoded(flight.vector, flight.length))


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a request, of the memory for cached vectors (bytes), and of the age of the fingerprint (seconds)."""

    texts: TextLimits = field(default_factory=TextLimits)
    cache_bytes: int = 64 * 1_048_576
    refresh_s: float = 10.0


class Embedder:
    """The embedding service; the batcher's `run` has to run beside it."""

    def __init__(self, model: str, encoder: Encoder, tokenizer: Tokenizer, batcher: Batcher, limits: Limits) -> None:
        """Serve `model`, the one that `encoder` runs."""
        self._model = model
        self._encoder = encoder
        self._tokenizer = tokenizer
        self._batcher = batcher
        self._limits = limits
        self._era: _Era | None = None
        self._failure: str | None = f"the encoder {model} has not been asked yet"
        self._noted = ""

    async def embed(self, model: str, texts: Sequence[str], dimensions: int | None = None) -> Embedding:
        """Return one vector per text, in order; `model` may be empty.

        Raises InvalidInput (also for `dimensions` that the encoder does not give), NotFound, QueueFull, Unavailable,
        TimedOut.
        """
        self._check_model(model)

        async def read(places: Sequence[int], max_tokens: int) -> Sequence[TokenIds]:
            return await self._tokenizer.tokenize([texts[place] for place in places], max_tokens)

        return await self._embed(self._keys(texts), read, dimensions)

    async def embed_tokens(
        self, model: str, tokens: Sequence[Sequence[int]], dimensions: int | None = None
    ) -> Embedding:
        """Return one vector per text that was tokenized by the caller, without special tokens.

        The vectors are those of `embed` for texts that read so. Raises as `embed` does.
        """
        self._check_model(model)
        self._limits.texts.check_tokens(tokens, self._tokenizer.vocabulary)

        async def frame(places: Sequence[int], max_tokens: int) -> Sequence[TokenIds]:
            return self._tokenizer.frame([tokens[place] for place in places], max_tokens)

        keys = [_digest(array("I", ids).tobytes(), TOKENS) for ids in tokens]
        return await self._embed(keys, frame, dimensions)

    async def _embed(self, keys: Sequence[bytes], read: Reader, dimensions: int | None) -> Embedding:
        while True:
            era = await self._now()
            if dimensions not in (None, era.fingerprint.dimensions):
                given = f"{self._model} gives {era.fingerprint.dimensions} dimensions, no other number"
                raise WrongDimensions(given, field="dimensions")
            found = await self._find(era, keys, read)
            if era is self._era:
                return Embedding(era.fingerprint, [found[key] for key in keys])

    async def encoder(self, model: str) -> Fingerprint:
        """Return which encoder serves. Raises NotFound, Unavailable."""
        self._check_model(model)
        return (await self._now()).fingerprint

    async def readiness(self) -> str | None:
        """Say why no text can be encoded yet, or None; once the encoder has answered, its failures are its own."""
        return self._failure

    async def watch(self) -> None:
        """Ask again and again which encoder serves; runs beside the service."""
        while True:
            try:
                await self.refresh()
            except PenstockError as error:
                self._note(f"the encoder {self._model} cannot be asked: {error}")
                await asyncio.sleep(ASK_AGAIN_S)
            else:
                await asyncio.sleep(self._limits.refresh_s)

    async def _now(self) -> _Era:
        return self._era or await self.refresh()

    async def refresh(self) -> _Era:
        """Ask the encoder who it is; another fingerprint begins a new era. Raises NotFound, Unavailable, TimedOut."""
        fingerprint = await self._encoder.fingerprint()
        self._failure = None
        if self._era is None or self._era.fingerprint != fingerprint:
            log.info("encoding with %s version %s, %s", fingerprint.model, fingerprint.version, fingerprint.digest)
            self._era = _Era(fingerprint, VectorCache(self._limits.cache_bytes))
        return self._era

    def _note(self, failure: str) -> None:
        if failure != self._noted:
            log.warning("%s", failure)
        self._noted = failure
        if self._era is None:
            self._failure = failure

    def _check_model(self, model: str) -> None:
        if model not in ("", self._model):
            raise UnknownModel(f"no model {model!r} is served here; there is {self._model!r}", field="model")

    def _keys(self, texts: Sequence[str]) -> list[bytes]:
        """Return each text's digest; a vector is a pure function of the text, so tenants share keys and entries."""
        encoded = [text.encode() for text in texts]
        self._limits.texts.check([len(text) for text in encoded])
        return [_digest(text, TEXT) for text in encoded]

    async def _find(self, era: _Era, keys: Sequence[bytes], read: Reader) -> dict[bytes, Encoded]:
        found: dict[bytes, Encoded] = {}
        unknown: dict[bytes, int] = {}
        for place, key in enumerate(keys):
            if (entry := era.cache.get(key)) is not None:
                found[key] = entry
            else:
                unknown[key] = place
        metrics.asked(self._model, len(keys), len(found))
        if unknown:
            tokens = await read(list(unknown.values()), era.fingerprint.max_tokens)
            found |= await self._encode(era, dict(zip(unknown, tokens, strict=True)))
        return found

    async def _encode(self, era: _Era, texts: dict[bytes, TokenIds]) -> dict[bytes, Encoded]:
        waiter = Waiter(deadline.remaining_s())
        found: dict[bytes, Encoded] = {}
        new: list[Flight] = []
        for key, tokens in texts.items():
            # Asked again: since the first look, and the tokenizing, another caller's flight may have started or landed.
            if (entry := era.cache.get(key)) is not None:
                found[key] = entry
                continue
            flight = era.flights.get(key)
            if flight is None:
                flight = Flight(key, tokens, era.fingerprint, era.settle)
                new.append(flight)
            waiter.join(flight)
        metrics.joined(self._model, len(waiter.flights) - len(new))
        try:
            self._batcher.submit(new)
            era.flights |= {flight.key: flight for flight in new}
            await waiter.wait()
        finally:
            self._batcher.drop(waiter.leave())
        for flight in waiter.flights:
            if flight.vector is None:
                raise Unavailable(f"the encoder {self._model} ended without a vector", reason="backend_failed")
            found[flight.key] = Encoded(flight.vector, flight.length)
        return found


def _digest(content: bytes, kind: bytes) -> bytes:
    """Return the key of a text; one of characters and one of ids have none in common."""
    return hashlib.blake2b(content, digest_size=KEY_BYTES, person=kind).digest()
