"""Which models may answer a request, in which order, and when the next one is asked."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Final

from servicekit import deadline
from servicekit.errors import Forbidden, InvalidInput, NotFound, TimedOut, Unavailable
from servicekit.telemetry.metrics import counter

from gateway.core.accounts import Account
from gateway.core.cooldowns import Cooldowns, Trial
from gateway.core.models import Catalogue, ModelCard, Models, Task
from gateway.core.targets import ModelNotFound

NOT_READY_RETRY_S: Final = 5.0
LEAST_LEFT_S: Final = 0.05
HIDDEN: Final = "*"
"""Stands for a candidate that the caller may not know of."""

_skipped = counter("penstock_gateway_candidates_skipped", "Candidates passed over without being asked", ["reason"])


class NothingReady(Unavailable):
    """Every model that could answer is away, or rests after failures."""

    default_reason = "not_loaded"


class ContextTooLong(InvalidInput):
    """No model that could answer holds so many tokens."""

    default_reason = "context_length_exceeded"


class NotCapable(InvalidInput):
    """No model that could answer can do what a field asks for."""

    default_reason = "unsupported_parameter"


@dataclass(frozen=True, slots=True)
class Route:
    """An alias and who answers to it: models of the catalogue, best first.

    A safety refusal is an answer; only `fallback_on_refusal` has the next model asked. `timeout_s` bounds a whole call,
    `attempt_timeout_s` the wait for the first byte of an attempt that is not the last; None leaves both to the caller.
    """

    alias: str
    candidates: tuple[str, ...]
    fallback_on_refusal: bool = False
    timeout_s: float | None = None
    attempt_timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class Needs:
    """What a request needs of a model. `input_tokens` is an estimate, `max_tokens` is 0 when the caller leaves it open.

    `fields` names the field of the request that needs a capability. `most_input_tokens` is a bound in place of the
    estimate, to be reserved; 0 where there is none.
    """

    capabilities: frozenset[str] = frozenset()
    input_tokens: int = 0
    max_tokens: int = 0
    fields: Mapping[str, str] = field(default_factory=dict)
    task: Task = Task.GENERATE
    most_input_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """Who is asked, in this order, and who was passed over: (model, reason)."""

    route: Route
    candidates: tuple[ModelCard, ...]
    skipped: tuple[tuple[str, str], ...] = ()


class _Stage(IntEnum):
    """How far a candidate got; when none is left, the one that got furthest says what is wrong."""

    NOT_ALLOWED = 0
    UNKNOWN = 1
    VECTORS = 2
    TASK = 3
    REGION = 4
    CAPABILITY = 5
    CONTEXT = 6
    NOT_READY = 7
    COOLING = 8


@dataclass(frozen=True, slots=True)
class _Objection:
    """Why a candidate is passed over; `detail` is the capability it lacks."""

    stage: _Stage
    reason: str
    model: str
    detail: str = ""


class Router:
    """Plans requests over the latest list of models and the routes in force."""

    def __init__(self, models: Models, routes: Callable[[], Mapping[str, Route]], cooldowns: Cooldowns) -> None:
        """Take the models, what returns the routes by alias, and who rests."""
        self._models = models
        self._routes = routes
        self._cooldowns = cooldowns
        self._plain: dict[str, Route] = {}

    def plan(self, name: str, needs: Needs, account: Account) -> Plan:
        """Return who answers to an alias, or to a model's own name.

        Raises ModelNotFound (for what the account may not use, too), Forbidden (region), NotCapable, ContextTooLong,
        InvalidInput (wrong_task) or NothingReady with the seconds after which a retry can help.
        """
        catalogue = self._models.catalogue
        route = self._find(name, catalogue)
        if route is None or not account.allows(name):
            raise ModelNotFound(name[:200])
        fitting: list[ModelCard] = []
        doubtful: list[ModelCard] = []
        objections: list[_Objection] = []
        for candidate in route.candidates:
            card = catalogue.cards.get(candidate)
            objection = self._objection(candidate, card, needs, account)
            if objection is None and card is not None and needs.task is Task.EMBED:
                objection = _incomparable(card, catalogue.cards.get(route.candidates[0]))
            if objection is not None or card is None:
                objections.append(objection or _Objection(_Stage.UNKNOWN, "unknown_model", candidate))
            else:
                (fitting if _surely_fits(card, needs) else doubtful).append(card)
        if not fitting and not doubtful:
            raise self._refusal(name, needs, account, objections)
        return Plan(route, (*fitting, *doubtful), _told(objections) if objections else ())

    def begin(self, model: str) -> Trial | None:
        """Open an attempt at a candidate; None when it rests."""
        return self._cooldowns.begin(model)

    def resting(self, plan: Plan) -> NothingReady:
        """Return what to raise when every candidate of a plan turned out to rest after all."""
        return self._nothing_ready(plan.route.alias, [card.name for card in plan.candidates])

    def offered(self, account: Account) -> list[ModelCard]:
        """Return what the account may ask for, by name: models, and aliases with the card of their best candidate."""
        cards = self._models.catalogue.cards
        found = {card.name: card for card in cards.values() if _may_use(card, account)}
        for alias, route in self._routes().items():
            usable = [found_card for each in route.candidates if (found_card := cards.get(each)) is not None]
            best = next((card for card in usable if _may_use(card, account)), None)
            if best is not None and account.allows(alias):
                found[alias] = replace(best, name=alias)
        return [found[name] for name in sorted(found)]

    def _find(self, name: str, catalogue: Catalogue) -> Route | None:
        route = self._routes().get(name)
        if route is not None or name not in catalogue.cards:
            return route
        plain = self._plain.get(name)
        if plain is None:
            if len(self._plain) > 2 * len(catalogue.cards):  # names of catalogues that are gone
                self._plain.clear()
            plain = self._plain[name] = Route(name, (name,))
        return plain

    def _objection(self, model: str, card: ModelCard | None, needs: Needs, account: Account) -> _Objection | None:
        """Say why a candidate cannot be asked, or None: rights first, so that nothing is told to who may not know."""
        if not account.allows(model):
            return _Objection(_Stage.NOT_ALLOWED, "not_allowed", HIDDEN)
        if card is None:
            return _Objection(_Stage.UNKNOWN, "unknown_model", model)
        if card.task is not needs.task:
            return _Objection(_Stage.TASK, "task", model)
        if account.region and card.region != account.region:
            return _Objection(_Stage.REGION, "region", model)
        return _unfit(card, needs) or self._away(card)

    def _away(self, card: ModelCard) -> _Objection | None:
        if not card.ready:
            return _Objection(_Stage.NOT_READY, "not_ready", card.name)
        if self._cooldowns.left_s(card.name) > 0:
            return _Objection(_Stage.COOLING, "cooling_down", card.name)
        return None

    def _refusal(self, name: str, needs: Needs, account: Account, objections: list[_Objection]) -> Exception:
        furthest = max(objections, key=lambda each: each.stage)
        match furthest.stage:
            case _Stage.NOT_ALLOWED:
                return ModelNotFound(name)
            case _Stage.TASK:
                return InvalidInput(f"{name} does not {needs.task}", reason="wrong_task", field="model")
            case _Stage.REGION:
                return Forbidden(f"{name} does not run in {account.region}", reason="region_not_allowed", field="model")
            case _Stage.CAPABILITY:
                where = needs.fields.get(furthest.detail, furthest.detail)
                return NotCapable(f"{name} does not support {where}", field=where)
            case _Stage.CONTEXT:
                return ContextTooLong(f"the messages and the answer do not fit into {name}", field="messages")
        return self._nothing_ready(name, [each.model for each in objections if each.stage >= _Stage.NOT_READY])

    def _nothing_ready(self, name: str, models: list[str]) -> NothingReady:
        rests_s = [self._cooldowns.left_s(model) for model in models]
        wait_s = min((rest_s or NOT_READY_RETRY_S for rest_s in rests_s), default=NOT_READY_RETRY_S)
        reason = "cooling_down" if any(rests_s) else "not_loaded"
        return NothingReady(f"{name} cannot answer now", reason=reason, retry_after_s=max(1.0, wait_s))


def same_vectors(one: ModelCard, other: ModelCard) -> bool:
    """Say whether two encoders are known to give the same vectors: weights, graph and tokenizer are the same."""
    return bool(one.digest) and one.digest == other.digest


def retryable(error: Exception) -> bool:
    """Say whether the next candidate is asked after this failure of one, nothing having been sent to the caller.

    Outages are: the model is away, its host limits us, it is no longer there, it was too slow. What is wrong with the
    request, with rights or with budgets is not, nor is anything once the caller's time is over.
    """
    remaining_s = deadline.remaining_s()
    if remaining_s is not None and remaining_s < LEAST_LEFT_S:
        return False
    return isinstance(error, Unavailable | TimedOut | NotFound)


def _unfit(card: ModelCard, needs: Needs) -> _Objection | None:
    lacking = needs.capabilities - card.capabilities
    if lacking:
        lack = min(lacking)
        return _Objection(_Stage.CAPABILITY, f"capability:{lack}", card.name, lack)
    if card.context_tokens and needs.input_tokens // 2 + needs.max_tokens > card.context_tokens:
        return _Objection(_Stage.CONTEXT, "context_length", card.name)
    return None


def _incomparable(card: ModelCard, first: ModelCard | None) -> _Objection | None:
    """Object to an encoder unless it is the first of its route, or known to be the same: their vectors get mixed."""
    if first is not None and (card is first or same_vectors(card, first)):
        return None
    return _Objection(_Stage.VECTORS, "other_vectors", card.name)


def _surely_fits(card: ModelCard, needs: Needs) -> bool:
    """Say whether the estimate fits with all that may be written; it may be wrong by half, so others are asked last."""
    return not card.context_tokens or needs.input_tokens + needs.max_tokens <= card.context_tokens


def _may_use(card: ModelCard, account: Account) -> bool:
    return account.allows(card.name) and (not account.region or card.region == account.region)


def _told(objections: list[_Objection]) -> tuple[tuple[str, str], ...]:
    for each in objections:
        _skipped.labels(each.reason.partition(":")[0]).inc()
    return tuple((each.model, each.reason) for each in objections)
