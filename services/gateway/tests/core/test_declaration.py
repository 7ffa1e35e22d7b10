"""What the configuration file says of tenants is so afterwards, and what it does not say stays."""

import asyncio

import pytest
from gateway.core.accounts import Limits
from gateway.core.administration import Administration
from gateway.core.declaration import Declaration, DeclaredTenant
from gateway.core.tenants import FROM_API, FROM_FILE
from gateway_account_fakes import Clock, FakeAccounts, actor
from servicekit.errors import InvalidInput

ROOT = actor("admin")
DECLARED = [
    DeclaredTenant("acme", {"region": "eu", "limits": {"tokens_per_minute": 5}}, {"web": {"models": ["a"]}}),
    DeclaredTenant("plain"),
]


@pytest.fixture
def store() -> FakeAccounts:
    return FakeAccounts()


async def test_what_is_declared_is_made_and_nothing_is_left_to_do(store: FakeAccounts) -> None:
    declaration = Declaration(store, Clock().wall)
    planned = await declaration.differences(DECLARED)
    assert store.rows == {}
    done = await declaration.apply(DECLARED)
    assert [(each.action, each.tenant, each.target) for each in done] == [
        ("tenant.create", "acme", "acme"),
        ("project.create", "acme", "default"),
        ("project.create", "acme", "web"),
        ("tenant.create", "plain", "plain"),
        ("project.create", "plain", "default"),
    ]
    assert planned == done
    acme = await store.tenant("acme")
    assert acme is not None
    assert (acme.region, acme.limits, acme.source) == ("eu", Limits(tokens_per_minute=5), FROM_FILE)
    assert await declaration.apply(DECLARED) == []


async def test_what_is_no_longer_declared_stays_and_is_the_apis_again(store: FakeAccounts) -> None:
    declaration = Declaration(store, Clock().wall)
    await declaration.apply(DECLARED)
    changed = DeclaredTenant("acme", {"limits": {"requests_per_minute": 1}})
    done = await declaration.apply([changed])
    assert {(each.action, each.target) for each in done} == {
        ("tenant.update", "acme"), ("project.update", "web"), ("tenant.update", "plain")
    }  # fmt: skip
    acme, web, plain = await store.tenant("acme"), await store.find_tenancy("acme", "web"), await store.tenant("plain")
    assert acme is not None
    assert web is not None
    assert plain is not None
    assert (acme.region, acme.limits, acme.version) == ("", Limits(requests_per_minute=1), 2)
    assert (web.project.source, web.project.models, plain.source) == (FROM_API, ("a",), FROM_API)


async def test_a_tenant_of_the_api_may_come_under_the_file(store: FakeAccounts) -> None:
    administration = Administration(store, Clock().wall)
    await administration.create_tenant(ROOT, "acme", {"region": "us"})
    default = await administration.get_project(ROOT, "acme", "default")
    await administration.update_project(ROOT, ("acme", "default"), default.version, {"models": ["kept"]})
    await Declaration(store, Clock().wall).apply([DeclaredTenant("acme")])
    found = await store.find_tenancy("acme", "default")
    assert found is not None
    assert (found.tenant.region, found.tenant.source) == ("", FROM_FILE)
    assert (found.project.models, found.project.source) == (("kept",), FROM_API)


async def test_many_workers_may_apply_one_file(store: FakeAccounts) -> None:
    done = await asyncio.gather(*(Declaration(store, Clock().wall).apply(DECLARED) for _ in range(5)))
    assert sorted(map(len, done)) == [0, 0, 0, 0, 5]
    assert len(store.noted) == 5


@pytest.mark.parametrize(
    ("declared", "field"),
    [
        (DeclaredTenant("Bad"), "tenants"),
        (DeclaredTenant("a", {"limits": {"tokens_per_minute": -1}}), "limits.tokens_per_minute"),
        (DeclaredTenant("a", {"color": 1}), "color"),
        (DeclaredTenant("a", {}, {"x": {"region": "eu"}}), "region"),
        (DeclaredTenant("a", {}, {"X": {}}), "projects"),
    ],
)
async def test_a_mistake_changes_nothing(store: FakeAccounts, declared: DeclaredTenant, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        await Declaration(store, Clock().wall).apply([*DECLARED, declared])
    assert caught.value.field == field
    assert store.rows == {}
