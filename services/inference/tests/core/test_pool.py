"""The pool with fake backends."""

import asyncio
from contextlib import aclosing

import pytest
from inference.core.answer import Answer, Choice, Delta, FinishReason, Piece, Served, Usage
from inference.core.capabilities import HOSTED, PLAIN
from inference.core.catalogue import Provider, Task
from inference.core.conversation import Turn
from inference.core.generation import ChatOptions, Order, Sampling, Tool
from inference.core.pool import Pool
from inference.core.ports import ModelState
from inference.core.replica import Backend, Replica, Server, Timing
from inference.core.replicas import Replicas
from inference.core.served_model import ServedModel
from inference_fakes import ANSWER, FakeGenerator, FakeProber, FakeTensors, generating, model
from prometheus_client import REGISTRY
from servicekit import deadline
from servicekit.errors import InvalidInput, NotFound, PenstockError, TimedOut, Unavailable
from servicekit.testing import eventually

ORDER = Order((Turn("user", "Hi"),))


async def ask(pool: Pool, name: str, order: Order = ORDER) -> list[object]:
    return [event async for event in pool.generate(name, order)]


def sample(metric: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(metric, labels) or 0.0


async def test_passes_the_events_on_and_counts_them() -> None:
    served = generating(FakeGenerator())
    assert tuple(await ask(Pool([served]), served.model.name)) == ANSWER
    name = served.model.name
    assert sample("penstock_inference_tokens_total", model=name, direction="output") == 2
    assert sample("penstock_inference_time_to_first_token_seconds_count", model=name) == 1
    assert sample("penstock_inference_seconds_count", model=name) == 1
    assert sample("penstock_inference_in_flight", model=name) == 0


async def test_measures_a_stream_by_its_first_text_and_its_slot_by_its_end() -> None:
    served = generating(FakeGenerator(), limits=(4, 4))
    pool = Pool([served])
    for _ in range(3):
        await ask(pool, served.model.name)
    name = served.model.name
    assert sample("penstock_inference_arrivals_total", model=name) == 3
    assert sample("penstock_inference_service_seconds_count", model=name) == 3
    assert sample("penstock_inference_inter_token_seconds_count", model=name) == 3
    measured = served.measures.workload.measured(served.queue.limit)
    assert measured is not None
    assert measured.first_token is not None
    assert measured.held is not None
    assert 0 < measured.first_token.p50 <= measured.held.p99
    assert measured.arrivals.rate > 0


async def test_the_first_text_of_a_stream_is_its_latency_for_the_learned_number_of_slots() -> None:
    served = generating(FakeGenerator())
    admitted = served.admitted()
    async with admitted:
        slot = admitted._entered
        assert slot is not None
        assert not slot.answered
        admitted.first_text()
        assert slot.answered


async def test_a_failed_request_says_nothing_of_how_long_answers_take() -> None:
    served = generating(FakeGenerator([Unavailable("x", reason="backend_failed")]))
    with pytest.raises(Unavailable):
        await ask(Pool([served]), served.model.name)
    assert served.measures.workload.measured(served.queue.limit) is None
    assert sample("penstock_inference_arrivals_total", model=served.model.name) == 1


async def test_fills_in_the_models_defaults() -> None:
    generator = FakeGenerator()
    served = generating(generator, sampling=Sampling(temperature=0.3), context_tokens=10)
    await ask(Pool([served]), served.model.name)
    assert generator.orders[0].sampling == Sampling(max_tokens=10, temperature=0.3)


async def test_an_upstream_is_not_told_a_limit_that_nobody_named() -> None:
    generator = FakeGenerator()
    served = generating(generator, context_tokens=10, provider=Provider.OPENAI)
    pool = Pool([served])
    await ask(pool, served.model.name)
    await ask(pool, served.model.name, Order(ORDER.turns, Sampling(max_tokens=99)))
    assert [order.sampling.max_tokens for order in generator.orders] == [None, 10]


async def test_completes_as_a_whole_and_counts_it() -> None:
    usage = Usage(5, 4, reported=True)
    choices = [Choice(0, Turn("assistant", "Hi"), FinishReason.STOP), Choice(1, Turn("assistant"), FinishReason.LENGTH)]
    answer = Answer(Served("v1"), choices, usage)
    served = generating(FakeGenerator(answer=answer))
    assert await Pool([served]).complete(served.model.name, ORDER) == answer
    name = served.model.name
    assert sample("penstock_inference_tokens_total", model=name, direction="output") == 4
    assert sample("penstock_inference_seconds_count", model=name) == 1
    assert served.queue.running == 0


async def test_what_a_model_cannot_do_is_refused_before_it_is_asked() -> None:
    generator = FakeGenerator()
    tools = Order(ORDER.turns, options=ChatOptions([Tool("f")]))
    plain, hosted = generating(generator, capabilities=PLAIN), generating(generator, capabilities=HOSTED)
    pool = Pool([plain, hosted])
    for asking in (ask(pool, plain.model.name, tools), pool.complete(plain.model.name, tools)):
        with pytest.raises(InvalidInput) as caught:
            await asking
        assert (caught.value.reason, caught.value.field) == ("unsupported_parameter", "tools")
    assert generator.orders == []
    assert await ask(pool, hosted.model.name, tools)


async def test_a_failed_completion_is_counted_and_frees_the_slot() -> None:
    served = generating(FakeGenerator([Unavailable("x", reason="rate_limited")]))
    with pytest.raises(Unavailable):
        await Pool([served]).complete(served.model.name, ORDER)
    assert sample("penstock_inference_failures_total", model=served.model.name, reason="rate_limited") == 1
    assert served.queue.running == 0


async def test_an_unknown_model_is_not_found() -> None:
    with pytest.raises(NotFound) as caught:
        await ask(Pool([]), "nope")
    assert (caught.value.reason, caught.value.field) == ("model_not_found", "model")


async def test_an_encoder_does_not_write_and_an_upstream_takes_no_tensors() -> None:
    encoder = ServedModel(model("encoder", Task.EMBED), tensors=FakeTensors())
    writer = generating(FakeGenerator(), "writer")
    pool = Pool([encoder, writer])
    with pytest.raises(InvalidInput):
        await ask(pool, "encoder")
    with pytest.raises(InvalidInput):
        await pool.infer("writer", b"")


async def test_the_shorter_of_deadline_and_models_bound_reaches_the_backend() -> None:
    generator = FakeGenerator()
    served = generating(generator, timeout_s=3.0)
    pool = Pool([served])
    await ask(pool, served.model.name)
    with deadline.within(0.5):
        await ask(pool, served.model.name)
    assert 2.5 < generator.timeouts_s[0] <= 3.0
    assert 0.1 < generator.timeouts_s[1] <= 0.5


async def test_work_whose_deadline_has_passed_never_starts() -> None:
    generator = FakeGenerator()
    served = generating(generator)
    with deadline.within(0.0), pytest.raises(TimedOut):
        await ask(Pool([served]), served.model.name)
    assert generator.orders == []
    assert served.queue.running == 0


async def test_closing_stops_the_backend_and_frees_the_slot() -> None:
    generator = FakeGenerator(gate=asyncio.Event())
    served = generating(generator)
    async with aclosing(Pool([served]).generate(served.model.name, ORDER)) as events:
        assert await anext(events) == Piece(Served("v1", "id-1", "fp-1"))
        assert (generator.running, served.queue.running) == (1, 1)
    assert (generator.running, served.queue.running) == (0, 0)
    assert sample("penstock_inference_failures_total", model=served.model.name, reason="cancelled") == 1


async def test_cancelling_stops_the_backend_and_frees_the_slot() -> None:
    generator = FakeGenerator(gate=asyncio.Event())
    served = generating(generator)
    async with asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(ask(Pool([served]), served.model.name))
        await eventually(lambda: generator.running == 1)
        asking.cancel()
    assert (generator.running, served.queue.running) == (0, 0)


FAILURES: list[PenstockError] = [Unavailable("x", reason="backend_failed"), TimedOut("x"), InvalidInput("x")]


@pytest.mark.parametrize("failure", FAILURES, ids=str)
async def test_a_backends_failure_reaches_the_caller_once_and_is_counted(failure: PenstockError) -> None:
    generator = FakeGenerator([Piece(Served("v1"), [Delta("half")]), failure])
    served = generating(generator)
    with pytest.raises(type(failure)):
        await ask(Pool([served]), served.model.name)
    assert len(generator.orders) == 1
    assert sample("penstock_inference_failures_total", model=served.model.name, reason=failure.reason) == 1
    assert served.queue.running == 0


async def test_the_queue_bounds_a_model_and_not_its_neighbour() -> None:
    gate = asyncio.Event()
    busy = generating(FakeGenerator(gate=gate), limits=(1, 0))
    free = generating(FakeGenerator())
    pool = Pool([busy, free])
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(ask(pool, busy.model.name))
        await eventually(lambda: busy.queue.running == 1)
        with pytest.raises(Unavailable) as caught:
            await ask(pool, busy.model.name)
        assert caught.value.reason == "queue_full"
        assert await ask(pool, free.model.name)
        gate.set()


async def test_watching_keeps_states_up_to_date_and_decides_readiness() -> None:
    prober = FakeProber(ModelState(ready=False, reason="backend_failed"))
    entry = model()
    replicas = Replicas(entry.name)
    replicas.join(Replica(entry.name, Server("a:1"), Backend(prober=prober), timing=Timing(probe_period_s=0.01)))
    served = ServedModel(entry, tensors=FakeTensors(), replicas=replicas)
    pool = Pool([served])
    assert await pool.readiness() == "no model is ready"
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(pool.watch())
        await eventually(lambda: served.state.reason == "backend_failed")
        assert await pool.readiness() == "no model is ready"
        prober.state = ModelState(ready=True, version="1", digest="sha256:ab")
        await eventually(lambda: served.state.ready)
        assert await pool.readiness() is None
        prober.state = ModelState(ready=False, reason="backend_failed")
        await eventually(lambda: not served.state.ready)
        assert (served.state.version, served.state.digest) == ("1", "sha256:ab")
        watching.cancel()


async def test_lists_by_name() -> None:
    pool = Pool([generating(FakeGenerator(), name) for name in ("b", "c", "a")])
    assert [served.model.name for served in pool.models()] == ["a", "b", "c"]


async def test_draining_refuses_new_work() -> None:
    served = generating(FakeGenerator())
    pool = Pool([served])
    pool.drain()
    with pytest.raises(Unavailable) as caught:
        await ask(pool, served.model.name)
    assert caught.value.reason == "draining"
