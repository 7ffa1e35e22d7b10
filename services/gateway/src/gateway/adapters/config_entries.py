"""What each section of the configuration file may say, and what it becomes in the core."""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer
from pydantic_core import PydanticCustomError
from servicekit.errors import InvalidInput

from gateway.core.accounts import Limits, Priority
from gateway.core.configuration import (
    AdmissionPolicy,
    LedgerPolicy,
    LimitsPolicy,
    ProjectDeclaration,
    SloTarget,
    TenantDeclaration,
)
from gateway.core.cooldowns import CooldownPolicy
from gateway.core.entity_fields import (
    LARGEST_BUDGET_NANOS,
    LARGEST_COUNT,
    PROJECT_FIELDS,
    TENANT_FIELDS,
    check_id,
    checked,
)
from gateway.core.oidc import Issuer
from gateway.core.pricing import dollars_of_nanos, nanos_of_dollars
from gateway.core.routes import Route
from gateway.core.scopes import ALL_SCOPES, TENANT_SCOPES
from gateway.core.tenants import DEFAULT_PROJECT

PRIORITIES: Final = {each.label: each for each in Priority}


def _nanos(value: Any) -> Any:
    if value is None:
        return None
    try:
        nanos = nanos_of_dollars(value)
    except InvalidInput as error:
        raise PydanticCustomError("amount", "{why}", {"why": error.message}) from error
    if nanos > LARGEST_BUDGET_NANOS:
        most = {"most": dollars_of_nanos(LARGEST_BUDGET_NANOS)}
        raise PydanticCustomError("amount", "an amount is at most {most} dollars", most)
    return nanos


def _binary(value: Any) -> Any:
    return float(value) if isinstance(value, Decimal) else value


Money = Annotated[
    int | None,
    BeforeValidator(_nanos),
    PlainSerializer(lambda nanos: None if nanos is None else dollars_of_nanos(nanos)),
]
"""Dollars in the file, nano-dollars here."""
Count = Annotated[int | None, Field(ge=0, le=LARGEST_COUNT)]
Number = Annotated[float, BeforeValidator(_binary), Field(allow_inf_nan=False)]
Share = Annotated[Number, Field(gt=0, lt=1)]
ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$")]
"""What may name a model or an alias: no colon, which marks a pipeline."""
PriorityName = Literal["interactive", "standard", "batch"]


class Entry(BaseModel):
    """A part of the file: what it does not name is refused, and nothing is taken for what it is not."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class LimitsEntry(Entry):
    """Limits of a tenant or project; null, or nothing, is no limit and 0 is none at all."""

    requests_per_minute: Count = None
    tokens_per_minute: Count = None
    concurrent_requests: Count = None
    budget_day: Money = Field(None, description="dollars per UTC day")
    budget_month: Money = Field(None, description="dollars per UTC month")

    def limits(self) -> Limits:
        """Return them as the core has them."""
        return Limits(
            self.requests_per_minute,
            self.tokens_per_minute,
            self.concurrent_requests,
            self.budget_day,
            self.budget_month,
        )


class ProjectEntry(Entry):
    """A project of a tenant."""

    limits: LimitsEntry = LimitsEntry()
    models: list[str] | None = None

    def declaration(self, name: str) -> ProjectDeclaration:
        """Return it as the core has it."""
        return ProjectDeclaration(name, self.limits.limits(), None if self.models is None else tuple(self.models))

    def mistakes(self, path: str, name: str) -> Iterator[str]:
        """Yield what the admin API would refuse as well."""
        yield from refused(path, name, {"models": self.models}, PROJECT_FIELDS)


class TenantEntry(Entry):
    """A tenant with its projects."""

    limits: LimitsEntry = LimitsEntry()
    models: list[str] | None = None
    region: str = ""
    highest_priority: PriorityName = "interactive"
    projects: dict[str, ProjectEntry] = {}

    def declaration(self, name: str) -> TenantDeclaration:
        """Return it as the core has it."""
        return TenantDeclaration(
            name,
            self.limits.limits(),
            None if self.models is None else tuple(self.models),
            self.region,
            PRIORITIES[self.highest_priority],
            {project: each.declaration(project) for project, each in self.projects.items()},
        )

    def mistakes(self, path: str, name: str) -> Iterator[str]:
        """Yield what the admin API would refuse as well."""
        yield from refused(path, name, {"models": self.models, "region": self.region}, TENANT_FIELDS)
        for project, each in self.projects.items():
            yield from each.mistakes(f"{path}.projects.{project}", project)


class SloEntry(Entry):
    """What is promised to callers."""

    availability: Share = 0.999
    latency_ms: Annotated[Number, Field(gt=0, le=600_000)] = 2_000.0
    latency_share: Share = 0.95

    def target(self) -> SloTarget:
        """Return it as the core has it."""
        return SloTarget(self.availability, self.latency_ms, self.latency_share)


class RouteEntry(Entry):
    """An alias for models, best first."""

    candidates: list[ModelName] = Field(min_length=1, max_length=16)
    fallback_on_refusal: bool = False
    timeout_s: Annotated[Number, Field(gt=0, le=3600)] | None = None
    attempt_timeout_s: Annotated[Number, Field(gt=0, le=3600)] | None = None
    slo: SloEntry | None = None

    def route(self, alias: str) -> Route:
        """Return it as the core has it."""
        return Route(alias, tuple(self.candidates), self.fallback_on_refusal, self.timeout_s, self.attempt_timeout_s)


class IssuerEntry(Entry):
    """An OpenID Connect issuer whose tokens are taken."""

    issuer: str = Field(min_length=1, max_length=1024)
    audience: str = Field(min_length=1, max_length=1024)
    jwks_url: str = Field(min_length=1, max_length=2048)
    algorithms: list[str] = Field(["RS256"], min_length=1)
    skew_s: Number = 30.0
    tenant: str = ""
    tenant_claim: str = ""
    tenants: list[str] = []
    project: str = DEFAULT_PROJECT
    project_claim: str = ""
    principal_claim: str = Field("sub", min_length=1)
    scope_claim: str = "scope"
    role_claim: str = ""
    roles: dict[str, str] = {}
    default_role: str = ""
    scopes: list[str] | None = None
    priority: PriorityName = "standard"

    def issuer_named(self, name: str) -> Issuer:
        """Return it as the core has it; raise ValueError when it could not be kept."""
        unknown = sorted(set(self.scopes or ()) - ALL_SCOPES)
        if unknown:
            raise ValueError(f"unknown scopes: {', '.join(unknown)}")
        values = self.model_dump(exclude={"algorithms", "tenants", "scopes", "priority"})
        return Issuer(
            name=name,
            algorithms=frozenset(self.algorithms),
            tenants=frozenset(self.tenants),
            scopes=TENANT_SCOPES if self.scopes is None else frozenset(self.scopes),
            priority=PRIORITIES[self.priority],
            **values,
        )


class WaitingEntry(Entry):
    """How many calls of each priority may wait."""

    interactive: int = Field(256, ge=0, le=100_000)
    standard: int = Field(256, ge=0, le=100_000)
    batch: int = Field(256, ge=0, le=100_000)


class AdmissionEntry(Entry):
    """How many calls run at once, and how many may wait."""

    least_running: int = Field(8, ge=1, le=100_000)
    most_running: int = Field(512, ge=1, le=100_000)
    first_running: int = Field(64, ge=1, le=100_000)
    waiting: WaitingEntry = WaitingEntry()

    def policy(self) -> AdmissionPolicy:
        """Return it as the core has it."""
        waiting = {PRIORITIES[name]: each for name, each in self.waiting.model_dump().items()}
        return AdmissionPolicy(self.least_running, self.most_running, self.first_running, waiting)

    def mistakes(self) -> Iterator[str]:
        """Yield what does not fit together."""
        if self.least_running > self.most_running:
            yield "admission.least_running: is more than most_running"
        elif not self.least_running <= self.first_running <= self.most_running:
            yield "admission.first_running: is not between least_running and most_running"


class CooldownEntry(Entry):
    """When a model that fails is passed over, and for how long."""

    failures: int = Field(5, ge=1, le=1000)
    window_s: Annotated[Number, Field(ge=1, le=120)] = 5.0
    longest_s: Annotated[Number, Field(ge=1, le=120)] = 60.0
    patience_s: Annotated[Number, Field(gt=0, le=3600)] = 5.0
    probe_s: Annotated[Number, Field(ge=1, le=3600)] = 10.0

    def policy(self) -> CooldownPolicy:
        """Return it as the core has it."""
        return CooldownPolicy(**self.model_dump())

    def mistakes(self) -> Iterator[str]:
        """Yield what does not fit together."""
        if self.longest_s < self.window_s:
            yield "cooldown.longest_s: is less than window_s"


class LimitsPolicyEntry(Entry):
    """What counts while the shared counters are away."""

    when_away: Literal["local", "closed"] = "local"
    processes: int = Field(1, ge=1, le=10_000)
    timeout_ms: int = Field(50, ge=1, le=10_000)

    def policy(self) -> LimitsPolicy:
        """Return it as the core has it."""
        return LimitsPolicy(self.when_away, self.processes, self.timeout_ms)


class LedgerEntry(Entry):
    """How long rows are kept."""

    retention_days: int = Field(400, ge=1, le=36_500)

    def policy(self) -> LedgerPolicy:
        """Return it as the core has it."""
        return LedgerPolicy(self.retention_days)


def refused(path: str, name: str, values: Mapping[str, Any], allowed: frozenset[str]) -> Iterator[str]:
    """Yield what the admin API would refuse of an id and of values, so that there is one set of rules."""
    try:
        check_id(name, path)
    except InvalidInput as error:
        yield f"{path}: the id has to be {error.message.partition('has to be ')[2]}"
    for field, value in values.items():
        try:
            checked({field: value}, allowed)
        except InvalidInput as error:
            yield f"{path}.{error.field}: {error.message.removeprefix(error.field).strip()}"
