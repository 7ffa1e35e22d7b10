"""A shared store that is lost, silent or hanging: calls go on by the policy, and nothing stays reserved for ever."""

import asyncio

import pytest
from gateway.core.accounts import Limits
from gateway.core.limit_breaker import MOST_UNSETTLED, GuardedLimits, LimitsUnavailable
from gateway.core.local_limits import LocalLimits
from gateway.core.metering import BudgetExhausted, Estimate, Meter, RateLimited
from gateway_limit_fakes import FailingStore, FakeSpend, HandClock, account, local_store

ONE = Estimate(1, 100)


class TurningStore(FailingStore):
    """One whose answers take a turn of the loop, so that callers overtake each other."""

    async def _enter(self) -> None:
        await super()._enter()
        await asyncio.sleep(0)


class Rig:
    """A meter over a guarded store that can be lost."""

    def __init__(self, policy: str = "local", store: type[FailingStore] = FailingStore) -> None:
        self.clock, self.spend = HandClock(), FakeSpend()
        self.inside: LocalLimits = local_store(self.clock)
        self.shared = store(self.inside)
        local = local_store(self.clock, processes=2) if policy == "local" else None
        self.store = GuardedLimits(self.shared, local, failures=3, open_s=5, clock=self.clock.running)
        self.meter = Meter(self.store, self.spend, self.clock.running)


async def test_after_three_failures_nobody_asks_until_one_tries() -> None:
    rig, who = Rig(), account(key=Limits(requests_per_minute=1000))
    rig.shared.state = "down"
    for number in range(10):
        await rig.meter.reserve(who, f"a{number}", ONE)
    assert rig.shared.calls == 3
    rig.clock.turn(4.9)
    await rig.meter.reserve(who, "b", ONE)
    assert rig.shared.calls == 3
    rig.clock.turn(0.2)
    await asyncio.gather(*(rig.meter.reserve(who, f"c{number}", ONE) for number in range(20)))
    assert rig.shared.calls == 4
    rig.shared.state = "up"
    rig.clock.turn(5)
    await rig.meter.reserve(who, "d", ONE)
    assert not rig.store.is_open


async def test_many_questions_lost_in_one_silence_are_one_failure() -> None:
    rig, who = Rig("local", TurningStore), account(key=Limits(requests_per_minute=1000))
    for silence in range(2):
        rig.shared.state = "mute"
        await asyncio.gather(*(rig.meter.reserve(who, f"a{silence}-{number}", ONE) for number in range(20)))
        assert not rig.store.is_open
    assert rig.shared.calls >= 40
    await asyncio.gather(*(rig.meter.reserve(who, f"b{number}", ONE) for number in range(20)))
    assert rig.store.is_open


async def test_what_this_process_reserved_by_itself_is_settled_without_waiting_and_once() -> None:
    rig, who = Rig(), account(key=Limits(concurrent_requests=2))
    in_shared = await rig.meter.reserve(who, "a", ONE)
    rig.shared.state = "down"
    by_itself = await rig.meter.reserve(who, "b", ONE)
    assert not rig.meter.settle_now(in_shared, 1, 100)
    assert in_shared.is_open
    assert rig.meter.settle_now(by_itself, 1, 100)
    assert not by_itself.is_open
    assert rig.meter.settle_now(by_itself, 1, 100)
    await rig.meter.reserve(who, "c", ONE)


async def test_one_probe_at_a_time() -> None:
    rig, who = Rig(), account(key=Limits(requests_per_minute=1000))
    rig.shared.state = "down"
    for number in range(3):
        await rig.meter.reserve(who, f"a{number}", ONE)
    rig.clock.turn(5)
    rig.shared.state = "hang"
    probe = asyncio.create_task(rig.meter.reserve(who, "probe", ONE))
    await rig.shared.hanging.wait()
    for number in range(9):
        await rig.meter.reserve(who, f"b{number}", ONE)
    assert rig.shared.calls == 4
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
    rig.shared.state = "up"
    await rig.meter.reserve(who, "next", ONE)
    assert not rig.store.is_open


async def test_closed_serves_nobody_and_says_until_when() -> None:
    rig, who = Rig("closed"), account(key=Limits(requests_per_minute=1000))
    rig.shared.state = "down"
    for number in range(9):
        with pytest.raises(LimitsUnavailable) as refused:
            await rig.meter.reserve(who, f"a{number}", ONE)
        assert refused.value.reason == "limits_unavailable"
        assert 1 <= (refused.value.retry_after_s or 0) <= 5
    assert rig.shared.calls == 3
    assert rig.store.is_open
    await rig.meter.reserve(account(), "free", ONE)


async def test_local_divides_limits_among_processes() -> None:
    rig, who = Rig(), account(key=Limits(requests_per_minute=10))
    rig.shared.state = "down"
    for number in range(5):
        await rig.meter.reserve(who, f"a{number}", ONE)
    with pytest.raises(RateLimited):
        await rig.meter.reserve(who, "more", ONE)


@pytest.mark.parametrize("state", ["mute", "hang"])
async def test_a_reservation_whose_answer_was_lost_is_given_back(state: str) -> None:
    rig, who = Rig(), account(key=Limits(concurrent_requests=2, budget_day_nanos=200))
    await rig.meter.release(await rig.meter.reserve(who, "warm", ONE))
    rig.shared.state = state
    asking = asyncio.create_task(rig.meter.reserve(who, "lost", ONE))
    if state == "hang":
        await rig.shared.hanging.wait()
        asking.cancel()
    answer = (await asyncio.gather(asking, return_exceptions=True))[0]
    rig.shared.state = "up"
    if state == "mute":
        await rig.meter.release(answer)
    await rig.meter.release(await rig.meter.reserve(who, "first", ONE))
    held = [await rig.meter.reserve(who, f"b{number}", ONE) for number in range(2)]
    with pytest.raises((RateLimited, BudgetExhausted)):
        await rig.meter.reserve(who, "more", ONE)
    for reservation in held:
        await rig.meter.release(reservation)


@pytest.mark.parametrize("state", ["down", "mute"])
async def test_a_settlement_that_was_lost_is_sent_once_when_the_store_is_back(state: str) -> None:
    rig, who = Rig("closed"), account(tenant=Limits(concurrent_requests=1, budget_day_nanos=1000))
    held = await rig.meter.reserve(who, "a", Estimate(1, 500))
    rig.shared.state = state
    await rig.meter.settle(held, 1, 300)
    rig.spend.book(who, 300)
    rig.shared.state = "up"
    other = account(tenant=Limits(requests_per_minute=9), name="other")
    await rig.meter.reserve(other, "b", ONE)
    last = await rig.meter.reserve(who, "c", Estimate(1, 700))
    await rig.meter.release(last)
    with pytest.raises(BudgetExhausted):
        await rig.meter.reserve(who, "d", Estimate(1, 701))


async def test_a_caller_who_leaves_while_it_is_settled_leaves_nothing_behind() -> None:
    rig, who = Rig("closed"), account(key=Limits(concurrent_requests=1))
    held = await rig.meter.reserve(who, "a", ONE)
    rig.shared.state = "hang"
    settling = asyncio.create_task(rig.meter.settle(held, 1, 1))
    await rig.shared.hanging.wait()
    settling.cancel()
    await asyncio.gather(settling, return_exceptions=True)
    rig.shared.state = "up"
    await rig.meter.reserve(account(key=Limits(requests_per_minute=9), name="other"), "b", ONE)
    again = await rig.meter.reserve(who, "c", ONE)
    with pytest.raises(RateLimited):
        await rig.meter.reserve(who, "d", ONE)
    await rig.meter.release(again)
    assert (await rig.meter.reserve(who, "e", ONE)).is_open


async def test_what_was_spent_without_the_shared_store_is_not_forgotten() -> None:
    rig, who = Rig(), account(tenant=Limits(budget_day_nanos=1000))
    await rig.meter.settle(await rig.meter.reserve(who, "a", ONE), 1, 100)
    rig.spend.book(who, 100)
    rig.shared.state = "down"
    for number in range(4):
        held = await rig.meter.reserve(who, f"b{number}", ONE)
        rig.spend.book(who, 100)
        await rig.meter.settle(held, 1, 100)
    with pytest.raises(BudgetExhausted):
        await rig.meter.reserve(who, "share-used-up", ONE)
    rig.shared.state = "up"
    rig.clock.turn(10)
    with pytest.raises(BudgetExhausted):
        await rig.meter.reserve(who, "c", Estimate(1, 501))
    await rig.meter.reserve(who, "d", Estimate(1, 500))
    with pytest.raises(BudgetExhausted):
        await rig.meter.reserve(who, "e", Estimate(1, 1))


async def test_each_loss_begins_with_what_the_ledger_knows_then() -> None:
    rig, who = Rig(), account(tenant=Limits(budget_day_nanos=1000))
    rig.shared.state = "down"
    await rig.meter.release(await rig.meter.reserve(who, "a", ONE))
    rig.shared.state = "up"
    rig.clock.turn(10)
    await rig.meter.release(await rig.meter.reserve(who, "b", ONE))
    rig.spend.book(who, 900)
    rig.shared.state = "down"
    with pytest.raises(BudgetExhausted):
        await rig.meter.reserve(who, "c", ONE)
    await rig.meter.reserve(who, "d", Estimate(1, 50))


async def test_what_is_kept_for_later_is_bounded() -> None:
    rig, who = Rig("closed"), account(key=Limits(concurrent_requests=10**6))
    held = [await rig.meter.reserve(who, f"a{number}", ONE) for number in range(MOST_UNSETTLED + 50)]
    rig.shared.state = "down"
    for reservation in held:
        await rig.meter.settle(reservation, 1, 1)
    assert len(rig.store._unsettled) == MOST_UNSETTLED


async def test_many_who_find_the_store_again_at_once_share_what_is_to_be_settled() -> None:
    rig, who = Rig("closed", TurningStore), account(key=Limits(concurrent_requests=50))
    held = [await rig.meter.reserve(who, f"a{number}", ONE) for number in range(50)]
    rig.shared.state = "down"
    for reservation in held:
        await rig.meter.settle(reservation, 1, 1)
    rig.shared.state = "up"
    other = account(key=Limits(requests_per_minute=1000), name="other")
    rig.clock.turn(6)
    await rig.meter.reserve(other, "b", ONE)
    granted = await asyncio.gather(*(rig.meter.reserve(other, f"b{number}", ONE) for number in range(30)))
    assert all(each.is_open for each in granted)
    assert not rig.store._unsettled
    assert [(await rig.meter.reserve(who, f"c{number}", ONE)).is_open for number in range(50)] == [True] * 50


async def test_the_change_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    rig, who = Rig(), account(key=Limits(requests_per_minute=1000))
    rig.shared.state = "down"
    for number in range(20):
        await rig.meter.reserve(who, f"a{number}", ONE)
        rig.clock.turn(2)
    rig.shared.state = "up"
    rig.clock.turn(10)
    for number in range(5):
        await rig.meter.reserve(who, f"b{number}", ONE)
    assert len(caplog.records) == 2
