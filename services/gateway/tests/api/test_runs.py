"""Embeddings, questions and tensors make rows, and keep to limits, lists and regions, like chats do."""

from pathlib import Path

import pytest
from gateway.core import accounts
from gateway.core.accounts import Account, Limits
from gateway.core.metering import BudgetExhausted, RateLimited
from gateway.core.routes import Route
from gateway.core.targets import ModelNotFound
from gateway_billing_fakes import Office, ScriptedModels, account
from penstock.inference.v1 import inference_pb2 as inference
from penstock.orchestrator.v1 import answer_pb2 as answers
from servicekit.errors import Forbidden, InvalidInput, Unavailable

KINDS = ["embed", "ask", "tensor"]
THREE = account(Limits(concurrent_requests=3))


@pytest.fixture
async def office(tmp_path: Path) -> Office:
    made = Office(tmp_path, ScriptedModels(), Route("vectors", ("encoder",)))
    assert await made.catalogue.refresh()
    return made


def opened(office: Office, kind: str):
    if kind == "embed":
        return office.runs.encoder("vectors", 10)
    if kind == "ask":
        return office.runs.pipeline("docs")
    return office.runs.tensor(office.catalogue.catalogue.cards["matrix"])


@pytest.mark.parametrize(
    ("kind", "alias", "model"),
    [("embed", "vectors", "encoder"), ("ask", "rag:docs", "rag:docs"), ("tensor", "matrix", "matrix")],
)
async def test_a_run_leaves_a_row(office: Office, kind: str, alias: str, model: str) -> None:
    with accounts.acting_as(THREE):
        async with opened(office, kind):
            assert await office.free(THREE) == 2
    row = await office.row()
    assert (row.attempt.kind, row.attempt.alias, row.attempt.model) == (kind, alias, model)
    assert row.outcome.status == "ok"
    assert await office.free(THREE) == 3


@pytest.mark.parametrize("kind", KINDS)
async def test_a_run_that_fails_leaves_one_too(office: Office, kind: str) -> None:
    with accounts.acting_as(THREE), pytest.raises(Unavailable):
        async with opened(office, kind):
            raise Unavailable("away")
    assert (await office.row()).outcome.status == "failed"
    assert await office.free(THREE) == 3


@pytest.mark.parametrize("kind", KINDS)
async def test_limits_hold(office: Office, kind: str) -> None:
    with accounts.acting_as(account(Limits(requests_per_minute=1))):
        async with opened(office, kind):
            pass
        with pytest.raises(RateLimited):
            async with opened(office, kind):
                raise AssertionError
    await office.row()


@pytest.mark.parametrize("kind", ["embed", "ask"])
async def test_budgets_hold_before_anything_is_asked(office: Office, kind: str) -> None:
    with accounts.acting_as(account(Limits(budget_day_nanos=9_999))), pytest.raises(BudgetExhausted):
        async with opened(office, kind):
            raise AssertionError
    assert await office.rows() == []


@pytest.mark.parametrize("kind", ["embed", "ask"])
async def test_what_the_account_may_not_use_is_not_there(office: Office, kind: str) -> None:
    with accounts.acting_as(account(allowlists=(("first",),))), pytest.raises(ModelNotFound):
        async with opened(office, kind):
            raise AssertionError
    assert await office.rows() == []


@pytest.mark.parametrize("kind", ["embed", "ask"])
async def test_a_region_is_not_left(office: Office, kind: str) -> None:
    with accounts.acting_as(account(region="us")), pytest.raises(Forbidden):
        async with opened(office, kind):
            raise AssertionError
    assert await office.rows() == []


async def test_a_model_that_is_no_encoder(office: Office) -> None:
    with accounts.acting_as(THREE), pytest.raises(InvalidInput) as refusal:
        async with office.runs.encoder("first", 1):
            raise AssertionError
    assert refusal.value.reason == "wrong_task"


@pytest.mark.parametrize(
    ("who", "model"),
    [(account(), "aardvark"), (account(allowlists=(("enc*",),)), "encoder"), (account(region="eu"), "encoder")],
)
async def test_no_name_is_the_first_encoder_that_may_be_used(office: Office, who: Account, model: str) -> None:
    with accounts.acting_as(who):
        async with office.runs.encoder("", 1) as bill:
            assert bill.card.name == model
            bill.counted(7, 0)
    row = await office.row()
    assert (row.attempt.alias, row.outcome.cost_nanos) == (model, 7_000)


async def test_an_answer_is_paid_at_the_price_of_who_wrote_it(office: Office) -> None:
    usage = inference.TokenUsage(reported=True, input_tokens=5, output_tokens=3)
    answer = answers.Answer(served=inference.ServedModel(model="first", version="7", digest="d"), usage=usage)
    with accounts.acting_as(THREE):
        async with opened(office, "ask") as bill:
            office.runs.answered(bill, answer)
    outcome = (await office.row()).outcome
    assert (outcome.cost_nanos, outcome.provider, outcome.region) == (11_000, "openai", "eu")
    assert (outcome.model_version, outcome.digest) == ("7", "d")
