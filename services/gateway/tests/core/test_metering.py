"""Whatever is asked in whatever order: no limit is passed, nothing counts twice or gets lost, memory is bounded."""

import asyncio
from dataclasses import dataclass, field
from itertools import count

import pytest
from gateway.core.accounts import Account, Limits, Subject
from gateway.core.limit_ports import Measure, Purse, SpendSource
from gateway.core.local_limits import LocalLimits
from gateway.core.metering import NOTHING_RESERVED, BudgetExhausted, Estimate, Meter, RateLimited, Reservation
from gateway.core.rates import KEPT_S, Window
from gateway_limit_fakes import FailingStore, FakeSpend, HandClock, account, local_store
from hypothesis import given, settings
from hypothesis import strategies as st

OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), st.integers(0, 2), st.integers(0, 60), st.integers(0, 600)),
        st.tuples(st.just("settle"), st.integers(0, 30), st.integers(0, 60), st.integers(0, 600)),
        st.tuples(st.just("release"), st.integers(0, 30), st.just(0), st.just(0)),
        st.tuples(st.just("turn"), st.integers(0, 40), st.just(0), st.just(0)),
    ),
    max_size=60,
)
LIMITS = [
    Limits(requests_per_minute=12, tokens_per_minute=300, budget_month_nanos=4000),
    Limits(concurrent_requests=5, budget_day_nanos=3000),
    Limits(requests_per_minute=7, concurrent_requests=3, budget_day_nanos=1500),
]
WHO = [account(LIMITS[0], LIMITS[1], LIMITS[2]), account(LIMITS[0], LIMITS[1]), account(LIMITS[0])]


@dataclass
class Model:
    """What the limits mean, said in the slowest and plainest way."""

    spent: int = 0
    open: dict[str, tuple[Reservation, Account, Estimate]] = field(default_factory=dict)
    taken: list[tuple[str, float, Account]] = field(default_factory=list)
    overshoot: int = 0

    def check(self, now_s: float) -> None:
        """Assert every limit of every subject."""
        held = sum(estimate.cost_nanos for _, _, estimate in self.open.values())
        assert self.spent + held <= 4000 + self.overshoot
        last = [who for _, at_s, who in self.taken if at_s > now_s - 60]
        assert len(last) <= 12
        assert len([who for who in last if who is WHO[0]]) <= 7
        assert len([1 for _, who, _ in self.open.values() if who is not WHO[2]]) <= 5
        assert len([1 for _, who, _ in self.open.values() if who is WHO[0]]) <= 3


class Player:
    """Does what is asked to a meter and to the model."""

    def __init__(self) -> None:
        self.clock, self.model, self.numbers = HandClock(), Model(), count()
        self.store = local_store(self.clock)
        self.meter = Meter(self.store, FakeSpend(), self.clock.running)

    async def turn(self, seconds: int, tokens: int, cost: int) -> None:
        self.clock.turn(seconds)

    async def reserve(self, index: int, tokens: int, cost: int) -> None:
        estimate, name, who = Estimate(tokens, cost), f"r{next(self.numbers)}", WHO[index]
        try:
            self.model.open[name] = (await self.meter.reserve(who, name, estimate), who, estimate)
        except (RateLimited, BudgetExhausted) as refused:
            assert 1 <= (refused.retry_after_s or 0) <= 120
        else:
            self.model.taken.append((name, self.clock.running_s, who))

    async def settle(self, index: int, tokens: int, cost: int) -> None:
        if self.model.open:
            name = list(self.model.open)[index % len(self.model.open)]
            held, _, estimate = self.model.open.pop(name)
            if index % 2 or not self.meter.settle_now(held, tokens, cost):
                await self.meter.settle(held, tokens, cost)
            self.model.spent += cost
            self.model.overshoot += max(cost - estimate.cost_nanos, 0)

    async def release(self, index: int, tokens: int, cost: int) -> None:
        if self.model.open:
            name = list(self.model.open)[index % len(self.model.open)]
            await self.meter.release(self.model.open.pop(name)[0])
            self.model.taken = [entry for entry in self.model.taken if entry[0] != name]


async def play(operations: list[tuple[str, int, int, int]]) -> None:
    player = Player()
    for what, index, tokens, cost in operations:
        await getattr(player, what)(index, tokens, cost)
        player.model.check(player.clock.running_s)
    for held, _, _ in player.model.open.values():
        await player.meter.release(held)
    tallies = player.store._tallies
    assert all(not tally.leases for tally in tallies.values())
    if any(what == "reserve" for what, *_ in operations):
        month = tallies["tenant", "acme"].month
        assert month is not None
        assert (month.spent, month.reserved) == (player.model.spent, 0)


@settings(max_examples=300, deadline=None)
@given(OPERATIONS)
def test_no_order_of_calls_passes_a_limit_or_loses_a_nano(operations: list[tuple[str, int, int, int]]) -> None:
    asyncio.run(play(operations))


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9)), max_size=80), st.integers(1, 40))
def test_a_window_admits_no_more_than_the_limit_in_any_minute(steps: list[tuple[int, int]], limit: int) -> None:
    window, second, taken = Window(), 0, list[tuple[int, int]]()
    for step, amount in steps:
        second += step
        total = window.total(second)
        assert total == sum(counted for at, counted in taken if at > second - KEPT_S)
        if total + amount <= limit:
            window.add(second, amount)
            taken.append((second, amount))
        elif amount <= limit:
            wait_s = window.wait_s(float(second), total + amount - limit)
            left = sum(counted for at, counted in taken if at > second + wait_s - KEPT_S)
            assert left + amount <= limit
            assert 0 < wait_s <= KEPT_S
    assert all(sum(more for when, more in taken if at <= when < at + 60) <= limit for at, _ in taken)


async def test_an_account_without_limits_touches_no_store() -> None:
    store = FailingStore(local_store(HandClock()))
    meter = Meter(store, FakeSpend())
    for who in (account(), account(Limits(), Limits(), Limits())):
        held = await meter.reserve(who, "a", Estimate(10**9, 10**15))
        assert held is NOTHING_RESERVED
        assert held.requests is held.tokens is None
        await meter.renew(held)
        await meter.settle(held, 1, 1)
        await meter.release(held)
    assert store.calls == 0


async def test_a_million_keys_do_not_grow_memory() -> None:
    clock = HandClock()
    store = LocalLimits(clock.running, clock.wall, most_subjects=1000)
    meter, limits = Meter(store, FakeSpend()), Limits(requests_per_minute=10)
    for number in range(20_000):
        who = Account("acme", "", "", "", frozenset(), (Subject("key", f"k{number}", limits),))
        await meter.reserve(who, f"r{number}", Estimate(1, 1))
        clock.turn(0.07)
    assert len(store) <= 1000
    clock.turn(10_000)
    for number in range(200):
        await meter.reserve(account(key=limits, name=f"late{number}"), f"l{number}", Estimate(1, 1))
    assert len(store) <= 200, "who was idle is forgotten before there are too many"


async def test_who_has_an_open_call_is_not_forgotten() -> None:
    clock = HandClock()
    store = LocalLimits(clock.running, clock.wall, most_subjects=100)
    meter, who = Meter(store, FakeSpend()), account(tenant=Limits(concurrent_requests=1, budget_day_nanos=10))
    await meter.reserve(who, "open", Estimate(1, 10))
    for number in range(2000):
        other = account(tenant=Limits(requests_per_minute=9), name=f"o{number}")
        await meter.reserve(other, f"r{number}", Estimate(1, 1))
    with pytest.raises((RateLimited, BudgetExhausted)):
        await meter.reserve(who, "more", Estimate(1, 1))


async def test_who_is_forgotten_keeps_what_the_ledger_knows() -> None:
    clock, spend = HandClock(), FakeSpend()
    meter = Meter(LocalLimits(clock.running, clock.wall, most_subjects=3), spend)
    who = account(tenant=Limits(budget_day_nanos=1000))
    await meter.settle(await meter.reserve(who, "a", Estimate(1, 900)), 1, 900)
    spend.book(who, 900)
    for number in range(9):
        other = account(tenant=Limits(requests_per_minute=9), name=f"o{number}")
        await meter.reserve(other, f"r{number}", Estimate(1, 1))
    with pytest.raises(BudgetExhausted):
        await meter.reserve(who, "b", Estimate(1, 101))
    await meter.reserve(who, "c", Estimate(1, 100))


async def test_processes_share_what_is_left_of_a_budget() -> None:
    clock, spend, limits = HandClock(), FakeSpend(), Limits(requests_per_minute=9, budget_day_nanos=1000)
    spend.spent_nanos["tenant", "acme"] = 400
    stores = [local_store(clock, processes=3) for _ in range(3)]
    let_in = 0
    for store in stores:
        meter = Meter(store, spend)
        for number in range(9):
            try:
                await meter.settle(await meter.reserve(account(limits), f"r{number}", Estimate(1, 100)), 1, 100)
            except (RateLimited, BudgetExhausted):
                continue
            let_in += 1
    assert let_in == 6
    for limit, share in ((0, 0), (1, 1), (2, 1), (3, 1), (7, 2)):
        meter, who = Meter(local_store(clock, processes=3), spend), account(key=Limits(requests_per_minute=limit))
        for number in range(share):
            await meter.reserve(who, f"r{number}", Estimate(1, 1))
        with pytest.raises(RateLimited):
            await meter.reserve(who, "more", Estimate(1, 1))


async def test_a_seeding_whose_leader_leaves_is_done_by_the_next() -> None:
    clock, gate = HandClock(), asyncio.Event()

    class SlowSpend(FakeSpend):
        async def spent(self, subject_kind: str, subject_id: str, since: object) -> int:  # type: ignore[override]
            self.asked.append((subject_kind, subject_id, since))  # type: ignore[arg-type]
            await gate.wait()
            return 0

    spend: SpendSource = SlowSpend()
    meter, who = Meter(local_store(clock), spend), account(tenant=Limits(budget_day_nanos=300))
    calls = [asyncio.create_task(meter.reserve(who, f"r{n}", Estimate(1, 100))) for n in range(5)]
    await asyncio.sleep(0)
    calls[0].cancel()
    gate.set()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(answer).__name__ for answer in answers] == [
        "CancelledError",
        *["Reservation"] * 3,
        "BudgetExhausted",
    ]


async def test_a_late_answer_of_the_ledger_changes_no_other_period() -> None:
    clock, spend = HandClock(), FakeSpend()
    store = local_store(clock)
    meter, who = Meter(store, spend), account(tenant=Limits(budget_day_nanos=1000))
    held = await meter.reserve(who, "a", Estimate(1, 1))
    purse = Purse(who.subjects[0], Measure.DAY, held.grant.day - 1)  # type: ignore[union-attr]
    await store.seed("acme", purse, 10**9)
    assert (await meter.reserve(who, "b", Estimate(1, 999))).is_open
    with pytest.raises(BudgetExhausted):
        await meter.reserve(who, "c", Estimate(1, 1))


@pytest.mark.parametrize("lease_s", [0.0, 0.5, 3601.0, -1.0])
def test_a_lease_has_bounds(lease_s: float) -> None:
    with pytest.raises(ValueError, match="lease"):
        Meter(local_store(HandClock()), FakeSpend(), lease_s=lease_s)
