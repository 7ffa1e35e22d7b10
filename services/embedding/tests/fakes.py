"""One fake per port: an encoder that can be held and broken, and a tokenizer that splits at spaces."""

import asyncio
import struct
import zlib
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from embedding.core.batcher import Batcher, BatcherLimits
from embedding.core.embedder import Embedder, Limits
from embedding.core.length_queue import BatchLimits
from embedding.core.ports import TOKEN_BYTES, Fingerprint, TokenIds, Vector
from servicekit.errors import Unavailable

FINGERPRINT = Fingerprint("tiny", "1", "sha256:" + "0" * 64, 2, "mean", 16)

BATCH = BatchLimits()
LIMITS = Limits()


def ids(text: str) -> TokenIds:
    """Return what FakeTokenizer makes of a text: one id per word."""
    return array("q", [zlib.crc32(word.encode()) for word in text.split(" ")]).tobytes()


def vector(text: str, scale: float = 1.0) -> Vector:
    """Return what FakeEncoder makes of a text."""
    tokens = ids(text)
    return struct.pack("<2f", scale * sum(array("q", tokens)), len(tokens) // TOKEN_BYTES)


@dataclass
class FakeEncoder:
    """Answers at once, or when `release` is called; fails as told; remembers every batch."""

    now: Fingerprint | None = FINGERPRINT
    held: bool = False
    scale: float = 1.0
    failure: Callable[[], BaseException] | None = None
    batches: list[list[TokenIds]] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    cancelled: int = 0
    on_encode: Callable[[], None] | None = None
    _gates: list[asyncio.Event] = field(default_factory=list)

    async def fingerprint(self) -> Fingerprint:
        """Say who serves, or that nobody can be reached."""
        if self.now is None:
            raise Unavailable("nobody there", reason="backend_failed")
        return self.now

    async def encode(self, texts: Sequence[TokenIds], dimensions: int) -> Sequence[Vector]:
        """Return sum and count of each text's ids."""
        assert dimensions == 2
        self.batches.append(list(texts))
        if self.on_encode:
            self.on_encode()
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            if self.held:
                self._gates.append(gate := asyncio.Event())
                await gate.wait()
            if self.failure:
                raise self.failure()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        return [struct.pack("<2f", self.scale * sum(array("q", text)), len(text) // TOKEN_BYTES) for text in texts]

    def release(self, batches: int = 1) -> None:
        """Let the oldest held batches go on."""
        for _ in range(batches):
            self._gates.pop(0).set()

    def release_all(self) -> None:
        """Hold nothing any more."""
        self.held = False
        self.release(len(self._gates))


class FakeTokenizer:
    """Splits at spaces; can be held between being called and answering. Its vocabulary is all of CRC-32."""

    vocabulary = 2**32

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked: list[str] = []

    async def tokenize(self, texts: Sequence[str], max_tokens: int) -> Sequence[TokenIds]:
        """Return one id per word."""
        self.asked += texts
        await self.gate.wait()
        return [ids(text)[: max_tokens * TOKEN_BYTES] for text in texts]

    def frame(self, tokens: Sequence[Sequence[int]], max_tokens: int) -> Sequence[TokenIds]:
        """Add nothing: words have no special tokens."""
        return [array("q", each[:max_tokens]).tobytes() for each in tokens]


@asynccontextmanager
async def running(
    encoder: FakeEncoder,
    tokenizer: FakeTokenizer | None = None,
    batch: BatchLimits = BATCH,
    concurrent: int = 1,
    waiting: int = 100,
    limits: Limits = LIMITS,
) -> AsyncIterator[Embedder]:
    """Yield an embedder of the model `tiny` whose batcher runs."""
    batcher = Batcher(encoder, BatcherLimits(batch, concurrent, waiting))
    task = asyncio.create_task(batcher.run())
    try:
        yield Embedder("tiny", encoder, tokenizer or FakeTokenizer(), batcher, limits)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
