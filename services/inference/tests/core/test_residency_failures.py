"""Residency when loads fail, servers die or leak, and answers are wrong."""

import asyncio
from dataclasses import replace

import pytest
from inference.core.device import Copy, Stage
from inference.core.residency_ports import LoadFailed
from inference_residency_fakes import run_virtually
from inference_residency_world_fakes import POLICY, SIZES, World
from servicekit.errors import Unavailable
from servicekit.testing import eventually


def test_a_load_that_fails_says_why_and_is_not_repeated_for_every_request() -> None:
    async def scenario() -> None:
        async with World(2).running() as world:
            for server in world.servers.values():
                server.refuses.add("a")
            errors = await asyncio.gather(*(world.use("a") for _ in range(10)), return_exceptions=True)
            for error in errors:
                assert isinstance(error, LoadFailed)
                assert (error.reason, error.message) == ("not_loaded", "a: the file is no model")
                assert error.retry_after_s is not None
            assert world.loads() == ["a", "a"], "each server has tried it once"
            for server in world.servers.values():
                server.refuses.clear()
            await asyncio.sleep(2.0)
            await world.use("a")

    run_virtually(scenario())


def test_files_that_cannot_be_right_are_never_loaded() -> None:
    async def scenario() -> None:
        async with World().running() as world:
            world.only.checked_wrong["a"] = "a: 1/model.onnx is not there"
            with pytest.raises(LoadFailed, match=r"1/model\.onnx is not there"):
                await world.use("a")
            assert world.loads() == []

    run_virtually(scenario())


def test_a_model_that_answers_wrongly_after_its_load_never_gets_a_request() -> None:
    async def wrong(model: str, address: str) -> str:
        return "the third value is 7, not 3" if (model, address) == ("a", "s0") else ""

    async def scenario() -> None:
        async with World(2, prove=wrong).running() as world:
            assert await world.use("a") == "s1"
            assert "a" not in world.servers["s0"].ready
        async with World(1, prove=wrong).running() as world:
            with pytest.raises(LoadFailed, match="the third value is 7"):
                await world.use("a")

    run_virtually(scenario())


def test_a_model_larger_than_the_budget_is_refused() -> None:
    async def scenario() -> None:
        world = World()
        world.only.sizes = SIZES | {"a": 900}
        async with world.running():
            for _ in range(2):
                with pytest.raises(LoadFailed, match="takes 900 bytes"):
                    await world.use("a")
                await asyncio.sleep(2.0)
            assert world.loads() == ["a"], "the second time its size is known"
            await world.use("b")

    run_virtually(scenario())


def test_without_a_server_a_retry_is_offered() -> None:
    async def scenario() -> None:
        async with World(0).running() as world:
            with pytest.raises(Unavailable) as caught:
                await world.use("a")
            assert (caught.value.reason, caught.value.retry_after_s) == ("backend_failed", 1.0)
        async with World(1).running() as world:
            world.only.die()
            with pytest.raises(Unavailable) as caught:
                await world.use("a")
            assert caught.value.reason == "backend_failed"

    run_virtually(scenario())


def test_a_server_that_dies_and_comes_back_is_used_again() -> None:
    async def scenario() -> None:
        async with World(2).running() as world:
            first = await world.use("a")
            world.servers[first].die()
            world.residency.lost(first)
            assert await world.use("a") != first
            world.servers[first].dead = False
            await asyncio.sleep(3.0)
            await asyncio.gather(*(world.use(model) for model in "bcd"))
            assert world.servers[first].ready
            assert world.sound()

    run_virtually(scenario())


def test_a_server_that_dies_during_a_load_passes_the_load_on() -> None:
    async def scenario() -> None:
        async with World(2).running() as world:
            await asyncio.sleep(0.1)
            waiting = asyncio.create_task(world.use("a"))
            await eventually(lambda: bool(world.loads()))
            next(server for server in world.servers.values() if server.loads).die()
            await waiting
            assert len(world.loads()) == 2

    run_virtually(scenario())


def test_a_server_that_leaves_gets_nothing_more() -> None:
    async def scenario() -> None:
        async with World(2).running() as world:
            first = await world.use("a")
            world.residency.left(first)
            assert await world.use("a") != first
            world.residency.joined(first)
            await asyncio.sleep(1.0)
            assert {copy.address for copy in world.copies()} == {"s0", "s1"}

    run_virtually(scenario())


def test_a_load_that_hangs_is_given_up_and_its_server_is_drained_until_it_is_well() -> None:
    async def scenario() -> None:
        async with World(2).running() as world:
            first = await world.use("b")
            second = next(address for address in world.servers if address != first)
            sick = world.servers[second]
            sick.hangs_on.add("a")
            assert await world.use("a") == first
            assert world.ailments() == {second: "stuck_loading"}
            for model in "cdef":
                assert await world.use(model) == first
            sick.hung.clear()
            sick.hangs_on.clear()
            await eventually(lambda: not world.ailments(), timeout_s=30.0)
            assert second in {await world.use(model) for model in "abcdef"}

    run_virtually(scenario())


def test_a_model_that_does_not_go_makes_its_server_ail() -> None:
    async def scenario() -> None:
        async with World(2).running() as world:
            for model in "abcd":
                await world.use(model)
            for server in world.servers.values():
                server.never_unloads = set(SIZES)
            await world.use("b")
            demanded = asyncio.create_task(world.use("e", wait_s=8.0))
            with pytest.raises(Unavailable):
                await demanded
            assert set(world.ailments().values()) == {"stuck_unloading"}
            left = next(iter(set().union(*(server.ready for server in world.servers.values()))))
            await world.use(left)
            assert world.sound(), "what is still there is still served"

    run_virtually(scenario())


@pytest.mark.parametrize("tells_models", [True, False])
def test_memory_that_does_not_come_back_stays_charged(tells_models: bool) -> None:
    async def scenario() -> None:
        async with World(policy=replace(POLICY, budget_bytes=200, leak_limit_bytes=1000)).running() as world:
            world.only.tells_models = tells_models
            world.only.kept_bytes["a"] = 50
            for model in "abc":
                await world.use(model)
            assert world.only.peak_bytes <= 200
            assert world.only.ready == {"c"}, "50 bytes are gone, so only one fits"

    run_virtually(scenario())


def test_a_server_that_leaks_is_drained_and_reported() -> None:
    async def scenario() -> None:
        async with World(2).running() as world:
            world.servers["s0"].kept_bytes = dict.fromkeys(SIZES, 40)
            for model in "abcdefabcdefabcdef":
                await world.use(model)
            assert world.ailments() == {"s0": "leaking"}
            used = len(world.servers["s0"].loads)
            for model in "abcdef":
                await world.use(model)
            assert len(world.servers["s0"].loads) == used
            world.servers["s0"].die()
            await asyncio.sleep(3.0)
            world.servers["s0"].dead = False
            await asyncio.sleep(3.0)
            assert world.ailments() == {}, "it has been restarted"
            assert world.sound()

    run_virtually(scenario())


def test_the_models_a_server_has_already_are_taken_over_and_one_that_is_missing_is_loaded_anew() -> None:
    async def scenario() -> None:
        world = World()
        world.only.ready.add("a")
        async with world.running():
            await world.use("a")
            assert world.loads() == []
            world.only.ready.discard("a")
            world.residency.missing("a", "s0")
            await world.use("a")
            assert world.loads() == ["a"]
            world.only.ready.discard("a")
            await asyncio.sleep(3.0)
            await world.use("a")
            assert world.loads() == ["a", "a"], "a look has found it missing"

    run_virtually(scenario())


def test_a_doubted_model_gets_no_request_before_it_is_proven_again() -> None:
    verdicts = {"a": ""}

    async def prove(model: str, address: str) -> str:
        return verdicts.get(model, "")

    async def scenario() -> None:
        async with World(prove=prove).running() as world:
            await world.use("a")
            world.residency.doubted("a", "s0")
            await world.use("a")
            assert world.loads() == ["a"], "it was right"
            verdicts["a"] = "wrong"
            world.residency.doubted("a", "s0")
            with pytest.raises(LoadFailed, match="wrong"):
                await world.use("a")
            assert world.only.ready == set()
            verdicts["a"] = ""
            await asyncio.sleep(5.0)
            await world.use("a")

    run_virtually(scenario())


def test_where_memory_cannot_be_measured_what_is_assumed_counts() -> None:
    async def scenario() -> None:
        world = World()
        world.only.measures = False
        async with world.running():
            for model in "abcabc":
                await world.use(model)
                assert sum(copy.bytes_ for copy in world.copies()) <= 200
            assert world.sound()

    run_virtually(scenario())


def test_a_model_in_use_on_an_ailing_server_is_loaded_on_another_one() -> None:
    async def scenario() -> None:
        async with World(2, replace(POLICY, spread_at=99)).running() as world:
            assert await world.use("a") == "s0"
            ailing, well = world.residency.devices()
            ailing.ailment = "stuck_loading"
            ailing.copies["x"] = stuck = Copy("x", "s0", 10)
            stuck.stage = Stage.STUCK
            world.servers["s0"].sizes = SIZES | {"x": 10}
            world.servers["s0"].hung.add("x")
            slow = asyncio.create_task(world.use("a", takes_s=20.0))
            await eventually(lambda: "a" in world.servers["s1"].ready, timeout_s=10.0)
            assert await world.use("a") == "s1"
            assert await slow == "s0"
            assert well.ailment == ""
            assert world.sound()

    run_virtually(scenario())


def test_a_server_that_refuses_to_unload_ails_and_serves_what_it_has() -> None:
    async def scenario() -> None:
        async with World().running() as world:
            for model in "aab":
                await world.use(model)
            world.only.refuses_unload = True
            with pytest.raises(Unavailable):
                await world.use("c", wait_s=8.0)
            assert world.ailments() == {"s0": "stuck_unloading"}
            await world.use("a")
            world.only.refuses_unload = False
            await asyncio.sleep(3.0)
            assert world.ailments() == {}, "the model is there as before"
            await world.use("c")
            assert world.sound()

    run_virtually(scenario())
