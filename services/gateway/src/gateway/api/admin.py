"""Tenants, projects and keys under /v1/admin, for whoever administers them."""

from collections.abc import Callable, Iterable
from typing import Any, Final

from servicekit.errors import InvalidInput
from starlette.requests import Request
from starlette.responses import Response

from gateway.api import admin_responses as shown
from gateway.api.admin_body import (
    KeyUpdate,
    NewKeyBody,
    NewProject,
    NewTenant,
    ProjectUpdate,
    Revocation,
    Rotation,
    TenantUpdate,
    read_exactly,
    values_of,
)
from gateway.api.body import json_response
from gateway.api.openapi import Shape
from gateway.core.accounts import current
from gateway.core.administration import Administration, Listed, page_of
from gateway.core.changes import Page
from gateway.core.key_administration import KeyAdministration, KeyWish

ID: Final = frozenset({"id"})
VERSION: Final = frozenset({"version"})
WISH: Final = frozenset({"tenant", "project", "role", "scopes"})
PAGING: Final = ("page_size", "page_token")
LONGEST_NUMBER: Final = 9


class AdminRoutes:
    """Translates requests; every decision is the administration's."""

    def __init__(self, administration: Administration, keys: KeyAdministration) -> None:
        self._administration = administration
        self._keys = keys

    async def create_tenant(self, request: Request) -> Response:
        """Make a tenant."""
        body = await read_exactly(request, NewTenant)
        made = await self._administration.create_tenant(current(), body.id, values_of(body, ID))
        return json_response(shown.tenant_json(made))

    async def get_tenant(self, request: Request) -> Response:
        """Return a tenant."""
        found = await self._administration.get_tenant(current(), request.path_params["tenant"])
        return json_response(shown.tenant_json(found))

    async def list_tenants(self, request: Request) -> Response:
        """Return the tenants that the caller rules over."""
        found = await self._administration.list_tenants(current(), _page(request))
        return json_response(_listed("tenants", found, shown.tenant_json))

    async def update_tenant(self, request: Request) -> Response:
        """Change a tenant."""
        body = await read_exactly(request, TenantUpdate)
        tenant = request.path_params["tenant"]
        values = values_of(body, VERSION)
        changed = await self._administration.update_tenant(current(), tenant, body.version, values)
        return json_response(shown.tenant_json(changed))

    async def create_project(self, request: Request) -> Response:
        """Make a project."""
        body = await read_exactly(request, NewProject)
        tenant = request.path_params["tenant"]
        made = await self._administration.create_project(current(), tenant, body.id, values_of(body, ID))
        return json_response(shown.project_json(made))

    async def get_project(self, request: Request) -> Response:
        """Return a project."""
        found = await self._administration.get_project(current(), *_project(request))
        return json_response(shown.project_json(found))

    async def list_projects(self, request: Request) -> Response:
        """Return the projects of a tenant."""
        tenant = request.path_params["tenant"]
        found = await self._administration.list_projects(current(), tenant, _page(request))
        return json_response(_listed("projects", found, shown.project_json))

    async def update_project(self, request: Request) -> Response:
        """Change a project."""
        body = await read_exactly(request, ProjectUpdate)
        values = values_of(body, VERSION)
        changed = await self._administration.update_project(current(), _project(request), body.version, values)
        return json_response(shown.project_json(changed))

    async def create_key(self, request: Request) -> Response:
        """Make a key and show its text, once."""
        body = await read_exactly(request, NewKeyBody)
        wish = KeyWish(body.tenant, body.project, body.role, body.scopes)
        made = await self._keys.create(current(), wish, values_of(body, WISH))
        return json_response(shown.new_key_json(made))

    async def get_key(self, request: Request) -> Response:
        """Return a key without its secret."""
        return json_response(shown.key_json(await self._keys.get(current(), request.path_params["key"])))

    async def list_keys(self, request: Request) -> Response:
        """Return keys without their secrets."""
        tenant, project = request.query_params.get("tenant"), request.query_params.get("project")
        found = await self._keys.list(current(), tenant, project, _page(request))
        return json_response(_listed("keys", found, shown.key_json))

    async def update_key(self, request: Request) -> Response:
        """Change a key."""
        body = await read_exactly(request, KeyUpdate)
        values = values_of(body, VERSION)
        changed = await self._keys.update(current(), request.path_params["key"], body.version, values)
        return json_response(shown.key_json(changed))

    async def rotate_key(self, request: Request) -> Response:
        """Make a key with the same rights and show its text, once."""
        body = await read_exactly(request, Rotation)
        made = await self._keys.rotate(current(), request.path_params["key"], body.grace_s)
        return json_response(shown.new_key_json(made))

    async def revoke_key(self, request: Request) -> Response:
        """End a key."""
        await read_exactly(request, Revocation)
        return json_response(shown.key_json(await self._keys.revoke(current(), request.path_params["key"])))

    async def list_changes(self, request: Request) -> Response:
        """Return the journal, newest first."""
        tenant = request.query_params.get("tenant")
        found = await self._administration.list_changes(current(), tenant, _page(request))
        return json_response(_listed("changes", found, shown.change_json))


def admin_operations(routes: AdminRoutes) -> list[tuple[str, str, str, Callable[[Request], Any], Shape]]:
    """Return name, method, path, endpoint and shape of every admin call."""
    tenants, tenant = "/v1/admin/tenants", "/v1/admin/tenants/{tenant}"
    projects, project = f"{tenant}/projects", f"{tenant}/projects/{{project}}"
    keys, key = "/v1/admin/keys", "/v1/admin/keys/{key}"
    return [
        ("list_tenants", "GET", tenants, routes.list_tenants, Shape(shown.Tenants, query=PAGING)),
        ("create_tenant", "POST", tenants, routes.create_tenant, Shape(shown.TenantShown, NewTenant)),
        ("get_tenant", "GET", tenant, routes.get_tenant, Shape(shown.TenantShown)),
        ("update_tenant", "PATCH", tenant, routes.update_tenant, Shape(shown.TenantShown, TenantUpdate)),
        ("list_projects", "GET", projects, routes.list_projects, Shape(shown.Projects, query=PAGING)),
        ("create_project", "POST", projects, routes.create_project, Shape(shown.ProjectShown, NewProject)),
        ("get_project", "GET", project, routes.get_project, Shape(shown.ProjectShown)),
        ("update_project", "PATCH", project, routes.update_project, Shape(shown.ProjectShown, ProjectUpdate)),
        ("list_keys", "GET", keys, routes.list_keys, Shape(shown.Keys, query=("tenant", "project", *PAGING))),
        ("create_key", "POST", keys, routes.create_key, Shape(shown.NewKeyShown, NewKeyBody)),
        ("get_key", "GET", key, routes.get_key, Shape(shown.KeyShown)),
        ("update_key", "PATCH", key, routes.update_key, Shape(shown.KeyShown, KeyUpdate)),
        ("rotate_key", "POST", f"{key}/rotate", routes.rotate_key, Shape(shown.NewKeyShown, Rotation)),
        ("revoke_key", "POST", f"{key}/revoke", routes.revoke_key, Shape(shown.KeyShown, Revocation)),
        ("list_changes", "GET", "/v1/admin/changes", routes.list_changes,
         Shape(shown.Changes, query=("tenant", *PAGING))),
    ]  # fmt: skip


def _page(request: Request) -> Page:
    size = request.query_params.get("page_size", "0")
    if not (size.isascii() and size.isdigit() and len(size) <= LONGEST_NUMBER):
        raise InvalidInput("page_size has to be a whole number", field="page_size")
    return page_of(int(size), request.query_params.get("page_token", ""))


def _project(request: Request) -> tuple[str, str]:
    return request.path_params["tenant"], request.path_params["project"]


def _listed(name: str, found: Listed[Any], show: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    items: Iterable[Any] = found.items
    return {name: [show(each) for each in items], "next_page_token": found.next_page_token or None}
