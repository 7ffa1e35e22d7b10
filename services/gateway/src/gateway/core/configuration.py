"""What an operator declares for the gateway, and what can be wrong between parts that are right by themselves."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from fnmatch import fnmatchcase
from typing import Final, Literal

from gateway.core.accounts import Limits, Priority
from gateway.core.cooldowns import CooldownPolicy
from gateway.core.declaration import DeclaredTenant
from gateway.core.models import Catalogue, Task
from gateway.core.oidc import Issuer
from gateway.core.routes import Route, same_vectors
from gateway.core.targets import PIPELINE_PREFIX
from gateway.core.tenants import DEFAULT_PROJECT

NO_LIMITS: Final = Limits()
AT_START: Final = ("limits", "ledger")
"""Sections that are taken up when the gateway starts; all others are live."""


@dataclass(frozen=True, slots=True)
class ProjectDeclaration:
    """A project of a declared tenant; `models` are patterns, None is every model of the tenant."""

    id: str
    limits: Limits = NO_LIMITS
    models: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class TenantDeclaration:
    """A tenant that the file rules over; what it says holds, whatever the admin API was told before."""

    id: str
    limits: Limits = NO_LIMITS
    models: tuple[str, ...] | None = None
    region: str = ""
    highest_priority: Priority = Priority.INTERACTIVE
    projects: Mapping[str, ProjectDeclaration] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SloTarget:
    """What a route promises: the share of calls that go well, and the share of those that begin to answer in time.

    `latency_ms` is to the first byte of the answer; shares are 0 to 1, exclusive.
    """

    availability: float = 0.999
    latency_ms: float = 2_000.0
    latency_share: float = 0.95


@dataclass(frozen=True, slots=True)
class AdmissionPolicy:
    """How many calls run at once (the adaptive limit stays between these), and how many may wait, of each priority."""

    least_running: int = 8
    most_running: int = 512
    first_running: int = 64
    waiting: Mapping[Priority, int] = field(
        default_factory=lambda: {Priority.INTERACTIVE: 256, Priority.STANDARD: 256, Priority.BATCH: 256}
    )


@dataclass(frozen=True, slots=True)
class LimitsPolicy:
    """What counts when the shared counters of limits cannot be had: this process's `local` ones, or `closed`.

    `processes` is how many gateways share the limits; each gets its part while they count alone.
    """

    when_away: Literal["local", "closed"] = "local"
    processes: int = 1
    timeout_ms: int = 50


@dataclass(frozen=True, slots=True)
class LedgerPolicy:
    """How many days rows of the ledger are kept."""

    retention_days: int = 400


@dataclass(frozen=True, slots=True)
class Configuration:
    """Everything that the file declares. `digest` is the SHA-256 of its bytes; the empty one is of no file at all.

    `slo` holds for every route that has no target of its own in `slo_by_route`.
    """

    tenants: Mapping[str, TenantDeclaration] = field(default_factory=dict)
    routes: Mapping[str, Route] = field(default_factory=dict)
    oidc: Mapping[str, Issuer] = field(default_factory=dict)
    slo: SloTarget = field(default_factory=SloTarget)
    slo_by_route: Mapping[str, SloTarget] = field(default_factory=dict)
    admission: AdmissionPolicy = field(default_factory=AdmissionPolicy)
    cooldown: CooldownPolicy = field(default_factory=CooldownPolicy)
    limits: LimitsPolicy = field(default_factory=LimitsPolicy)
    ledger: LedgerPolicy = field(default_factory=LedgerPolicy)
    digest: str = ""

    @property
    def slo_targets(self) -> Mapping[str, SloTarget]:
        """What each route promises, by alias: its own target, else that of all."""
        return {alias: self.slo_by_route.get(alias, self.slo) for alias in self.routes}


def declared_tenants(configuration: Configuration) -> list[DeclaredTenant]:
    """Return the tenants as they are put into the database; what is not limited there is said to be not."""
    return [
        DeclaredTenant(
            tenant.id,
            {
                "limits": asdict(tenant.limits),
                "models": tenant.models,
                "region": tenant.region,
                "highest_priority": tenant.highest_priority,
            },
            {
                project.id: {"limits": asdict(project.limits), "models": project.models}
                for project in tenant.projects.values()
            },
        )
        for tenant in configuration.tenants.values()
    ]


def held_back(started_with: Configuration, current: Configuration) -> list[str]:
    """Return a line for each section whose change waits for the next start of the gateway."""
    return [
        f"{section}: the change takes effect when the gateway is started again"
        for section in AT_START
        if getattr(started_with, section) != getattr(current, section)
    ]


def mistakes(configuration: Configuration, catalogue: Catalogue | None) -> list[str]:
    """Return what is wrong between the parts, each line with the path of its field.

    Without a catalogue, what has to be in it is not checked.
    """
    return [
        *_tenant_mistakes(configuration),
        *_issuer_mistakes(configuration),
        *_route_mistakes(configuration),
        *(_catalogue_mistakes(configuration, catalogue) if catalogue is not None else ()),
    ]


def _tenant_mistakes(configuration: Configuration) -> Iterator[str]:
    for tenant in configuration.tenants.values():
        for project in tenant.projects.values():
            for each in fields(Limits):
                own, outer = getattr(project.limits, each.name), getattr(tenant.limits, each.name)
                if own is not None and outer is not None and own > outer:
                    name = each.name.removesuffix("_nanos")
                    path = f"tenants.{tenant.id}.projects.{project.id}.limits.{name}"
                    yield f"{path}: can never bind, the tenant's own is lower"


def _issuer_mistakes(configuration: Configuration) -> Iterator[str]:
    by_url: dict[str, str] = {}
    for name, issuer in configuration.oidc.items():
        if issuer.issuer in by_url:
            yield f"oidc.{name}.issuer: oidc.{by_url[issuer.issuer]} has this issuer already"
        by_url.setdefault(issuer.issuer, name)
        for field_, tenants in (("tenant", [issuer.tenant] if issuer.tenant else []), ("tenants", issuer.tenants)):
            for tenant in sorted(set(tenants) - configuration.tenants.keys()):
                yield f"oidc.{name}.{field_}: no tenant {tenant!r} is declared in this file"
        yield from _project_mistakes(name, issuer, configuration)


def _project_mistakes(name: str, issuer: Issuer, configuration: Configuration) -> Iterator[str]:
    if issuer.project == DEFAULT_PROJECT:
        return
    for tenant in sorted(issuer.tenants | ({issuer.tenant} - {""})):
        declared = configuration.tenants.get(tenant)
        if declared is not None and issuer.project not in declared.projects:
            yield f"oidc.{name}.project: tenant {tenant!r} has no project {issuer.project!r}"


def _route_mistakes(configuration: Configuration) -> Iterator[str]:
    for alias, route in configuration.routes.items():
        for position, candidate in enumerate(route.candidates):
            if candidate in route.candidates[:position]:
                yield f"routes.{alias}.candidates[{position}]: {candidate!r} is named before"
        if len(route.candidates) == 1:
            if route.fallback_on_refusal:
                yield f"routes.{alias}.fallback_on_refusal: has no effect with a single candidate"
            if route.attempt_timeout_s is not None:
                yield f"routes.{alias}.attempt_timeout_s: has no effect with a single candidate"
        if route.attempt_timeout_s and route.timeout_s and route.attempt_timeout_s >= route.timeout_s:
            yield f"routes.{alias}.attempt_timeout_s: has no effect, timeout_s is not longer"


def _catalogue_mistakes(configuration: Configuration, catalogue: Catalogue) -> Iterator[str]:
    for alias, route in configuration.routes.items():
        for position, candidate in enumerate(route.candidates):
            if candidate not in catalogue.cards:
                yield f"routes.{alias}.candidates[{position}]: no model {candidate!r} is in the catalogue"
        yield from _task_mistakes(route, catalogue)
    names = {*catalogue.cards, *configuration.routes}
    regions = {card.region for card in catalogue.cards.values()}
    for tenant in configuration.tenants.values():
        path = f"tenants.{tenant.id}"
        if tenant.region and tenant.region not in regions:
            yield f"{path}.region: no model of the catalogue runs in {tenant.region!r}"
        yield from _idle_patterns(f"{path}.models", tenant.models, names)
        allowed = names if tenant.models is None else {each for each in names if _matches(each, tenant.models)}
        for project in tenant.projects.values():
            yield from _idle_patterns(f"{path}.projects.{project.id}.models", project.models, allowed)


def _task_mistakes(route: Route, catalogue: Catalogue) -> Iterator[str]:
    tasks = [catalogue.cards[each].task for each in route.candidates if each in catalogue.cards]
    if len(set(tasks)) > 1:
        yield f"routes.{route.alias}.candidates: models of different tasks cannot stand in for each other"
    elif len(tasks) > 1 and tasks[0] is Task.EMBED:
        if route.fallback_on_refusal:
            yield f"routes.{route.alias}.fallback_on_refusal: has no effect, an encoder refuses nothing"
        yield from _encoder_mistakes(route, catalogue)
    elif len(tasks) > 1 and tasks[0] is not Task.GENERATE:
        yield f"routes.{route.alias}.candidates: only models that generate or encode can stand in for each other"


def _encoder_mistakes(route: Route, catalogue: Catalogue) -> Iterator[str]:
    """Yield who gives other vectors; one whose digest is not known (yet) is passed over by the router until it is."""
    known = [(position, catalogue.cards.get(each)) for position, each in enumerate(route.candidates)]
    told = [(position, card) for position, card in known if card is not None and card.digest]
    for position, card in told[1:]:
        if not same_vectors(card, told[0][1]):
            where = f"routes.{route.alias}.candidates[{position}]"
            yield f"{where}: {card.name!r} gives other vectors than {told[0][1].name!r}; mixed they mean nothing"


def _idle_patterns(path: str, patterns: Iterable[str] | None, names: set[str]) -> Iterator[str]:
    for position, pattern in enumerate(patterns or ()):
        if not pattern.startswith(PIPELINE_PREFIX) and not any(_matches(name, [pattern]) for name in names):
            yield f"{path}[{position}]: {pattern!r} matches no model and no route that is allowed here"


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
