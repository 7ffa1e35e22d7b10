"""Every call of OIP, once; its gRPC and its REST door lead here. Rights are checked, tensors pass through as bytes."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Protocol

from servicekit.errors import Forbidden, NotFound, PenstockError
from servicekit.oip import read_model_name

from gateway.core import accounts, scopes
from gateway.core.models import Catalogue, ModelCard, Task

LONGEST_NAME = 200


class UnknownModel(NotFound):
    """No model has this name, or not for this caller; worded as Triton words it."""

    default_reason = "model_not_found"

    def __init__(self, model: str) -> None:
        super().__init__(f"Request for unknown model: '{model[:LONGEST_NAME]}' is not found", field="model_name")


class Tensors(Protocol):
    """The model pool as OIP serves it; requests and responses are serialised OIP messages."""

    async def ready(self) -> bool: ...
    async def infer(self, request: bytes) -> bytes: ...
    async def metadata(self, request: bytes) -> bytes: ...
    async def config(self, request: bytes) -> bytes: ...
    def stream(self, request: bytes) -> AsyncGenerator[bytes, None]: ...


Admit = Callable[[ModelCard], AbstractAsyncContextManager[object]]
"""Opens around each run of a model: where limits, budgets and the ledger hold it; may raise QuotaExceeded."""


class TensorCalls:
    """What OIP offers, whichever door a caller came through."""

    def __init__(self, tensors: Tensors, catalogue: Callable[[], Catalogue], admit: Admit) -> None:
        """Take the pool, what returns the models known now (raising Unavailable when none are), and who admits runs."""
        self._tensors = tensors
        self._catalogue = catalogue
        self._admit = admit

    async def ready(self) -> bool:
        """Say whether any model would serve a request; a pool that cannot be reached would not."""
        try:
            return await self._tensors.ready()
        except PenstockError:
            return False

    async def model_ready(self, name: str, version: str, request: bytes) -> bool:
        """Say whether a model would serve the caller; what he may not know of is not ready, as with Triton.

        A version is asked for by `request`, a ModelMetadataRequest, since only the pool's backend knows versions.
        """
        try:
            card = self._opened(name)
            if card.ready and version:
                await self._tensors.metadata(request)
        except scopes.MissingScope:
            raise
        except PenstockError:
            return False
        return card.ready

    async def metadata(self, request: bytes) -> bytes:
        """Return what goes into a model and what comes out."""
        self._opened(read_model_name(request))
        return await self._tensors.metadata(request)

    async def config(self, request: bytes) -> bytes:
        """Return a model's configuration."""
        self._opened(read_model_name(request))
        return await self._tensors.config(request)

    async def infer(self, request: bytes) -> bytes:
        """Run a model once."""
        async with self._admit(self._opened(read_model_name(request))):
            return await self._tensors.infer(request)

    async def stream(self, request: bytes) -> AsyncIterator[bytes]:
        """Run a model once, with as many responses as it has; leaving cancels it."""
        card = self._opened(read_model_name(request))
        async with self._admit(card), aclosing(self._tensors.stream(request)) as responses:
            async for response in responses:
                yield response

    def _opened(self, name: str) -> ModelCard:
        """Return the card of a model that the caller may use.

        Raises MissingScope, UnknownModel (for what he may not know of, too) or Forbidden (region).
        """
        account = accounts.current()
        if scopes.EMBEDDINGS not in account.scopes:
            scopes.require(account.scopes, scopes.MODELS)
        card = self._catalogue().cards.get(name)
        if card is None or not account.allows(name) or not _opens(account.scopes, card):
            raise UnknownModel(name)
        if account.region and card.region != account.region:
            message = f"{name} does not run in {account.region}"
            raise Forbidden(message, reason="region_not_allowed", field="model_name")
        return card


def _opens(granted: frozenset[str], card: ModelCard) -> bool:
    return scopes.MODELS in granted or card.task is Task.EMBED
