"""A model of the catalogue as it is served: its queue, its state, its numbers, and what runs it."""

import asyncio
import time

from servicekit import deadline
from servicekit.errors import PenstockError, TimedOut
from servicekit.load.lane import Slot

from inference.core import work_clock
from inference.core.admission import Admission, Asker, nobody
from inference.core.catalogue import Model
from inference.core.measures import Measures
from inference.core.ports import Generator, ModelState, TensorRunner
from inference.core.replicas import Replicas


class ServedModel:
    """A model of the catalogue with its queue, its latest state, and what runs it."""

    def __init__(
        self,
        model: Model,
        *,
        generator: Generator | None = None,
        tensors: TensorRunner | None = None,
        replicas: Replicas | None = None,
        state: ModelState | None = None,
        asker: Asker = nobody,
    ) -> None:
        """Take the entry, what runs it, and the replicas below that; `state` is what is known without replicas."""
        self.model = model
        self.generator = generator
        self.tensors = tensors
        self.replicas = replicas
        self.queue = Admission(model.name, model.queue, asker)
        self.measures = Measures(model.name)
        self.measures.in_flight.set_function(lambda: self.queue.running)
        self.measures.waiting.set_function(lambda: self.queue.waiting)
        self.state = state or ModelState(ready=False, reason="not_probed")
        self.measures.ready.set(self.state.ready)
        if replicas is not None:
            replicas.changed = self._follow
            self._follow()

    def _follow(self) -> None:
        """Take over the state of the replicas."""
        assert self.replicas is not None, "only replicas call this"
        self.state = self.replicas.state
        self.measures.ready.set(self.state.ready)

    async def watch(self) -> None:
        """Keep the state up to date, until cancelled."""
        if self.replicas is not None:
            await self.replicas.watch()

    def allowed_s(self) -> float:
        """Return the seconds a request may take from now on: the model's bound, or what is left of the deadline."""
        remaining_s = deadline.remaining_s()
        return self.model.timeout_s if remaining_s is None else min(remaining_s, self.model.timeout_s)

    def admitted(self) -> "Admitted":
        """Hold a slot inside an `async with`, which yields the seconds left; count wait, duration and failure."""
        return Admitted(self)


class Admitted:
    """A request that holds a slot of its model, and is counted; a class for the sake of speed."""

    __slots__ = ("_began", "_beside", "_entered", "_served", "_start")

    def __init__(self, served: ServedModel) -> None:
        """Take the model."""
        self._served = served
        self._start = self._began = time.monotonic()
        self._beside = 0
        self._entered: Slot | None = None

    async def __aenter__(self) -> float:
        """Wait for a slot and return the seconds left; raise TimedOut when there are none, so that nothing starts."""
        served = self._served
        allowed_s = served.allowed_s()
        served.measures.arrived(self._start)
        try:
            self._entered = await served.queue.enter(allowed_s)
            work_clock.begin(self)
            return self._left_s(allowed_s)
        except BaseException as error:
            self._end(error)
            raise

    async def __aexit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Give the slot back."""
        self._end(error)

    def first_text(self) -> None:
        """Say that the answer has begun: the latency of a stream is that of its first text."""
        if self._entered is not None:
            self._entered.first_byte()

    def paused(self, seconds: float) -> None:
        """Take what it waited for a load out of the time that it has held its slot."""
        self._began += seconds
        if self._entered is not None:
            self._entered.began_s += seconds

    def _left_s(self, allowed_s: float) -> float:
        self._began = time.monotonic()
        self._beside = self._served.queue.running
        waited_s = self._began - self._start
        self._served.measures.began(self._began, waited_s)
        if waited_s >= allowed_s:
            raise TimedOut(f"the time for {self._served.model.name} was over before it could start")
        return allowed_s - waited_s

    def _end(self, error: BaseException | None) -> None:
        served = self._served
        if self._entered is not None:
            served.queue.leave(self._entered, error)
        now_s = time.monotonic()
        served.measures.duration_s.observe(now_s - self._start)
        if error is None:
            served.measures.answered(self._beside, now_s - self._began)
        elif isinstance(error, PenstockError):
            served.measures.failed(error.reason)
        elif isinstance(error, asyncio.CancelledError | GeneratorExit):
            served.measures.failed("cancelled")
        elif isinstance(error, Exception):
            served.measures.failed("bug")
