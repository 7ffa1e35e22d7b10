"""Who administers what, what is refused by the name of its field, and that everything is noted."""

from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from gateway.core.accounts import Limits, Priority
from gateway.core.administration import Administration, DeclaredInFile, page_of
from gateway.core.changes import Page
from gateway.core.entity_fields import LARGEST_BUDGET_NANOS
from gateway.core.key_administration import LONGEST_GRACE_S, KeyAdministration, KeyWish, RightsNotOwned
from gateway.core.key_ring import InvalidApiKey, KeyRing
from gateway.core.scopes import ALL_SCOPES, ROLES, TENANT_SCOPES, MissingScope
from gateway.core.tenants import FROM_FILE, Project, Tenant
from gateway_account_fakes import Clock, FakeAccounts, actor
from servicekit.errors import Conflict, InvalidInput, NotFound

ROOT = actor("admin")
BOSS = actor("tenant-admin")
NOBODY = actor("models", "ask")


class Office:
    """Both administrations over one store, with a clock."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.store = FakeAccounts()
        self.tenants = Administration(self.store, self.clock.wall)
        self.keys = KeyAdministration(self.store, self.clock.wall)

    def ring(self) -> KeyRing:
        return KeyRing(self.store, self.clock.wall, self.clock.monotonic)


@pytest.fixture
async def office() -> Office:
    made = Office()
    await made.tenants.create_tenant(ROOT, "acme", {})
    await made.tenants.create_tenant(ROOT, "rival", {})
    return made


async def test_a_tenant_comes_with_a_project_and_is_changed_in_part(office: Office) -> None:
    values = {"limits": {"requests_per_minute": 0, "budget_day_nanos": 5}, "models": ["a*"], "region": "eu"}
    made = await office.tenants.create_tenant(ROOT, "new", values)
    assert (made.limits, made.models, made.version) == (Limits(0, budget_day_nanos=5), ("a*",), 1)
    assert (await office.tenants.get_project(ROOT, "new", "default")).version == 1
    changed = await office.tenants.update_tenant(ROOT, "new", 1, {"limits": {"requests_per_minute": None}})
    assert changed.limits == Limits(budget_day_nanos=5)
    assert (changed.region, changed.version) == ("eu", 2)
    with pytest.raises(Conflict) as caught:
        await office.tenants.update_tenant(ROOT, "new", 1, {"region": ""})
    assert (caught.value.reason, caught.value.field) == ("version_conflict", "version")
    with pytest.raises(Conflict, match="already"):
        await office.tenants.create_tenant(ROOT, "new", {})


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"limits": {"requests_per_minute": -1}}, "limits.requests_per_minute"),
        ({"limits": {"tokens_per_minute": 0.5}}, "limits.tokens_per_minute"),
        ({"limits": {"tokens_per_minute": 1.0}}, "limits.tokens_per_minute"),
        ({"limits": {"concurrent_requests": True}}, "limits.concurrent_requests"),
        ({"limits": {"concurrent_requests": "5"}}, "limits.concurrent_requests"),
        ({"limits": {"concurrent_requests": float("nan")}}, "limits.concurrent_requests"),
        ({"limits": {"requests_per_minute": 10**13}}, "limits.requests_per_minute"),
        ({"limits": {"budget_day_nanos": LARGEST_BUDGET_NANOS + 1}}, "limits.budget_day_nanos"),
        ({"limits": {"budget": 1}}, "limits.budget"),
        ({"limits": 5}, "limits"),
        ({"models": "writer"}, "models"),
        ({"models": ["ok", ""]}, "models[1]"),
        ({"models": ["a b"]}, "models[0]"),
        ({"models": ["[a-z]"]}, "models[0]"),
        ({"models": ["x" * 257]}, "models[0]"),
        ({"models": ["x"] * 201}, "models"),
        ({"models": [None]}, "models[0]"),
        ({"region": "EU West"}, "region"),
        ({"region": None}, "region"),
        ({"highest_priority": "urgent"}, "highest_priority"),
        ({"highest_priority": 2**70}, "highest_priority"),
        ({"source": "file"}, "source"),
        ({"version": 7}, "version"),
        ({"created_at": None}, "created_at"),
    ],
)
async def test_a_mistake_is_named_by_its_field(office: Office, values: dict[str, Any], field: str) -> None:
    before = dict(office.store.rows)
    for attempt in (
        office.tenants.create_tenant(ROOT, "new", values),
        office.tenants.update_tenant(ROOT, "acme", 1, values),
    ):
        with pytest.raises(InvalidInput) as caught:
            await attempt
        assert caught.value.field == field
    assert office.store.rows == before


@pytest.mark.parametrize("name", ["", "Acme", "a b", "-a", "a" * 65, "a\n", "ä", "a/b", "a\x00"])
async def test_names_are_plain(office: Office, name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        await office.tenants.create_tenant(ROOT, name, {})
    assert caught.value.field == "tenant"
    with pytest.raises(InvalidInput) as caught:
        await office.tenants.create_project(ROOT, "acme", name, {})
    assert caught.value.field == "project"
    with pytest.raises(NotFound):
        await office.tenants.get_tenant(ROOT, name)


@pytest.mark.parametrize("version", [0, -1, 1.0, True, "1", None])
async def test_a_version_is_a_number(office: Office, version: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        await office.tenants.update_tenant(ROOT, "acme", version, {})
    assert caught.value.field == "version"


async def test_without_the_scope_nothing_is_administered(office: Office) -> None:
    key = (await office.keys.create(ROOT, KeyWish("acme"), {})).key.public_id
    for attempt in (
        office.tenants.create_tenant(NOBODY, "x", {}),
        office.tenants.get_tenant(NOBODY, "acme"),
        office.tenants.list_tenants(NOBODY, Page()),
        office.tenants.update_tenant(NOBODY, "acme", 1, {}),
        office.tenants.create_project(NOBODY, "acme", "x", {}),
        office.tenants.list_projects(NOBODY, "acme", Page()),
        office.tenants.update_project(NOBODY, ("acme", "default"), 1, {}),
        office.tenants.list_changes(NOBODY, None, Page()),
        office.keys.create(NOBODY, KeyWish("acme"), {}),
        office.keys.get(NOBODY, key),
        office.keys.list(NOBODY, None, None, Page()),
        office.keys.update(NOBODY, key, 1, {}),
        office.keys.rotate(NOBODY, key, 0),
        office.keys.revoke(NOBODY, key),
        office.tenants.create_tenant(BOSS, "x", {}),
        office.tenants.update_tenant(BOSS, "acme", 1, {"limits": {"budget_day_nanos": None}}),
    ):
        with pytest.raises(MissingScope):
            await attempt


async def test_to_a_tenants_administrator_other_tenants_do_not_exist(office: Office) -> None:
    foreign = (await office.keys.create(ROOT, KeyWish("rival"), {})).key.public_id
    for attempt in (
        office.tenants.get_tenant(BOSS, "rival"),
        office.tenants.create_project(BOSS, "rival", "x", {}),
        office.tenants.get_project(BOSS, "rival", "default"),
        office.tenants.list_projects(BOSS, "rival", Page()),
        office.tenants.update_project(BOSS, ("rival", "default"), 1, {}),
        office.tenants.list_changes(BOSS, "rival", Page()),
        office.keys.create(BOSS, KeyWish("rival"), {}),
        office.keys.list(BOSS, "rival", None, Page()),
        office.keys.get(BOSS, foreign),
        office.keys.update(BOSS, foreign, 1, {}),
        office.keys.rotate(BOSS, foreign, 0),
        office.keys.revoke(BOSS, foreign),
    ):
        with pytest.raises(NotFound):
            await attempt
    assert [each.id for each in (await office.tenants.list_tenants(BOSS, Page())).items] == ["acme"]
    assert (await office.keys.list(BOSS, None, None, Page())).items == []
    noted = (await office.tenants.list_changes(BOSS, None, Page())).items
    assert {each.tenant for each in noted} == {"acme"}


async def test_a_tenants_administrator_cannot_rise(office: Office) -> None:
    with pytest.raises(RightsNotOwned):
        await office.keys.create(BOSS, KeyWish("acme", role="admin"), {})
    with pytest.raises(RightsNotOwned):
        await office.keys.create(BOSS, KeyWish("acme", role="admin", scopes=["admin"]), {})
    with pytest.raises(InvalidInput):
        await office.keys.create(BOSS, KeyWish("acme", role="member", scopes=["admin"]), {})
    root_key = await office.keys.create(ROOT, KeyWish("acme", role="admin"), {})
    with pytest.raises(RightsNotOwned):
        await office.keys.rotate(BOSS, root_key.key.public_id, 0)
    made = await office.keys.create(BOSS, KeyWish("acme", role="tenant-admin"), {})
    assert made.key.scopes == TENANT_SCOPES | {"tenant-admin"}


async def test_roles_are_sets_of_scopes(office: Office) -> None:
    for role, scopes in ROLES.items():
        assert (await office.keys.create(ROOT, KeyWish("acme", role=role), {})).key.scopes == scopes
    fewer = await office.keys.create(ROOT, KeyWish("acme", role="reader", scopes=["ask"]), {})
    assert fewer.key.scopes == {"ask"}
    assert ROLES["admin"] == ALL_SCOPES
    for wish, field in (
        (KeyWish("acme", role="king"), "role"),
        (KeyWish("acme", role="reader", scopes=["features:write"]), "scopes"),
        (KeyWish("acme", scopes=["fly"]), "scopes"),
    ):
        with pytest.raises(InvalidInput) as caught:
            await office.keys.create(ROOT, wish, {})
        assert caught.value.field == field
    for place in (KeyWish("nobody"), KeyWish("acme", "nowhere")):
        with pytest.raises(NotFound):
            await office.keys.create(ROOT, place, {})


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "a\r\nX-Injected: 1"}, "name"),
        ({"name": "x" * 129}, "name"),
        ({"priority": "max"}, "priority"),
        ({"expires_at": datetime(2030, 1, 1)}, "expires_at"),  # noqa: DTZ001  that is the mistake
        ({"expires_at": datetime(1, 1, 1, tzinfo=UTC)}, "expires_at"),
        ({"expires_at": "2030-01-01"}, "expires_at"),
        ({"secret_hash": "0"}, "secret_hash"),
        ({"scopes": ["admin"]}, "scopes"),
        ({"revoked_at": None}, "revoked_at"),
        ({"tenant": "rival"}, "tenant"),
    ],
)
async def test_a_mistake_about_a_key_is_named(office: Office, values: dict[str, Any], field: str) -> None:
    key = (await office.keys.create(ROOT, KeyWish("acme"), {})).key
    with pytest.raises(InvalidInput) as caught:
        await office.keys.update(ROOT, key.public_id, 1, values)
    assert caught.value.field == field


async def test_a_rotated_key_works_for_its_grace_and_then_nowhere(office: Office) -> None:
    wish = {"limits": {"budget_day_nanos": 7}, "models": ["a"], "priority": "batch", "name": "app"}
    first = await office.keys.create(BOSS, KeyWish("acme", role="reader"), wish)
    second = await office.keys.rotate(BOSS, first.key.public_id, 60)
    third = await office.keys.rotate(BOSS, second.key.public_id, 120)
    same = {field.name for field in fields(first.key)} - {
        "public_id", "secret_hash", "replaces", "line", "revoked_at", "version", "created_at"
    }  # fmt: skip
    for name in same:
        assert getattr(third.key, name) == getattr(first.key, name), name
    rings = [office.ring(), office.ring()]
    for ring in rings:
        for made in (first, second, third):
            account = await ring.resolve(made.text)
            assert account.key_id == first.key.public_id, "a line of keys has one budget"
            assert account.subjects[-1].id == first.key.public_id
    office.clock.turn(60)
    for ring in rings:
        with pytest.raises(InvalidApiKey):
            await ring.resolve(first.text)
        await ring.resolve(second.text)
    office.clock.turn(60)
    for ring in rings:
        with pytest.raises(InvalidApiKey):
            await ring.resolve(second.text)
        await ring.resolve(third.text)


async def test_a_grace_is_only_ever_shortened(office: Office) -> None:
    made = await office.keys.create(ROOT, KeyWish("acme"), {})
    public_id = made.key.public_id
    await office.keys.rotate(ROOT, public_id, 10)
    await office.keys.rotate(ROOT, public_id, 1_000)
    assert (await office.keys.get(ROOT, public_id)).revoked_at == replace(made.key).created_at.replace(second=10)
    ended = await office.keys.revoke(ROOT, public_id)
    assert ended.revoked_at == office.clock.wall()
    office.clock.turn(1)
    assert await office.keys.revoke(ROOT, public_id) == ended
    with pytest.raises(Conflict) as caught:
        await office.keys.rotate(ROOT, public_id, 10)
    assert caught.value.reason == "key_not_live"


@pytest.mark.parametrize("grace_s", [-1, LONGEST_GRACE_S + 1, float("nan"), float("inf"), True, "5", None])
async def test_a_grace_has_bounds(office: Office, grace_s: Any) -> None:
    made = await office.keys.create(ROOT, KeyWish("acme"), {})
    with pytest.raises(InvalidInput) as caught:
        await office.keys.rotate(ROOT, made.key.public_id, grace_s)
    assert caught.value.field == "grace_s"


async def test_a_revocation_wins_over_a_change_at_the_same_moment(office: Office) -> None:
    made = await office.keys.create(ROOT, KeyWish("acme"), {})
    public_id = made.key.public_id
    find, slips = office.store.find, [1, 2]

    async def find_then_be_overtaken(public_id: str):
        grant = await find(public_id)
        if slips and grant is not None:
            slips.pop()
            changed = replace(grant.key, name="changed", version=grant.key.version + 1)
            office.store.rows[type(grant.key), public_id] = changed
        return grant

    office.store.find = find_then_be_overtaken
    ended = await office.keys.revoke(ROOT, public_id)
    assert (ended.name, ended.revoked_at) == ("changed", office.clock.wall())


async def test_every_change_is_noted_and_no_secret_is(office: Office) -> None:
    made = await office.keys.create(BOSS, KeyWish("acme"), {"name": "app"})
    public_id = made.key.public_id
    await office.keys.update(BOSS, public_id, 1, {"limits": {"budget_day_nanos": 9}})
    await office.keys.rotate(BOSS, public_id, 5)
    await office.keys.revoke(BOSS, public_id)
    await office.tenants.create_project(BOSS, "acme", "web", {"models": []})
    await office.tenants.update_project(BOSS, ("acme", "web"), 1, {"models": None})
    await office.tenants.update_tenant(ROOT, "acme", 1, {"highest_priority": "batch"})
    noted = (await office.tenants.list_changes(ROOT, "acme", Page())).items
    assert [each.action for each in reversed(noted)] == [
        "tenant.create", "project.create", "key.create", "key.update", "key.rotate", "key.create", "key.revoke",
        "project.create", "project.update", "tenant.update",
    ]  # fmt: skip
    update = noted[6]
    assert (update.actor, update.actor_tenant, update.target) == ("boss-key boss", "acme", public_id)
    assert update.before is not None
    assert update.after is not None
    assert (update.before["limits"], update.after["limits"]) == ({}, {"budget_day_nanos": 9})
    everything = repr(noted)
    assert made.key.secret_hash not in everything
    assert made.text.split("_", 2)[2] not in everything


async def test_what_the_file_rules_over_is_not_changed_here(office: Office) -> None:
    for row, entity in list(office.store.rows.items()):
        if isinstance(entity, Tenant | Project):
            office.store.rows[row] = replace(entity, source=FROM_FILE)
    with pytest.raises(DeclaredInFile):
        await office.tenants.update_tenant(ROOT, "acme", 1, {"region": "eu"})
    with pytest.raises(DeclaredInFile):
        await office.tenants.update_project(ROOT, ("acme", "default"), 1, {})
    await office.keys.create(BOSS, KeyWish("acme"), {})


async def test_lists_come_in_parts(office: Office) -> None:
    made = {(await office.keys.create(ROOT, KeyWish("acme"), {})).key.public_id for _ in range(5)}
    seen: list[str] = []
    page = page_of(2, "")
    while True:
        part = await office.keys.list(BOSS, None, None, page)
        seen += [key.public_id for key in part.items]
        if not part.next_page_token:
            break
        page = page_of(2, part.next_page_token)
    assert seen == sorted(made)
    for size, token, field in ((-1, "", "page_size"), (1_001, "", "page_size"), (1, "' or 1", "page_token")):
        with pytest.raises(InvalidInput) as caught:
            page_of(size, token)
        assert caught.value.field == field
    for token in ("abc", "9" * 30, "٣"):
        with pytest.raises(InvalidInput):
            await office.tenants.list_changes(ROOT, None, Page(5, token))


async def test_priorities_have_names(office: Office) -> None:
    made = await office.keys.create(ROOT, KeyWish("acme"), {"priority": "interactive"})
    assert made.key.priority is Priority.INTERACTIVE
