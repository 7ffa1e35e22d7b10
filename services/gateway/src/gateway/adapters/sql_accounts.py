"""Tenants, projects, keys and the journal of changes, in the gateway's database."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import fields
from typing import Any, Final

import sqlalchemy
from servicekit.errors import Conflict
from sqlalchemy import Select, Table
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.adapters.sql import open_engine, translated
from gateway.adapters.tables import admin_changes, api_keys, projects, tenants
from gateway.core.accounts import Limits, Priority
from gateway.core.changes import Change, Entity, Page, Write
from gateway.core.keys import ApiKey, KeyGrant
from gateway.core.tenants import Project, Tenancy, Tenant

TABLES: Final[Mapping[type, Table]] = {Tenant: tenants, Project: projects, ApiKey: api_keys}
LIMIT_NAMES: Final = tuple(field.name for field in fields(Limits))
_TENANCY: Final = sqlalchemy.select(tenants, projects).join(projects, projects.c.tenant == tenants.c.id)
_GRANT: Final = sqlalchemy.select(api_keys, tenants, projects).select_from(
    api_keys.join(tenants, tenants.c.id == api_keys.c.tenant).join(
        projects, (projects.c.tenant == api_keys.c.tenant) & (projects.c.id == api_keys.c.project)
    )
)


class SqlAccounts:
    """Keeps who may call; several processes may share the database."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator["SqlAccounts"]:
        """Open the database at a URL, bringing its tables up to date first."""
        async with open_engine(url) as engine:
            yield cls(engine)

    async def find(self, public_id: str) -> KeyGrant | None:
        """Return the key with this public id, with project and tenant, or None."""
        rows = await self._rows(_GRANT.where(api_keys.c.public_id == public_id))
        return KeyGrant(_key(rows[0]), _tenancy(rows[0])) if rows else None

    async def find_tenancy(self, tenant: str, project: str) -> Tenancy | None:
        """Return a project with its tenant, or None."""
        rows = await self._rows(_TENANCY.where(tenants.c.id == tenant, projects.c.id == project))
        return _tenancy(rows[0]) if rows else None

    async def tenant(self, tenant: str) -> Tenant | None:
        """Return a tenant, or None."""
        rows = await self._rows(sqlalchemy.select(tenants).where(tenants.c.id == tenant))
        return _tenant(rows[0]) if rows else None

    async def tenants(self, page: Page) -> Sequence[Tenant]:
        """Return tenants in order of their ids."""
        query = sqlalchemy.select(tenants).where(tenants.c.id > page.after).order_by(tenants.c.id)
        return [_tenant(row) for row in await self._rows(query.limit(page.size))]

    async def projects(self, tenant: str, page: Page) -> Sequence[Project]:
        """Return the projects of a tenant in order of their ids."""
        query = sqlalchemy.select(projects).where(projects.c.tenant == tenant, projects.c.id > page.after)
        return [_project(row) for row in await self._rows(query.order_by(projects.c.id).limit(page.size))]

    async def keys(self, tenant: str | None, project: str | None, page: Page) -> Sequence[ApiKey]:
        """Return keys in order of their public ids."""
        query = sqlalchemy.select(api_keys).where(api_keys.c.public_id > page.after).order_by(api_keys.c.public_id)
        if tenant is not None:
            query = query.where(api_keys.c.tenant == tenant)
        if project is not None:
            query = query.where(api_keys.c.project == project)
        return [_key(row) for row in await self._rows(query.limit(page.size))]

    async def changes(self, tenant: str | None, page: Page) -> Sequence[Change]:
        """Return what was changed, newest first."""
        query = sqlalchemy.select(admin_changes).order_by(admin_changes.c.id.desc()).limit(page.size)
        if page.after:
            query = query.where(admin_changes.c.id < int(page.after))
        if tenant is not None:
            query = query.where(admin_changes.c.tenant == tenant)
        names = [field.name for field in fields(Change)]
        return [Change(**{name: row[admin_changes.c[name]] for name in names}) for row in await self._rows(query)]

    async def commit(self, writes: Sequence[Write[Entity]], changes: Sequence[Change]) -> None:
        """Do all the writes and note the changes in one transaction; raise Conflict when one does not fit."""
        with translated():
            async with self._engine.begin() as connection:
                for write in writes:
                    await _write(connection, write)
                for change in changes:
                    values = {field.name: getattr(change, field.name) for field in fields(Change) if field.name != "id"}
                    await connection.execute(sqlalchemy.insert(admin_changes).values(values))

    async def _rows(self, query: Select[Any]) -> list[Mapping[Any, Any]]:
        with translated():
            async with self._engine.connect() as connection:
                return [row._mapping for row in await connection.execute(query)]  # noqa: SLF001  SQLAlchemy's public name


async def _write(connection: AsyncConnection, write: Write[Entity]) -> None:
    table, values = TABLES[type(write.entity)], _values(write.entity)
    if not write.over:
        await connection.execute(sqlalchemy.insert(table).values(values))
        return
    same = [column == values[column.name] for column in table.primary_key]
    changed = sqlalchemy.update(table).where(*same, table.c.version == write.over).values(values)
    if (await connection.execute(changed)).rowcount != 1:
        raise Conflict("it was changed meanwhile; read it again", reason="version_conflict", field="version")


def _values(entity: Entity) -> dict[str, Any]:
    values = {field.name: getattr(entity, field.name) for field in fields(entity) if field.name != "limits"}
    values |= {name: getattr(entity.limits, name) for name in LIMIT_NAMES}
    if entity.models is not None:
        values["models"] = list(entity.models)
    if isinstance(entity, ApiKey):
        values["scopes"] = " ".join(sorted(entity.scopes))
    return values


def _limits(row: Mapping[Any, Any], table: Table) -> dict[str, Any]:
    models = row[table.c.models]
    limits = Limits(**{name: row[table.c[name]] for name in LIMIT_NAMES})
    return {"limits": limits, "models": None if models is None else tuple(models)}


def _tenancy(row: Mapping[Any, Any]) -> Tenancy:
    return Tenancy(_tenant(row), _project(row))


def _tenant(row: Mapping[Any, Any]) -> Tenant:
    of = tenants.c
    return Tenant(
        id=row[of.id],
        created_at=row[of.created_at],
        region=row[of.region],
        highest_priority=Priority(row[of.highest_priority]),
        source=row[of.source],
        version=row[of.version],
        **_limits(row, tenants),
    )


def _project(row: Mapping[Any, Any]) -> Project:
    of = projects.c
    return Project(
        tenant=row[of.tenant],
        id=row[of.id],
        created_at=row[of.created_at],
        source=row[of.source],
        version=row[of.version],
        **_limits(row, projects),
    )


def _key(row: Mapping[Any, Any]) -> ApiKey:
    of = api_keys.c
    return ApiKey(
        public_id=row[of.public_id],
        secret_hash=row[of.secret_hash],
        tenant=row[of.tenant],
        project=row[of.project],
        name=row[of.name],
        scopes=frozenset(row[of.scopes].split()),
        role=row[of.role],
        priority=Priority(row[of.priority]),
        created_at=row[of.created_at],
        expires_at=row[of.expires_at],
        revoked_at=row[of.revoked_at],
        replaces=row[of.replaces],
        line=row[of.line],
        version=row[of.version],
        **_limits(row, api_keys),
    )
