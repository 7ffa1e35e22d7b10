"""Tenants, projects and keys through the typed door, by a real stub, beside what REST shows."""

from collections.abc import AsyncIterator
from typing import Any, cast

import grpc
import pytest
from gateway.core.scopes import ROLES
from gateway_admin_fakes import Office, running_office
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from penstock.gateway.v1 import admin_pb2 as pb
from penstock.gateway.v1.admin_pb2_grpc import AdminServiceStub


@pytest.fixture
async def office() -> AsyncIterator[Office]:
    """Both doors of administration."""
    async with running_office() as started:
        yield started


@pytest.fixture
async def stub(office: Office) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(office.grpc_address) as channel:
        yield AdminServiceStub(channel)


def as_key(text: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {text}"),)


async def test_both_doors_see_the_same(office: Office, stub: Any) -> None:
    key = as_key(office.root)
    limits = pb.UsageLimits(requests_per_minute=0, budget_day_nanos=10_500_000_000)
    sent = pb.Tenant(id="new", limits=limits, models=pb.ModelAllowlist(), region="eu", highest_priority=2)
    made = (await stub.CreateTenant(pb.CreateTenantRequest(tenant=sent), metadata=key)).tenant
    assert (made.version, made.source, made.models.patterns, made.HasField("models")) == (1, "api", [], True)
    async with office.client(office.root) as root:
        seen = (await root.get("/v1/admin/tenants/new")).json()
    assert (seen["limits"]["requests_per_minute"], seen["limits"]["budget_day_usd"]) == (0, "10.50")
    assert (seen["models"], seen["region"], seen["highest_priority"]) == ([], "eu", "standard")
    patch = pb.Tenant(id="new", version=1, limits=pb.UsageLimits(tokens_per_minute=7), region="us")
    mask = FieldMask(paths=["limits.tokens_per_minute", "limits.requests_per_minute", "models"])
    changed = (await stub.UpdateTenant(pb.UpdateTenantRequest(tenant=patch, update_mask=mask), metadata=key)).tenant
    assert (changed.limits.tokens_per_minute, changed.limits.HasField("requests_per_minute")) == (7, False)
    assert (changed.limits.budget_day_nanos, changed.HasField("models"), changed.region) == (
        10_500_000_000,
        False,
        "eu",
    )
    whole = pb.Tenant(id="new", version=2, limits=pb.UsageLimits(concurrent_requests=3))
    request = pb.UpdateTenantRequest(tenant=whole, update_mask=FieldMask(paths=["limits"]))
    assert (await stub.UpdateTenant(request, metadata=key)).tenant.limits == pb.UsageLimits(concurrent_requests=3)
    listed = await stub.ListTenants(pb.ListTenantsRequest(page_size=1), metadata=key)
    assert ([each.id for each in listed.tenants], listed.next_page_token) == (["acme"], "acme")


async def test_projects(office: Office, stub: Any) -> None:
    key = as_key(office.boss)
    project = pb.Project(tenant="acme", id="web", models=pb.ModelAllowlist(patterns=["a*"]))
    await stub.CreateProject(pb.CreateProjectRequest(project=project), metadata=key)
    changing = pb.UpdateProjectRequest(
        project=pb.Project(tenant="acme", id="web", version=1), update_mask=FieldMask(paths=["models"])
    )
    assert not (await stub.UpdateProject(changing, metadata=key)).project.HasField("models")
    found = await stub.GetProject(pb.GetProjectRequest(tenant="acme", project="web"), metadata=key)
    assert found.project.version == 2
    assert len((await stub.ListProjects(pb.ListProjectsRequest(tenant="acme"), metadata=key)).projects) == 2


async def test_a_key_from_making_to_its_end(office: Office, stub: Any) -> None:
    key = as_key(office.boss)
    wish = pb.ApiKey(tenant="acme", role="reader", priority=pb.PRIORITY_BATCH)
    wish.expires_at.seconds = 4_102_444_800
    made = await stub.CreateKey(pb.CreateKeyRequest(key=wish), metadata=key)
    assert made.text.startswith(f"pst_{made.key.public_id}_")
    assert set(made.key.scopes) == ROLES["reader"]
    assert (made.key.name, made.key.priority, made.key.expires_at.seconds) == ("default", 1, 4_102_444_800)
    public_id = made.key.public_id
    update = pb.UpdateKeyRequest(
        key=pb.ApiKey(public_id=public_id, version=1, name="app"), update_mask=FieldMask(paths=["name", "expires_at"])
    )
    updated = (await stub.UpdateKey(update, metadata=key)).key
    assert (updated.name, updated.HasField("expires_at")) == ("app", False)
    request = pb.RotateKeyRequest(public_id=public_id, grace=Duration(seconds=60, nanos=500_000_000))
    rotated = await stub.RotateKey(request, metadata=key)
    assert rotated.key.line == public_id
    old = (await stub.GetKey(pb.GetKeyRequest(public_id=public_id), metadata=key)).key
    assert old.HasField("revoke_at")
    ended = (await stub.RevokeKey(pb.RevokeKeyRequest(public_id=public_id), metadata=key)).key
    assert ended.revoke_at.ToNanoseconds() < old.revoke_at.ToNanoseconds()
    listed = await stub.ListKeys(pb.ListKeysRequest(tenant="acme", project="default"), metadata=key)
    assert {public_id, rotated.key.public_id} < {each.public_id for each in listed.keys}
    noted = await stub.ListChanges(pb.ListChangesRequest(page_size=1), metadata=key)
    assert (noted.changes[0].action, noted.changes[0].target) == ("key.revoke", public_id)
    assert noted.changes[0].after["name"] == "app"
    assert made.text.split("_", 2)[2] not in str(noted)


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("UpdateTenant", pb.UpdateTenantRequest(tenant=pb.Tenant(id="acme", version=1),
                                                update_mask=FieldMask(paths=["source"])), "source"),
        ("UpdateTenant", pb.UpdateTenantRequest(tenant=pb.Tenant(id="acme", version=1),
                                                update_mask=FieldMask(paths=["limits.cheese"])), "limits.cheese"),
        ("UpdateTenant", pb.UpdateTenantRequest(tenant=pb.Tenant(id="acme", version=1),
                                                update_mask=FieldMask(paths=["highest_priority"])), "highest_priority"),
        ("UpdateTenant", pb.UpdateTenantRequest(tenant=pb.Tenant(id="acme")), "version"),
        ("CreateTenant", pb.CreateTenantRequest(), "tenant"),
        ("CreateTenant", pb.CreateTenantRequest(
            tenant=pb.Tenant(id="x", limits=pb.UsageLimits(budget_day_nanos=-1))), "limits.budget_day_nanos"),
        ("CreateTenant", pb.CreateTenantRequest(
            tenant=pb.Tenant(id="x", highest_priority=cast("Any", 77))), "highest_priority"),
        ("RotateKey", pb.RotateKeyRequest(public_id="0" * 16, grace=Duration(seconds=-1)), "grace_s"),
        ("ListKeys", pb.ListKeysRequest(page_size=-1), "page_size"),
        ("CreateKey", pb.CreateKeyRequest(key=pb.ApiKey(tenant="acme", scopes=["fly"])), "scopes"),
        ("CreateKey", pb.CreateKeyRequest(
            key=pb.ApiKey(tenant="acme", expires_at={"seconds": 2**62})), "expires_at"),
    ],
)  # fmt: skip
async def test_a_mistake_by_grpc_is_named(office: Office, stub: Any, method: str, request_: Any, field: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await getattr(stub, method)(request_, metadata=as_key(office.root), timeout=5)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT, caught.value.details()
    found = ErrorInfo()
    Status.FromString(dict(caught.value.trailing_metadata())["grpc-status-details-bin"]).details[0].Unpack(found)
    assert found.metadata["field"] == field


async def test_every_grpc_method_asks_who_it_is(office: Office, stub: Any) -> None:
    for method in pb.DESCRIPTOR.services_by_name["AdminService"].methods:
        request = getattr(pb, method.input_type.name)()
        for metadata, code in (
            ((), grpc.StatusCode.UNAUTHENTICATED),
            (as_key(office.member), grpc.StatusCode.PERMISSION_DENIED),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await getattr(stub, method.name)(request, metadata=metadata, timeout=5)
            assert caught.value.code() == code, method.name
