"""When a replica gets requests: it is ready, its golden probe has passed, and its breaker is not open."""

import asyncio
from dataclasses import replace
from itertools import pairwise

import pytest
from inference.core.breaker import Position
from inference.core.golden import Outcome
from inference.core.ports import SILENT, BackendLost, ModelState, NotServing
from inference.core.replica import Backend, Replica, Server
from inference_fakes import FakeProber
from inference_replica_fakes import CHECKED, DOWN, READY, Bench, FakeConnection
from prometheus_client import REGISTRY
from servicekit.errors import InvalidInput, PenstockError, TimedOut, Unavailable
from servicekit.testing import eventually

FAILED = Unavailable("x", reason="backend_failed")


async def rotating(state: ModelState = CHECKED) -> Bench:
    bench = Bench(state=state)
    await bench.check()
    assert bench.replica.in_rotation
    return bench


def fail(bench: Bench, error: PenstockError, times: int = 1) -> None:
    for _ in range(times):
        bench.replica.enter()
        bench.replica.failed(error)


async def test_gets_nothing_before_it_was_looked_at() -> None:
    bench = Bench()
    assert not bench.replica.in_rotation
    assert bench.replica.told().reason == "not_probed"
    await bench.check()
    assert bench.replica.in_rotation
    assert bench.arrays.asked == 1


async def test_a_model_without_golden_cases_is_trusted_when_it_is_ready() -> None:
    bench = await rotating(READY)
    assert bench.replica.verdict is None
    assert bench.arrays.asked == 0


async def test_gets_nothing_while_its_answers_are_wrong_and_says_so() -> None:
    bench = Bench()
    bench.arrays.factor = 3.0
    await bench.check()
    told = bench.replica.told()
    assert (told.ready, told.reason, told.version) == (False, "golden_failed", "1")
    assert "double: y" in told.detail
    bench.arrays.factor = 2.0
    await bench.check(after_s=1.0)
    assert bench.replica.in_rotation


async def test_is_asked_again_every_period_and_leaves_when_it_answers_wrongly() -> None:
    bench = await rotating()
    await bench.check(after_s=9.0)
    assert bench.arrays.asked == 1
    bench.arrays.factor = 3.0
    await bench.check(after_s=1.0)
    assert bench.arrays.asked == 2
    assert not bench.replica.in_rotation
    assert bench.replica.ejections == 1


async def test_a_wrong_one_is_asked_less_and_less_often_but_at_least_every_period() -> None:
    bench = Bench()
    bench.arrays.factor = 3.0
    moments = []
    for second in range(60):
        before = bench.arrays.asked
        await bench.check(after_s=1.0)
        moments += [second] * (bench.arrays.asked - before)
    gaps = [after - before for before, after in pairwise(moments)]
    assert gaps[:4] == [1, 2, 4, 8]
    assert set(gaps[4:]) == {10}


async def test_an_overloaded_replica_that_does_not_answer_the_probe_stays() -> None:
    bench = await rotating()
    bench.arrays.error = TimedOut("x")
    await bench.check(after_s=10.0)
    assert bench.replica.in_rotation
    assert bench.replica.verdict is not None
    assert bench.replica.verdict.outcome is Outcome.UNANSWERED


async def test_a_newcomer_that_does_not_answer_the_probe_does_not_come_in() -> None:
    bench = Bench()
    bench.arrays.error = TimedOut("x")
    await bench.check()
    assert not bench.replica.in_rotation
    bench.arrays.error = None
    await bench.check(after_s=1.0)
    assert bench.replica.in_rotation


async def test_a_lost_server_leaves_at_once_and_has_to_prove_itself() -> None:
    bench = await rotating()
    fail(bench, BackendLost("x"))
    assert not bench.replica.in_rotation
    assert bench.replica.told().reason == "backend_failed"
    bench.arrays.factor = 3.0
    await bench.check()
    assert bench.replica.told().reason == "golden_failed"
    bench.arrays.factor = 2.0
    await bench.check(after_s=1.0)
    assert bench.replica.in_rotation


@pytest.mark.parametrize("reason", ["not_loaded", "draining"])
async def test_who_does_not_serve_the_model_any_more_leaves_at_once(reason: str) -> None:
    bench = await rotating()
    fail(bench, NotServing("x", reason=reason))
    assert bench.replica.told().reason == reason
    await bench.check()
    assert bench.replica.in_rotation


async def test_what_a_probe_heard_before_the_server_died_does_not_count() -> None:
    bench = await rotating()

    class Slow:
        async def probe(self, timeout_s: float) -> ModelState:
            fail(bench, BackendLost("x"))
            return CHECKED

    bench.replica.backend = replace(bench.replica.backend, prober=Slow())
    await bench.check()
    assert not bench.replica.in_rotation


async def test_a_server_that_dies_under_its_golden_probe_is_lost() -> None:
    bench = Bench()
    bench.arrays.error = BackendLost("x")
    await bench.check()
    assert bench.replica.told().reason == "backend_failed"


async def test_another_version_has_to_prove_itself() -> None:
    bench = await rotating()
    bench.arrays.factor = 3.0
    bench.prober.state = replace(CHECKED, version="2")
    await bench.check(after_s=1.0)
    assert not bench.replica.in_rotation
    bench.arrays.factor = 2.0
    bench.prober.state = replace(CHECKED, version="3")
    await bench.check(after_s=0.1)
    assert bench.replica.in_rotation


async def test_version_and_digest_outlast_absence() -> None:
    bench = await rotating()
    bench.prober.state = DOWN
    await bench.check()
    told = bench.replica.told()
    assert (told.reason, told.version, told.digest) == ("backend_failed", "1", "sha256:ab")


async def test_failures_in_a_row_open_the_breaker_and_trials_close_it() -> None:
    bench = await rotating()
    fail(bench, FAILED, 5)
    assert not bench.replica.in_rotation
    assert bench.replica.sound
    await bench.check()
    assert bench.replica.breaker.position is Position.OPEN
    await bench.check(after_s=1.0)
    assert bench.replica.breaker.position is Position.HALF_OPEN
    assert bench.replica.in_rotation
    for _ in range(5):
        bench.replica.enter()
        bench.replica.succeeded()
    assert bench.replica.breaker.position is Position.CLOSED


async def test_an_open_breaker_waits_for_the_golden_probe() -> None:
    bench = await rotating()
    fail(bench, FAILED, 5)
    bench.arrays.factor = 3.0
    await bench.check(after_s=1.0)
    assert not bench.replica.in_rotation
    assert bench.replica.told().reason == "golden_failed"


async def test_a_failure_brings_the_next_golden_probe_forward() -> None:
    bench = await rotating()
    fail(bench, FAILED)
    bench.arrays.factor = 3.0
    await bench.check(after_s=0.5)
    assert bench.arrays.asked == 1
    await bench.check(after_s=0.5)
    assert not bench.replica.in_rotation


async def test_failures_without_end_do_not_make_golden_probes_without_end() -> None:
    bench = await rotating()
    for _ in range(100):
        fail(bench, FAILED)
        bench.replica.breaker.succeeded()
        await bench.check(after_s=0.05)
    assert bench.arrays.asked <= 7


@pytest.mark.parametrize("error", [InvalidInput("x"), Unavailable("x", reason="queue_full"), TimedOut("x")], ids=str)
async def test_what_callers_do_ejects_nobody(error: PenstockError) -> None:
    bench = await rotating()
    fail(bench, error, 500)
    assert bench.replica.in_rotation
    assert bench.server.outstanding == 0


async def test_who_is_leaving_gets_nothing_and_says_so() -> None:
    bench = await rotating()
    bench.replica.retire()
    assert not bench.replica.in_rotation
    assert bench.replica.told().reason == "draining"


async def test_its_share_grows_while_it_is_new() -> None:
    bench = await rotating()
    weights = [bench.replica.weight()]
    for _ in range(3):
        await bench.check(after_s=2.0)
        weights.append(bench.replica.weight())
    assert weights == [0.1, 0.4, 0.8, 1.0]


async def test_models_of_a_server_share_its_load() -> None:
    server = Server("a:1")
    one, two = (Replica(f"shared {number}", server, Backend()) for number in (1, 2))
    one.enter()
    assert two.outstanding == 1
    two.enter()
    one.left()
    two.succeeded()
    assert server.outstanding == 0


async def test_its_numbers_are_metrics() -> None:
    bench = await rotating()
    bench.replica.enter()
    bench.replica.succeeded()
    bench.arrays.factor = 3.0
    await bench.check(after_s=10.0)
    labels = {"model": bench.replica.model, "replica": "a:1"}

    def sample(name: str, **more: str) -> float | None:
        return REGISTRY.get_sample_value(f"penstock_inference_replica_{name}", labels | more)

    assert (sample("in_rotation"), sample("golden"), sample("calls_total")) == (0, 0, 1)
    assert sample("ejections_total", reason="golden_failed") == 1
    bench.replica.forget()
    assert (sample("in_rotation"), sample("calls_total"), sample("ejections_total", reason="golden_failed")) == (
        None,
    ) * 3


async def test_what_a_silent_server_was_asked_is_given_up() -> None:
    connection = FakeConnection("a:1")
    prober = FakeProber(READY)
    replica = Replica("silent", Server("a:1", connection.reset), Backend(prober=prober))
    await replica.check()
    replica.enter()
    prober.state = replace(DOWN, detail=SILENT)
    await replica.check()
    assert (replica.in_rotation, connection.resets) == (False, 0)
    await replica.check()
    assert connection.resets == 1
    replica.left()
    await replica.check()
    assert connection.resets == 1


async def test_it_is_looked_at_again_and_again_and_at_once_after_a_failure() -> None:
    bench = Bench(probe_period_s=3600.0)
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(bench.replica.watch())
        await eventually(lambda: bench.replica.in_rotation)
        fail(bench, BackendLost("x"))
        await eventually(lambda: bench.replica.in_rotation, timeout_s=2.0)
        watching.cancel()
    assert bench.arrays.asked == 2
