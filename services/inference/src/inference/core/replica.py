"""A replica of a model: one server as far as the model is concerned, how busy it is, and what is known of it."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

from servicekit.errors import PenstockError, TimedOut

from inference.core.breaker import Breaker, Position
from inference.core.choice import slow_start
from inference.core.execution import ExecutionReader
from inference.core.golden import Outcome, Verdict, judge
from inference.core.ports import (
    BACKEND_FAILED,
    DRAINING,
    GOLDEN_FAILED,
    LOADING,
    NOT_LOADED,
    OTHER_DIGEST,
    SILENT,
    ArrayRunner,
    BackendLost,
    Generator,
    ModelState,
    NotServing,
    Prober,
    TensorRunner,
)
from inference.core.replica_measures import ReplicaMeasures

PROBE_TIMEOUT_S: Final = 3.0
MOST_SILENCES: Final = 2
"""Probes without an answer after which what a server was asked is given up."""
SHORTEST_GOLDEN_PERIOD_S: Final = 1.0
"""However often calls fail, golden questions are not asked more often for it."""
NOT_PROBED: Final = ModelState(ready=False, reason="not_probed")
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds: between looks at a replica, between golden probes, for one golden case, and until a newcomer has its
    whole share of the requests.
    """

    probe_period_s: float = 1.0
    golden_period_s: float = 10.0
    golden_timeout_s: float = 5.0
    slow_start_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Backend:
    """What runs one model at one address; without a prober it counts as ready."""

    tensors: TensorRunner | None = None
    generator: Generator | None = None
    prober: Prober | None = None
    arrays: ArrayRunner | None = None
    executions: ExecutionReader | None = None


class Server:
    """An address, and how much runs there, whichever model it is; `leaving` when it is to get nothing new."""

    __slots__ = ("_reset", "address", "leaving", "outstanding")

    def __init__(self, address: str, reset: Callable[[], Awaitable[None]] | None = None) -> None:
        """Take what gives a silent connection up, so that the calls on it fail and can be tried elsewhere."""
        self.address = address
        self.leaving = False
        self.outstanding = 0
        self._reset = reset

    async def give_up(self) -> None:
        """Have the calls fail that wait for this server, if there are any."""
        if self._reset is not None and self.outstanding:
            log.warning("server %s is silent: %d requests on it are given up", self.address, self.outstanding)
            await self._reset()


class Replica:
    """A server as far as one model is concerned."""

    def __init__(
        self,
        model: str,
        server: Server,
        backend: Backend,
        *,
        timing: Timing = Timing(),
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Take whose replica it is; `changed` is called when it comes into rotation or leaves it."""
        self.model = model
        self.server = server
        self.backend = backend
        self.breaker = Breaker()
        self.state = NOT_PROBED if backend.prober else ModelState(ready=True)
        self.verdict: Verdict | None = None
        self.ejections = 0
        self.changed: Callable[[], None] = _nothing
        self._timing = timing
        self._clock = clock
        self._wall_clock = wall_clock
        self._wake = asyncio.Event()
        self._proven = backend.prober is None
        self._losses = 0
        self._silences = 0
        self._calls = 0
        self._asked_at = 0.0
        self._golden_due_at = 0.0
        self._wrongs = 0
        self._suspected = False
        self._rotating_since: float | None = None
        self.warming = False
        self.apart = False
        self.held = False
        """Whether the model comes and goes with what is asked: that it went is no ejection then."""
        self._measures = ReplicaMeasures(model, server.address)
        self._measures.outstanding.set_function(lambda: server.outstanding)
        self._tell()

    @property
    def address(self) -> str:
        """What tells it from the other replicas."""
        return self.server.address

    @property
    def outstanding(self) -> int:
        """How many requests its server has not answered yet."""
        return self.server.outstanding

    @property
    def sound(self) -> bool:
        """Whether its answers can be trusted: it is ready, and its golden probe has passed since it became so."""
        return self.state.ready and self._proven and not self.server.leaving

    @property
    def in_rotation(self) -> bool:
        """Whether it may get requests."""
        return self.sound and not self.apart and self.breaker.position is not Position.OPEN

    def weight(self) -> float:
        """Return how much of its share it should get: less while it is new."""
        if not self.warming or self._rotating_since is None:
            return 1.0
        return slow_start(self._clock() - self._rotating_since, self._timing.slow_start_s)

    def enter(self) -> None:
        """Count a request that begins; one of `succeeded`, `failed` and `left` ends it."""
        self.server.outstanding += 1
        self._calls += 1

    def succeeded(self) -> None:
        """Count a request that went well."""
        self.server.outstanding -= 1
        self.breaker.succeeded()

    def left(self) -> None:
        """Count a request that ended in a way that says nothing of the replica."""
        self.server.outstanding -= 1

    def failed(self, error: PenstockError) -> None:
        """Count a request that failed. Who is lost or lacks the model leaves at once, others are looked into."""
        self.server.outstanding -= 1
        if isinstance(error, BackendLost | NotServing):
            self.lose(error.reason)
        elif isinstance(error, TimedOut):
            self.breaker.timed_out()
        elif error.reason == BACKEND_FAILED:
            self._suspected = True
            self._wake.set()
            if self.breaker.failed(self._clock()):
                self._opened("breaker")

    def lose(self, reason: str = BACKEND_FAILED) -> None:
        """Take the server for dead, or the model for gone, until a probe shows that it is there and answers right."""
        if self.backend.prober is None:
            return
        self._losses += 1
        self._turn(replace(self.state, ready=False, reason=reason, detail=""))
        self._wake.set()

    def outlies(self) -> None:
        """Leave rotation, because the peers do far better."""
        self.breaker.open(self._clock())
        self._opened("outlier")

    def stand(self, *, apart: bool) -> None:
        """Stay out of rotation while it is `apart`, because the others have another version of the model."""
        if apart != self.apart:
            self.apart = apart
            log.info("replica %s of %s has %s digest", self.address, self.model, "another" if apart else "the same")
            self._rotating_since = None if apart else self._clock()
            self._tell()

    def doubt(self) -> None:
        """Have it prove itself again before it gets anything: its model has been loaded anew."""
        self._proven, self._golden_due_at = False, 0.0
        self._update()

    def retire(self) -> None:
        """Take nothing new: the address is going away."""
        self.server.leaving = True
        self._update()

    def forget(self) -> None:
        """Drop what is told of it."""
        self._measures.forget()

    async def watch(self) -> None:
        """Look at it again and again, and at once after a failure, until cancelled."""
        while True:
            await self.check()
            try:
                async with asyncio.timeout(self._timing.probe_period_s):
                    await self._wake.wait()
            except TimeoutError:
                continue
            self._wake.clear()
            # a server that is down answers at once: without a pause each failed call would cost a probe
            await asyncio.sleep(min(0.05, self._timing.probe_period_s))

    async def check(self) -> None:
        """Probe once, ask the golden questions when it is time, and decide about the rotation."""
        if self.backend.prober is None:
            return
        losses = self._losses
        state = await self.backend.prober.probe(PROBE_TIMEOUT_S)
        self._silences = self._silences + 1 if state.detail == SILENT else 0
        if self._silences >= MOST_SILENCES:
            await self.server.give_up()
        if losses != self._losses:
            return  # it died while it was asked: what it said is old
        if not state.ready:
            state = replace(state, version=self.state.version, digest=self.state.digest)
        elif state.version != self.state.version or state.digest != self.state.digest:
            self._proven, self._golden_due_at = False, 0.0
        self._turn(state)
        if state.ready:
            await self._prove(losses)
        self._count()

    async def _prove(self, losses: int) -> None:
        """Ask the golden questions if it is time to, and act on the answers."""
        now = self._clock()
        due = self.breaker.due(now)
        golden = self.state.golden
        if golden is None:
            self._proven = True
        elif due or self._asks(now):
            self._suspected, self._asked_at = False, now
            self._golden_due_at = now + self._timing.golden_period_s
            backend = self.backend
            verdict = await judge(
                golden, backend.arrays, backend.generator, self._timing.golden_timeout_s, self._wall_clock
            )
            if losses == self._losses:
                self._judged(verdict)
        if due and self.sound:
            self.breaker.try_again()
            self._rotating_since = None
        self._update()

    def _asks(self, now: float) -> bool:
        return now >= self._golden_due_at or (self._suspected and now >= self._asked_at + SHORTEST_GOLDEN_PERIOD_S)

    def _judged(self, verdict: Verdict) -> None:
        if verdict.lost:
            self.lose()
            return
        self.verdict = verdict
        if verdict.outcome is Outcome.PASSED:
            self._wrongs, self._proven = 0, True
            self._measures.golden(passed=True)
            return
        self._golden_due_at = self._clock() + min(self._timing.golden_period_s, 2.0**self._wrongs)
        if verdict.outcome is Outcome.WRONG:
            self._wrongs = min(self._wrongs + 1, 16)
            self._measures.golden(passed=False)
            if self._proven or self._wrongs == 1:
                log.warning("replica %s of %s answers wrongly: %s", self.address, self.model, verdict.detail)
            if self._proven:
                self._out(GOLDEN_FAILED)
            self._proven = False

    def told(self) -> ModelState:
        """Return the state with the reason for which it is out of rotation, if it is."""
        if self.in_rotation:
            return self.state
        if not self.state.ready:
            return self.state
        if self.server.leaving:
            return replace(self.state, ready=False, reason=DRAINING)
        if not self._proven:
            detail = self.verdict.detail if self.verdict else ""
            wrong = self.verdict is not None and self.verdict.outcome is Outcome.WRONG
            return replace(self.state, ready=False, reason=GOLDEN_FAILED if wrong else "not_probed", detail=detail)
        if self.apart:
            return replace(self.state, ready=False, reason=OTHER_DIGEST, detail="other replicas have another digest")
        return replace(self.state, ready=False, reason=BACKEND_FAILED, detail="breaker open")

    def _turn(self, state: ModelState) -> None:
        """Take over what was found; what becomes unready has to prove itself again."""
        if not state.ready:
            if self.state.ready:
                log.info("replica %s of %s is not ready: %s %s", self.address, self.model, state.reason, state.detail)
                if not (self.held and state.reason in (NOT_LOADED, LOADING)):
                    self._out(state.reason)
            self._proven = False
            self._golden_due_at = 0.0
        if state != self.state:
            self.state = state
            self._update()

    def _opened(self, reason: str) -> None:
        log.warning("replica %s of %s is out of rotation: %s", self.address, self.model, reason)
        self._out(reason)
        self._update()

    def _out(self, reason: str) -> None:
        if self._rotating_since is not None:
            self.ejections += 1
            self._measures.ejected(reason)

    def _update(self) -> None:
        """Note when it came into rotation, and tell who listens when that has changed."""
        rotating = self.in_rotation
        if rotating and self._rotating_since is None:
            self._rotating_since = self._clock()
            self.warming = True
            log.info("replica %s of %s is in rotation", self.address, self.model)
        elif not rotating:
            self._rotating_since = None
        self._tell()
        self.changed()

    def _count(self) -> None:
        """Bring the metrics up to date, which the requests themselves leave to this."""
        calls, self._calls = self._calls, 0
        self._measures.calls.inc(calls)
        if self.warming and self.weight() >= 1.0:
            self.warming = False

    def _tell(self) -> None:
        self._measures.in_rotation.set(self.in_rotation)


def _nothing() -> None:
    """Listen to nothing."""
