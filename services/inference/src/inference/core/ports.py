"""What the pool needs from those who run models."""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Protocol

from servicekit.errors import Unavailable
from servicekit.landed import Message

from inference.core.answer import Answer, Piece, TakeText
from inference.core.generation import Order
from inference.core.golden_cases import Array, Golden

NOT_LOADED = "not_loaded"
LOADING = "loading"
QUEUE_FULL = "queue_full"
DRAINING = "draining"
BACKEND_FAILED = "backend_failed"
GOLDEN_FAILED = "golden_failed"
GOLDEN_INVALID = "golden_invalid"
OTHER_DIGEST = "other_digest"
SILENT = "no answer in time"
"""The detail of a state that says that a server was asked and did not answer, not even with an error."""


class BackendLost(Unavailable):
    """The server died, or the connection to it did: whatever it was doing is over."""

    default_reason = BACKEND_FAILED


class NotServing(Unavailable):
    """The server lives, and does not serve the model (any more): it is not loaded, or the server is going away."""


@dataclass(frozen=True, slots=True)
class ModelState:
    """What a backend says of a model; `reason` is empty when it is ready, `digest` where it is not known.

    `golden` is what its answers have to look like, where that is known; `detail` says more than the reason.
    """

    ready: bool
    reason: str = ""
    version: str = ""
    digest: str = ""
    golden: Golden | None = None
    detail: str = ""


class Generator(Protocol):
    """Writes text with one model."""

    def generate(self, order: Order, timeout_s: float, take: TakeText | None = None) -> AsyncGenerator[Piece, None]:
        """Yield the pieces of an answer within `timeout_s`; closing the generator stops the backend.

        `take` may be offered text when all that came before it was taken; what it takes is not yielded.
        Raises InvalidInput, Unavailable or TimedOut. An answer that breaks off ends in an error, never in `usage`.
        """
        ...

    async def complete(self, order: Order, timeout_s: float) -> Answer:
        """Return the whole of an answer; errors are those of `generate`, and cancelling stops the backend."""
        ...


class TensorRunner(Protocol):
    """Runs one model on OIP messages, which stay the bytes they are."""

    async def infer(self, request: Message, timeout_s: float) -> bytes:
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


class ArrayRunner(Protocol):
    """Runs one model on arrays; for the probes of the pool itself."""

    async def run(self, inputs: Mapping[str, Array], timeout_s: float) -> Mapping[str, Array]:
        """Return the outputs by name. Raises InvalidInput, Unavailable or TimedOut."""
        ...


class Prober(Protocol):
    """Looks whether one model can serve."""

    async def probe(self, timeout_s: float) -> ModelState:
        """Return the model's state; a backend that cannot be reached is a state, not an error."""
        ...


class Addresses(Protocol):
    """Tells at which addresses a server can be reached."""

    def watch(self) -> AsyncGenerator[frozenset[str], None]:
        """Yield the addresses that may get new requests, first as they are and then at each change, without an end.

        While they cannot be looked up nothing is yielded, so that the last ones stay.
        """
        ...
