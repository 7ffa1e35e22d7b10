"""Runs a model on its replicas: chooses one, counts what it does, and tries another where that is right."""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Final, Protocol, TypeVar

from servicekit.errors import PenstockError
from servicekit.landed import Message

from inference.core.answer import Answer, Piece, TakeText
from inference.core.attempt import Attempt
from inference.core.generation import Order
from inference.core.ports import Generator, TensorRunner
from inference.core.replica import Replica
from inference.core.replica_measures import RETRIES, RETRIES_REFUSED
from inference.core.replicas import Replicas
from inference.core.retry import RetryBudget, may_go_elsewhere

LONGEST_KEY: Final = 1024
T = TypeVar("T")


class Trying(Protocol):
    """Runs a request on a replica, and again where that is right."""

    async def once(self, run: Callable[[Replica, float], Awaitable[T]], timeout_s: float, key: str = "") -> T:
        """Return what one answer brings, within `timeout_s` seconds for all attempts together."""
        ...

    def streamed(
        self, run: Callable[[Replica, float], AsyncGenerator[T, None]], timeout_s: float, key: str = ""
    ) -> AsyncGenerator[T, None]:
        """Yield what comes; there is no second attempt once anything has."""
        ...


class Attempts:
    """A request is tried once, and a second time on another replica when nothing of an answer has come."""

    def __init__(
        self, replicas: Replicas, budget: RetryBudget | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Take a model's replicas; the clock is in seconds."""
        self._replicas = replicas
        self._budget = budget or RetryBudget(clock)
        self._clock = clock

    async def once(self, run: Callable[[Replica, float], Awaitable[T]], timeout_s: float, key: str = "") -> T:
        """Return what one answer brings, within `timeout_s` for all attempts together."""
        start = self._clock()
        self._budget.earn()
        replica = self._replicas.choose(key)
        try:
            with Attempt(replica):
                return await run(replica, timeout_s)
        except PenstockError as error:
            other = self._elsewhere(replica, error)
            if other is None:
                raise
        with Attempt(other):
            return await run(other, max(0.0, timeout_s - (self._clock() - start)))

    async def streamed(
        self, run: Callable[[Replica, float], AsyncGenerator[T, None]], timeout_s: float, key: str = ""
    ) -> AsyncGenerator[T, None]:
        """Yield what comes; there is no second attempt once anything has."""
        start = self._clock()
        self._budget.earn()
        replica, begun, first = self._replicas.choose(key), False, True
        while True:
            try:
                with Attempt(replica):
                    async with aclosing(run(replica, max(0.0, timeout_s - (self._clock() - start)))) as parts:
                        async for part in parts:
                            begun = True
                            yield part
            except PenstockError as error:
                other = self._elsewhere(replica, error, final=begun or not first)
                if other is None:
                    raise
                replica, first = other, False
            else:
                return

    def _elsewhere(self, failed: Replica, error: PenstockError, *, final: bool = False) -> Replica | None:
        """Return who may try next, if it may be tried again and somebody is there."""
        if final or not may_go_elsewhere(error):
            return None
        other = self._replicas.another(failed)
        if other is None:
            return None
        if not self._budget.spend():
            RETRIES_REFUSED.labels(self._replicas.model).inc()
            return None
        RETRIES.labels(self._replicas.model, error.reason).inc()
        return other


class ReplicatedTensors:
    """A TensorRunner over the replicas of a model."""

    def __init__(self, trying: Trying) -> None:
        self._trying = trying

    async def infer(self, request: Message, timeout_s: float) -> bytes:
        """Return the ModelInferResponse of one replica. Raises InvalidInput, Unavailable or TimedOut."""
        return await self._trying.once(lambda replica, left_s: _tensors(replica).infer(request, left_s), timeout_s)

    def stream(self, request: bytes, timeout_s: float) -> AsyncGenerator[bytes, None]:
        """Yield the responses of one replica; closing the generator stops the backend."""
        return self._trying.streamed(lambda replica, left_s: _tensors(replica).stream(request, left_s), timeout_s)

    async def metadata(self, request: bytes, timeout_s: float) -> bytes:
        """Return the ModelMetadataResponse of one replica."""
        return await self._trying.once(lambda replica, left_s: _tensors(replica).metadata(request, left_s), timeout_s)

    async def config(self, request: bytes, timeout_s: float) -> bytes:
        """Return the ModelConfigResponse of one replica."""
        return await self._trying.once(lambda replica, left_s: _tensors(replica).config(request, left_s), timeout_s)


class ReplicatedGenerator:
    """A Generator over the replicas of a model; with `affinity`, conversations that begin alike stay together."""

    def __init__(self, trying: Trying, *, affinity: bool = False) -> None:
        self._trying = trying
        self._affinity = affinity

    def generate(self, order: Order, timeout_s: float, take: TakeText | None = None) -> AsyncGenerator[Piece, None]:
        """Yield the pieces of one replica's answer; closing the generator stops the backend."""
        return self._trying.streamed(
            lambda replica, left_s: _generator(replica).generate(order, left_s, take), timeout_s, self._key(order)
        )

    async def complete(self, order: Order, timeout_s: float) -> Answer:
        """Return the whole of one replica's answer."""
        return await self._trying.once(
            lambda replica, left_s: _generator(replica).complete(order, left_s), timeout_s, self._key(order)
        )

    def _key(self, order: Order) -> str:
        """Return what requests share that profit from the same replica: how their conversations begin.

        A conversation that goes on begins as it did before, so that it stays where its prefix is cached.
        """
        if not self._affinity:
            return ""
        return "\0".join(turn.content[:LONGEST_KEY] for turn in order.turns[:2])


def _tensors(replica: Replica) -> TensorRunner:
    tensors = replica.backend.tensors
    assert tensors is not None, "a model that takes tensors has replicas that do"
    return tensors


def _generator(replica: Replica) -> Generator:
    generator = replica.backend.generator
    assert generator is not None, "a model that writes has replicas that do"
    return generator
