"""The typed door for administrators: translates messages; every decision is the administration's."""
# ruff: noqa: ARG002  the signature is gRPC's

from collections.abc import Mapping
from typing import Any, Final

from penstock.gateway.v1 import admin_pb2 as pb
from penstock.gateway.v1.admin_pb2_grpc import AdminServiceServicer, add_AdminServiceServicer_to_server
from servicekit.rpc import Service

from gateway.api.admin_wire import change_message, created, key_message, masked, project_message, tenant_message
from gateway.core.accounts import current
from gateway.core.administration import Administration, page_of
from gateway.core.entity_fields import KEY_FIELDS, PROJECT_FIELDS, TENANT_FIELDS
from gateway.core.key_administration import DEFAULT_ROLE, KeyAdministration, KeyWish
from gateway.core.tenants import DEFAULT_PROJECT

NAME: Final = "penstock.gateway.v1.AdminService"
NANOS_PER_S: Final = 10**9


class AdminServicer(AdminServiceServicer):
    """AdminService over the calls that REST makes, too."""

    def __init__(self, administration: Administration, keys: KeyAdministration) -> None:
        self._administration = administration
        self._keys = keys

    async def CreateTenant(self, request: pb.CreateTenantRequest, context: Any) -> pb.CreateTenantResponse:
        values = created(request.tenant, sorted(TENANT_FIELDS))
        made = await self._administration.create_tenant(current(), request.tenant.id, values)
        return pb.CreateTenantResponse(tenant=tenant_message(made))

    async def GetTenant(self, request: pb.GetTenantRequest, context: Any) -> pb.GetTenantResponse:
        found = await self._administration.get_tenant(current(), request.tenant)
        return pb.GetTenantResponse(tenant=tenant_message(found))

    async def ListTenants(self, request: pb.ListTenantsRequest, context: Any) -> pb.ListTenantsResponse:
        page = page_of(request.page_size, request.page_token)
        found = await self._administration.list_tenants(current(), page)
        tenants = [tenant_message(each) for each in found.items]
        return pb.ListTenantsResponse(tenants=tenants, next_page_token=found.next_page_token)

    async def UpdateTenant(self, request: pb.UpdateTenantRequest, context: Any) -> pb.UpdateTenantResponse:
        sent = request.tenant
        values = masked(sent, request.update_mask.paths)
        changed = await self._administration.update_tenant(current(), sent.id, sent.version, values)
        return pb.UpdateTenantResponse(tenant=tenant_message(changed))

    async def CreateProject(self, request: pb.CreateProjectRequest, context: Any) -> pb.CreateProjectResponse:
        sent = request.project
        values = created(sent, sorted(PROJECT_FIELDS))
        made = await self._administration.create_project(current(), sent.tenant, sent.id, values)
        return pb.CreateProjectResponse(project=project_message(made))

    async def GetProject(self, request: pb.GetProjectRequest, context: Any) -> pb.GetProjectResponse:
        found = await self._administration.get_project(current(), request.tenant, request.project)
        return pb.GetProjectResponse(project=project_message(found))

    async def ListProjects(self, request: pb.ListProjectsRequest, context: Any) -> pb.ListProjectsResponse:
        page = page_of(request.page_size, request.page_token)
        found = await self._administration.list_projects(current(), request.tenant, page)
        projects = [project_message(each) for each in found.items]
        return pb.ListProjectsResponse(projects=projects, next_page_token=found.next_page_token)

    async def UpdateProject(self, request: pb.UpdateProjectRequest, context: Any) -> pb.UpdateProjectResponse:
        sent = request.project
        values = masked(sent, request.update_mask.paths)
        changed = await self._administration.update_project(current(), (sent.tenant, sent.id), sent.version, values)
        return pb.UpdateProjectResponse(project=project_message(changed))

    async def CreateKey(self, request: pb.CreateKeyRequest, context: Any) -> pb.CreateKeyResponse:
        sent = request.key
        project, role = sent.project or DEFAULT_PROJECT, sent.role or DEFAULT_ROLE
        wish = KeyWish(sent.tenant, project, role, list(sent.scopes))
        made = await self._keys.create(current(), wish, created(sent, sorted(KEY_FIELDS)))
        return pb.CreateKeyResponse(key=key_message(made.key), text=made.text)

    async def GetKey(self, request: pb.GetKeyRequest, context: Any) -> pb.GetKeyResponse:
        return pb.GetKeyResponse(key=key_message(await self._keys.get(current(), request.public_id)))

    async def ListKeys(self, request: pb.ListKeysRequest, context: Any) -> pb.ListKeysResponse:
        page = page_of(request.page_size, request.page_token)
        found = await self._keys.list(current(), request.tenant or None, request.project or None, page)
        keys = [key_message(each) for each in found.items]
        return pb.ListKeysResponse(keys=keys, next_page_token=found.next_page_token)

    async def UpdateKey(self, request: pb.UpdateKeyRequest, context: Any) -> pb.UpdateKeyResponse:
        sent = request.key
        values = masked(sent, request.update_mask.paths)
        changed = await self._keys.update(current(), sent.public_id, sent.version, values)
        return pb.UpdateKeyResponse(key=key_message(changed))

    async def RotateKey(self, request: pb.RotateKeyRequest, context: Any) -> pb.RotateKeyResponse:
        grace_s = request.grace.seconds + request.grace.nanos / NANOS_PER_S
        made = await self._keys.rotate(current(), request.public_id, grace_s)
        return pb.RotateKeyResponse(key=key_message(made.key), text=made.text)

    async def RevokeKey(self, request: pb.RevokeKeyRequest, context: Any) -> pb.RevokeKeyResponse:
        return pb.RevokeKeyResponse(key=key_message(await self._keys.revoke(current(), request.public_id)))

    async def ListChanges(self, request: pb.ListChangesRequest, context: Any) -> pb.ListChangesResponse:
        page = page_of(request.page_size, request.page_token)
        found = await self._administration.list_changes(current(), request.tenant or None, page)
        changes = [change_message(each) for each in found.items]
        return pb.ListChangesResponse(changes=changes, next_page_token=found.next_page_token)


def admin_service(administration: Administration, keys: KeyAdministration) -> Service:
    """Return the typed door for administrators. Its methods need no scope here: each call checks for both doors."""
    methods = pb.DESCRIPTOR.services_by_name["AdminService"].methods
    scopes: Mapping[str, str] = {method.name: "" for method in methods}
    return Service(NAME, add_AdminServiceServicer_to_server, AdminServicer(administration, keys), scopes)
