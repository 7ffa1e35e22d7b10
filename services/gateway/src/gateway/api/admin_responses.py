"""What the admin part of REST answers with, and how entities are put into it."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from gateway.api.responses import Shown
from gateway.core.accounts import Limits
from gateway.core.changes import Change
from gateway.core.key_administration import NewKey
from gateway.core.keys import ApiKey
from gateway.core.pricing import dollars_of_nanos
from gateway.core.tenants import Project, Tenant


class LimitsShown(Shown):
    """Limits; null is unlimited, 0 is none, dollars are decimal texts."""

    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrent_requests: int | None
    budget_day_usd: str | None
    budget_month_usd: str | None


class TenantShown(Shown):
    """A tenant."""

    id: str
    limits: LimitsShown
    models: list[str] | None
    region: str
    highest_priority: str
    source: str
    version: int
    created_at: str


class ProjectShown(Shown):
    """A project."""

    tenant: str
    id: str
    limits: LimitsShown
    models: list[str] | None
    source: str
    version: int
    created_at: str


class KeyShown(Shown):
    """A key, without its secret. From `revoke_at` on it does not work; limits and usage are kept under `line`."""

    public_id: str
    tenant: str
    project: str
    name: str
    role: str
    scopes: list[str]
    priority: str
    limits: LimitsShown
    models: list[str] | None
    expires_at: str | None
    revoke_at: str | None
    replaces: str | None
    line: str
    version: int
    created_at: str


class NewKeyShown(KeyShown):
    """A key that was just made; `key` is its text, shown once."""

    key: str


class ChangeShown(Shown):
    """A note of the journal."""

    id: int
    at: str
    actor: str
    actor_tenant: str
    action: str
    tenant: str
    target: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class Tenants(Shown):
    """A page of tenants."""

    tenants: list[TenantShown]
    next_page_token: str | None


class Projects(Shown):
    """A page of projects."""

    projects: list[ProjectShown]
    next_page_token: str | None


class Keys(Shown):
    """A page of keys."""

    keys: list[KeyShown]
    next_page_token: str | None


class Changes(Shown):
    """A page of the journal, newest first."""

    changes: list[ChangeShown]
    next_page_token: str | None


def tenant_json(tenant: Tenant) -> dict[str, Any]:
    """Return a tenant as JSON shows it."""
    return {
        "id": tenant.id,
        **_common(tenant.limits, tenant.models),
        "region": tenant.region,
        "highest_priority": tenant.highest_priority.label,
        "source": tenant.source,
        "version": tenant.version,
        "created_at": _moment(tenant.created_at),
    }


def project_json(project: Project) -> dict[str, Any]:
    """Return a project as JSON shows it."""
    return {
        "tenant": project.tenant,
        "id": project.id,
        **_common(project.limits, project.models),
        "source": project.source,
        "version": project.version,
        "created_at": _moment(project.created_at),
    }


def key_json(key: ApiKey) -> dict[str, Any]:
    """Return a key as JSON shows it."""
    return {
        "public_id": key.public_id,
        "tenant": key.tenant,
        "project": key.project,
        "name": key.name,
        "role": key.role,
        "scopes": sorted(key.scopes),
        "priority": key.priority.label,
        **_common(key.limits, key.models),
        "expires_at": _moment(key.expires_at),
        "revoke_at": _moment(key.revoked_at),
        "replaces": key.replaces or None,
        "line": key.line_id,
        "version": key.version,
        "created_at": _moment(key.created_at),
    }


def new_key_json(made: NewKey) -> dict[str, Any]:
    """Return a new key with its text."""
    return {"key": made.text, **key_json(made.key)}


def change_json(change: Change) -> dict[str, Any]:
    """Return a note of the journal as JSON shows it."""
    return {
        "id": change.id,
        "at": _moment(change.at),
        "actor": change.actor,
        "actor_tenant": change.actor_tenant,
        "action": change.action,
        "tenant": change.tenant,
        "target": change.target,
        "before": _dollars(change.before),
        "after": _dollars(change.after),
    }


def _common(limits: Limits, models: tuple[str, ...] | None) -> dict[str, Any]:
    return {"limits": _limits(asdict(limits)), "models": None if models is None else list(models)}


def _limits(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name.replace("_nanos", "_usd"): _usd(value) if name.endswith("_nanos") else value
        for name, value in values.items()
    }


def _usd(nanos: int | None) -> str | None:
    return None if nanos is None else dollars_of_nanos(nanos)


def _dollars(kept: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if kept is None else {**kept, "limits": _limits(kept["limits"])}


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat()
