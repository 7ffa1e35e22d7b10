"""A model of the catalogue as it is served: its queue, its state, its numbers, and what runs it."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[float]:
        """Hold a slot inside the block and yield the seconds that are left; count wait, duration and failure."""
        start = time.monotonic()
        allowed_s = self.allowed_s()
        try:
            async with self.queue.slot(allowed_s):
                yield self._left_s(start, allowed_s)
        except PenstockError as error:
            self.measures.failed(error.reason)
            raise
        except (asyncio.CancelledError, GeneratorExit):
            self.measures.failed("cancelled")
            raise
        except Exception:
            self.measures.failed("bug")
            raise
        finally:
            self.measures.duration_s.observe(time.monotonic() - start)

    def _left_s(self, start: float, allowed_s: float) -> float:
        """Return the seconds left after the wait; raise TimedOut when there are none, so that nothing is started."""
        waited_s = time.monotonic() - start
        self.measures.queue_wait_s.observe(waited_s)
        if waited_s >= allowed_s:
            raise TimedOut(f"the time for {self.model.name} was over before it could start")
        return allowed_s - waited_s
