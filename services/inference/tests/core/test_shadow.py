"""Shadows see what the champion saw, cost its callers nothing, and give way."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest
from inference.core import shadow
from inference.core.answer import Answer, Choice, Delta, FinishReason, Piece, Served, Usage
from inference.core.catalogue import Task
from inference.core.conversation import ToolCall, Turn
from inference.core.generation import Order
from inference.core.pool import Pool
from inference.core.registry import Registry
from inference.core.served_model import ServedModel
from inference.core.shadow import MOST_WAITING, MOST_WAITING_BYTES, SHADOWED, Difference, Mirror, Mirrored, Speech
from inference.core.shadow_guard import ENOUGH_BESIDE, LOWEST, QUIET_S, ShadowGuard
from inference.core.traffic import Caller, Candidate, Route
from inference.core.versioned_pool import VersionedPool
from inference_fakes import FakeGenerator, FakeTensors, generating, model
from inference_version_fakes import FakeVersionStore, SpellingLabels, assigned, digest, registered, running
from servicekit.errors import Unavailable
from servicekit.testing import eventually


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no shadow wait for an answer to be out, as the clock of these tests stands still, and keep findings soon."""
    monkeypatch.setattr(shadow, "DELAY_S", 0.0)
    monkeypatch.setattr(shadow, "KEEP_PERIOD_S", 0.02)


ORDER = Order([Turn("user", "Hi")])


class Clock:
    """Says the time it was set to; half a second past nought is in no quiet window."""

    def __init__(self) -> None:
        self.now = 0.5

    def __call__(self) -> float:
        return self.now


class GatedTensors(FakeTensors):
    """Answers once the gate is open."""

    def __init__(self, answer: bytes = b"") -> None:
        super().__init__(answer)
        self.gate = asyncio.Event()
        self.running = 0
        self.most = 0

    async def infer(self, request: bytes, timeout_s: float) -> bytes:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.gate.wait()
            return await super().infer(request, timeout_s)
        finally:
            self.running -= 1


@dataclass
class Stage:
    """A mirror that runs over a champion and a shadow."""

    shadow: FakeTensors = field(default_factory=lambda: FakeTensors(b"two"))
    clock: Clock = field(default_factory=Clock)
    random: float = 0.0
    store: FakeVersionStore = field(default_factory=FakeVersionStore)
    slots: int = 16

    def __post_init__(self) -> None:
        name = model().name
        limits = (self.slots, 100)
        champion = ServedModel(model(name, Task.TENSOR, limits), tensors=FakeTensors(b"one"))
        shadow = ServedModel(model(f"{name}-v2", Task.TENSOR, limits), tensors=self.shadow)
        self.champion, self.second = running(champion, 1), running(shadow, 2)
        self.pool = Pool([self.champion, self.second])
        entries = {each.model.name: each for each in (champion, shadow)}
        speech = Speech(SpellingLabels().asked, lambda ours, theirs: Difference(ours == theirs, 0.25))
        self.mirror = Mirror(self.pool, entries, speech, self.store, self.clock, lambda: self.random)
        candidate = Candidate("2", "default", shadow.model.name, digest(2))
        self.route = Route(name, shadow=(candidate,), shadow_share=10_000)

    def offer(self, request: bytes = b"r", seconds: float = 0.01, answer: bytes = b"one") -> None:
        self.mirror.offer(Mirrored(self.route, "", self.route.model, request, answer, seconds))

    def count(self, outcome: str) -> float:
        return float(SHADOWED.labels(self.route.model, outcome)._value.get())

    @asynccontextmanager
    async def on(self) -> AsyncIterator[None]:
        task = asyncio.ensure_future(self.mirror.run())
        try:
            yield
        finally:
            task.cancel()
            (ended,) = await asyncio.gather(task, return_exceptions=True)
            assert isinstance(ended, asyncio.CancelledError)


async def test_the_shadow_is_asked_the_same_and_the_difference_is_kept() -> None:
    stage = Stage()
    async with stage.on():
        stage.offer()
        await eventually(lambda: stage.store.compared)
    (compared,) = stage.store.compared
    assert stage.shadow.requests == [b"r>" + stage.second.model.name.encode()]
    assert (compared.champion, compared.shadow, compared.failure) == ("", "2", "")
    assert (compared.difference, compared.champion_ms) == (Difference(same=False, max_abs_diff=0.25), 10.0)
    assert stage.count("different") == 1


async def test_an_equal_answer_is_the_same() -> None:
    stage = Stage(shadow=FakeTensors(b"one"))
    async with stage.on():
        stage.offer()
        await eventually(lambda: stage.count("same") == 1)


@pytest.mark.parametrize(
    ("error", "failure"),
    [(Unavailable("down", reason="backend_failed"), "backend_failed"), (ValueError("a bug"), "bug")],
)
async def test_a_shadow_that_fails_fails_alone(
    error: Exception, failure: str, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage(shadow=FakeTensors(error=error))
    async with stage.on():
        for _ in range(20):
            stage.offer()
            await asyncio.sleep(0)
        await eventually(lambda: stage.count("failed") + stage.count("shed") == 20)
        await eventually(lambda: stage.store.compared)
    assert {each.failure for each in stage.store.compared} == {failure}
    assert ("a bug" in caplog.text) == (failure == "bug")


async def test_a_shadow_takes_a_bounded_share_of_its_slots() -> None:
    stage = Stage(shadow=GatedTensors(b"two"), slots=16)
    gated = stage.shadow
    assert isinstance(gated, GatedTensors)
    async with stage.on():
        for _ in range(50):
            stage.offer()
            await asyncio.sleep(0)
        await eventually(lambda: gated.running == 4)
        assert stage.count("shed") >= 40
        gated.gate.set()
        await eventually(lambda: gated.running == 0)
    assert gated.most == 4


@pytest.mark.parametrize("full", ["champion", "second"])
async def test_it_is_shed_as_long_as_callers_wait(full: str) -> None:
    stage = Stage(slots=1)
    crowded: ServedModel = getattr(stage, full)
    async with stage.on():
        slot = await crowded.queue.enter(1)
        waiting = asyncio.ensure_future(crowded.queue.enter(1))
        await eventually(lambda: crowded.queue.waiting == 1)
        stage.offer()
        assert (stage.count("shed"), stage.shadow.requests) == (1, [])
        crowded.queue.leave(slot)
        crowded.queue.leave(await waiting)
        stage.offer()
        await eventually(lambda: len(stage.shadow.requests) == 1)


async def test_a_shadow_that_is_not_what_was_registered_is_not_asked() -> None:
    stage = Stage()
    running(stage.second, 9)
    async with stage.on():
        stage.offer()
    assert (stage.count("shed"), stage.shadow.requests) == (1, [])


async def test_the_answer_is_out_before_the_shadow_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow, "DELAY_S", 0.02)
    stage = Stage()
    async with stage.on():
        stage.offer()
        await asyncio.sleep(0.05)  # two rounds of the worker, while the clock stands still
        assert stage.shadow.requests == []
        stage.clock.now += 0.021
        await eventually(lambda: len(stage.shadow.requests) == 1)


async def test_only_its_share_is_mirrored() -> None:
    stage = Stage(random=0.3)
    for share in (2_999, 3_001):
        stage.route = replace(stage.route, shadow_share=share)
        stage.offer()
    assert len(stage.mirror._waiting) == 1


async def test_what_waits_is_bounded_in_number_in_bytes_and_in_time() -> None:
    stage = Stage()
    for _ in range(MOST_WAITING + 5):
        stage.offer()
    assert (len(stage.mirror._waiting), stage.count("shed")) == (MOST_WAITING, 5)
    stage.clock.now += 3
    async with stage.on():
        await eventually(lambda: stage.count("shed") == MOST_WAITING + 5)
    assert stage.shadow.requests == []
    large = Stage()
    large.offer(b"x" * (MOST_WAITING_BYTES - 3))
    large.offer(b"")
    assert (len(large.mirror._waiting), large.count("shed")) == (1, 1)


async def test_a_store_that_is_away_loses_comparisons_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
    stage.store.away = True
    async with stage.on():
        stage.offer()
        await eventually(lambda: "are lost" in caplog.text)
        stage.store.away = False
        stage.offer()
        await eventually(lambda: len(stage.store.compared) == 1)


def test_the_guard_gives_way_when_the_champion_is_slower_beside_the_shadow_and_comes_back() -> None:
    clock = Clock()
    guard = ShadowGuard(clock)

    def rounds(count: int, beside_s: float) -> None:
        for _ in range(count):
            for _ in range(ENOUGH_BESIDE):
                clock.now += 1
                guard.answered(0.010)  # alone: no shadow ran in the last second
                guard.started()
                clock.now += 0.02
                guard.answered(beside_s)
                guard.ended()

    rounds(1, 0.0105)
    assert guard.level == 1.0
    rounds(3, 0.020)
    assert guard.level <= 1 / 8
    rounds(20, 0.020)
    assert guard.level == LOWEST
    rounds(12, 0.0105)
    assert guard.level == 1.0


def test_the_guard_keeps_a_window_in_which_the_champion_is_alone() -> None:
    clock = Clock()
    guard = ShadowGuard(clock)
    quiet = []
    for tenth_ms in range(20_000):
        clock.now = 100 + tenth_ms / 10_000
        quiet.append(guard.quiet())
    assert sum(quiet) == pytest.approx(QUIET_S * 10_000, rel=0.01)


async def test_in_the_quiet_window_and_at_a_low_level_nothing_is_mirrored() -> None:
    stage = Stage(random=0.5)
    stage.mirror._guard(stage.route.model).level = 0.4
    stage.offer()
    assert stage.count("shed") == 1
    stage.mirror._guard(stage.route.model).level = 1.0
    stage.clock.now = 2.05
    stage.offer()
    assert stage.count("shed") == 2
    stage.clock.now = 2.2
    stage.offer()
    assert (stage.count("shed"), len(stage.mirror._waiting)) == (2, 1)


CALL = Turn("assistant", "", tool_calls=[ToolCall(0, "c", "f", '{"a": 1}')])


class Speaker(FakeGenerator):
    """Writes a text or calls a function, in a stream or as a whole."""

    def __init__(self, turn: Turn, deltas: Sequence[Delta]) -> None:
        usage = Usage(1, 1, reported=True)
        end = Piece(deltas=[Delta(finish_reason=FinishReason.STOP)], usage=usage)
        super().__init__([Piece(Served("v1")), *(Piece(deltas=[each]) for each in deltas), end])
        self.answer = Answer(Served("v1"), [Choice(0, turn, FinishReason.STOP)], usage)

    async def complete(self, order: Order, timeout_s: float) -> Answer:
        self.orders.append(order)
        assert self.answer is not None
        return self.answer


def text(said: str) -> Speaker:
    return Speaker(Turn("assistant", said), [Delta(piece) for piece in said])


def call() -> Speaker:
    pieces = [ToolCall(0, "c", "f", '{"a"'), ToolCall(0, "", "", ": 1}")]
    return Speaker(CALL, [Delta(tool_calls=[each]) for each in pieces])


async def drained(pieces: AsyncGenerator[Piece, None]) -> None:
    async for _ in pieces:
        pass


@pytest.mark.parametrize(
    ("champion", "second", "detail"),
    [
        (text("Hello"), text("Hello"), None),
        (call(), call(), None),
        (text("Hello"), text("Help"), "choice 0 differs from character 3 on"),
        (text("Hello"), text("Hell"), "choice 0 differs from character 4 on"),
        (text("f"), call(), "choice 0 differs from character 1 on"),
    ],
)
@pytest.mark.parametrize("streaming", [True, False])
async def test_chats_are_compared_by_what_they_say(
    champion: Speaker, second: Speaker, detail: str | None, streaming: bool
) -> None:
    name = model().name
    served = [running(generating(champion, name), 1), running(generating(second, f"{name}-v2"), 2)]
    pool, store = Pool(served), FakeVersionStore()
    entries = {each.model.name: each for each in served}
    versions = Registry(store, entries)
    mirror = Mirror(pool, entries, Speech(SpellingLabels().asked, lambda *_: Difference(same=True)), store, Clock())
    versioned = VersionedPool(pool, versions.traffic, mirror, SpellingLabels(), Caller)
    await registered(versions, name, "2", f"{name}-v2", passed=False)
    await assigned(versions, name, shadow="2", shadow_percent=100)
    task = asyncio.ensure_future(mirror.run())
    if streaming:
        await drained(versioned.generate(name, ORDER))
    else:
        await versioned.complete(name, ORDER)
    await eventually(lambda: len(store.compared) == 1)
    assert store.compared[0].difference == Difference(detail is None, None, detail or "")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
