"""A request on replicas: counted, and tried on another one when that is right."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from random import Random
from typing import Any

import pytest
from inference.core.answer import Delta, Piece, Served
from inference.core.conversation import Turn
from inference.core.generation import Order
from inference.core.ports import BackendLost
from inference.core.replica import Backend, Replica, Server
from inference.core.replicas import Replicas
from inference.core.replicated import Attempts, ReplicatedGenerator, ReplicatedTensors
from inference.core.retry import RetryBudget
from inference_fakes import ANSWER, FakeGenerator
from inference_replica_fakes import Bench, FakeClock, benches
from servicekit.errors import InvalidInput, PenstockError, TimedOut, Unavailable
from servicekit.testing import eventually

ORDER = Order([Turn("user", "Hi")])


def first_then(*numbers: float) -> Any:
    """Return what draws these numbers, and then the last one for ever."""
    left = list(numbers)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


async def two(error: PenstockError | None) -> tuple[Replicas, Bench, Bench]:
    """Return two replicas, of which the first is chosen first and fails with `error`."""
    replicas, (one, other) = await benches("a:1", "b:1", random_number=lambda: 0.0)
    one.tensors.error = error
    return replicas, one, other


RETRIED = [BackendLost("x"), Unavailable("x", reason="queue_full"), Unavailable("x", reason="not_loaded")]
NOT_RETRIED = [InvalidInput("x"), TimedOut("x"), Unavailable("x", reason="backend_failed")]


@pytest.mark.parametrize("error", RETRIED, ids=lambda error: error.reason)
async def test_what_was_not_begun_or_died_is_tried_on_another_replica(error: PenstockError) -> None:
    replicas, one, other = await two(error)
    assert await ReplicatedTensors(Attempts(replicas)).infer(b"?", 5.0) == b"b:1"
    assert (one.tensors.requests, other.tensors.requests) == ([b"?"], [b"?"])
    assert (one.server.outstanding, other.server.outstanding) == (0, 0)


@pytest.mark.parametrize("error", NOT_RETRIED, ids=lambda error: f"{type(error).__name__} {error.reason}")
async def test_what_would_fail_again_is_not(error: PenstockError) -> None:
    replicas, one, other = await two(error)
    with pytest.raises(type(error)) as caught:
        await ReplicatedTensors(Attempts(replicas)).infer(b"?", 5.0)
    assert caught.value is error
    assert other.tensors.requests == []
    assert one.server.outstanding == 0


async def test_two_attempts_are_all_there_are() -> None:
    replicas, made = await benches("a:1", "b:1", "c:1")
    for each in made:
        each.tensors.error = BackendLost("x")
    with pytest.raises(BackendLost):
        await ReplicatedTensors(Attempts(replicas)).infer(b"?", 5.0)
    assert sum(len(each.tensors.requests) for each in made) == 2
    assert sum(each.server.outstanding for each in made) == 0


async def test_without_another_replica_the_failure_is_the_callers() -> None:
    replicas, (one,) = await benches("a:1")
    one.tensors.error = BackendLost("x")
    with pytest.raises(BackendLost):
        await ReplicatedTensors(Attempts(replicas)).infer(b"?", 5.0)
    with pytest.raises(Unavailable) as caught:
        await ReplicatedTensors(Attempts(replicas)).infer(b"?", 5.0)
    assert caught.value.retry_after_s
    assert len(one.tensors.requests) == 1


async def test_retries_end_with_their_budget() -> None:
    replicas, one, _ = await two(Unavailable("x", reason="queue_full"))
    budget = RetryBudget(FakeClock(), share=0.1, per_s=0.0, most=5.0)
    tensors, failed = ReplicatedTensors(Attempts(replicas, budget)), 0
    for _ in range(100):
        try:
            await tensors.infer(b"?", 5.0)
        except Unavailable:
            failed += 1
    assert len(one.tensors.requests) == 100
    assert 84 <= failed <= 86


async def test_both_attempts_share_the_time() -> None:
    clock, times = FakeClock(), list[float]()

    class Slow:
        async def infer(self, _request: bytes, timeout_s: float) -> bytes:
            times.append(timeout_s)
            clock.now += 2.0
            if len(times) == 1:
                raise BackendLost("x")
            return b"ok"

    replicas: Any = Replicas("slow")
    for address in ("a:1", "b:1"):
        replicas.join(Replica("slow", Server(address), Backend(tensors=Slow())))  # type: ignore[arg-type]
    assert await ReplicatedTensors(Attempts(replicas, clock=clock)).infer(b"?", 5.0) == b"ok"
    assert times == [5.0, 3.0]


async def test_a_cancelled_request_is_no_longer_outstanding() -> None:
    replicas, (one,) = await benches("a:1")
    hanging = asyncio.Event()

    class Hanging:
        async def infer(self, _request: bytes, _timeout_s: float) -> bytes:
            await hanging.wait()
            return b""

    one.replica.backend = Backend(tensors=Hanging(), prober=one.prober)  # type: ignore[arg-type]
    async with asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(ReplicatedTensors(Attempts(replicas)).infer(b"?", 5.0))
        await eventually(lambda: one.server.outstanding == 1)
        asking.cancel()
    assert one.server.outstanding == 0
    assert one.replica.in_rotation


class Writers:
    """Two replicas that write; the first is chosen first."""

    def __init__(self, first: FakeGenerator, second: FakeGenerator) -> None:
        self.servers = [Server("a:1"), Server("b:1")]
        self.replicas = Replicas(f"writers {id(self)}", random_number=lambda: 0.0)
        for server, generator in zip(self.servers, (first, second), strict=True):
            self.replicas.join(Replica(self.replicas.model, server, Backend(generator=generator)))
        self.generator = ReplicatedGenerator(Attempts(self.replicas))

    def outstanding(self) -> int:
        return sum(server.outstanding for server in self.servers)


async def collected(pieces: AsyncGenerator[Piece, None]) -> list[Piece]:
    return [piece async for piece in pieces]


async def test_a_stream_that_dies_before_its_first_piece_goes_on_elsewhere() -> None:
    dead, alive = FakeGenerator([BackendLost("x")]), FakeGenerator()
    writers = Writers(dead, alive)
    assert tuple(await collected(writers.generator.generate(ORDER, 5.0))) == ANSWER
    assert (len(dead.orders), len(alive.orders), writers.outstanding()) == (1, 1, 0)


async def test_a_stream_that_dies_after_a_piece_is_a_failure_and_never_a_mixture() -> None:
    half = Piece(Served("v1"), [Delta("half")])
    dead, alive = FakeGenerator([half, BackendLost("x")]), FakeGenerator()
    writers, got = Writers(dead, alive), list[Piece]()
    with pytest.raises(BackendLost):
        async for piece in writers.generator.generate(ORDER, 5.0):
            got.append(piece)
    assert got == [half]
    assert (len(alive.orders), writers.outstanding()) == (0, 0)


async def test_a_stream_is_tried_twice_at_most() -> None:
    writers = Writers(FakeGenerator([BackendLost("x")]), FakeGenerator([BackendLost("y")]))
    with pytest.raises(BackendLost, match="y"):
        await collected(writers.generator.generate(ORDER, 5.0))
    assert writers.outstanding() == 0


async def test_a_whole_answer_is_tried_elsewhere_too() -> None:
    writers = Writers(FakeGenerator([BackendLost("x")]), FakeGenerator())
    assert (await writers.generator.complete(ORDER, 5.0)).choices[0].turn.content == "Hello there."


async def test_closing_a_stream_stops_its_backend() -> None:
    running = FakeGenerator(gate=asyncio.Event())
    writers = Writers(running, FakeGenerator())
    async with aclosing(writers.generator.generate(ORDER, 5.0)) as pieces:
        assert await anext(pieces) == ANSWER[0]
        assert (running.running, writers.outstanding()) == (1, 1)
    assert (running.running, writers.outstanding()) == (0, 0)


async def test_chats_that_begin_alike_stay_together_where_that_is_asked_for() -> None:
    generators = [FakeGenerator() for _ in range(4)]
    replicas = Replicas("chats")
    for index, generator in enumerate(generators):
        replicas.join(Replica("chats", Server(f"r:{index}"), Backend(generator=generator)))
    writer = ReplicatedGenerator(Attempts(replicas), affinity=True)
    opening = [Turn("system", "Be kind."), Turn("user", "What is a dam?")]
    for more in range(6):
        turns = [*opening, *(Turn("user", str(number)) for number in range(more))]
        await collected(writer.generate(Order(turns), 5.0))
    assert sorted(len(generator.orders) for generator in generators) == [0, 0, 0, 6]


class Moody:
    """Answers, fails in every way there is, or takes a moment, as chance has it."""

    def __init__(self, name: bytes, chance: Random) -> None:
        self.name = name
        self.chance = chance

    async def infer(self, request: bytes, timeout_s: float) -> bytes:
        for _ in range(self.chance.randrange(3)):
            await asyncio.sleep(0)
        if self.chance.random() < 0.3:
            kinds = [*RETRIED, *NOT_RETRIED]
            raise self.chance.choice(kinds)
        return request + self.name


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_happens_nothing_stays_outstanding_and_no_answer_is_mixed_up(seed: int) -> None:
    chance = Random(seed)
    replicas, made = await benches("a:1", "b:1", "c:1", random_number=chance.random)
    for bench in made:
        moody: Any = Moody(bench.server.address.encode(), chance)
        bench.replica.backend = Backend(tensors=moody, prober=bench.prober, arrays=bench.arrays)
    tensors, ends = ReplicatedTensors(Attempts(replicas)), Counter[str]()

    async def ask(number: int) -> None:
        try:
            answer = await tensors.infer(b"%d " % number, 5.0)
        except PenstockError:
            ends["failed"] += 1
        else:
            assert answer.split()[0] == b"%d" % number
            ends["answered"] += 1

    async with asyncio.TaskGroup() as tasks:
        for number in range(300):
            task = tasks.create_task(ask(number))
            if chance.random() < 0.1:
                asyncio.get_running_loop().call_soon(task.cancel)
            if chance.random() < 0.2:
                await chance.choice(made).check(after_s=1.0)
            await asyncio.sleep(0)
    assert [bench.server.outstanding for bench in made] == [0, 0, 0]
    assert ends["answered"] > 100
