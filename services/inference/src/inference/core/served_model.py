"""A model of the catalogue as it is served: its queue, its state, its numbers, and what runs it."""

import asyncio
import logging
import time
from dataclasses import replace
from typing import Final

from servicekit import deadline
from servicekit.errors import PenstockError, TimedOut

from inference.core.admission import Admission
from inference.core.catalogue import Model
from inference.core.measures import Measures
from inference.core.ports import Generator, ModelState, Prober, TensorRunner

PROBE_TIMEOUT_S: Final = 3.0
log = logging.getLogger(__name__)


class ServedModel:
    """A model of the catalogue with its queue, its latest state, and what runs it."""

    def __init__(
        self,
        model: Model,
        *,
        generator: Generator | None = None,
        tensors: TensorRunner | None = None,
        prober: Prober | None = None,
        state: ModelState | None = None,
    ) -> None:
        """Take the entry and what it can do; `state` is what is known without a prober."""
        self.model = model
        self.generator = generator
        self.tensors = tensors
        self.prober = prober
        self.queue = Admission(model.name, model.queue)
        self.measures = Measures(model.name)
        self.measures.in_flight.set_function(lambda: self.queue.running)
        self.measures.waiting.set_function(lambda: self.queue.waiting)
        self.state = state or ModelState(ready=False, reason="not_probed")
        self.measures.ready.set(self.state.ready)

    async def probe(self) -> None:
        """Ask the backend for the model's state and log when it changes; version and digest outlast its absence."""
        if self.prober is None:
            return
        state = await self.prober.probe(PROBE_TIMEOUT_S)
        if not state.ready:
            state = replace(state, version=self.state.version, digest=self.state.digest)
        if state != self.state:
            log.info("model %s is %s", self.model.name, "ready" if state.ready else f"not ready: {state.reason}")
        self.state = state
        self.measures.ready.set(state.ready)

    def allowed_s(self) -> float:
        """Return the seconds a request may take from now on: the model's bound, or what is left of the deadline."""
        remaining_s = deadline.remaining_s()
        return self.model.timeout_s if remaining_s is None else min(remaining_s, self.model.timeout_s)

    def admitted(self) -> "Admitted":
        """Hold a slot inside an `async with`, which yields the seconds left; count wait, duration and failure."""
        return Admitted(self)


class Admitted:
    """A request that holds a slot of its model, and is counted; a class for the sake of speed."""

    __slots__ = ("_entered", "_served", "_start")

    def __init__(self, served: ServedModel) -> None:
        """Take the model."""
        self._served = served
        self._start = time.monotonic()
        self._entered: float | None = None

    async def __aenter__(self) -> float:
        """Wait for a slot and return the seconds left; raise TimedOut when there are none, so that nothing starts."""
        served = self._served
        allowed_s = served.allowed_s()
        try:
            self._entered = await served.queue.enter(allowed_s)
            return self._left_s(allowed_s)
        except BaseException as error:
            self._end(error)
            raise

    async def __aexit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Give the slot back."""
        self._end(error)

    def _left_s(self, allowed_s: float) -> float:
        waited_s = time.monotonic() - self._start
        self._served.measures.queue_wait_s.observe(waited_s)
        if waited_s >= allowed_s:
            raise TimedOut(f"the time for {self._served.model.name} was over before it could start")
        return allowed_s - waited_s

    def _end(self, error: BaseException | None) -> None:
        served = self._served
        if self._entered is not None:
            served.queue.leave(self._entered)
        served.measures.duration_s.observe(time.monotonic() - self._start)
        if isinstance(error, PenstockError):
            served.measures.failed(error.reason)
        elif isinstance(error, asyncio.CancelledError | GeneratorExit):
            served.measures.failed("cancelled")
        elif isinstance(error, Exception):
            served.measures.failed("bug")
