"""Tenants and their projects: whose data is seen, where it may go, and what may be taken."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from gateway.core.accounts import UNLIMITED, Limits, Priority, Subject

DEFAULT_PROJECT: Final = "default"
FROM_API: Final = "api"
FROM_FILE: Final = "file"


@dataclass(frozen=True, slots=True)
class Tenant:
    """One customer. `models` are patterns of model names, None is every model; `region` pins, the empty one does not.

    `version` counts the changes; `source` says who rules over it: the admin API, or the configuration file.
    """

    id: str
    created_at: datetime
    limits: Limits = UNLIMITED
    models: tuple[str, ...] | None = None
    region: str = ""
    highest_priority: Priority = Priority.INTERACTIVE
    source: str = FROM_API
    version: int = 1

    @property
    def subject(self) -> Subject:
        """What its limits are kept for."""
        return Subject("tenant", self.id, self.limits)


@dataclass(frozen=True, slots=True)
class Project:
    """A part of a tenant with limits and an allowlist of its own; the tenant's hold as well."""

    tenant: str
    id: str
    created_at: datetime
    limits: Limits = UNLIMITED
    models: tuple[str, ...] | None = None
    source: str = FROM_API
    version: int = 1

    @property
    def subject(self) -> Subject:
        """What its limits are kept for."""
        return Subject("project", f"{self.tenant}/{self.id}", self.limits)


@dataclass(frozen=True, slots=True)
class Tenancy:
    """A project with the tenant it belongs to: where a caller stands."""

    tenant: Tenant
    project: Project
