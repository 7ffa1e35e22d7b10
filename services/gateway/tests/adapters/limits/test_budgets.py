"""Budgets are kept alike in memory and in Redis."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from gateway.core.accounts import Limits
from gateway.core.limit_ports import (
    CHECK_EVERY_S,
    Ask,
    Grant,
    LimitStore,
    Refusal,
    Unseeded,
    Used,
)
from gateway.core.metering import BudgetExhausted, Estimate, Meter
from gateway_limit_fakes import FakeSpend, HandClock, account, admitted
from servicekit.errors import Unavailable


async def test_a_budget_of_zero_pays_for_what_is_free(meter: Meter) -> None:
    who = account(tenant=Limits(budget_day_nanos=0))
    await meter.reserve(who, "a", Estimate(10, 0))
    with pytest.raises(BudgetExhausted):
        await meter.reserve(who, "b", Estimate(10, 1))


async def test_what_is_free_is_settled_and_released_under_a_budget(meter: Meter) -> None:
    who = account(tenant=Limits(budget_day_nanos=100, budget_month_nanos=100, concurrent_requests=1))
    await meter.settle(await meter.reserve(who, "a", Estimate(10, 0)), 10, 0)
    await meter.release(await meter.reserve(who, "b", Estimate(10, 0)))
    await meter.settle(await meter.reserve(who, "c", Estimate(10, 0)), 10, 40)
    await meter.settle(await meter.reserve(who, "d", Estimate(1, 60)), 1, 60)
    with pytest.raises(BudgetExhausted):
        await meter.reserve(who, "e", Estimate(1, 1))


@pytest.mark.parametrize("period", ["budget_day_nanos", "budget_month_nanos"])
async def test_two_hundred_calls_at_once_spend_a_budget_for_ten(meter: Meter, spend: FakeSpend, period: str) -> None:
    who = account(tenant=Limits(**{period: 10_000}))
    assert await admitted(meter, who, 200, Estimate(5, 1000)) == 10
    with pytest.raises(BudgetExhausted) as refused:
        await meter.reserve(who, "one-more", Estimate(5, 1))
    assert refused.value.reason == "budget_exhausted"
    assert refused.value.retry is False
    assert refused.value.retry_after_s == 120
    assert "tenant acme" in refused.value.message
    assert ("daily" in refused.value.message) == (period == "budget_day_nanos")
    assert len(spend.asked) == 1, "one question to the ledger, not one of each caller"


async def test_what_a_call_really_cost_counts(meter: Meter) -> None:
    who = account(key=Limits(budget_day_nanos=1000))
    cheap = await meter.reserve(who, "a", Estimate(1, 900))
    await meter.settle(cheap, 1, 100)
    dear = await meter.reserve(who, "b", Estimate(1, 900))
    await meter.settle(dear, 1, 950)
    with pytest.raises(BudgetExhausted):
        await meter.reserve(who, "c", Estimate(1, 1))
    await meter.reserve(who, "d", Estimate(1, 0))


async def test_a_budget_knows_what_the_ledger_knows(meter: Meter, spend: FakeSpend) -> None:
    who = account(tenant=Limits(budget_day_nanos=1000), key=Limits(budget_month_nanos=5000))
    spend.spent_nanos["tenant", "acme"] = 600
    spend.spent_nanos["key", "acme-k"] = 4700
    assert await admitted(meter, who, 10, Estimate(1, 100)) == 3
    assert sorted(spend.asked) == [
        ("key", "acme-k", datetime(2026, 3, 1, tzinfo=UTC)),
        ("tenant", "acme", datetime(2026, 3, 15, tzinfo=UTC)),
    ]


async def test_nothing_is_spent_while_the_ledger_cannot_say_what_was(meter: Meter, spend: FakeSpend) -> None:
    who = account(tenant=Limits(budget_day_nanos=1000))
    spend.is_down = True
    with pytest.raises(Unavailable):
        await meter.reserve(who, "a", Estimate(1, 1))
    spend.is_down = False
    await meter.reserve(who, "a", Estimate(1, 1))


async def test_a_new_day_has_a_new_budget_and_the_month_goes_on(
    meter: Meter, spend: FakeSpend, clock: HandClock
) -> None:
    who = account(tenant=Limits(budget_day_nanos=1000, budget_month_nanos=1500))
    call = await meter.reserve(who, "a", Estimate(1, 1000))
    clock.turn(timedelta(hours=11, minutes=59).total_seconds())
    late = await admitted(meter, who, 1, Estimate(1, 500), "b")
    clock.turn(120)
    assert late == 0, "the lease of `a` ran out, and what it held is spent"
    spend.spent_nanos["tenant", "acme"] = 0
    assert await admitted(meter, who, 3, Estimate(1, 500), "c") == 1
    assert spend.asked[-1][2] == datetime(2026, 3, 16, tzinfo=UTC)
    await meter.settle(call, 1, 500)
    assert await admitted(meter, who, 3, Estimate(1, 250), "d") == 2, "the month has 500 back, the day never had them"


async def test_months_begin_where_the_calendar_says(meter: Meter, spend: FakeSpend, clock: HandClock) -> None:
    who = account(key=Limits(budget_month_nanos=10))
    months = [(2026, 3), (2026, 4), (2026, 12), (2027, 1), (2028, 2), (2028, 3), (2099, 12), (2100, 2), (2100, 3)]
    for year, month in months:
        for day in (1, 28):
            clock.put(datetime(year, month, day, 23, 59, 29, tzinfo=UTC))
            await meter.release(await meter.reserve(who, f"{year}-{month}-{day}", Estimate(1, 1)))
    asked = list(dict.fromkeys(since for _, _, since in spend.asked))
    assert asked == [datetime(year, month, 1, tzinfo=UTC) for year, month in months]


async def test_a_call_settled_after_its_lease_costs_what_it_cost(meter: Meter, clock: HandClock) -> None:
    who = account(tenant=Limits(budget_day_nanos=1000))
    slow = await meter.reserve(who, "slow", Estimate(1, 600))
    clock.turn(2000)
    await meter.release(await meter.reserve(who, "a", Estimate(1, 400)))
    await meter.settle(slow, 1, 100)
    assert await admitted(meter, who, 20, Estimate(1, 100), "b") == 9


async def test_spend_the_store_missed_is_found_in_the_ledger(meter: Meter, spend: FakeSpend, clock: HandClock) -> None:
    who = account(tenant=Limits(budget_day_nanos=1000))
    await meter.settle(await meter.reserve(who, "a", Estimate(1, 100)), 1, 100)
    spend.spent_nanos["tenant", "acme"] = 900
    clock.turn(CHECK_EVERY_S + 1)
    call, open_call = await meter.reserve(who, "b", Estimate(1, 50)), await meter.reserve(who, "c", Estimate(1, 20))
    await meter.settle(call, 1, 0)
    assert len(spend.asked) == 2
    await meter.settle(open_call, 1, 20)
    assert await admitted(meter, who, 9, Estimate(1, 10), "d") == 9
    assert await admitted(meter, who, 9, Estimate(1, 10), "e") == 1


async def test_a_check_never_counts_open_calls_twice(meter: Meter, spend: FakeSpend, clock: HandClock) -> None:
    who = account(tenant=Limits(budget_day_nanos=1000))
    ended = await meter.reserve(who, "a", Estimate(1, 300))
    spend.spent_nanos["tenant", "acme"] = 300
    clock.turn(CHECK_EVERY_S + 1)
    await meter.settle(await meter.reserve(who, "b", Estimate(1, 100)), 1, 0)
    assert len(spend.asked) == 2
    await meter.settle(ended, 1, 300)
    assert await admitted(meter, who, 20, Estimate(1, 100), "c") == 7


async def test_a_leap_to_another_month_and_back_forgets_no_spend(
    meter: Meter, spend: FakeSpend, clock: HandClock
) -> None:
    who = account(key=Limits(budget_month_nanos=1000))
    call = await meter.reserve(who, "a", Estimate(1, 400))
    clock.turn(40 * 86_400)
    await meter.release(await meter.reserve(who, "b", Estimate(1, 1000)))
    clock.turn(-40 * 86_400)
    await meter.settle(call, 1, 400)
    spend.book(who, 400)
    assert await admitted(meter, who, 20, Estimate(1, 100), "c") == 6


async def test_spend_that_is_not_verified_is_not_believed(store: LimitStore, clock: HandClock) -> None:
    subjects = account(tenant=Limits(budget_day_nanos=1000)).subjects[:1]
    ask = Ask("a", "acme", subjects, 1, 100, 900.0)
    first = await store.reserve(ask)
    assert isinstance(first, Unseeded)
    await store.seed("acme", first.purses[0], 0)
    granted = await store.reserve(ask)
    assert isinstance(granted, Grant)
    clock.turn(5)
    distrusting = replace(ask, id="b", verified_after_s=granted.at_s + 4)
    assert isinstance(await store.reserve(distrusting), Unseeded)
    await store.seed("acme", first.purses[0], 950)
    answer = await store.reserve(distrusting)
    assert isinstance(answer, Refusal)
    assert answer.quota.remaining == 50
    from_a_clock_gone_wrong = replace(ask, id="c", cost_nanos=50, verified_after_s=granted.at_s + 9999)
    assert isinstance(await store.reserve(from_a_clock_gone_wrong), Grant)


async def test_what_was_granted_unseen_is_given_back_by_its_id_alone(store: LimitStore) -> None:
    who = account(key=Limits(concurrent_requests=1, budget_day_nanos=100, budget_month_nanos=100))
    meter, given_back = Meter(store, FakeSpend()), Used(0, 0, 0)
    other = await meter.reserve(account(key=who.subjects[2].limits, name="other"), "lost-not", Estimate(1, 100))
    held = await meter.reserve(who, "lost", Estimate(1, 100))
    assert held.grant is not None
    unseen = Grant(held.grant.ask, 0.0, 0, 0, None, None, (), shared=True)
    await store.settle(unseen, given_back, late=True)
    await store.settle(unseen, given_back, late=True)
    again = await meter.reserve(who, "again", Estimate(1, 100))
    await store.settle(unseen, given_back, late=True)
    with pytest.raises(BudgetExhausted):
        await meter.reserve(who, "more", Estimate(1, 1))
    await meter.release(again)
    await meter.release(other)


async def test_large_amounts_are_exact(meter: Meter) -> None:
    most = 2**53 - 1
    who = account(tenant=Limits(budget_month_nanos=most, tokens_per_minute=most))
    await meter.settle(await meter.reserve(who, "a", Estimate(most, most)), 7, most - 3)
    with pytest.raises(BudgetExhausted):
        await meter.reserve(who, "b", Estimate(1, 4))
    call = await meter.reserve(who, "c", Estimate(1, 3))
    assert call.tokens is not None
    assert call.tokens.remaining == most - 8


async def test_an_upstream_that_reports_nonsense_earns_nobody_money(meter: Meter) -> None:
    who = account(tenant=Limits(budget_day_nanos=1000, tokens_per_minute=100))
    await meter.settle(await meter.reserve(who, "a", Estimate(10, 100)), -(10**30), -(10**30))
    assert await admitted(meter, who, 20, Estimate(1, 100), "b") == 10
