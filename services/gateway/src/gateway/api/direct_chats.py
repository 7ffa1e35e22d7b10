"""Asks the very model that a caller names, without choice and without accounts."""

import secrets
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager

from penstock.gateway.v1 import gateway_pb2 as pb
from penstock.inference.v1 import inference_pb2 as inference
from servicekit.errors import PenstockError

from gateway.api.backends import Models
from gateway.api.upstream import closing, naming
from gateway.core.routes import Needs


class DirectCall:
    """A call to one model."""

    def __init__(self, models: Models, model: str, clock_s: Callable[[], float]) -> None:
        self._models = models
        self._model = model
        self._clock_s = clock_s
        self.routing = pb.Routing(call_id=f"call_{secrets.token_hex(12)}")

    async def complete(self, request: inference.CompleteRequest) -> inference.CompleteResponse:
        """Return the model's whole answer."""
        request.model = self._model
        with self._noting():
            return await self._models.complete(request)

    async def generate(self, request: inference.GenerateRequest) -> AsyncGenerator[inference.GenerateResponse, None]:
        """Write the model's answer piece by piece."""
        request.model = self._model
        with self._noting():
            async with closing(self._models.generate(request)) as events:
                async for event in events:
                    yield event

    @contextmanager
    def _noting(self) -> Iterator[None]:
        start_s = self._clock_s()
        attempt = self.routing.attempts.add(model=self._model, outcome="cancelled")
        try:
            with naming(self._model):
                yield
            attempt.outcome = "ok"
        except PenstockError as error:
            attempt.outcome = error.reason
            raise
        finally:
            attempt.duration_ms = (self._clock_s() - start_s) * 1000


class DirectChats:
    """Chats without routes, limits or a ledger."""

    def __init__(self, models: Models, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._models = models
        self._clock_s = clock_s

    def open(self, model: str, needs: Needs) -> DirectCall:  # noqa: ARG002  the model refuses what it cannot do
        """Begin a call to a model."""
        return DirectCall(self._models, model, self._clock_s)
