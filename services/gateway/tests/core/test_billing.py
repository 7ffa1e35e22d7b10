"""However an attempt ends, there is one row of it, and nothing of what was reserved for it stays reserved."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gateway.core import arrival
from gateway.core.accounts import Account, Limits
from gateway.core.arrival import Arrival
from gateway.core.attempts import Settled
from gateway.core.configuration import SloTarget
from gateway.core.ledger_ports import LedgerFull
from gateway.core.limit_ports import Grant, Used
from gateway.core.load import Overloaded
from gateway.core.local_limits import LocalLimits
from gateway.core.metering import BudgetExhausted, Estimate, RateLimited
from gateway.core.retries import fingerprint
from gateway_billing_fakes import CARDS, FULL, PRICE, Desk, account
from prometheus_client import generate_latest
from servicekit.errors import InvalidInput, NotFound, QuotaExceeded, Unavailable

CARD = CARDS[0]
TEN = Estimate(10, PRICE.cost_nanos(5, 5))
THREE = account(Limits(concurrent_requests=3, tokens_per_minute=1_000))


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


async def attempt(desk: Desk, who: Account = THREE, failure: Exception | None = None) -> None:
    async with desk.billing.only(desk.billing.open("chat", "fast", who), CARD, TEN) as bill:
        bill.counted(4, 2)
        if failure is not None:
            raise failure


def ended(row: Settled) -> tuple[str, str]:
    return row.outcome.status, row.outcome.reason


async def test_an_attempt_that_goes_well(desk: Desk) -> None:
    await attempt(desk)
    row = await desk.row()
    assert ended(row) == ("ok", "")
    assert (row.attempt.alias, row.attempt.model, row.attempt.number) == ("fast", "first", 1)
    assert (row.attempt.id, row.attempt.kind) == (f"{row.attempt.call_id}.1", "chat")
    assert row.attempt.reserved_nanos == 15_000
    assert (row.outcome.input_tokens, row.outcome.output_tokens, row.outcome.reported) == (4, 2, True)
    assert row.outcome.cost_nanos == 4 * 1_000 + 2 * 2_000
    assert (row.outcome.provider, row.outcome.region) == ("openai", "eu")
    assert await desk.free(THREE) == 3


@pytest.mark.parametrize(
    ("failure", "reason"),
    [(Unavailable("away", reason="backend_failed"), "backend_failed"), (ZeroDivisionError(), "internal_error")],
)
async def test_an_attempt_that_fails(desk: Desk, failure: Exception, reason: str) -> None:
    with pytest.raises(type(failure)):
        await attempt(desk, failure=failure)
    row = await desk.row()
    assert ended(row) == ("failed", reason)
    assert row.outcome.cost_nanos == 8_000
    assert row.outcome.first_token_ms is None
    assert await desk.free(THREE) == 3


async def test_a_caller_who_leaves(desk: Desk) -> None:
    asked = asyncio.Event()

    async def ask() -> None:
        async with desk.billing.attempt(desk.billing.open("chat", "fast", THREE), CARD, TEN):
            asked.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(ask())
    await asked.wait()
    assert await desk.free(THREE) == 2
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended(await desk.row()) == ("cancelled", "client_gone")
    assert await desk.free(THREE) == 3


@pytest.mark.parametrize(("counted", "failed", "billed"), [(0, False, 70), (3, False, 3), (0, True, 0)])
async def test_who_leaves_before_anything_is_counted_pays_for_what_was_probably_read(
    desk: Desk, counted: int, failed: bool, billed: int
) -> None:
    expected = Estimate(100, 500, likely_input_tokens=70)
    with suppress(asyncio.CancelledError, Unavailable):
        async with desk.billing.attempt(desk.billing.open("chat", "fast", THREE), CARD, expected) as bill:
            bill.input_tokens = counted
            raise Unavailable("gone") if failed else asyncio.CancelledError
    outcome = (await desk.row()).outcome
    assert (outcome.input_tokens, outcome.reported) == (billed, False)
    assert outcome.cost_nanos == CARD.price.cost_nanos(billed, 0)


async def test_a_stream_that_is_closed(desk: Desk) -> None:
    async def stream() -> AsyncIterator[int]:
        async with desk.billing.attempt(desk.billing.open("chat", "fast", THREE), CARD, TEN) as bill:
            for number in range(9):
                bill.began()
                bill.output_tokens += 1
                yield number

    pieces: Any = stream()
    assert [await anext(pieces), await anext(pieces)] == [0, 1]
    await pieces.aclose()
    row = await desk.row()
    assert ended(row) == ("cancelled", "client_gone")
    assert (row.outcome.output_tokens, row.outcome.cost_nanos) == (2, 4_000)
    assert row.outcome.first_token_ms is not None
    assert await desk.free(THREE) == 3


class SlowSettling(LocalLimits):
    """Settles only when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.settling, self.go = asyncio.Event(), asyncio.Event()

    def settle_now(self, grant: Grant, used: Used) -> bool:
        return False

    async def settle(self, *grant: Any, **late: Any) -> None:
        self.settling.set()
        await self.go.wait()
        await super().settle(*grant, **late)


async def test_a_caller_who_leaves_while_it_is_settled(tmp_path: Path) -> None:
    limits = SlowSettling()
    desk = Desk(tmp_path, limits=limits)
    task = asyncio.create_task(attempt(desk))
    await limits.settling.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended(await desk.row()) == ("ok", "")
    limits.go.set()
    for _ in range(3):
        await asyncio.sleep(0)
    assert await desk.free(THREE) == 3


@pytest.mark.parametrize(
    ("limits", "refusal"),
    [
        (Limits(requests_per_minute=0), RateLimited),
        (Limits(tokens_per_minute=9), RateLimited),
        (Limits(concurrent_requests=0), RateLimited),
        (Limits(budget_day_nanos=14_999), BudgetExhausted),
        (Limits(budget_month_nanos=14_999), BudgetExhausted),
    ],
)
async def test_what_limits_refuse_leaves_no_row(desk: Desk, limits: Limits, refusal: type[Exception]) -> None:
    with pytest.raises(refusal):
        await attempt(desk, account(limits))
    assert await desk.rows() == []
    desk.idle()


async def test_what_the_gate_refuses_leaves_no_row_and_takes_nothing(tmp_path: Path) -> None:
    desk = Desk(tmp_path, FULL)
    call = desk.billing.open("chat", "fast", THREE)
    async with desk.billing.attempt(call, CARD, TEN):
        with pytest.raises(Overloaded):
            await attempt(desk)
        assert await desk.free(THREE) == 2
    assert (await desk.row()).attempt.call_id == call.id
    assert await desk.free(THREE) == 3


async def test_what_cannot_be_written_down_is_not_asked_nor_charged(tmp_path: Path) -> None:
    who = account(Limits(requests_per_minute=1, concurrent_requests=3))
    desk = Desk(tmp_path)
    desk.journal._limit_bytes = 0
    with pytest.raises(LedgerFull):
        await attempt(desk, who)
    desk.journal._limit_bytes = 1 << 20
    desk.idle()
    await attempt(desk, who)
    assert ended(await desk.row()) == ("ok", "")


async def test_a_begin_that_fails_gives_back_what_was_reserved(desk: Desk) -> None:
    who = account(Limits(requests_per_minute=1, concurrent_requests=3))
    call = desk.billing.open("chat", "fast", who)
    desk.ledger.begin(desk.billing._attempt(call, CARD, TEN))  # its first attempt is numbered 0 as yet
    call.attempts = -1
    with pytest.raises(Exception, match="already"):
        async with desk.billing.attempt(call, CARD, TEN):
            raise AssertionError
    assert len(desk.ledger._open) == 1, "the other's attempt goes on"
    call.attempts = 0
    async with desk.billing.attempt(call, CARD, TEN):
        pass
    assert len(await desk.rows()) == 1


@pytest.mark.parametrize("who", [Limits(budget_day_nanos=150_000), Limits(budget_month_nanos=150_000)])
async def test_many_at_once_never_overshoot_a_budget(desk: Desk, who: Limits) -> None:
    """200 calls at once against a budget for 10, some of which cost all that was reserved."""
    spender, asked = account(who), 0

    async def one(number: int) -> None:
        nonlocal asked
        with suppress(BudgetExhausted):
            async with desk.billing.attempt(desk.billing.open("chat", "fast", spender), CARD, TEN) as bill:
                asked += 1
                for _ in range(number % 5):
                    await asyncio.sleep(0)
                bill.counted(5, 5)

    await asyncio.gather(*(one(number) for number in range(200)))
    rows = await desk.rows()
    spent = sum(row.outcome.cost_nanos for row in rows)
    assert len(rows) == asked == 10
    assert spent == 150_000
    with pytest.raises(BudgetExhausted):
        await attempt(desk, spender)
    desk.idle()


async def test_what_was_reserved_and_not_used_can_be_spent(desk: Desk) -> None:
    spender = account(Limits(budget_day_nanos=30_000, tokens_per_minute=10_000))
    for _ in range(2):
        await attempt(desk, spender)  # takes 8,000 of the 15,000 that are reserved
    with pytest.raises(BudgetExhausted):
        await attempt(desk, spender)
    assert len(await desk.rows()) == 2


async def test_two_attempts_of_a_call(desk: Desk) -> None:
    call = desk.billing.open("chat", "fast", THREE)
    for _ in range(2):
        async with desk.billing.attempt(call, CARD, TEN) as bill:
            bill.counted(4, 2)
    rows = await desk.rows()
    assert [(row.attempt.call_id, row.attempt.number) for row in rows] == [(call.id, 1), (call.id, 2)]
    assert call.cost_nanos == 16_000


async def test_a_retry_is_linked_to_what_it_retries(desk: Desk) -> None:
    print_ = fingerprint("", b"body")
    others = replace(account(), key_id="key-2")
    arrival.enter(Arrival("rest", 0, print_))
    first = desk.billing.open("chat", "fast", THREE)
    arrival.enter(Arrival("rest", 1, print_))
    again = desk.billing.open("chat", "fast", THREE)
    assert desk.billing.open("chat", "fast", others).retry_of == ""
    async with desk.billing.attempt(again, CARD, TEN):
        pass
    arrival.enter(Arrival("rest", 0, print_))
    assert desk.billing.open("chat", "fast", THREE).retry_of == "", "an equal question is no retry"
    assert (first.retry_of, again.retry_of) == ("", first.id)
    row = await desk.row()
    assert (row.attempt.retry_of, row.attempt.retry_count, row.attempt.door) == (first.id, 1, "rest")
    assert row.attempt.idempotency_key == print_


async def test_the_gate_learns_of_the_first_byte_when_it_comes(desk: Desk) -> None:
    async with desk.billing.attempt(desk.billing.open("chat", "fast", THREE), CARD, TEN) as bill:
        slot: Any = bill.on_first_byte.__self__  # type: ignore[union-attr]
        assert not slot.answered
        bill.began()
        assert slot.answered
        first_s = bill.first_byte_s
        bill.began()
        assert bill.first_byte_s == first_s


@pytest.mark.parametrize("failure", [InvalidInput("wrong"), QuotaExceeded("enough"), NotFound("gone")])
async def test_what_the_caller_got_wrong_is_not_held_against_the_route(desk: Desk, failure: Exception) -> None:
    desk.slo.watch({"fast": SloTarget(availability=0.9)})
    await attempt(desk)
    with pytest.raises(type(failure)):
        await attempt(desk, failure=failure)
    assert desk.slo.burn_rate("fast", "availability", "5m") == 0
    with pytest.raises(Unavailable):
        await attempt(desk, failure=Unavailable("away"))
    assert desk.slo.burn_rate("fast", "availability", "5m") == pytest.approx(5)


async def test_a_call_that_a_second_model_answers_is_one_good_call(desk: Desk) -> None:
    desk.slo.watch({"fast": SloTarget(availability=0.9)})
    with desk.billing.open("chat", "fast", THREE) as call:
        with pytest.raises(Unavailable):
            async with desk.billing.attempt(call, CARDS[0], TEN):
                raise Unavailable("away")
        async with desk.billing.attempt(call, CARDS[1], TEN):
            pass
    assert desk.slo.burn_rate("fast", "availability", "5m") == 0
    with pytest.raises(Unavailable):
        await attempt(desk, failure=Unavailable("away"))
    assert desk.slo.burn_rate("fast", "availability", "5m") == pytest.approx(5)


async def test_a_call_that_nothing_could_serve_counts_against_its_route(desk: Desk) -> None:
    desk.slo.watch({"fast": SloTarget(availability=0.9)})
    desk.billing.unserved("chat", "fast", NotFound("there is none"))
    assert desk.slo.burn_rate("fast", "availability", "5m") == 0
    desk.billing.unserved("chat", "fast", Unavailable("nothing is ready"))
    assert desk.slo.burn_rate("fast", "availability", "5m") == pytest.approx(10)


async def test_a_long_stream_keeps_what_it_has_reserved(tmp_path: Path) -> None:
    now = [0.0]
    desk = Desk(tmp_path, limits=LocalLimits(lambda: now[0]), clock=lambda: now[0])
    async with desk.billing.only(desk.billing.open("chat", "fast", THREE), CARD, TEN) as bill:
        for now[0] in (500.0, 1_000.0, 1_500.0):
            assert bill.is_due
            await desk.billing.renew(bill)
            assert not bill.is_due
            assert await desk.free(THREE) == 2
    assert await desk.free(THREE) == 3


async def test_no_metric_names_a_knowledge_base(desk: Desk) -> None:
    alias = "rag:secret-plans"
    for failure in (None, Unavailable("away")):
        with suppress(Unavailable):
            async with desk.billing.only(desk.billing.open("ask", alias, THREE), CARD, TEN):
                if failure is not None:
                    raise failure
    desk.billing.unserved("chat", "secret-plans", Unavailable("nobody knows the models yet"))
    assert b"invoke_workflow" in generate_latest()
    assert b"secret-plans" not in generate_latest()
