"""The gate: never more than the limit, a fair and short wait, and an honest refusal."""

import asyncio
from random import Random

import pytest
from gateway.core.accounts import Priority
from gateway.core.configuration import AdmissionPolicy
from gateway.core.load import IN_FLIGHT, MOST_ROUTES, OVERFLOW, WAITING, DeadlineUnreachable, Gate, Overloaded
from gateway_load_fakes import account, measured, refusal, settle, world
from servicekit.errors import NotFound, TimedOut, Unavailable
from servicekit.load.lane import LONGEST_WAIT_S
from servicekit.virtual_time import VirtualLoop, in_virtual_time

B, S, I = Priority  # noqa: E741


def test_runs_as_many_as_the_limit_and_the_next_when_one_ends() -> None:
    async def story(loop: VirtualLoop) -> None:
        async with world(loop) as here:
            for name in "abcd":
                await here.ask(name)
            assert here.order == ["a", "b"]
            await here.finish("b")
            assert here.order == ["a", "b", "c"]

    in_virtual_time(story)


def test_the_more_important_overtakes_and_then_the_other_tenant() -> None:
    async def story(loop: VirtualLoop) -> None:
        async with world(loop, limit=1, most_waiting=50) as here:
            await here.ask("running")
            await here.ask("batch", B)
            await here.ask("a1", S, "a")
            await here.ask("a2", S, "a")
            await here.ask("b1", S, "b")
            await here.ask("interactive", I)
            for name in ("running", "interactive", "a1", "b1", "a2", "batch"):
                await here.finish(name)
            assert here.order == ["running", "interactive", "a1", "b1", "a2", "batch"]

    in_virtual_time(story)


def test_a_full_class_turns_its_newcomer_away_with_a_reason_and_when_to_come_back() -> None:
    async def story(loop: VirtualLoop) -> None:
        async with world(loop, limit=1, most_waiting=50) as here:
            await measured(here, 2.0)
            await here.ask("running")
            for number in range(4):
                await here.ask(f"waiting-{number}")
            error = refusal(await here.ask("late"))
            assert isinstance(error, Overloaded)
            assert error.reason == "overloaded"
            assert error.retry_after_s == 10.0

    in_virtual_time(story)


def test_a_more_important_newcomer_pushes_the_newest_of_the_least_important_out() -> None:
    async def story(loop: VirtualLoop) -> None:
        async with world(loop, limit=1, most_waiting=4) as here:
            await here.ask("running")
            for name, priority in (("s", S), ("b1", B), ("b2", B), ("s2", S)):
                await here.ask(name, priority)
            await here.ask("i1", I)
            assert refusal(here.tasks["b2"]).reason == "overloaded"
            await here.ask("i2", I)
            assert refusal(here.tasks["b1"]).reason == "overloaded"
            assert refusal(await here.ask("b3", B)).reason == "overloaded"
            await here.ask("i3", I)
            assert refusal(here.tasks["s2"]).reason == "overloaded"
            assert not here.tasks["s"].done()

    in_virtual_time(story)


def test_room_is_made_on_another_route_where_something_less_important_waits() -> None:
    async def story(loop: VirtualLoop) -> None:
        async with world(loop, limit=1, most_waiting=2) as here:
            await here.ask("r2", route="two")
            await here.ask("r1", route="one")
            await here.ask("b1", B, route="one")
            await here.ask("b2", B, route="one")
            await here.ask("i", I, route="two")
            assert refusal(here.tasks["b2"]).reason == "overloaded"
            assert not here.tasks["b1"].done()
            await here.ask("b3", B, "other", route="two")
            assert here.tasks["b3"].done()

    in_virtual_time(story)


def test_lesser_classes_keep_a_part_of_the_room() -> None:
    async def story(loop: VirtualLoop) -> None:
        async with world(loop, limit=1, most_waiting=40, room=dict.fromkeys(Priority, 40)) as here:
            await here.ask("running")
            for number in range(60):
                await here.ask(f"i{number}", I, f"tenant-{number}")
            waiting = here.gate.counts.waiting
            assert waiting == [0, 0, 34]
            for number in range(10):
                await here.ask(f"b{number}", B)
                await here.ask(f"s{number}", S)
            assert waiting == [2, 4, 34]
            for number in range(10):
                await here.ask(f"again-{number}", I, f"tenant-{number}")
            assert waiting == [2, 4, 34]

    in_virtual_time(story)


def test_a_deadline_that_cannot_be_met_is_refused_at_once() -> None:
    async def story(loop: VirtualLoop) -> None:
        async with world(loop, limit=1) as here:
            await measured(here, 1.0)
            here.left_s, start_s = 0.9, loop.time()
            error = refusal(await here.ask("too-late"))
            assert isinstance(error, DeadlineUnreachable)
            assert error.reason == "deadline_unreachable"
            assert error.retry_after_s is not None
            assert 1 <= error.retry_after_s <= 120
            here.left_s = 1.1
            await here.ask("in-time")
            assert refusal(await here.ask("in-time-if-it-had-not-to-wait")).reason == "deadline_unreachable"
            here.left_s = 2.2
            await here.ask("waits")
            assert not here.tasks["waits"].done()
            assert loop.time() == start_s

    in_virtual_time(story)


def test_a_wait_ends_when_what_is_left_of_the_deadline_is_too_short() -> None:
    async def story(loop: VirtualLoop) -> None:
        async with world(loop, limit=1) as here:
            await measured(here, 1.0)
            await here.ask("never-ends")
            here.left_s, start_s = 5.0, loop.time()
            task = await here.ask("waits")
            await asyncio.wait([task])
            assert refusal(task).reason == "deadline_unreachable"
            assert loop.time() - start_s == pytest.approx(4.0)

    in_virtual_time(story)


def test_a_passed_deadline_is_refused_even_before_anything_is_measured() -> None:
    async def story(loop: VirtualLoop) -> None:
        async with world(loop) as here:
            here.left_s = 0.0
            assert refusal(await here.ask("late")).reason == "deadline_unreachable"

    in_virtual_time(story)


def test_a_slow_hour_does_not_lock_short_deadlines_out_for_ever() -> None:
    async def story(loop: VirtualLoop) -> None:
        async with world(loop) as here:
            await measured(here, 5.0)
            here.left_s = 1.0
            assert refusal(await here.ask("refused")).reason == "deadline_unreachable"
            await asyncio.sleep(11.0)
            await here.ask("tried")
            assert here.order == ["tried"]

    in_virtual_time(story)


@pytest.mark.parametrize("priority", list(Priority))
def test_without_a_deadline_a_wait_ends_after_the_patience_of_its_class(priority: Priority) -> None:
    async def story(loop: VirtualLoop) -> None:
        async with world(loop, limit=1) as here:
            await here.ask("never-ends")
            start_s = loop.time()
            task = await here.ask("waits", priority)
            await asyncio.wait([task])
            assert refusal(task).reason == "overloaded"
            assert loop.time() - start_s == pytest.approx(LONGEST_WAIT_S[priority])

    in_virtual_time(story)


def test_a_long_stream_is_judged_by_its_first_byte() -> None:
    async def stream(gate: Gate, seconds: float, tell: bool) -> None:
        async with gate.admitted(account(), "chat") as slot:
            await asyncio.sleep(0.1)
            if tell:
                slot.first_byte()
            await asyncio.sleep(seconds)
            slot.first_byte()

    async def story(loop: VirtualLoop, tell: bool) -> int:
        policy = AdmissionPolicy(least_running=4, most_running=512, first_running=64)
        gate = Gate(policy, clock_s=loop.time, remaining_s=lambda: None)
        for seconds, times in ((0.0, 20), (5.0, 4)):
            for _ in range(times):
                await asyncio.gather(*(stream(gate, seconds, tell) for _ in range(gate.limit_of("chat"))))
        return gate.limit_of("chat")

    assert in_virtual_time(lambda loop: story(loop, True)) > 300
    assert in_virtual_time(lambda loop: story(loop, False)) < 150


def test_a_probe_does_not_hold_back_streams_until_half_of_them_have_ended() -> None:
    async def story(loop: VirtualLoop) -> list[int]:
        gate = Gate(AdmissionPolicy(4, 64, 64), clock_s=loop.time, remaining_s=lambda: None)
        random = Random(1)

        async def listen() -> None:
            while loop.time() < begun_s + 120:
                try:
                    async with gate.admitted(account(), "chat") as slot:
                        await asyncio.sleep(0.1)
                        slot.first_byte()
                        await asyncio.sleep(random.uniform(5, 15))
                except Overloaded:
                    await asyncio.sleep(1)

        begun_s = loop.time()
        listeners = [asyncio.create_task(listen()) for _ in range(80)]
        limits = []
        while loop.time() < begun_s + 120:
            await asyncio.sleep(0.1)
            limits.append(gate.limit_of("chat"))
        await asyncio.gather(*listeners)
        return limits

    limits = in_virtual_time(story)
    assert 0 < sum(limit < 64 for limit in limits) < 0.05 * len(limits)


@pytest.mark.parametrize(
    ("error", "falls"), [(Unavailable("full"), True), (NotFound("no such model"), False), (TimedOut("late"), False)]
)
def test_only_a_server_that_turns_requests_away_lowers_the_limit(error: Exception, falls: bool) -> None:
    async def story(loop: VirtualLoop) -> int:
        gate = Gate(AdmissionPolicy(4, 64, 64), clock_s=loop.time, remaining_s=lambda: None)

        async def fail() -> None:
            async with gate.admitted(account(), "chat"):
                await asyncio.sleep(0.01)
                raise error

        for _ in range(30):
            await asyncio.gather(*(fail() for _ in range(gate.limit_of("chat"))), return_exceptions=True)
        return gate.limit_of("chat")

    assert (in_virtual_time(story) < 64) == falls


def test_one_slow_route_takes_nothing_from_another() -> None:
    async def story(loop: VirtualLoop) -> None:
        async with world(loop, limit=1) as here:
            await here.ask("slow", route="slow")
            await here.ask("waits", route="slow")
            await here.ask("quick", route="quick")
            assert here.order == ["slow", "quick"]

    in_virtual_time(story)


def test_a_million_route_names_do_not_grow_the_gate() -> None:
    async def story(loop: VirtualLoop) -> None:
        async with world(loop) as here:
            for number in range(5 * MOST_ROUTES):
                async with here.gate.admitted(account(), f"route-{number}"):
                    pass
            assert len(here.gate._lanes) == MOST_ROUTES
            for number in range(MOST_ROUTES + 5):
                await here.ask(f"r{number}", route=f"busy-{number}")
            assert len(here.gate._lanes) == MOST_ROUTES + 1
            assert here.gate._lanes[OVERFLOW].in_flight == 2
            assert here.gate._lanes[OVERFLOW].queue.waiting == 3

    in_virtual_time(story)


def test_another_policy_holds_at_once() -> None:
    async def story(loop: VirtualLoop) -> None:
        async with world(loop, limit=1) as here:
            for name in "abc":
                await here.ask(name)
            here.gate.follow(AdmissionPolicy(3, 3, 3, dict.fromkeys(Priority, 0)))
            await settle()
            assert here.order == ["a", "b", "c"]
            assert refusal(await here.ask("d")).reason == "overloaded"

    in_virtual_time(story)


def test_metrics_count_by_class_and_name_no_caller() -> None:
    async def story(loop: VirtualLoop) -> None:
        async with world(loop, limit=1) as here:
            here.gate.publish()
            await here.ask("i", I, "secret-tenant")
            await here.ask("b", B, "secret-tenant")
            samples = [
                sample for metric in (IN_FLIGHT, WAITING) for each in metric.collect() for sample in each.samples
            ]
            seen = {(sample.name, sample.labels["priority"]): sample.value for sample in samples}
            assert seen["penstock_gateway_admitted_in_flight", "interactive"] == 1
            assert seen["penstock_gateway_admission_waiting", "batch"] == 1
            assert sum(seen.values()) == 2
            assert all(set(sample.labels) == {"priority"} for sample in samples)

    in_virtual_time(story)
