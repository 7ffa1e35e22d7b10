"""Embeddings, questions, tensors and knowledge make rows, and keep to limits, lists and regions, like chats do."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from gateway.api.runs import EncoderChanged
from gateway.core import accounts
from gateway.core.accounts import Account, Limits
from gateway.core.configuration import SloTarget
from gateway.core.metering import BudgetExhausted, RateLimited
from gateway.core.routes import Route
from gateway.core.targets import ModelNotFound
from gateway_billing_fakes import Office, ScriptedModels, account
from penstock.embedding.v1 import embedding_pb2 as embedding
from penstock.inference.v1 import inference_pb2 as inference
from penstock.orchestrator.v1 import answer_pb2 as answers
from servicekit import deadline
from servicekit.errors import Forbidden, InvalidInput, QuotaExceeded, TimedOut, Unavailable
from servicekit.testing import eventually

KINDS = ["embed", "ask", "tensor", "search", "ingest"]
THREE = account(Limits(concurrent_requests=3))


@pytest.fixture
async def office(tmp_path: Path) -> Office:
    made = Office(tmp_path, ScriptedModels(), Route("vectors", ("encoder", "twin")), cooling=2)
    assert await made.catalogue.refresh()
    return made


class Encoders:
    """Encoders that do as a script says: an exception, or the digest of what they give; none is the usual one."""

    def __init__(self, **scripts: Any) -> None:
        self.scripts = scripts
        self.asked: list[str] = []
        self.left_s: list[float | None] = []

    async def __call__(self, model: str) -> embedding.EmbedResponse:
        """Encode one text of seven tokens."""
        self.asked.append(model)
        self.left_s.append(deadline.remaining_s())
        step = self.scripts.get(model, "sha256:1")
        if step == "hang":
            await wait_for_the_deadline()
        if isinstance(step, Exception):
            raise step
        encoder = embedding.Encoder(model=model, version="1", digest=step)
        return embedding.EmbedResponse(encoder=encoder, vectors=model.encode(), token_counts=[7])


async def wait_for_the_deadline() -> None:
    """Do as a service does that is too slow."""
    try:
        async with asyncio.timeout(deadline.remaining_s()):
            await asyncio.Event().wait()
    except TimeoutError as error:
        raise TimedOut("too slow") from error


async def do(office: Office, kind: str, fails: Exception | None = None) -> None:
    """Run something; it fails while it runs when told to."""
    if kind == "embed":
        await office.runs.encode("vectors", 10, Encoders(encoder=fails or "sha256:1", twin=fails or "sha256:1"))
        return
    hold = {
        "ask": lambda: office.runs.pipeline("docs"),
        "tensor": lambda: office.runs.tensor(office.catalogue.catalogue.cards["matrix"]),
        "search": lambda: office.runs.knowledge("search", "docs", 10),
        "ingest": lambda: office.runs.knowledge("ingest", "docs", 10),
    }
    async with hold[kind]():
        assert await office.free(THREE) == 2
        if fails is not None:
            raise fails


@pytest.mark.parametrize(
    ("kind", "alias", "model"),
    [
        ("embed", "vectors", "encoder"),
        ("ask", "rag:docs", "knowledge:ask"),
        ("tensor", "matrix", "matrix"),
        ("search", "rag:docs", "knowledge:search"),
        ("ingest", "rag:docs", "knowledge:ingest"),
    ],
)
async def test_a_run_leaves_a_row(office: Office, kind: str, alias: str, model: str) -> None:
    with accounts.acting_as(THREE):
        await do(office, kind)
    row = await office.row()
    assert (row.attempt.kind, row.attempt.alias, row.attempt.model) == (kind, alias, model)
    assert row.outcome.status == "ok"
    assert await office.free(THREE) == 3


@pytest.mark.parametrize("kind", KINDS)
async def test_a_run_that_fails_leaves_one_too(office: Office, kind: str) -> None:
    refusal = InvalidInput("no", reason="because")
    with accounts.acting_as(THREE), pytest.raises(InvalidInput):
        await do(office, kind, refusal)
    outcome = (await office.row()).outcome
    assert (outcome.status, outcome.reason) == ("failed", "because")
    assert await office.free(THREE) == 3


@pytest.mark.parametrize("kind", KINDS)
async def test_limits_hold(office: Office, kind: str) -> None:
    once = Limits(requests_per_minute=1, concurrent_requests=3)
    with accounts.acting_as(account(once)):
        await do(office, kind)
        with pytest.raises(RateLimited) as refused:
            await do(office, kind, AssertionError())
    assert refused.value.reason == "requests_per_minute"
    await office.row()


@pytest.mark.parametrize("kind", ["embed", "ask", "search", "ingest"])
async def test_tokens_are_limited_before_anything_is_asked(office: Office, kind: str) -> None:
    with accounts.acting_as(account(Limits(tokens_per_minute=9))), pytest.raises(RateLimited) as refused:
        await do(office, kind, AssertionError())
    assert refused.value.reason == "tokens_per_minute"
    assert await office.rows() == []


@pytest.mark.parametrize("kind", ["embed", "ask", "search", "ingest"])
async def test_budgets_hold_before_anything_is_asked(office: Office, kind: str) -> None:
    with accounts.acting_as(account(Limits(budget_day_nanos=9_999))), pytest.raises(BudgetExhausted):
        await do(office, kind, AssertionError())
    assert await office.rows() == []


@pytest.mark.parametrize("kind", ["embed", "ask"])
async def test_what_the_account_may_not_use_is_not_there(office: Office, kind: str) -> None:
    with accounts.acting_as(account(allowlists=(("first",),))), pytest.raises(ModelNotFound):
        await do(office, kind, AssertionError())
    assert await office.rows() == []


@pytest.mark.parametrize("kind", ["embed", "ask", "search", "ingest"])
async def test_a_region_is_not_left(office: Office, kind: str) -> None:
    with accounts.acting_as(account(region="moon")), pytest.raises(Forbidden) as refused:
        await do(office, kind, AssertionError())
    assert refused.value.reason == "region_not_allowed"
    assert await office.rows() == []


@pytest.mark.parametrize("kind", ["ask", "search", "ingest"])
@pytest.mark.parametrize("name", ["x" * 65, "a\0b", "Docs", "../..", ""])
async def test_a_name_that_a_caller_makes_up_is_in_no_row(office: Office, kind: Any, name: str) -> None:
    with accounts.acting_as(THREE):
        async with office.runs.pipeline(name) if kind == "ask" else office.runs.knowledge(kind, name, 1):
            pass
    row = await office.row()
    assert row.attempt.alias == "rag:"


async def test_a_model_that_is_no_encoder(office: Office) -> None:
    with accounts.acting_as(THREE), pytest.raises(InvalidInput) as refusal:
        await office.runs.encode("first", 1, Encoders(first=AssertionError()))
    assert refusal.value.reason == "wrong_task"


@pytest.mark.parametrize(
    ("who", "model", "cost_nanos"),
    [
        (account(), "aardvark", 7_000),
        (account(allowlists=(("enc*",),)), "encoder", 7_000),
        (account(region="eu"), "encoder", 7_000),
        (account(allowlists=(("twin", "vectors"),)), "twin", 0),
    ],
)
async def test_no_name_is_the_first_encoder_that_may_be_used(
    office: Office, who: Account, model: str, cost_nanos: int
) -> None:
    with accounts.acting_as(who):
        response = await office.runs.encode("", 10, Encoders())
    assert response.encoder.model == model
    row = await office.row()
    assert (row.attempt.alias, row.outcome.cost_nanos) == (model, cost_nanos)
    assert (row.outcome.input_tokens, row.outcome.model_version, row.outcome.digest) == (7, "1", "sha256:1")


AWAY = Unavailable("away", reason="backend_failed")


async def test_the_next_encoder_answers_when_one_is_away_and_each_has_its_row(office: Office) -> None:
    encoders = Encoders(encoder=AWAY)
    with accounts.acting_as(THREE):
        response = await office.runs.encode("vectors", 10, encoders)
    assert response.vectors == b"twin"
    assert encoders.asked == ["encoder", "twin"]
    failed, served = await office.rows()
    assert failed.attempt.call_id == served.attempt.call_id
    assert [(each.attempt.number, each.attempt.alias, each.attempt.model, each.outcome.status, each.outcome.cost_nanos)
            for each in (failed, served)] == [
        (1, "vectors", "encoder", "failed", 0),
        (2, "vectors", "twin", "ok", 0),
    ]  # fmt: skip
    assert await office.free(THREE) == 3


@pytest.mark.parametrize(
    "error", [InvalidInput("no"), Forbidden("no"), QuotaExceeded("no", reason="budget_exhausted"), ValueError("bug")]
)
async def test_a_mistake_is_not_passed_on_to_the_next_encoder(office: Office, error: Exception) -> None:
    encoders = Encoders(encoder=error)
    with accounts.acting_as(THREE), pytest.raises(type(error)):
        await office.runs.encode("vectors", 10, encoders)
    assert encoders.asked == ["encoder"]
    assert (await office.row()).outcome.status == "failed"


async def test_an_encoder_that_keeps_failing_rests_and_the_last_failure_is_told(office: Office) -> None:
    encoders = Encoders(encoder=AWAY, twin=AWAY)
    with accounts.acting_as(THREE):
        for _ in range(2):
            with pytest.raises(Unavailable) as failed:
                await office.runs.encode("vectors", 10, encoders)
            assert failed.value is AWAY
        with pytest.raises(Unavailable) as rests:
            await office.runs.encode("vectors", 10, encoders)
        assert rests.value.reason == "cooling_down"
        assert encoders.asked == ["encoder", "twin"] * 2


async def test_a_call_counts_once_however_many_encoders_were_asked(office: Office) -> None:
    office.slo.watch({"vectors": SloTarget(availability=0.5)})
    with accounts.acting_as(THREE):
        await office.runs.encode("vectors", 10, Encoders(encoder=AWAY))
        with pytest.raises(Unavailable):
            await office.runs.encode("vectors", 10, Encoders(encoder=AWAY, twin=AWAY))
        await office.runs.encode("vectors", 10, Encoders())  # the first rests by now
        with pytest.raises(InvalidInput):
            await office.runs.encode("vectors", 10, Encoders(twin=InvalidInput("a mistake of the caller's")))
        assert office.slo.burn_rate("vectors", "availability", "5m") == pytest.approx(1 / 3 / 0.5)
        for _ in range(3):
            with pytest.raises(Unavailable):
                await office.runs.encode("vectors", 10, Encoders(twin=AWAY))
    assert office.slo.burn_rate("vectors", "availability", "5m") == pytest.approx(4 / 6 / 0.5)
    assert len(await office.rows()) == 8


async def test_an_encoder_that_rests_is_passed_over(office: Office) -> None:
    encoders = Encoders(encoder=AWAY)
    with accounts.acting_as(THREE):
        for _ in range(3):
            await office.runs.encode("vectors", 10, encoders)
    assert encoders.asked == ["encoder", "twin", "encoder", "twin", "twin"]


async def test_vectors_of_another_encoder_do_not_stand_in(office: Office) -> None:
    encoders = Encoders(encoder=AWAY, twin="sha256:2")
    with accounts.acting_as(THREE), pytest.raises(EncoderChanged):
        await office.runs.encode("vectors", 10, encoders)
    assert [row.outcome.reason for row in await office.rows()] == ["backend_failed", "encoder_changed"]


async def test_the_first_encoder_may_change(office: Office) -> None:
    with accounts.acting_as(THREE):
        response = await office.runs.encode("vectors", 10, Encoders(encoder="sha256:3"))
    assert response.encoder.digest == "sha256:3"
    assert (await office.row()).outcome.digest == "sha256:3"


async def test_a_slow_encoder_has_its_part_of_the_time_and_the_last_one_the_rest(office: Office) -> None:
    office.routes["vectors"] = Route("vectors", ("encoder", "twin"), timeout_s=30, attempt_timeout_s=0.05)
    encoders = Encoders(encoder="hang")
    with accounts.acting_as(THREE):
        assert (await office.runs.encode("vectors", 10, encoders)).vectors == b"twin"
    first_s, last_s = encoders.left_s
    assert first_s is not None
    assert last_s is not None
    assert first_s <= 0.05
    assert 20 < last_s <= 30
    assert [row.outcome.reason for row in await office.rows()] == ["timed_out", ""]


async def test_who_leaves_is_not_followed_by_the_next_encoder(office: Office) -> None:
    encoders = Encoders(encoder="hang")
    with accounts.acting_as(THREE):
        calling = asyncio.create_task(office.runs.encode("vectors", 10, encoders))
        await eventually(lambda: bool(encoders.asked))
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
    assert encoders.asked == ["encoder"]
    assert (await office.row()).outcome.status == "cancelled"
    assert await office.free(THREE) == 3


async def test_an_answer_is_paid_at_the_price_of_who_wrote_it(office: Office) -> None:
    usage = inference.TokenUsage(reported=True, input_tokens=5, output_tokens=3)
    answer = answers.Answer(served=inference.ServedModel(model="first", version="7", digest="d"), usage=usage)
    with accounts.acting_as(THREE):
        async with office.runs.pipeline("docs") as bill:
            office.runs.answered(bill, answer)
    outcome = (await office.row()).outcome
    assert (outcome.cost_nanos, outcome.provider, outcome.region) == (11_000, "openai", "eu")
    assert (outcome.model_version, outcome.digest) == ("7", "d")
