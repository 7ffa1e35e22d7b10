"""Rates, slots and subjects are kept alike in memory and in Redis."""

import pytest
from gateway.core.accounts import Limits
from gateway.core.limit_ports import (
    DuplicateReservation,
)
from gateway.core.metering import BudgetExhausted, Estimate, Meter, RateLimited
from gateway_limit_fakes import FREE, HandClock, account, admitted


@pytest.mark.parametrize("level", ["tenant", "project", "key"])
async def test_a_burst_gets_exactly_the_limit(meter: Meter, level: str) -> None:
    who = account(**{level: Limits(requests_per_minute=100)})
    assert await admitted(meter, who, 300) == 100
    with pytest.raises(RateLimited) as refused:
        await meter.reserve(who, "one-more", FREE)
    assert refused.value.reason == "requests_per_minute"
    assert refused.value.retry is True
    assert 1 <= refused.value.retry_after_s <= 61
    assert refused.value.quota.limit == 100
    assert refused.value.quota.remaining == 0


async def test_what_is_told_to_wait_is_enough_and_no_second_too_much(meter: Meter, clock: HandClock) -> None:
    who = account(key=Limits(requests_per_minute=2))
    await meter.reserve(who, "a", FREE)
    clock.turn(20)
    await meter.reserve(who, "b", FREE)
    with pytest.raises(RateLimited) as refused:
        await meter.reserve(who, "c", FREE)
    wait_s = refused.value.retry_after_s
    assert 39 <= wait_s <= 41
    clock.turn(wait_s - 1.5)
    with pytest.raises(RateLimited):
        await meter.reserve(who, "d", FREE)
    clock.turn(1.6)
    await meter.reserve(who, "e", FREE)
    with pytest.raises(RateLimited):
        await meter.reserve(who, "f", FREE)


async def test_never_more_than_the_limit_in_any_minute(meter: Meter, clock: HandClock) -> None:
    who, moments = account(tenant=Limits(requests_per_minute=10)), list[float]()
    for step in range(120):
        moments += [clock.running_s] * await admitted(meter, who, 2, name=f"s{step}")
        clock.turn(1.7)
    for moment in moments:
        assert len([other for other in moments if moment <= other < moment + 60]) <= 10
    assert len(moments) == 40


async def test_unused_tokens_are_given_back_and_more_are_counted(meter: Meter) -> None:
    who = account(project=Limits(tokens_per_minute=1000))
    first = await meter.reserve(who, "a", Estimate(900, 0))
    with pytest.raises(RateLimited) as refused:
        await meter.reserve(who, "b", Estimate(200, 0))
    assert refused.value.reason == "tokens_per_minute"
    await meter.settle(first, 100, 0)
    second = await meter.reserve(who, "c", Estimate(900, 0))
    assert second.tokens is not None
    assert (second.tokens.limit, second.tokens.remaining) == (1000, 0)
    await meter.settle(second, 5000, 0)
    with pytest.raises(RateLimited):
        await meter.reserve(who, "d", Estimate(1, 0))


async def test_tokens_used_on_top_count_when_they_were_used(meter: Meter, clock: HandClock) -> None:
    who = account(key=Limits(tokens_per_minute=100))
    call = await meter.reserve(who, "a", Estimate(10, 0))
    clock.turn(59)
    await meter.settle(call, 100, 0)
    clock.turn(10)
    with pytest.raises(RateLimited) as refused:
        await meter.reserve(who, "b", Estimate(20, 0))
    assert 49 <= refused.value.retry_after_s <= 52


async def test_a_call_larger_than_the_limit_is_told_not_to_come_again(meter: Meter) -> None:
    who = account(key=Limits(tokens_per_minute=100))
    with pytest.raises(RateLimited) as refused:
        await meter.reserve(who, "a", Estimate(101, 0))
    assert refused.value.retry is False
    assert refused.value.retry_after_s == 120
    await meter.reserve(who, "b", Estimate(100, 0))


async def test_slots_are_freed_by_settling_and_by_releasing(meter: Meter) -> None:
    who = account(key=Limits(concurrent_requests=2))
    first, second = await meter.reserve(who, "a", FREE), await meter.reserve(who, "b", FREE)
    with pytest.raises(RateLimited) as refused:
        await meter.reserve(who, "c", FREE)
    assert refused.value.reason == "concurrent_requests"
    assert refused.value.retry_after_s == 1
    await meter.settle(first, 1, 0)
    await meter.settle(first, 1, 0)
    await meter.release(first)
    assert await admitted(meter, who, 5, name="d") == 1
    await meter.release(second)
    assert await admitted(meter, who, 5, name="e") == 1


@pytest.mark.parametrize("measure", ["requests_per_minute", "tokens_per_minute", "concurrent_requests"])
async def test_zero_is_none_and_null_is_unlimited(meter: Meter, measure: str) -> None:
    with pytest.raises(RateLimited) as refused:
        await meter.reserve(account(key=Limits(**{measure: 0})), "a", Estimate(1, 0))
    assert refused.value.reason == measure
    assert refused.value.retry is False
    assert await admitted(meter, account(tenant=Limits(), name="free"), 50, Estimate(10**6, 10**12)) == 50


async def test_all_subjects_or_none(meter: Meter) -> None:
    full = Limits(budget_month_nanos=500)
    wide = Limits(requests_per_minute=3, tokens_per_minute=30, concurrent_requests=3, budget_day_nanos=3000)
    who = account(tenant=wide, project=wide, key=full)
    for number in range(20):
        with pytest.raises(BudgetExhausted):
            await meter.reserve(who, f"x{number}", Estimate(10, 1000))
    relaxed = account(tenant=wide, project=wide)
    assert await admitted(meter, relaxed, 10, Estimate(10, 1000)) == 3


async def test_a_release_gives_everything_back(meter: Meter) -> None:
    limits = Limits(
        requests_per_minute=1,
        tokens_per_minute=10,
        concurrent_requests=1,
        budget_day_nanos=1000,
        budget_month_nanos=1000,
    )
    who = account(tenant=limits, key=limits)
    for number in range(5):
        call = await meter.reserve(who, f"a{number}", Estimate(10, 1000))
        await meter.release(call)
    assert await admitted(meter, who, 3, Estimate(10, 1000)) == 1


async def test_a_dead_process_frees_its_slots_and_has_spent_its_money(meter: Meter, clock: HandClock) -> None:
    who = account(tenant=Limits(concurrent_requests=1, budget_day_nanos=1000))
    await meter.reserve(who, "dead", Estimate(1, 600))
    clock.turn(890)
    with pytest.raises(RateLimited):
        await meter.reserve(who, "a", Estimate(1, 400))
    clock.turn(15)
    with pytest.raises(BudgetExhausted):
        await meter.reserve(who, "b", Estimate(1, 401))
    await meter.settle(await meter.reserve(who, "c", Estimate(1, 400)), 1, 300)
    assert await admitted(meter, who, 3, Estimate(1, 101), "d") == 0
    assert await admitted(meter, who, 3, Estimate(1, 100), "e") == 1


async def test_a_renewed_call_keeps_what_it_holds(meter: Meter, clock: HandClock) -> None:
    who = account(key=Limits(concurrent_requests=1, budget_month_nanos=1000))
    stream = await meter.reserve(who, "stream", Estimate(1, 1000))
    for _ in range(10):
        clock.turn(600)
        await meter.renew(stream)
        with pytest.raises((RateLimited, BudgetExhausted)):
            await meter.reserve(who, "other", Estimate(1, 1))
    await meter.settle(stream, 1, 10)
    await meter.renew(stream)
    assert await admitted(meter, who, 3, Estimate(1, 990), "last") == 1


async def test_a_clock_that_goes_back_frees_nothing_and_locks_nobody_out(meter: Meter, clock: HandClock) -> None:
    who = account(key=Limits(requests_per_minute=5, tokens_per_minute=50))
    assert await admitted(meter, who, 9, Estimate(10, 0), "a") == 5
    clock.turn(-7200)
    assert await admitted(meter, who, 9, Estimate(10, 0), "b") == 0
    clock.turn(62)
    assert await admitted(meter, who, 9, Estimate(10, 0), "c") == 5


async def test_a_clock_that_leaps_frees_one_limit_at_most(meter: Meter, clock: HandClock) -> None:
    who = account(key=Limits(requests_per_minute=5))
    assert await admitted(meter, who, 9, name="a") == 5
    clock.turn(40_000)
    assert await admitted(meter, who, 9, name="b") == 5
    clock.turn(-40_000)
    assert await admitted(meter, who, 9, name="c") == 0


async def test_limits_may_change_while_calls_are_open(meter: Meter) -> None:
    before = account(tenant=Limits(concurrent_requests=9))
    call = await meter.reserve(before, "a", Estimate(1, 500))
    after = account(tenant=Limits(concurrent_requests=2, budget_day_nanos=1000))
    other = await meter.reserve(after, "b", Estimate(1, 500))
    with pytest.raises(RateLimited):
        await meter.reserve(after, "c", Estimate(1, 500))
    await meter.settle(call, 1, 500)
    await meter.reserve(after, "d", Estimate(1, 500))
    await meter.settle(other, 1, 500)
    with pytest.raises(BudgetExhausted):
        await meter.reserve(after, "e", Estimate(1, 1))


async def test_the_same_reservation_is_not_made_twice(meter: Meter) -> None:
    who = account(tenant=Limits(concurrent_requests=9))
    await meter.reserve(who, "same", FREE)
    with pytest.raises(DuplicateReservation):
        await meter.reserve(who, "same", FREE)


async def test_the_tightest_quota_is_the_one_that_is_shown(meter: Meter) -> None:
    who = account(
        tenant=Limits(requests_per_minute=100, tokens_per_minute=40),
        project=Limits(requests_per_minute=10),
        key=Limits(tokens_per_minute=1000),
    )
    call = await meter.reserve(who, "a", Estimate(15, 0))
    assert call.requests is not None
    assert call.tokens is not None
    assert (call.requests.limit, call.requests.remaining) == (10, 9)
    assert (call.tokens.limit, call.tokens.remaining) == (40, 25)
    assert 60 <= call.requests.reset_s <= 61


async def test_the_limit_that_stands_longest_is_the_one_that_is_named(meter: Meter) -> None:
    who = account(tenant=Limits(concurrent_requests=1, requests_per_minute=1, budget_day_nanos=10))
    await meter.reserve(who, "a", Estimate(1, 10))
    with pytest.raises(BudgetExhausted):
        await meter.reserve(who, "b", Estimate(1, 10))
    with pytest.raises(RateLimited) as refused:
        await meter.reserve(who, "c", Estimate(1, 0))
    assert refused.value.reason == "requests_per_minute"


async def test_tenants_share_nothing(meter: Meter) -> None:
    limits = Limits(requests_per_minute=3, budget_day_nanos=300)
    for name in ("one", "two}", "{three", "a:b", "", "ключ"):
        assert await admitted(meter, account(tenant=limits, name=name), 9, Estimate(1, 100), name) == 3


@pytest.mark.parametrize("estimate", [Estimate(-1, 0), Estimate(0, -1), Estimate(2**53, 0), Estimate(0, 2**53)])
async def test_an_estimate_that_cannot_be_counted_is_refused(meter: Meter, estimate: Estimate) -> None:
    with pytest.raises(ValueError, match="estimate"):
        await meter.reserve(account(tenant=Limits(tokens_per_minute=1)), "a", estimate)
