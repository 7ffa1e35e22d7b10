"""What the pool needs from those who run models."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from inference.core.answer import Answer, Piece
from inference.core.generation import Order

NOT_LOADED = "not_loaded"
BACKEND_FAILED = "backend_failed"


@dataclass(frozen=True, slots=True)
class ModelState:
    """What a backend says of a model; `reason` is empty when it is ready, `digest` where it is not known."""

    ready: bool
    reason: str = ""
    version: str = ""
    digest: str = ""


class Generator(Protocol):
    """Writes text with one model."""

    def generate(self, order: Order, timeout_s: float) -> AsyncGenerator[Piece, None]:
        """Yield the pieces of an answer within `timeout_s`; closing the generator stops the backend.

        Raises InvalidInput, Unavailable or TimedOut. An answer that breaks off ends in an error, never in `usage`.
        """
        ...

    async def complete(self, order: Order, timeout_s: float) -> Answer:
        """Return the whole of an answer; errors are those of `generate`, and cancelling stops the backend."""
        ...


class TensorRunner(Protocol):
    """Runs one model on OIP messages, which stay the bytes they are."""

    async def infer(self, request: bytes, timeout_s: float) -> bytes:
        """Return the ModelInferResponse to a ModelInferRequest. Raises InvalidInput, Unavailable or TimedOut."""
        ...

    def stream(self, request: bytes, timeout_s: float) -> AsyncGenerator[bytes, None]:
        """Yield the ModelStreamInferResponses to one ModelInferRequest; closing the generator stops the backend."""
        ...

    async def metadata(self, request: bytes, timeout_s: float) -> bytes:
        """Return the ModelMetadataResponse to a ModelMetadataRequest."""
        ...

    async def config(self, request: bytes, timeout_s: float) -> bytes:
        """Return the ModelConfigResponse to a ModelConfigRequest."""
        ...


class Prober(Protocol):
    """Looks whether one model can serve."""

    async def probe(self, timeout_s: float) -> ModelState:
        """Return the model's state; a backend that cannot be reached is a state, not an error."""
        ...
