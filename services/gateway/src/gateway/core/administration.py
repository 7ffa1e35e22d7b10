"""Who may call, decided by administrators: tenants and projects are made and changed, and every change is noted."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Generic, TypeVar

from servicekit.errors import Conflict, Forbidden, InvalidInput, NotFound

from gateway.core.accounts import UNLIMITED, Account
from gateway.core.changes import LARGEST_PAGE, Change, Entity, Page, Write
from gateway.core.entity_fields import (
    PROJECT_FIELDS,
    TENANT_FIELDS,
    check_id,
    checked,
    is_id,
    shown,
    updated,
)
from gateway.core.key_ring import wall_clock
from gateway.core.keys import ApiKey
from gateway.core.ports import AdminStore
from gateway.core.scopes import ADMIN, TENANT_ADMIN, MissingScope
from gateway.core.tenants import DEFAULT_PROJECT, FROM_FILE, Project, Tenant

LONGEST_ACTOR: Final = 256
LARGEST_CHANGE_ID: Final = 2**63 - 1

T = TypeVar("T")
E = TypeVar("E", bound=Entity)


class DeclaredInFile(Forbidden):
    """The configuration file rules over this; the admin API does not change it."""

    default_reason = "declared_in_file"


@dataclass(frozen=True, slots=True)
class Listed(Generic[T]):
    """A part of a list, and where the next part begins; the empty token says that there is none."""

    items: Sequence[T]
    next_page_token: str


class Administration:
    """What administrators do. `admin` rules over every tenant, `tenant-admin` over projects and keys of his own.

    To the latter another tenant does not exist. An update names the version it was made for; Conflict says that
    another one came first.
    """

    def __init__(self, store: AdminStore, now: Callable[[], datetime] = wall_clock) -> None:
        self._store = store
        self._now = now

    async def create_tenant(self, actor: Account, tenant: str, values: Mapping[str, Any]) -> Tenant:
        """Make a tenant and his project `default`; raise Conflict when he is there, InvalidInput, MissingScope."""
        require_admin(actor)
        now = self._now()
        fields = updated(UNLIMITED, checked(values, TENANT_FIELDS))
        made = Tenant(check_id(tenant, "tenant"), now, **fields)
        project = Project(made.id, DEFAULT_PROJECT, now)
        notes = [
            note(actor, "tenant.create", None, made, now),
            note(actor, "project.create", None, project, now),
        ]
        await self._commit([Write(made), Write(project)], notes, f"there is already a tenant {tenant}", "tenant")
        return made

    async def get_tenant(self, actor: Account, tenant: str) -> Tenant:
        """Return a tenant; raise NotFound."""
        require_rule(actor, tenant)
        found = await self._store.tenant(tenant) if is_id(tenant) else None
        if found is None:
            raise NotFound(f"there is no tenant {tenant!r}", field="tenant")
        return found

    async def list_tenants(self, actor: Account, page: Page) -> Listed[Tenant]:
        """Return the tenants that the actor rules over."""
        if ADMIN not in actor.scopes:
            return Listed([await self.get_tenant(actor, actor.tenant)], "")
        return listed(await self._store.tenants(_wider(page)), page, lambda each: each.id)

    async def update_tenant(self, actor: Account, tenant: str, version: int, values: Mapping[str, Any]) -> Tenant:
        """Change a tenant; raise NotFound, Conflict, InvalidInput, MissingScope, DeclaredInFile."""
        require_admin(actor)
        before = await self.get_tenant(actor, tenant)
        fields = updated(before.limits, checked(values, TENANT_FIELDS))
        _require_ours(before)
        return await self._replace(actor, "tenant.update", before, version, fields)

    async def create_project(self, actor: Account, tenant: str, project: str, values: Mapping[str, Any]) -> Project:
        """Make a project; raise Conflict when it is there, NotFound, InvalidInput."""
        await self.get_tenant(actor, tenant)
        fields = updated(UNLIMITED, checked(values, PROJECT_FIELDS))
        made = Project(tenant, check_id(project, "project"), self._now(), **fields)
        notes = [note(actor, "project.create", None, made, made.created_at)]
        await self._commit([Write(made)], notes, f"there is already a project {project}", "project")
        return made

    async def get_project(self, actor: Account, tenant: str, project: str) -> Project:
        """Return a project; raise NotFound."""
        require_rule(actor, tenant)
        found = await self._store.find_tenancy(tenant, project) if is_id(tenant) and is_id(project) else None
        if found is None:
            raise NotFound(f"there is no project {project!r} of a tenant {tenant!r}", field="project")
        return found.project

    async def list_projects(self, actor: Account, tenant: str, page: Page) -> Listed[Project]:
        """Return the projects of a tenant."""
        await self.get_tenant(actor, tenant)
        return listed(await self._store.projects(tenant, _wider(page)), page, lambda each: each.id)

    async def update_project(
        self, actor: Account, names: tuple[str, str], version: int, values: Mapping[str, Any]
    ) -> Project:
        """Change the project named by tenant and id; raise NotFound, Conflict, InvalidInput, DeclaredInFile."""
        before = await self.get_project(actor, *names)
        fields = updated(before.limits, checked(values, PROJECT_FIELDS))
        _require_ours(before)
        return await self._replace(actor, "project.update", before, version, fields)

    async def list_changes(self, actor: Account, tenant: str | None, page: Page) -> Listed[Change]:
        """Return what was changed, newest first: of a tenant, or of all that the actor rules over."""
        wanted = tenant or (None if ADMIN in actor.scopes else actor.tenant)
        require_rule(actor, wanted or actor.tenant)
        if page.after and not (page.after.isascii() and page.after.isdigit() and int(page.after) <= LARGEST_CHANGE_ID):
            raise InvalidInput("page_token is not one of ours", field="page_token")
        found = await self._store.changes(wanted, _wider(page)) if wanted is None or is_id(wanted) else []
        return listed(found, page, lambda each: str(each.id))

    async def _replace(self, actor: Account, action: str, before: E, version: int, fields: Mapping[str, Any]) -> E:
        after: E = amended(before, version, fields)
        await self._store.commit([Write(after, version)], [note(actor, action, before, after, self._now())])
        return after

    async def _commit(self, writes: Sequence[Write[Entity]], notes: Sequence[Change], taken: str, field: str) -> None:
        try:
            await self._store.commit(writes, notes)
        except Conflict as error:
            raise Conflict(taken, reason="already_exists", field=field) from error


def require_admin(actor: Account) -> None:
    """Raise MissingScope unless the actor administers everything."""
    if ADMIN not in actor.scopes:
        raise MissingScope(f"this needs the scope {ADMIN!r}")


def require_rule(actor: Account, tenant: str) -> None:
    """Raise MissingScope for who administers nothing, NotFound for who does not administer this tenant."""
    if ADMIN in actor.scopes:
        return
    if TENANT_ADMIN not in actor.scopes:
        raise MissingScope(f"this needs the scope {ADMIN!r} or {TENANT_ADMIN!r}")
    if tenant != actor.tenant:
        raise NotFound(f"there is no tenant {tenant!r}", field="tenant")


def page_of(size: int, token: str) -> Page:
    """Return the page that a caller asks for; raise InvalidInput."""
    if type(size) is not int or not 0 <= size <= LARGEST_PAGE:
        raise InvalidInput(f"page_size has to be 1 to {LARGEST_PAGE}; 0 is the default", field="page_size")
    if token and not is_id(token):
        raise InvalidInput("page_token is not one of ours", field="page_token")
    return Page(size, token) if size else Page(after=token)


def listed(found: Sequence[T], page: Page, name: Callable[[T], str]) -> Listed[T]:
    """Return a page of a list that was asked for with one entry more than fits."""
    items = found[: page.size]
    return Listed(items, name(items[-1]) if len(found) > page.size else "")


def amended(before: Any, version: int, fields: Mapping[str, Any]) -> Any:
    """Return an entity with some fields changed, one version on; raise Conflict unless `version` is the one it has."""
    if type(version) is not int or version < 1:
        raise InvalidInput("version has to be the one that was read, 1 or more", field="version")
    if version != before.version:
        raise Conflict(
            f"this is at version {before.version} by now; read it again", reason="version_conflict", field="version"
        )
    return replace(before, version=version + 1, **fields)


def note(actor: Account, action: str, before: Entity | None, after: Entity, at: datetime) -> Change:
    """Return what the journal keeps of a change."""
    target = after.public_id if isinstance(after, ApiKey) else after.id
    return Change(
        at=at,
        actor=f"{actor.key_id} {actor.principal}"[:LONGEST_ACTOR],
        actor_tenant=actor.tenant,
        action=action,
        tenant=after.id if isinstance(after, Tenant) else after.tenant,
        target=target,
        before=None if before is None else shown(before),
        after=shown(after),
    )


def _require_ours(entity: Tenant | Project) -> None:
    if entity.source == FROM_FILE:
        raise DeclaredInFile(f"{entity.id} is declared in the configuration file; change it there")


def _wider(page: Page) -> Page:
    return replace(page, size=page.size + 1)
