"""Reads what administrators send as JSON: exactly, money above all, and nothing that is not understood."""

import json
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Final, NoReturn, TypeVar

from pydantic import BeforeValidator, Field, ValidationError, WithJsonSchema
from servicekit.errors import InvalidInput
from starlette.requests import Request

from gateway.api.body import Body, json_body
from gateway.api.errors import TooLarge, invalid
from gateway.core.entity_fields import LARGEST_BUDGET_NANOS
from gateway.core.pricing import BadAmount, dollars_of_nanos, nanos_of_dollars

LARGEST_ADMIN_BODY: Final = 256 * 1024
MONEY: Final = {"limits.budget_day_usd": "budget_day_nanos", "limits.budget_month_usd": "budget_month_nanos"}
"""What REST calls a budget, and what the core calls it."""

B = TypeVar("B", bound=Body)


def nanos_of(value: Any) -> int | None:
    """Return dollars, a decimal text or number, as nano-dollars exactly, None for none; raise ValueError."""
    if value is None:
        return None
    try:
        nanos = nanos_of_dollars(value)
    except BadAmount as error:
        raise ValueError(error.message) from error
    if nanos > LARGEST_BUDGET_NANOS:
        raise ValueError(f"an amount is at most {dollars_of_nanos(LARGEST_BUDGET_NANOS)} dollars")
    return nanos


Usd = Annotated[
    int | None,
    BeforeValidator(nanos_of),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "number", "minimum": 0}, {"type": "null"}]}),
]


class LimitsBody(Body):
    """Limits; null is unlimited, 0 is none. In an update, what is absent stays as it is."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None
    budget_day_usd: Usd = None
    budget_month_usd: Usd = None


class TenantFields(Body):
    """What may be said about a tenant."""

    limits: LimitsBody = LimitsBody()
    models: list[str] | None = None
    region: str = ""
    highest_priority: str = "interactive"


class NewTenant(TenantFields):
    """A tenant to be made."""

    id: str


class TenantUpdate(TenantFields):
    """What changes about a tenant, and the version it was made for."""

    version: int


class ProjectFields(Body):
    """What may be said about a project."""

    limits: LimitsBody = LimitsBody()
    models: list[str] | None = None


class NewProject(ProjectFields):
    """A project to be made."""

    id: str


class ProjectUpdate(ProjectFields):
    """What changes about a project, and the version it was made for."""

    version: int


class KeyFields(Body):
    """What may be said about a key; `expires_at` is RFC 3339 with a zone."""

    name: str = "default"
    priority: str = "standard"
    limits: LimitsBody = LimitsBody()
    models: list[str] | None = None
    expires_at: str | None = None


class NewKeyBody(KeyFields):
    """A key to be made; without scopes it has all of its role's."""

    tenant: str
    project: str = "default"
    role: str = "member"
    scopes: list[str] = Field(default_factory=list)


class KeyUpdate(KeyFields):
    """What changes about a key, and the version it was made for."""

    version: int


class Rotation(Body):
    """How long the old key still works, in seconds."""

    grace_s: int = 0


class Revocation(Body):
    """Nothing needs to be said."""


async def read_exactly(request: Request, model: type[B]) -> B:
    """Return the body as `model`; raise InvalidInput that names the field at fault, TooLarge."""
    body = await json_body(request)
    if len(body) > LARGEST_ADMIN_BODY:
        raise TooLarge(f"the body is too large; at most {LARGEST_ADMIN_BODY} bytes are taken here")
    try:
        return model.model_validate(_json(body) if body else {})
    except ValidationError as error:
        raise invalid(error) from error


def values_of(body: Body, apart: frozenset[str]) -> dict[str, Any]:
    """Return the fields that were sent, as the core takes them, without those handled apart."""
    values = {name: getattr(body, name) for name in body.model_fields_set - apart}
    if isinstance(limits := values.get("limits"), LimitsBody):
        sent = {name: getattr(limits, name) for name in limits.model_fields_set}
        values["limits"] = {MONEY.get(f"limits.{name}", name): value for name, value in sent.items()}
    if isinstance(expires_at := values.get("expires_at"), str):
        values["expires_at"] = _moment(expires_at)
    return values


def _json(body: bytes) -> Any:
    try:
        return json.loads(
            body.decode(), parse_float=Decimal, parse_constant=_no_constant, object_pairs_hook=_no_duplicates
        )
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"the body is not JSON: {error}"[:200], reason="malformed_json") from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput("expires_at has to be a moment such as 2030-01-31T12:00:00Z", field="expires_at") from error
