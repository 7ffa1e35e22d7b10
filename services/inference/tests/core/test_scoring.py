"""Scoring: in order, a few at a time, patient with a busy model, and stopped when nobody listens."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing

import pytest
from inference.core.scoring import LARGEST_WINDOW, MOST_BYTES, Row, Scored, Scorer
from servicekit.errors import InvalidInput, NotFound, TimedOut, Unavailable
from servicekit.testing import eventually


class Model:
    """Answers rows in the order it is told to, or at once; fails as it is told first."""

    def __init__(self, failures: Iterable[Exception] = (), held: bool = False) -> None:
        self.failures = list(failures)
        self.held = held
        self.gates: dict[bytes, asyncio.Event] = {}
        self.running: set[bytes] = set()
        self.most_running = 0
        self.asked: list[bytes] = []

    async def infer(self, _name: str, request: bytes) -> bytes:
        self.asked.append(request)
        if self.failures:
            raise self.failures.pop(0)
        self.running.add(request)
        self.most_running = max(self.most_running, len(self.running))
        try:
            if self.held:
                self.gates[request] = asyncio.Event()
                await self.gates[request].wait()
        finally:
            self.running.discard(request)
        return b"answer to " + request


class Pauses:
    """Sleeps without sleeping, and remembers how long; its clock follows."""

    def __init__(self) -> None:
        self.slept_s: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        await asyncio.sleep(0)

    def clock_s(self) -> float:
        return sum(self.slept_s)


async def rows_of(*offsets: int, read: list[int] | None = None, size: int = 1) -> AsyncGenerator[Row, None]:
    for offset in offsets:
        if read is not None:
            read.append(offset)
        yield Row(offset, b"%d" % offset * size)


async def scored(model: Model, rows: AsyncIterator[Row], from_offset: int = 0, **how: Pauses) -> list[Scored]:
    pauses = how.get("pauses") or Pauses()
    scorer = Scorer(model.infer, pauses.sleep, pauses.clock_s)
    return [each async for each in scorer.score("m", rows, from_offset, window=4)]


async def test_answers_every_row_with_its_offset() -> None:
    assert await scored(Model(), rows_of(0, 1, 5)) == [
        Scored(0, b"answer to 0"),
        Scored(1, b"answer to 1"),
        Scored(5, b"answer to 5"),
    ]
    assert await scored(Model(), rows_of()) == []


async def test_answers_in_order_whichever_is_done_first_and_runs_no_more_than_the_window() -> None:
    model, read, found = Model(held=True), list[int](), list[int]()

    async def collect() -> None:
        async for each in Scorer(model.infer).score("m", rows_of(*range(10), read=read), window=4):
            found.append(each.offset)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(collect())
        await eventually(lambda: len(model.running) == 4)
        assert read == [0, 1, 2, 3], "what sends is held back"
        for request in (b"3", b"1"):
            model.gates[request].set()
        await eventually(lambda: len(model.running) == 2)
        assert found == []
        model.gates[b"0"].set()
        await eventually(lambda: found == [0, 1])
        await eventually(lambda: read == [0, 1, 2, 3, 4, 5])
        model.held = False
        for gate in model.gates.values():
            gate.set()
        await eventually(lambda: len(found) >= 4)
        for gate in model.gates.values():
            gate.set()
    assert found == list(range(10))
    assert model.most_running == 4


async def test_an_answer_does_not_wait_for_the_next_row() -> None:
    more = asyncio.Event()

    async def slowly() -> AsyncGenerator[Row, None]:
        yield Row(0, b"0")
        await more.wait()

    async with aclosing(Scorer(Model().infer).score("m", slowly())) as answers:
        assert (await asyncio.wait_for(anext(answers), 1)).offset == 0
        more.set()
        assert await anext(answers, None) is None


async def test_large_rows_are_few_at_a_time() -> None:
    model, read = Model(held=True), list[int]()
    rows = rows_of(*range(1, 9), read=read, size=MOST_BYTES // 2)
    async with aclosing(Scorer(model.infer).score("m", rows, window=LARGEST_WINDOW)) as answers:
        waiting = asyncio.ensure_future(anext(answers))
        await eventually(lambda: len(model.running) == 2)
        await asyncio.sleep(0.02)
        assert read == [1, 2]
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def test_resumes_where_it_is_told_to() -> None:
    model = Model()
    assert [each.offset for each in await scored(model, rows_of(0, 1, 2, 3), from_offset=2)] == [2, 3]
    assert model.asked == [b"2", b"3"]


@pytest.mark.parametrize("offsets", [(1, 1), (2, 1), (0, 5, 4)])
async def test_offsets_have_to_rise(offsets: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInput) as caught:
        await scored(Model(), rows_of(*offsets))
    assert caught.value.field == "row.offset"


async def test_waits_for_a_model_that_is_busy_as_long_as_it_says_within_bounds() -> None:
    busy = [
        Unavailable("x", reason="queue_full", retry_after_s=2.0),
        Unavailable("x", reason="queue_timeout", retry_after_s=60.0),
        Unavailable("x", reason="loading"),
        Unavailable("x", reason="queue_full", retry_after_s=0.0),
    ]
    pauses, model = Pauses(), Model(busy)
    assert await scored(model, rows_of(7), pauses=pauses) == [Scored(7, b"answer to 7")]
    assert pauses.slept_s == [2.0, 5.0, 0.05, 0.05]


async def test_gives_a_row_up_when_the_model_stays_busy() -> None:
    failures = [Unavailable("x", reason="not_loaded", retry_after_s=5.0) for _ in range(200)]
    pauses = Pauses()
    (found,) = await scored(Model(failures), rows_of(0), pauses=pauses)
    assert found.failure is not None
    assert found.failure.reason == "not_loaded"
    assert sum(pauses.slept_s) == 600.0


async def test_a_backend_that_fails_is_tried_three_times() -> None:
    model = Model([Unavailable("x", reason="backend_failed") for _ in range(5)])
    found = await scored(model, rows_of(0))
    assert found[0].failure is not None
    assert len(model.asked) == 3


@pytest.mark.parametrize("error", [InvalidInput("bad"), TimedOut("late")])
async def test_a_row_that_fails_does_not_end_the_others(error: Exception) -> None:
    first, second = await scored(Model([error]), rows_of(0, 1))
    assert first == Scored(0, failure=error)  # type: ignore[arg-type]
    assert second == Scored(1, b"answer to 1")


@pytest.mark.parametrize("error", [Unavailable("x", reason="draining"), NotFound("x"), ZeroDivisionError()])
async def test_what_would_hit_every_row_ends_the_stream(error: Exception) -> None:
    with pytest.raises(type(error)):
        await scored(Model([error]), rows_of(0, 1))


async def test_closing_stops_what_is_under_way_and_the_reading() -> None:
    model, closed = Model(held=True), asyncio.Event()

    async def endless() -> AsyncGenerator[Row, None]:
        try:
            for offset in range(2):
                yield Row(offset, b"%d" % offset)
            await asyncio.Event().wait()
        finally:
            closed.set()

    answers = Scorer(model.infer).score("m", endless(), window=4)
    waiting = asyncio.ensure_future(anext(answers))
    await eventually(lambda: len(model.running) == 2)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await answers.aclose()
    assert not model.running
    assert closed.is_set()
