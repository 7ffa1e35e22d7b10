"""Which models are asked for a conversation, what is said and written down of each, and when the next one is."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from gateway.core import accounts
from gateway.core.accounts import UNLIMITED, Account, Limits
from gateway.core.metering import BudgetExhausted
from gateway.core.routes import Needs, NothingReady, Route
from gateway.core.targets import ModelNotFound
from gateway_billing_fakes import (
    FULL,
    SERVED,
    Office,
    ScriptedModels,
    account,
    answer,
    end,
    finished,
    piece,
    whole,
)
from penstock.inference.v1 import inference_pb2 as inference
from servicekit import deadline
from servicekit.errors import InvalidInput, NotFound, PenstockError, QuotaExceeded, TimedOut, Unavailable

FILTERED = inference.FINISH_REASON_CONTENT_FILTER
THREE = account(Limits(concurrent_requests=3))
BOTH = ("first", "second")
AWAY = Unavailable("away", reason="backend_failed")
NEEDS = Needs(input_tokens=5, max_tokens=10)
USAGE = {"input_tokens": 5, "output_tokens": 3}


async def office_of(folder: Path, models: ScriptedModels, how: Route | None = None, **more: Any) -> Office:
    office = Office(folder, models, how or Route("fast", BOTH), **more)
    assert await office.catalogue.refresh()
    return office


async def ask(
    office: Office, *, stream: bool, who: Account = THREE, needs: Needs = NEEDS, name: str = "fast"
) -> tuple[str, Any]:
    """Return the text of an answer and the routing."""
    with accounts.acting_as(who):
        call = office.chats.open(name, needs)
        if not stream:
            response = await call.complete(inference.CompleteRequest())
            return response.choices[0].message.content, call.routing
        events = [event async for event in call.generate(inference.GenerateRequest())]
    return "".join(delta.text for event in events for delta in event.deltas), call.routing


def said(routing: Any) -> list[tuple[str, str]]:
    return [(each.model, each.outcome) for each in routing.attempts]


def script(*, stream: bool, text: str = "Hello") -> Sequence[Any]:
    return answer(text) if stream else [whole(text, **USAGE)]


both_ways = pytest.mark.parametrize("stream", [False, True])


@both_ways
async def test_the_first_that_can_answers(tmp_path: Path, stream: bool) -> None:
    office = await office_of(tmp_path, ScriptedModels(first=script(stream=stream)))
    text, routing = await ask(office, stream=stream)
    assert (text, said(routing), routing.cost_nanos) == ("Hello", [("first", "ok")], 11_000)
    row = await office.row()
    assert (row.attempt.alias, row.attempt.model, row.attempt.call_id) == ("fast", "first", routing.call_id)
    assert (row.outcome.status, row.outcome.cost_nanos, row.outcome.reported) == ("ok", 11_000, True)
    assert (row.outcome.model_version, row.outcome.digest) == ("7", "sha256:11")
    assert await office.free(THREE) == 3


@both_ways
@pytest.mark.parametrize("failure", [AWAY, TimedOut("slow"), NotFound("gone")])
async def test_an_outage_is_followed_by_the_next(tmp_path: Path, stream: bool, failure: PenstockError) -> None:
    office = await office_of(tmp_path, ScriptedModels(first=[failure], second=script(stream=stream)))
    text, routing = await ask(office, stream=stream)
    assert (text, said(routing)) == ("Hello", [("first", failure.reason), ("second", "ok")])
    rows = await office.rows()
    assert [(row.attempt.call_id, row.attempt.number, row.attempt.model) for row in rows] == [
        (routing.call_id, 1, "first"),
        (routing.call_id, 2, "second"),
    ]
    assert [(row.outcome.status, row.outcome.reason) for row in rows] == [("failed", failure.reason), ("ok", "")]
    assert await office.free(THREE) == 3


@both_ways
@pytest.mark.parametrize("failure", [InvalidInput("wrong"), QuotaExceeded("enough")])
async def test_what_is_no_outage_is_not(tmp_path: Path, stream: bool, failure: PenstockError) -> None:
    office = await office_of(tmp_path, ScriptedModels(first=[failure], second=script(stream=stream)))
    with pytest.raises(type(failure)):
        await ask(office, stream=stream)
    assert office.pool.asked == ["first"]
    assert (await office.row()).outcome.reason == failure.reason
    assert await office.free(THREE) == 3


@both_ways
async def test_the_last_failure_is_the_callers(tmp_path: Path, stream: bool) -> None:
    office = await office_of(tmp_path, ScriptedModels(first=[AWAY], second=[NotFound("gone")]))
    with pytest.raises(ModelNotFound, match="fast"):
        await ask(office, stream=stream)
    assert [row.outcome.reason for row in await office.rows()] == ["backend_failed", "not_found"]


@both_ways
async def test_a_bug_is_not_followed_and_leaves_a_row(tmp_path: Path, stream: bool) -> None:
    office = await office_of(tmp_path, ScriptedModels(first=[ZeroDivisionError()], second=script(stream=stream)))
    with pytest.raises(ZeroDivisionError):
        await ask(office, stream=stream)
    assert (await office.row()).outcome.reason == "internal_error"
    assert await office.free(THREE) == 3


async def test_nothing_follows_the_first_piece(tmp_path: Path) -> None:
    office = await office_of(tmp_path, ScriptedModels(first=[SERVED, piece("Hel"), AWAY], second=answer("no")))
    with accounts.acting_as(THREE):
        call = office.chats.open("fast", NEEDS).generate(inference.GenerateRequest())
        assert [await anext(call), (await anext(call)).deltas[0].text] == [SERVED, "Hel"]
        with pytest.raises(Unavailable):
            await anext(call)
    row = await office.row()
    assert (row.outcome.status, row.outcome.output_tokens, row.outcome.cost_nanos) == ("failed", 1, 7_000)
    assert office.pool.asked == ["first"]


@pytest.mark.parametrize(("broken", "asked"), [([SERVED], 2), ([], 2), ([SERVED, piece("Hel"), end()], 1)])
async def test_a_stream_that_ends_too_early_has_failed(tmp_path: Path, broken: list[Any], asked: int) -> None:
    office = await office_of(tmp_path, ScriptedModels(first=broken, second=answer("Hello")))
    if asked == 2:
        assert (await ask(office, stream=True))[0] == "Hello"
    else:
        with pytest.raises(Unavailable, match="broke off"):
            await ask(office, stream=True)
    rows = await office.rows()
    assert (len(rows), rows[0].outcome.status, rows[0].outcome.reason) == (asked, "failed", "backend_failed")


async def test_a_stream_that_the_caller_closes(tmp_path: Path) -> None:
    office = await office_of(tmp_path, ScriptedModels(first=answer("a", "b", "c")))
    with accounts.acting_as(THREE):
        call = office.chats.open("fast", NEEDS).generate(inference.GenerateRequest())
        for _ in range(3):
            await anext(call)
        await call.aclose()
    assert office.pool.closed == ["first"], "the model is let go at once, not at collection"
    row = await office.row()
    assert (row.outcome.status, row.outcome.output_tokens, row.outcome.input_tokens) == ("cancelled", 2, 5)
    assert row.outcome.cost_nanos == 9_000
    assert await office.free(THREE) == 3


@both_ways
async def test_a_caller_who_is_gone(tmp_path: Path, stream: bool) -> None:
    office = await office_of(tmp_path, ScriptedModels(first=["hang"], second=script(stream=stream)))
    task = asyncio.create_task(ask(office, stream=stream))
    await office.pool.hanging.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    outcome = (await office.row()).outcome
    assert (outcome.status, outcome.input_tokens, outcome.output_tokens) == ("cancelled", NEEDS.input_tokens, 0)
    assert (outcome.cost_nanos > 0, outcome.reported) == (True, False), "the model has read what it was asked"
    assert office.pool.asked == ["first"]
    assert await office.free(THREE) == 3


@both_ways
async def test_patience_with_one_who_is_not_the_last(tmp_path: Path, stream: bool) -> None:
    route = Route("fast", BOTH, attempt_timeout_s=0.02)
    script_ = [SERVED, "hang"] if stream else ["hang"]
    office = await office_of(tmp_path, ScriptedModels(first=script_, second=script(stream=stream)), route)
    text, routing = await ask(office, stream=stream)
    assert (text, said(routing)) == ("Hello", [("first", "timed_out"), ("second", "ok")])
    assert office.pool.left_s[1] is None, "the last one has all the time of the caller"


@both_ways
async def test_a_route_has_one_time_for_all_attempts(tmp_path: Path, stream: bool) -> None:
    route = Route("fast", BOTH, timeout_s=0.1)
    office = await office_of(tmp_path, ScriptedModels(first=["hang"], second=["hang"]), route)
    with pytest.raises(TimedOut):
        await ask(office, stream=stream)
    assert office.pool.asked == ["first"], "the time was over"


@both_ways
async def test_the_callers_time_is_not_widened(tmp_path: Path, stream: bool) -> None:
    office = await office_of(
        tmp_path, ScriptedModels(first=["hang"], second=["hang"]), Route("fast", BOTH, timeout_s=9)
    )
    with deadline.within(0.3), pytest.raises(TimedOut):
        await ask(office, stream=stream)
    assert len(await office.rows()) == 1


def refusal(*, stream: bool) -> Sequence[Any]:
    return [SERVED, end(FILTERED), finished(**USAGE)] if stream else [whole("", FILTERED, **USAGE)]


@both_ways
@pytest.mark.parametrize("passed_on", [False, True])
async def test_a_refusal_is_an_answer_unless_the_route_says_otherwise(
    tmp_path: Path, stream: bool, passed_on: bool
) -> None:
    route = Route("fast", BOTH, fallback_on_refusal=passed_on)
    office = await office_of(
        tmp_path, ScriptedModels(first=refusal(stream=stream), second=script(stream=stream)), route
    )
    text, routing = await ask(office, stream=stream)
    assert text == ("Hello" if passed_on else "")
    assert said(routing) == [("first", "ok"), ("second", "ok")][: 1 + passed_on]
    rows = await office.rows()
    assert [(row.outcome.status, row.outcome.cost_nanos, row.outcome.reported) for row in rows] == [
        ("ok", 11_000, True)
    ] * (1 + passed_on)
    assert routing.cost_nanos == 11_000 * (1 + passed_on)


@both_ways
async def test_a_refusal_stands_when_nobody_else_answers(tmp_path: Path, stream: bool) -> None:
    route = Route("fast", BOTH, fallback_on_refusal=True)
    office = await office_of(tmp_path, ScriptedModels(first=refusal(stream=stream), second=[AWAY]), route)
    text, routing = await ask(office, stream=stream)
    assert (text, said(routing)) == ("", [("first", "ok"), ("second", "backend_failed")])


@both_ways
async def test_one_that_cools_is_passed_over(tmp_path: Path, stream: bool) -> None:
    office = await office_of(tmp_path, ScriptedModels(first=[AWAY], second=script(stream=stream)), cooling=1)
    await ask(office, stream=stream)
    text, routing = await ask(office, stream=stream)
    assert (text, said(routing)) == ("Hello", [("second", "ok")])
    assert [(each.model, each.reason) for each in routing.skipped] == [("first", "cooling_down")]


@both_ways
async def test_one_that_began_to_cool_after_the_plan(tmp_path: Path, stream: bool) -> None:
    office = await office_of(tmp_path, ScriptedModels(), Route("fast", ("first",)), cooling=1)
    with accounts.acting_as(THREE):
        call = office.chats.open("fast", NEEDS)
        office.cooldowns.note_failure("first", AWAY, probe=False)
        with pytest.raises(NothingReady):
            await (
                anext(call.generate(inference.GenerateRequest()))
                if stream
                else call.complete(inference.CompleteRequest())
            )
    assert [(each.model, each.reason) for each in call.routing.skipped] == [("first", "cooling_down")]
    assert await office.rows() == []


@both_ways
async def test_what_is_refused_before_a_model_is_asked_cools_none(tmp_path: Path, stream: bool) -> None:
    office = await office_of(tmp_path, ScriptedModels(), cooling=1, policy=FULL)
    async with office.gate.admitted(THREE, "first"), office.gate.admitted(THREE, "second"):
        with pytest.raises(Unavailable):
            await ask(office, stream=stream)
    office.journal._limit_bytes = 0
    with pytest.raises(Unavailable):
        await ask(office, stream=stream)
    office.journal._limit_bytes = 1 << 20
    office.store.down = True
    with pytest.raises(Unavailable):
        await ask(office, stream=stream, who=account(Limits(budget_day_nanos=1 << 40)))
    office.store.down = False
    with pytest.raises(BudgetExhausted):
        await ask(office, stream=stream, who=account(Limits(budget_day_nanos=1)))
    assert [office.cooldowns.left_s(model) for model in BOTH] == [0, 0]
    assert (office.pool.asked, await office.rows()) == ([], [])
    assert await office.free(THREE) == 3


@both_ways
@pytest.mark.parametrize(
    ("limits", "most"),
    [
        (UNLIMITED, 0),
        (Limits(requests_per_minute=9), 0),
        (Limits(tokens_per_minute=9000), 4096),
        (Limits(budget_day_nanos=1 << 40), 4096),
        (Limits(budget_month_nanos=1 << 40), 4096),
    ],
)
async def test_an_open_end_is_closed_for_those_with_limits(
    tmp_path: Path, stream: bool, limits: Limits, most: int
) -> None:
    office = await office_of(tmp_path, ScriptedModels(first=script(stream=stream)))
    await ask(office, stream=stream, who=account(limits), needs=Needs(input_tokens=5))
    assert office.pool.max_tokens == [most]
    assert (await office.row()).attempt.reserved_nanos == 5 * 1_000 + 4096 * 2_000


async def test_a_demand_beyond_all_money_is_refused_not_a_bug(tmp_path: Path) -> None:
    office = await office_of(tmp_path, ScriptedModels(), Route("fast", ("third",)))
    rich = account(Limits(budget_day_nanos=1 << 40))
    card = office.catalogue.catalogue.cards["first"]
    with accounts.acting_as(rich):
        call = office.chats.open("fast", Needs(input_tokens=5, max_tokens=2**32 - 1))
    request = inference.CompleteRequest(sampling=inference.SamplingParameters(n=2**20))
    estimate = call._estimate(card, request)
    with pytest.raises(BudgetExhausted):
        await office.meter.reserve(rich, "r", estimate)


async def test_whole_answers_that_report_nothing_are_estimated(tmp_path: Path) -> None:
    office = await office_of(tmp_path, ScriptedModels(first=[whole("four" * 5)]))
    await ask(office, stream=False)
    outcome = (await office.row()).outcome
    assert (outcome.reported, outcome.input_tokens, outcome.output_tokens) == (False, 5, 6)


class Taking:
    """Takes by the short way what is nothing but more text."""

    def __init__(self, then: Callable[[], None] | None = None) -> None:
        self.taken: list[inference.GenerateResponse] = []
        self.then = then

    def __call__(self, event: inference.GenerateResponse) -> bool:
        if event.HasField("finished") or any(delta.finish_reason for delta in event.deltas):
            return False
        self.taken.append(event)
        if self.then is not None and len(self.taken) == 1:
            self.then()
        return True


async def test_the_short_way_is_paid_for_and_begins_after_the_first_piece(tmp_path: Path) -> None:
    script_ = [SERVED, piece("a"), piece("b"), piece("c"), AWAY]
    office = await office_of(tmp_path, ScriptedModels(first=script_), Route("fast", ("first",)))
    taking, seen = Taking(), []
    with accounts.acting_as(THREE), pytest.raises(Unavailable):
        call = office.chats.open("fast", NEEDS)
        async for event in call.generate(inference.GenerateRequest(), taking):
            seen.append(event)  # noqa: PERF401  what came before the failure
    assert seen == [SERVED, piece("a")]
    assert taking.taken == [piece("b"), piece("c")]
    outcome = (await office.row()).outcome
    assert (outcome.status, outcome.input_tokens, outcome.output_tokens, outcome.cost_nanos) == ("failed", 5, 3, 11_000)


async def test_what_is_reserved_is_kept_on_the_short_way(tmp_path: Path) -> None:
    kept: list[float] = []
    office = await office_of(tmp_path, ScriptedModels(first=answer("a", "b", "c", "d")), Route("fast", ("first",)))
    renew = office.meter.renew

    async def noted(held: Any) -> None:
        kept.append(held.renew_at_s)
        await renew(held)

    def fall_due() -> None:
        call._call.bill.reservation.renew_at_s = 0.0

    office.meter.renew = noted  # type: ignore[method-assign]
    taking = Taking(fall_due)
    with accounts.acting_as(THREE):
        call: Any = office.chats.open("fast", NEEDS)
        seen = [event async for event in call.generate(inference.GenerateRequest(), taking)]
    assert seen[:3] == [SERVED, piece("a"), piece("c")]
    assert taking.taken == [piece("b"), piece("d")]
    assert kept == [0.0]
    assert await office.free(THREE) == 3
