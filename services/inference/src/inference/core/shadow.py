"""Asks a shadow version what a champion was asked, beside the caller's way, and keeps how the answers differ."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from random import random as uniform
from typing import Final, Protocol

from servicekit.errors import PenstockError, Unavailable
from servicekit.landed import Message
from servicekit.telemetry.metrics import counter, gauge

from inference.core.answer import Answer
from inference.core.generation import Order
from inference.core.registry import first_servable
from inference.core.served_model import ServedModel
from inference.core.shadow_guard import ShadowGuard
from inference.core.traffic import SLOTS, Candidate, Route

CAPACITY_SHARE: Final = 0.25
"""Of the slots of the entry that runs a shadow, so many may be the shadow's at a time; one at least."""
WORKERS: Final = 8
MOST_WAITING: Final = 64
MOST_WAITING_BYTES: Final = 64 * 1024 * 1024
DELAY_S: Final = 0.02
"""A shadow is asked no earlier, so that the answer is out before anything competes with it."""
LONGEST_WAIT_S: Final = 2.0
LARGE_BYTES: Final = 256 * 1024
KEEP_PERIOD_S: Final = 1.0
MOST_UNKEPT: Final = 1_000

SHADOWED = counter(
    "penstock_inference_shadow_requests",
    "Requests that were to be mirrored, by what came of it: same, different, failed, or shed",
    ("model", "outcome"),
)
LEVEL = gauge("penstock_inference_shadow_level", "How much of its share the shadow may take, 0 to 1", ("model",))
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Difference:
    """How two answers differ; `max_abs_diff` is None where they cannot be subtracted, `detail` says where they do."""

    same: bool
    max_abs_diff: float | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One request that was mirrored: never its content, only how the answers differ and how long they took (ms)."""

    model: str
    champion: str
    shadow: str
    at: datetime
    difference: Difference
    champion_ms: float
    shadow_ms: float
    failure: str = ""


class ComparisonStore(Protocol):
    """Keeps comparisons; a bounded number of the latest for each model."""

    async def keep(self, comparisons: Sequence[Comparison]) -> None:
        """Add comparisons. Raises Unavailable."""
        ...


class ShadowRunner(Protocol):
    """Runs the catalogue's entries: the pool."""

    async def infer(self, name: str, request: Message) -> bytes:
        """Run a ModelInferRequest."""
        ...

    async def complete(self, name: str, order: Order) -> Answer:
        """Write an answer."""
        ...


@dataclass(frozen=True, slots=True)
class Mirrored:
    """A request that the champion has answered; `version` and `entry` are the champion's."""

    route: Route
    version: str
    entry: str
    request: Message | Order
    answer: bytes | tuple[str, ...]
    seconds: float

    @property
    def size(self) -> int:
        """Bytes of the messages; what a chat holds is small."""
        request, answer = self.request, self.answer
        return 0 if isinstance(request, Order) else len(request) + len(answer)


@dataclass(frozen=True, slots=True)
class Speech:
    """What is needed to mirror tensors: the request under another name, and the difference of two responses."""

    asked: Callable[[Message, str], Message]
    compare: Callable[[bytes, bytes], Difference]


class Mirror:
    """Mirrors requests to shadows with what capacity is left; it gives way first and touches no caller's answer."""

    def __init__(
        self,
        runner: ShadowRunner,
        entries: Mapping[str, ServedModel],
        tensors: Speech,
        store: ComparisonStore,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = uniform,
    ) -> None:
        """Take who runs entries, the entries, how tensors are read, where differences go, time (s) and chance."""
        self._runner = runner
        self._entries = entries
        self._tensors = tensors
        self._store = store
        self._clock = clock
        self._random = random
        self._guards: dict[str, ShadowGuard] = {}
        self._waiting: deque[tuple[float, Mirrored]] = deque()
        self._waiting_bytes = 0
        self._arrived = asyncio.Event()
        self._unkept: deque[Comparison] = deque(maxlen=MOST_UNKEPT)

    def offer(self, mirrored: Mirrored) -> None:
        """Take a request that was just answered, or leave it; returns at once either way."""
        route = mirrored.route
        guard = self._guard(route.model)
        guard.answered(mirrored.seconds)
        if self._random() * SLOTS >= route.shadow_share:
            return
        if guard.quiet() or self._random() >= guard.level or not self._room(mirrored):
            self._shed(route.model)
            return
        if len(self._waiting) >= MOST_WAITING or self._waiting_bytes + mirrored.size > MOST_WAITING_BYTES:
            self._shed(route.model)
            return
        self._waiting.append((self._clock(), mirrored))
        self._waiting_bytes += mirrored.size
        self._arrived.set()

    async def run(self) -> None:
        """Ask the shadows and keep what comes of it, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(WORKERS):
                tasks.create_task(self._work())
            tasks.create_task(self._keep())

    async def _work(self) -> None:
        while True:
            since, mirrored = await self._due()
            candidate = self._room(mirrored) if self._clock() - since <= LONGEST_WAIT_S else None
            if candidate is None:
                self._shed(mirrored.route.model)
            else:
                await self._ask(mirrored, candidate)

    async def _due(self) -> tuple[float, Mirrored]:
        """Return who has waited longest, once that was long enough."""
        while True:
            if not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            left_s = self._waiting[0][0] + DELAY_S - self._clock()
            if left_s <= 0:
                since, mirrored = self._waiting.popleft()
                self._waiting_bytes -= mirrored.size
                return since, mirrored
            await asyncio.sleep(left_s)

    async def _ask(self, mirrored: Mirrored, candidate: Candidate) -> None:
        guard, start = self._guard(mirrored.route.model), self._clock()
        guard.started()
        try:
            # a defect in what runs here may not end the pool, so it comes back as a value
            (found,) = await asyncio.gather(self._difference(mirrored, candidate), return_exceptions=True)
        finally:
            guard.ended()
        difference, failure = _outcome(found, mirrored.route.model)
        outcome = "failed" if failure else "same" if difference.same else "different"
        SHADOWED.labels(mirrored.route.model, outcome).inc()
        self._unkept.append(
            Comparison(
                mirrored.route.model,
                mirrored.version,
                candidate.version,
                datetime.now(UTC),
                difference,
                mirrored.seconds * 1e3,
                (self._clock() - start) * 1e3,
                failure,
            )
        )

    async def _difference(self, mirrored: Mirrored, candidate: Candidate) -> Difference:
        request, answer = mirrored.request, mirrored.answer
        if not isinstance(request, Order) and isinstance(answer, bytes):
            theirs = await self._runner.infer(candidate.served_by, self._tensors.asked(request, candidate.served_by))
            if len(answer) + len(theirs) < LARGE_BYTES:
                return self._tensors.compare(answer, theirs)
            return await asyncio.to_thread(self._tensors.compare, answer, theirs)
        assert isinstance(request, Order) and isinstance(answer, tuple), "a chat is answered with texts"
        written = await self._runner.complete(candidate.served_by, request)
        return _of_texts(answer, texts_of(written))

    def _room(self, mirrored: Mirrored) -> Candidate | None:
        """Return who of the shadow can be asked now without taking anything from the champion's callers."""
        candidate = first_servable(mirrored.route.shadow, self._entries)
        if candidate is None:
            return None
        shadow, champion = self._entries[candidate.served_by], self._entries[mirrored.entry]
        if champion.queue.waiting or shadow.queue.waiting:
            return None
        slots = shadow.model.queue.max_concurrent
        mine = self._guard(mirrored.route.model).running
        if mine >= max(1, int(slots * CAPACITY_SHARE)) or shadow.queue.running >= slots:
            return None
        return candidate

    def _guard(self, model: str) -> ShadowGuard:
        guard = self._guards.get(model)
        if guard is None:
            guard = self._guards[model] = ShadowGuard(self._clock)
            LEVEL.labels(model).set_function(lambda: guard.level)
        return guard

    def _shed(self, model: str) -> None:
        SHADOWED.labels(model, "shed").inc()

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(KEEP_PERIOD_S)
            batch = list(self._unkept)
            self._unkept.clear()
            if batch:
                await self._kept(self._store.keep(batch), len(batch))

    async def _kept(self, keeping: Awaitable[None], count: int) -> None:
        try:
            await keeping
        except Unavailable as error:
            log.warning("%d comparisons with shadows are lost: %s", count, error.message)


def texts_of(answer: Answer) -> tuple[str, ...]:
    """Return what a whole answer says, choice by choice: its text, and the calls it asks for."""
    return tuple(
        choice.turn.content + "".join(f"{call.name}({call.arguments}" for call in choice.turn.tool_calls)
        for choice in answer.choices
    )


def _outcome(found: Difference | BaseException, model: str) -> tuple[Difference, str]:
    """Return how the answers differ, and why there is no second one."""
    if isinstance(found, Difference):
        return found, ""
    if isinstance(found, PenstockError):
        return Difference(same=False), found.reason
    if isinstance(found, Exception):
        log.error("mirroring %s failed", model, exc_info=found)
        return Difference(same=False), "bug"
    raise found


def _of_texts(ours: tuple[str, ...], theirs: tuple[str, ...]) -> Difference:
    if ours == theirs:
        return Difference(same=True)
    if len(ours) != len(theirs):
        return Difference(same=False, detail=f"{len(ours)} choices against {len(theirs)}")
    index = next(number for number, (one, other) in enumerate(zip(ours, theirs, strict=True)) if one != other)
    one, other = ours[index], theirs[index]
    at = next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
    return Difference(same=False, detail=f"choice {index} differs from character {at} on")
