"""Residency over servers that take virtual time: who gets a lease, who is loaded, who goes."""

import asyncio
from dataclasses import replace

import pytest
from inference.core.device import Stage
from inference.core.residency_ports import Footprint, LoadFailed
from inference_residency_fakes import FakeFootprintStore, now, run_virtually
from inference_residency_world_fakes import POLICY, SIZES, World
from servicekit.errors import Unavailable
from servicekit.testing import eventually


def test_a_burst_of_requests_causes_one_load() -> None:
    async def scenario() -> None:
        async with World().running() as world:
            await asyncio.gather(*(world.use("a") for _ in range(50)))
            assert world.loads() == ["a"]
            assert world.sound()

    run_virtually(scenario())


def test_what_became_of_each_model_is_tallied() -> None:
    async def scenario() -> None:
        async with World().running() as world:
            for model in "aabac":
                await world.use(model)
            told = {model: world.residency.memory_of(model) for model in "abcd"}
            assert {model: (each.copies, each.footprint_bytes) for model, each in told.items()} == {
                "a": (1, 100),
                "b": (0, 100),
                "c": (1, 100),
                "d": (0, 100),
            }
            a, b = told["a"].tally, told["b"].tally
            assert (a.loads, a.hits, a.misses, a.evictions) == (1, 2, 1, 0)
            assert (b.loads, b.unloads, b.hits, b.misses, b.evictions) == (1, 1, 0, 1, 1)
            assert a.load_s == pytest.approx(1.0, rel=0.01)
            assert b.unload_s > 0
            assert told["d"].tally.loads == 0

    run_virtually(scenario())


def test_the_model_least_in_use_makes_room() -> None:
    async def scenario() -> None:
        async with World().running() as world:
            for model in "aabac":
                await world.use(model)
            assert world.only.ready == {"a", "c"}

    run_virtually(scenario())


def test_a_model_in_use_stays_until_its_last_request_has_ended() -> None:
    async def scenario() -> None:
        async with World().running() as world:
            for model in "ab":
                await world.use(model)
            async with asyncio.TaskGroup() as tasks:
                slow = [tasks.create_task(world.use(model, takes_s=20.0)) for model in "ab"]
                await asyncio.sleep(0.1)
                await world.use("c")
                assert now() > 20.0
                assert all(each.done() for each in slow)
            assert world.sound()

    run_virtually(scenario())


def test_a_model_that_has_to_go_gets_no_new_requests_and_comes_back() -> None:
    """A steady stream of requests does not keep others out for ever."""

    async def scenario() -> None:
        async with World().running() as world:
            served = dict.fromkeys("abc", 0)

            async def steadily(model: str) -> None:
                while now() < 60.0:
                    await world.use(model, takes_s=0.2)
                    served[model] += 1

            await asyncio.gather(*(steadily(model) for model in "aabbcc"))
            assert min(served.values()) > 20
            assert world.sound()

    run_virtually(scenario())


def test_pinned_models_are_on_every_server_and_never_go() -> None:
    async def scenario() -> None:
        async with World(2, replace(POLICY, pinned=("a",))).running() as world:
            for model in "bcdefbcdef":
                await world.use(model)
            assert all("a" in server.ready for server in world.servers.values())
            assert world.loads().count("a") == 2

    run_virtually(scenario())


def test_warm_models_are_loaded_at_the_start() -> None:
    async def scenario() -> None:
        async with World(policy=replace(POLICY, warm=("a", "b", "c"))).running() as world:
            await eventually(lambda: world.only.ready == {"a", "b"}, timeout_s=10.0)
            await world.use("a")
            assert world.loads() == ["a", "b"]

    run_virtually(scenario())


def test_a_model_stays_at_least_the_minimum() -> None:
    async def scenario() -> None:
        async with World(policy=replace(POLICY, budget_bytes=100, minimum_s=20.0)).running() as world:
            await world.use("a")
            loaded = now()
            await world.use("b")
            assert now() - loaded >= 20.0

    run_virtually(scenario())


def test_a_deadline_too_near_for_the_load_is_refused_at_once_and_the_load_goes_on() -> None:
    async def scenario() -> None:
        known = FakeFootprintStore({"a": Footprint(100, 1.0)})
        async with World(store=known).running() as world:
            await asyncio.sleep(0.1)
            start = now()
            with pytest.raises(Unavailable) as caught:
                await world.use("a", wait_s=0.5)
            assert (caught.value.reason, caught.value.retry_after_s) == ("loading", 1.0)
            assert now() == start
            await asyncio.sleep(caught.value.retry_after_s or 0.0)
            await world.use("a", wait_s=0.5)
            assert world.loads() == ["a"]

    run_virtually(scenario())


def test_a_load_that_takes_longer_than_expected_holds_until_the_deadline() -> None:
    async def scenario() -> None:
        async with World().running() as world:
            world.only.load_s = 5.0
            start = now()
            with pytest.raises(Unavailable) as caught:
                await world.use("a", wait_s=2.0)
            assert caught.value.reason == "loading"
            assert now() - start == pytest.approx(2.0)

    run_virtually(scenario())


def test_a_footprint_is_measured_kept_and_used() -> None:
    async def scenario() -> None:
        world = World(policy=replace(POLICY, budget_bytes=300))
        world.only.sizes = SIZES | {"a": 180}
        async with world.running():
            await world.use("a")
            await world.use("b")
            kept = world.store.kept["a"]
            assert (kept.bytes_, kept.load_s) == (180, pytest.approx(1.0))
            await world.use("c")
            assert world.only.ready == {"b", "c"}
            assert world.only.peak_bytes <= 300

    run_virtually(scenario())


def test_loads_are_one_at_a_time_on_a_server_and_side_by_side_on_several() -> None:
    async def scenario() -> None:
        async with World(3).running() as world:
            await asyncio.sleep(0.1)
            start = now()
            await asyncio.gather(*(world.use(model) for model in "abc"))
            assert now() - start < 2.0
            await asyncio.gather(*(world.use(model) for model in "defabc"))
            assert all(server.most_at_once == 1 for server in world.servers.values())

    run_virtually(scenario())


def test_a_busy_model_gets_a_second_server_if_nobody_has_to_go_for_it() -> None:
    async def scenario() -> None:
        async with World(2).running() as world:
            await world.use("a")
            await asyncio.gather(*(world.use("a", takes_s=3.0) for _ in range(10)))
            assert [server.ready for server in world.servers.values()] == [{"a"}, {"a"}]
            for model in "bcd":
                await world.use(model)
            assert sum("a" in server.ready for server in world.servers.values()) <= 1, "the spare copy goes first"
            loads = len(world.loads())
            await asyncio.gather(*(world.use("d", takes_s=3.0) for _ in range(10)))
            assert len(world.loads()) == loads, "there was no room that was free"

    run_virtually(scenario())


def test_waiters_that_give_up_leave_no_lease_behind() -> None:
    async def scenario() -> None:
        async with World().running() as world:
            await asyncio.sleep(0.1)
            tasks = [asyncio.create_task(world.use("a")) for _ in range(20)]
            await asyncio.sleep(0.5)
            for task in tasks[::2]:
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            assert sum(isinstance(each, asyncio.CancelledError) for each in done) == 10
            assert [copy.leases for copy in world.copies()] == [0]

    run_virtually(scenario())


def test_what_nobody_wants_any_more_moves_nobody() -> None:
    async def scenario() -> None:
        async with World().running() as world:
            for model in "ab":
                await world.use(model)
            slow = [asyncio.create_task(world.use(model, takes_s=30.0)) for model in "ab"]
            await asyncio.sleep(0.1)
            with pytest.raises(Unavailable):
                await world.use("c", wait_s=1.5)
            await asyncio.sleep(4.0)
            assert {copy.stage for copy in world.copies()} == {Stage.READY}
            await world.use("a")
            await asyncio.gather(*slow)
            assert world.only.ready == {"a", "b"}

    run_virtually(scenario())


def test_a_model_of_another_group_is_refused() -> None:
    async def scenario() -> None:
        async with World().running() as world:
            with pytest.raises(LoadFailed):
                await world.use("zzz")

    run_virtually(scenario())


def test_a_model_that_grows_in_use_is_charged_for_it_and_another_one_goes() -> None:
    async def scenario() -> None:
        sizes = dict(SIZES)
        world = World(policy=replace(POLICY, budget_bytes=320))
        world.only.sizes, world.only.tells_models = sizes, True
        async with world.running():
            for model in "aabbc":
                await world.use(model)
            assert world.only.ready == {"a", "b", "c"}
            sizes["a"] = 150
            await eventually(lambda: world.only.ready == {"a", "b"}, timeout_s=10.0)

    run_virtually(scenario())
