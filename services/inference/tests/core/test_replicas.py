"""Which replicas of a model may get a request, and what the model's state is."""

import asyncio
from dataclasses import replace

import pytest
from inference.core.ports import BACKEND_FAILED, NOT_LOADED, BackendLost, ModelState
from inference.core.replicas import Replicas
from inference_replica_fakes import CHECKED, DOWN, Bench, benches
from servicekit.errors import Unavailable
from servicekit.testing import eventually


async def test_without_a_replica_it_is_not_loaded_and_a_retry_may_help() -> None:
    replicas = Replicas("m")
    with pytest.raises(Unavailable) as caught:
        replicas.choose()
    assert (caught.value.reason, caught.value.retry_after_s) == ("not_loaded", 1.0)
    assert not replicas.state.ready


async def test_only_those_in_rotation_are_chosen() -> None:
    replicas, (one, two, three) = await benches("a:1", "b:1", "c:1")
    two.replica.lose()
    three.arrays.factor = 9.0
    await three.check(after_s=10.0)
    assert {replicas.choose().address for _ in range(50)} == {one.server.address}
    assert replicas.state.ready


REASONS = [
    ("not_loaded", "not_loaded"),
    ("loading", "loading"),
    ("backend_failed", "backend_failed"),
    ("golden_invalid", "backend_failed"),
]


@pytest.mark.parametrize(("state", "told"), REASONS)
async def test_the_reason_for_which_none_serves_is_told(state: str, told: str) -> None:
    replicas, (one, two) = await benches("a:1", "b:1")
    for each in (one, two):
        each.prober.state = type(DOWN)(ready=False, reason=state)
        await each.check()
    with pytest.raises(Unavailable) as caught:
        replicas.choose()
    assert (caught.value.reason, caught.value.retry_after_s) == (told, 1.0)
    assert replicas.state.reason == state
    assert replicas.state.version == "1"


async def test_before_the_first_look_it_is_loading() -> None:
    replicas = Replicas("m")
    replicas.join(Bench().replica)
    with pytest.raises(Unavailable) as caught:
        replicas.choose()
    assert caught.value.reason == "loading"


async def test_where_every_breaker_is_open_a_replica_that_answers_right_is_used_all_the_same() -> None:
    replicas, made = await benches("a:1", "b:1")
    for each in made:
        for _ in range(5):
            each.replica.enter()
            each.replica.failed(Unavailable("x", reason="backend_failed"))
    assert not any(each.replica.in_rotation for each in made)
    assert {replicas.choose().address for _ in range(50)} == {"a:1", "b:1"}


async def test_another_is_never_the_same() -> None:
    replicas, (one, two) = await benches("a:1", "b:1")
    assert {replicas.another(one.replica) for _ in range(20)} == {two.replica}
    replicas.leave("b:1")
    assert replicas.another(one.replica) is None


async def test_an_address_that_leaves_gets_nothing_new() -> None:
    replicas, (one, _two) = await benches("a:1", "b:1")
    replicas.leave("a:1")
    assert one.server.leaving
    assert {replicas.choose().address for _ in range(20)} == {"b:1"}
    replicas.leave("b:1")
    replicas.leave("b:1")
    with pytest.raises(Unavailable):
        replicas.choose()
    assert (replicas.state.version, replicas.state.digest) == ("1", "sha256:ab")


async def test_affinity_keeps_a_key_at_its_replica_until_that_is_lost() -> None:
    replicas, made = await benches("a:1", "b:1", "c:1")
    home = replicas.choose("key")
    assert {replicas.choose("key") for _ in range(50)} == {home}
    home.lose()
    assert home not in {replicas.choose("key") for _ in range(50)}
    await next(each for each in made if each.replica is home).check()
    assert replicas.choose("key") is home


async def test_who_fails_while_the_others_do_not_is_taken_out() -> None:
    replicas, (one, two, three) = await benches("a:1", "b:1", "c:1")
    for each in (one, two, three):
        for number in range(60):
            each.replica.enter()
            if each is one and number % 2:
                each.replica.failed(Unavailable("x", reason="backend_failed"))
            else:
                each.replica.succeeded()
    replicas.compare()
    assert [each.replica.in_rotation for each in (one, two, three)] == [False, True, True]


async def test_a_replica_that_joins_while_watched_is_watched_too() -> None:
    replicas, states = Replicas("m"), list[bool]()
    replicas.changed = lambda: states.append(replicas.state.ready)
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(replicas.watch())
        await asyncio.sleep(0)
        bench = Bench(state=CHECKED, probe_period_s=0.01)
        replicas.join(bench.replica)
        await eventually(lambda: replicas.state.ready)
        bench.replica.failed(BackendLost("x"))
        assert not replicas.state.ready
        await eventually(lambda: replicas.state.ready)
        replicas.leave("a:1")
        assert not replicas.state.ready
        watching.cancel()
    assert states[-1] is False


async def test_versions_are_never_mixed_and_change_when_most_have_the_new_one() -> None:
    replicas, made = await benches("a:1", "b:1", "c:1", "d:1")
    serving = []
    for each in made:
        each.prober.state = replace(CHECKED, version="2", digest="sha256:cd")
        await each.check(after_s=1.0)
        serving.append("".join(sorted({replicas.choose().address[0] for _ in range(2000)})))
        assert replicas.state.digest == ("sha256:ab" if len(serving) <= 2 else "sha256:cd")
    assert serving == ["bcd", "cd", "abc", "abcd"]


async def test_who_has_another_version_says_so() -> None:
    _, made = await benches("a:1", "b:1", "c:1")
    made[0].prober.state = replace(CHECKED, version="2", digest="sha256:cd")
    await made[0].check(after_s=1.0)
    assert [each.replica.told().reason for each in made] == ["other_digest", "", ""]
    assert not made[0].replica.in_rotation


async def test_a_wrong_replica_with_the_old_digest_does_not_hold_up_the_new_one() -> None:
    replicas, (one, two) = await benches("a:1", "b:1")
    two.prober.state = replace(CHECKED, digest="sha256:cd")
    await two.check(after_s=1.0)
    one.arrays.factor = 9.0
    await one.check(after_s=10.0)
    assert {replicas.choose().address for _ in range(20)} == {"b:1"}


@pytest.mark.parametrize(
    ("held", "reason", "ejections"), [(True, NOT_LOADED, 0), (False, NOT_LOADED, 1), (True, BACKEND_FAILED, 1)]
)
async def test_a_model_that_is_loaded_on_request_is_not_ejected_when_it_goes(
    held: bool, reason: str, ejections: int
) -> None:
    _, (bench,) = await benches("a:1", held=held)
    bench.prober.state = ModelState(ready=False, reason=reason)
    await bench.check(after_s=1.0)
    assert not bench.replica.in_rotation
    assert bench.replica.ejections == ejections


async def test_what_is_declared_counts_until_a_server_tells_of_the_model() -> None:
    replicas, (bench,) = await benches("a:1", state=ModelState(ready=False, reason=NOT_LOADED), held=True)
    replicas.declare("7", "sha256:declared")
    assert (replicas.state.ready, replicas.state.version, replicas.state.digest) == (True, "7", "sha256:declared")
    bench.prober.state = CHECKED
    await bench.check(after_s=60.0)
    assert replicas.state.digest == CHECKED.digest
    bench.prober.state = ModelState(ready=False, reason=NOT_LOADED)
    await bench.check(after_s=1.0)
    assert (replicas.state.ready, replicas.state.digest) == (True, CHECKED.digest)
