"""Who may answer: rights, region, ability, room, readiness and rest are checked for each candidate, in that order."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from gateway.core.accounts import Account
from gateway.core.cooldowns import CooldownPolicy, Cooldowns
from gateway.core.models import ModelCard, Models, Task
from gateway.core.routes import HIDDEN, Needs, NothingReady, Plan, Route, Router, retryable
from gateway.core.targets import ModelNotFound
from hypothesis import given
from hypothesis import strategies as st
from servicekit import deadline
from servicekit.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    NotFound,
    PenstockError,
    QuotaExceeded,
    TimedOut,
    Unauthenticated,
    Unavailable,
)

EU, US = "eu", "us"
CARDS = [
    ModelCard("big", Task.GENERATE, region=EU, capabilities=frozenset({"tools", "n"}), context_tokens=1000),
    ModelCard("small", Task.GENERATE, region=US, capabilities=frozenset({"tools"}), context_tokens=100),
    ModelCard("plain", Task.GENERATE, region=EU),
    ModelCard("nowhere", Task.GENERATE, capabilities=frozenset({"tools"})),
    ModelCard("away", Task.GENERATE, region=EU, ready=False),
    ModelCard("encoder", Task.EMBED, region=EU),
]
ENCODERS = [
    ModelCard("encoder", Task.EMBED, region=EU, digest="sha256:1"),
    ModelCard("twin", Task.EMBED, region=US, digest="sha256:1"),
    ModelCard("stranger", Task.EMBED, region=EU, digest="sha256:2"),
    ModelCard("newcomer", Task.EMBED, region=EU),
    ModelCard("later", Task.EMBED, region=EU),
]
ROUTES = {
    "fast": Route("fast", ("small", "big", "plain")),
    "ghostly": Route("ghostly", ("ghost",)),
    "sleepy": Route("sleepy", ("away",)),
    "big": Route("big", ("big", "plain")),
}
VECTOR_ROUTES = {
    "vectors": Route("vectors", ("encoder", "stranger", "twin", "newcomer")),
    "unproven": Route("unproven", ("newcomer", "encoder", "later")),
    "headless": Route("headless", ("ghost", "encoder")),
    "apart": Route("apart", ("twin", "stranger")),
}
ENCODING = Needs(task=Task.EMBED)
ANYONE = Account("acme", "default", "k", "p", frozenset())


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Bench:
    """A router over a fixed list of models, with what can be turned at it."""

    def __init__(self, routes: Mapping[str, Route] = ROUTES) -> None:
        self.clock = Clock()
        self.cards: Sequence[ModelCard] = CARDS
        self.models = Models(self.fetch, self.clock)
        self.cooldowns = Cooldowns(CooldownPolicy(failures=1, window_s=7), self.clock)
        self.router = Router(self.models, lambda: routes, self.cooldowns)

    async def fetch(self) -> Sequence[ModelCard]:
        return self.cards

    def fail(self, model: str, error: PenstockError) -> None:
        trial = self.cooldowns.begin(model)
        assert trial is not None
        trial.failed(error)

    def plan(self, name: str, needs: Needs = Needs(), account: Account = ANYONE) -> Plan:  # noqa: B008  frozen
        return self.router.plan(name, needs, account)


@pytest.fixture
async def bench() -> Bench:
    made = Bench()
    await made.models.refresh()
    return made


@pytest.fixture
async def encoders() -> Bench:
    made = Bench(VECTOR_ROUTES)
    made.cards = ENCODERS
    await made.models.refresh()
    return made


def account(*allowlists: tuple[str, ...], region: str = "") -> Account:
    return Account("acme", "default", "k", "p", frozenset(), allowlists=allowlists, region=region)


def names(plan: Plan) -> list[str]:
    return [card.name for card in plan.candidates]


def refused(bench: Bench, name: str, needs: Needs = Needs(), who: Account = ANYONE) -> PenstockError:  # noqa: B008
    with pytest.raises(PenstockError) as caught:
        bench.plan(name, needs, who)
    return caught.value


def test_an_alias_leads_to_its_candidates_in_order(bench: Bench) -> None:
    plan = bench.plan("fast")
    assert names(plan) == ["small", "big", "plain"]
    assert plan.skipped == ()
    assert plan.route.alias == "fast"


def test_a_models_own_name_is_a_route_of_one(bench: Bench) -> None:
    assert names(bench.plan("plain")) == ["plain"]


def test_an_alias_may_have_a_models_name_and_then_stands_before_it(bench: Bench) -> None:
    assert names(bench.plan("big")) == ["big", "plain"]


@pytest.mark.parametrize("name", ["nobody", "", "x" * 100_000, "fast\r\nx: y", "*", "ghost"])
def test_an_unknown_name_is_not_found(bench: Bench, name: str) -> None:
    error = refused(bench, name)
    assert isinstance(error, ModelNotFound)
    assert (error.reason, error.field) == ("model_not_found", "model")
    assert len(error.message) < 1000


def test_what_is_not_allowed_cannot_be_told_from_what_does_not_exist(bench: Bench) -> None:
    who = account(("plain", "fast"))
    hidden, unknown = refused(bench, "big", who=who), refused(bench, "bigg", who=who)
    assert type(hidden) is type(unknown)
    assert hidden.message == unknown.message.replace("bigg", "big")
    assert (hidden.reason, hidden.field) == (unknown.reason, unknown.field)


def test_a_fallback_has_to_be_allowed_as_well_and_is_not_named_otherwise(bench: Bench) -> None:
    plan = bench.plan("fast", account=account(("fast", "plain")))
    assert names(plan) == ["plain"]
    assert plan.skipped == ((HIDDEN, "not_allowed"), (HIDDEN, "not_allowed"))


def test_an_allowed_candidate_opens_no_alias_and_an_alias_no_candidate(bench: Bench) -> None:
    assert isinstance(refused(bench, "fast", who=account(("small", "big", "plain"))), ModelNotFound)
    assert isinstance(refused(bench, "fast", who=account(("fast",))), ModelNotFound)


def test_every_allowlist_counts(bench: Bench) -> None:
    assert names(bench.plan("fast", account=account(("*",), ("fast", "b*")))) == ["big"]
    assert isinstance(refused(bench, "plain", who=account(("*",), ())), ModelNotFound)


def test_a_pinned_caller_reaches_models_of_his_region_alone_and_none_without_a_region(bench: Bench) -> None:
    plan = bench.plan("fast", account=account(region=EU))
    assert names(plan) == ["big", "plain"]
    assert plan.skipped == (("small", "region"),)
    for elsewhere in ("small", "nowhere"):
        error = refused(bench, elsewhere, who=account(region=EU))
        assert isinstance(error, Forbidden)
        assert (error.reason, error.field) == ("region_not_allowed", "model")


def test_candidates_that_lack_what_is_asked_for_are_passed_over(bench: Bench) -> None:
    plan = bench.plan("fast", Needs(frozenset({"tools", "n"})))
    assert names(plan) == ["big"]
    assert plan.skipped == (("small", "capability:n"), ("plain", "capability:n"))


def test_when_none_can_do_it_the_field_is_named(bench: Bench) -> None:
    needs = Needs(frozenset({"vision"}), fields={"vision": "messages[0].content[1]"})
    error = refused(bench, "fast", needs)
    assert isinstance(error, InvalidInput)
    assert (error.reason, error.field) == ("unsupported_parameter", "messages[0].content[1]")
    assert refused(bench, "plain", Needs(frozenset({"logprobs"}))).field == "logprobs"


def test_what_does_not_fit_goes_to_who_has_room(bench: Bench) -> None:
    assert names(bench.plan("fast", Needs(input_tokens=50, max_tokens=50)))[0] == "small"
    plan = bench.plan("fast", Needs(input_tokens=400, max_tokens=10))
    assert names(plan) == ["big", "plain"]
    assert plan.skipped == (("small", "context_length"),)


def test_what_may_not_fit_is_asked_last_for_the_count_is_an_estimate(bench: Bench) -> None:
    assert names(bench.plan("fast", Needs(input_tokens=150, max_tokens=10))) == ["big", "plain", "small"]


def test_when_nothing_has_room_it_is_the_context_that_is_too_long(bench: Bench) -> None:
    for needs in (Needs(input_tokens=5_000), Needs(max_tokens=101)):
        error = refused(bench, "small", needs)
        assert isinstance(error, InvalidInput)
        assert (error.reason, error.field) == ("context_length_exceeded", "messages")


def test_a_model_that_does_something_else_is_told_so(bench: Bench) -> None:
    error = refused(bench, "encoder")
    assert (type(error), error.reason, error.field) == (InvalidInput, "wrong_task", "model")
    assert names(bench.plan("encoder", Needs(task=Task.EMBED))) == ["encoder"]


def test_only_encoders_of_the_first_ones_digest_stand_in_for_it(encoders: Bench) -> None:
    plan = encoders.plan("vectors", ENCODING)
    assert names(plan) == ["encoder", "twin"]
    assert plan.skipped == (("stranger", "other_vectors"), ("newcomer", "other_vectors"))
    assert names(encoders.plan("stranger", ENCODING)) == ["stranger"]
    assert names(encoders.plan("newcomer", ENCODING)) == ["newcomer"]
    assert names(encoders.plan("unproven", ENCODING)) == ["newcomer"]


async def test_while_the_first_encoder_is_away_only_its_twin_answers(encoders: Bench) -> None:
    encoders.cards = [replace(ENCODERS[0], ready=False), *ENCODERS[1:]]
    await encoders.models.refresh()
    assert names(encoders.plan("vectors", ENCODING)) == ["twin"]
    encoders.fail("twin", Unavailable("x", reason="backend_failed"))
    refusal = refused(encoders, "vectors", ENCODING)
    assert (type(refusal), refusal.reason) == (NothingReady, "cooling_down")


def test_an_encoder_does_not_stand_in_for_one_that_nobody_knows(encoders: Bench) -> None:
    refusal = refused(encoders, "headless", ENCODING)
    assert (type(refusal), refusal.reason) == (NothingReady, "not_loaded")


def test_other_vectors_in_the_right_region_are_no_reason_to_try_again(encoders: Bench) -> None:
    refusal = refused(encoders, "apart", ENCODING, account(region=EU))
    assert (type(refusal), refusal.reason) == (Forbidden, "region_not_allowed")


@pytest.mark.parametrize("name", ["sleepy", "away", "ghostly"])
def test_when_all_are_away_a_retry_can_help(bench: Bench, name: str) -> None:
    error = refused(bench, name)
    assert isinstance(error, Unavailable)
    assert error.reason == "not_loaded"
    assert error.retry_after_s == 5


async def test_a_model_that_comes_back_is_asked_again(bench: Bench) -> None:
    refused(bench, "sleepy")
    bench.cards = [*CARDS[:4], ModelCard("away", Task.GENERATE, region=EU)]
    await bench.models.refresh()
    assert names(bench.plan("sleepy")) == ["away"]


async def test_before_the_models_are_known_nothing_is_said_not_to_exist() -> None:
    error = refused(Bench(), "fast")
    assert isinstance(error, Unavailable)
    assert error.reason == "catalogue_unknown"


def test_a_model_that_failed_is_passed_over_at_once_and_asked_again_after_its_window(bench: Bench) -> None:
    bench.fail("small", Unavailable("x", reason="backend_failed"))
    plan = bench.plan("fast")
    assert names(plan) == ["big", "plain"]
    assert plan.skipped == (("small", "cooling_down"),)
    bench.clock.now_s = 7
    assert names(bench.plan("fast"))[0] == "small"


def test_when_all_rest_the_caller_hears_when_the_first_is_back_and_nobody_is_asked(bench: Bench) -> None:
    bench.fail("big", Unavailable("x", reason="rate_limited", retry_after_s=33))
    bench.fail("plain", Unavailable("x", reason="rate_limited", retry_after_s=22))
    error = refused(bench, "big")
    assert isinstance(error, Unavailable)
    assert (error.reason, error.retry_after_s) == ("cooling_down", 22)
    bench.clock.now_s = 21.5
    assert refused(bench, "big").retry_after_s == 1
    bench.clock.now_s = 22
    assert names(bench.plan("big")) == ["plain"]


def test_when_the_probe_was_taken_by_another_the_caller_hears_of_it(bench: Bench) -> None:
    bench.fail("plain", Unavailable("x", reason="backend_failed"))
    bench.clock.now_s = 7
    plan = bench.plan("plain")
    assert bench.cooldowns.begin("plain") is not None
    assert bench.cooldowns.begin("plain") is None
    error = bench.router.resting(plan)
    assert error.reason == "cooling_down"
    assert error.retry_after_s is not None
    assert 1 <= error.retry_after_s <= 120


def test_the_candidate_that_got_furthest_says_what_is_wrong(bench: Bench) -> None:
    routes = {"mixed": Route("mixed", ("small", "plain", "away"))}
    mixed = Router(bench.models, lambda: routes, bench.cooldowns)
    with pytest.raises(Unavailable):
        mixed.plan("mixed", Needs(), account(("mixed", "away")))
    with pytest.raises(InvalidInput) as caught:
        mixed.plan("mixed", Needs(frozenset({"tools"}), input_tokens=5_000), account(region=US))
    assert caught.value.reason == "context_length_exceeded"
    with pytest.raises(InvalidInput) as caught:
        mixed.plan("mixed", Needs(frozenset({"tools"})), account(region=EU))
    assert caught.value.reason == "unsupported_parameter"


def test_what_is_offered_is_what_can_be_asked_for(bench: Bench) -> None:
    everything = [card.name for card in bench.router.offered(ANYONE)]
    assert everything == ["away", "big", "encoder", "fast", "nowhere", "plain", "sleepy", "small"]
    pinned = [card.name for card in bench.router.offered(account(("fast", "small", "plain", "encoder"), region=EU))]
    assert pinned == ["encoder", "fast", "plain"]
    assert bench.router.offered(account(())) == []


def test_an_alias_is_offered_with_what_its_first_usable_candidate_can(bench: Bench) -> None:
    fast = next(card for card in bench.router.offered(account(region=EU)) if card.name == "fast")
    assert fast.context_tokens == 1000


@given(
    st.sampled_from(["fast", "big", "plain", "small", "nowhere", "away", "sleepy", "encoder"]),
    st.frozensets(st.sampled_from(["tools", "n", "vision"]), max_size=2),
    st.sampled_from(["", EU, US]),
    st.lists(st.sampled_from(["*", "fast", "big", "plain", "s*", "?lain"]), max_size=3),
    st.integers(0, 3000),
)
async def test_nothing_is_ever_planned_that_may_not_serve(
    name: str, capabilities: frozenset[str], region: str, patterns: list[str], tokens: int
) -> None:
    bench = Bench()
    await bench.models.refresh()
    who = account(tuple(patterns), region=region)
    try:
        plan = bench.plan(name, Needs(capabilities, tokens), who)
    except PenstockError:
        return
    assert plan.candidates
    for card in plan.candidates:
        assert who.allows(card.name)
        assert who.allows(name)
        assert not region or card.region == region
        assert capabilities <= card.capabilities
        assert card.ready
        assert card.task is Task.GENERATE


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Unavailable("x", reason="backend_failed"), True),
        (Unavailable("x", reason="queue_full"), True),
        (Unavailable("x", reason="rate_limited", retry_after_s=60), True),
        (TimedOut("x"), True),
        (NotFound("the pool lost it", reason="model_not_found"), True),
        (InvalidInput("x", reason="context_length_exceeded"), False),
        (Forbidden("x"), False),
        (Unauthenticated("x"), False),
        (QuotaExceeded("x", reason="budget_exhausted"), False),
        (Conflict("x"), False),
        (RuntimeError("a bug"), False),
    ],
    ids=repr,
)
def test_only_outages_move_on_to_the_next_candidate(error: Exception, expected: bool) -> None:
    assert retryable(error) is expected


def test_nothing_moves_on_when_the_time_is_over() -> None:
    with deadline.within(0.0):
        assert not retryable(TimedOut("x"))
        assert not retryable(Unavailable("x"))
    with deadline.within(30):
        assert retryable(TimedOut("x"))
