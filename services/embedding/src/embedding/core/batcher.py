"""Sends the waiting texts of all callers to the encoder, in batches of similar length."""

import asyncio
import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from servicekit.errors import Unavailable
from servicekit.telemetry import AttributeValue, Kind, genai, span

from embedding.core import metrics
from embedding.core.flight import Flight, Waiter
from embedding.core.length_queue import BatchLimits, LengthQueue
from embedding.core.ports import Encoder, Fingerprint


class QueueFull(Unavailable):
    """More texts wait for the encoder than the service may hold."""

    default_reason = "queue_full"


@dataclass(frozen=True, slots=True)
class BatcherLimits:
    """Bounds of the batches, how many run at once, and how many texts may wait."""

    batch: BatchLimits
    concurrent: int = 2
    waiting: int = 16_384


@dataclass(eq=False, slots=True)
class _Batch:
    flights: list[Flight]
    fingerprint: Fingerprint
    leader: Waiter
    task: asyncio.Task[None] | None = field(default=None)
    has_slot: bool = True


class Batcher:
    """Pools texts while every slot is taken; when a slot is free a text departs at once, alone if need be.

    A batch mixes callers. It is sent in the context of its leader, the caller with the latest deadline (the first of
    them, in order of turn): under his identity, within his deadline, and as a child of his span. Every caller in it
    has passed the same scope check, vectors do not depend on who asks, and each still waits only for his own deadline.
    """

    def __init__(self, encoder: Encoder, limits: BatcherLimits) -> None:
        """Nothing departs until `run` runs."""
        self._encoder = encoder
        self._limits = limits
        self._queue = LengthQueue()
        self._free = limits.concurrent
        self._wake = asyncio.Event()
        self._underway: dict[Flight, _Batch] = {}
        self._tasks = asyncio.TaskGroup()

    def submit(self, flights: Sequence[Flight]) -> None:
        """Queue the flights of one request. Raises QueueFull, having queued none."""
        if len(self._queue) + len(flights) > self._limits.waiting:
            raise QueueFull(f"{len(self._queue)} texts wait already", retry_after_s=1.0)
        self._queue.add(flights)
        self._wake.set()

    def drop(self, flights: Sequence[Flight]) -> None:
        """Give up flights that nobody waits for: those queued, and batches under way without any waiter left."""
        for flight in flights:
            if self._queue.drop(flight):
                flight.abandon()
        for batch in {batch for flight in flights if (batch := self._underway.get(flight))}:
            if not any(flight.waiters for flight in batch.flights):
                for flight in batch.flights:
                    flight.abandon()
                if batch.task is not None:
                    batch.task.cancel()

    async def run(self) -> None:
        """Send batches until cancelled; whoever still waits then is told that the service is draining."""
        try:
            async with self._tasks:
                while True:
                    await self._wake.wait()
                    self._wake.clear()
                    self._depart()
        finally:
            for flight in itertools.chain.from_iterable(iter(lambda: self._queue.take(self._limits.batch), [])):
                flight.fail(_draining())

    def _depart(self) -> None:
        while self._free and (flights := self._queue.take(self._limits.batch)):
            # Flights of another fingerprint, queued before it changed, go by themselves.
            fingerprint = flights[0].fingerprint
            same = [flight for flight in flights if flight.fingerprint is fingerprint]
            self._queue.add([flight for flight in flights if flight.fingerprint is not fingerprint])
            waiters = [waiter for flight in same for waiter in flight.waiters]
            batch = _Batch(same, fingerprint, max(waiters, key=lambda waiter: waiter.deadline_s))
            self._free -= 1
            self._underway |= dict.fromkeys(same, batch)
            batch.task = self._tasks.create_task(self._encode(batch), context=batch.leader.context.copy())
            batch.task.add_done_callback(functools.partial(self._arrived, batch))

    async def _encode(self, batch: _Batch) -> None:
        flights, model = batch.flights, batch.fingerprint.model
        attributes: dict[str, AttributeValue] = {
            genai.OPERATION_NAME: genai.EMBEDDINGS,
            genai.PROVIDER_NAME: "penstock",
            genai.REQUEST_MODEL: model,
            genai.EMBEDDINGS_DIMENSION_COUNT: batch.fingerprint.dimensions,
            genai.USAGE_INPUT_TOKENS: sum(flight.length for flight in flights),
            "penstock.batch.texts": len(flights),
        }
        try:
            with span(f"{genai.EMBEDDINGS} {model}", Kind.CLIENT, attributes), metrics.batch(model, flights):
                vectors = await self._encoder.encode(
                    [flight.tokens for flight in flights], batch.fingerprint.dimensions
                )
            self._free_slot(batch)
            self._depart()
            await asyncio.sleep(0)  # the next batch goes out first: the encoder must not wait while answers are written
            for flight, vector in zip(flights, vectors, strict=True):
                flight.land(vector)
        except Exception as error:  # noqa: BLE001  not handled here: it is raised in every caller that waits
            for flight in flights:
                flight.fail(error)

    def _arrived(self, batch: _Batch, task: asyncio.Task[None]) -> None:
        """Free the slot; a callback of the task, because one that is cancelled before its first step runs no line."""
        for flight in batch.flights:
            del self._underway[flight]
            if task.cancelled():
                flight.fail(_draining())
        self._free_slot(batch)
        self._wake.set()

    def _free_slot(self, batch: _Batch) -> None:
        if batch.has_slot:
            batch.has_slot = False
            self._free += 1


def _draining() -> Unavailable:
    return Unavailable("the service is stopping", reason="draining")
