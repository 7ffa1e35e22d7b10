"""Tenants and projects that the configuration file declares: what differs is found, and brought into line."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from servicekit.errors import Conflict

from gateway.core.accounts import UNLIMITED, Account
from gateway.core.administration import note
from gateway.core.changes import LARGEST_PAGE, Change, Entity, Page, Write
from gateway.core.entity_fields import PROJECT_FIELDS, TENANT_FIELDS, check_id, checked, updated
from gateway.core.key_ring import wall_clock
from gateway.core.ports import AdminStore
from gateway.core.tenants import DEFAULT_PROJECT, FROM_API, FROM_FILE, Project, Tenant

ATTEMPTS: Final = 3
FILE: Final = Account("", "", "configuration", "file", frozenset({"admin"}))
"""Who the journal says has done it."""


@dataclass(frozen=True, slots=True)
class DeclaredTenant:
    """A tenant as the file has it: values as the admin API takes them, what is absent is unset; his projects by id."""

    id: str
    values: Mapping[str, Any] = field(default_factory=dict)
    projects: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class Declaration:
    """Makes tenants and projects what the file says. What it no longer names stays, and is the admin API's again."""

    def __init__(self, store: AdminStore, now: Callable[[], datetime] = wall_clock) -> None:
        self._store = store
        self._now = now

    async def apply(self, declared: Sequence[DeclaredTenant]) -> Sequence[Change]:
        """Bring everything into line, whole or not at all; return what was changed. Raises InvalidInput, Conflict.

        Several workers may apply the same file at once: whoever comes second finds nothing left to do.
        """
        for attempt in range(ATTEMPTS):
            writes, changes = await self._plan(declared)
            try:
                if writes:
                    await self._store.commit(writes, changes)
            except Conflict:
                if attempt == ATTEMPTS - 1:
                    raise
            else:
                return changes
        raise AssertionError("the last attempt returns or raises")

    async def differences(self, declared: Sequence[DeclaredTenant]) -> Sequence[Change]:
        """Return what `apply` would change, and change nothing."""
        return (await self._plan(declared))[1]

    async def _plan(self, declared: Sequence[DeclaredTenant]) -> tuple[list[Write[Entity]], list[Change]]:
        now, found = self._now(), await self._found({each.id for each in declared})
        wanted: dict[tuple[str, str], Entity] = {}
        for each in declared:
            fields = updated(UNLIMITED, checked(each.values, TENANT_FIELDS))
            wanted[each.id, ""] = Tenant(check_id(each.id, "tenants"), now, source=FROM_FILE, **fields)
            if (each.id, DEFAULT_PROJECT) not in found:
                wanted[each.id, DEFAULT_PROJECT] = Project(each.id, DEFAULT_PROJECT, now)
            for name, values in each.projects.items():
                fields = updated(UNLIMITED, checked(values, PROJECT_FIELDS))
                wanted[each.id, name] = Project(each.id, check_id(name, "projects"), now, source=FROM_FILE, **fields)
        writes: list[Write[Entity]] = []
        changes: list[Change] = []
        for key in [*wanted, *(key for key in found if key not in wanted)]:
            before = found.get(key)
            after = _after(before, wanted.get(key))
            if after is None:
                continue
            writes.append(Write(after, 0 if before is None else before.version))
            kind = "tenant" if isinstance(after, Tenant) else "project"
            changes.append(note(FILE, f"{kind}.{'create' if before is None else 'update'}", before, after, now))
        return writes, changes

    async def _found(self, named: set[str]) -> dict[tuple[str, str], Entity]:
        """Return the tenants that are named or were, with their projects, by both ids."""
        found: dict[tuple[str, str], Entity] = {}
        page = Page(LARGEST_PAGE)
        while tenants := await self._store.tenants(page):
            for tenant in tenants:
                if tenant.id in named or tenant.source == FROM_FILE:
                    found[tenant.id, ""] = tenant
                    found |= {(tenant.id, project.id): project for project in await self._projects(tenant.id)}
            page = replace(page, after=tenants[-1].id)
        return found

    async def _projects(self, tenant: str) -> list[Project]:
        projects: list[Project] = []
        page = Page(LARGEST_PAGE)
        while part := await self._store.projects(tenant, page):
            projects += part
            page = replace(page, after=part[-1].id)
        return projects


def _after(before: Entity | None, wanted: Entity | None) -> Entity | None:
    """Return the entity to write, or None when it is as it should be."""
    if before is None or wanted is None:
        after = wanted if before is None else _released(before)
    else:
        after = replace(wanted, created_at=before.created_at, version=before.version)
    if before is None or after is None:
        return after
    return None if after == before else replace(after, version=before.version + 1)


def _released(entity: Entity) -> Entity:
    return replace(entity, source=FROM_API) if isinstance(entity, Tenant | Project) else entity
