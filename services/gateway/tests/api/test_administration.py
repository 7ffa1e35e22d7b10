"""Tenants, projects and keys through the REST door, by a real client."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from gateway.core.accounts import current
from gateway_admin_fakes import Office, running_office


@pytest.fixture
async def office() -> AsyncIterator[Office]:
    """Both doors of administration."""
    async with running_office() as started:
        yield started


@pytest.fixture
async def root(office: Office) -> AsyncIterator[httpx.AsyncClient]:
    async with office.client(office.root) as client:
        yield client


@pytest.fixture
async def boss(office: Office) -> AsyncIterator[httpx.AsyncClient]:
    async with office.client(office.boss) as client:
        yield client


async def test_a_tenant_from_making_to_changing(root: httpx.AsyncClient) -> None:
    body = {"id": "new", "limits": {"requests_per_minute": 60, "budget_month_usd": "12.50"}, "models": ["a*"]}
    made = (await root.post("/v1/admin/tenants", json=body)).json()
    assert made["limits"] == {
        "requests_per_minute": 60,
        "tokens_per_minute": None,
        "concurrent_requests": None,
        "budget_day_usd": None,
        "budget_month_usd": "12.50",
    }
    assert (made["models"], made["region"], made["highest_priority"], made["version"]) == (["a*"], "", "interactive", 1)
    assert (await root.get("/v1/admin/tenants/new")).json() == made
    patch = {"version": 1, "limits": {"requests_per_minute": None}, "region": "eu", "models": None}
    changed = (await root.patch("/v1/admin/tenants/new", json=patch)).json()
    assert (changed["limits"]["requests_per_minute"], changed["limits"]["budget_month_usd"]) == (None, "12.50")
    assert (changed["region"], changed["models"], changed["version"]) == ("eu", None, 2)
    stale = await root.patch("/v1/admin/tenants/new", json=patch)
    assert (stale.status_code, stale.json()["error"]["code"]) == (409, "version_conflict")
    again = await root.post("/v1/admin/tenants", json={"id": "new"})
    assert (again.status_code, again.json()["error"]["param"]) == (409, "tenant")
    listed = (await root.get("/v1/admin/tenants", params={"page_size": 2})).json()
    assert [each["id"] for each in listed["tenants"]] == ["acme", "new"]
    rest = (await root.get("/v1/admin/tenants", params={"page_token": listed["next_page_token"]})).json()
    assert ([each["id"] for each in rest["tenants"]], rest["next_page_token"]) == (["rival"], None)


async def test_projects(boss: httpx.AsyncClient) -> None:
    path = "/v1/admin/tenants/acme/projects"
    made = (await boss.post(path, json={"id": "web", "limits": {"concurrent_requests": 0}})).json()
    assert (made["tenant"], made["id"], made["limits"]["concurrent_requests"]) == ("acme", "web", 0)
    changed = (await boss.patch(f"{path}/web", json={"version": 1, "models": []})).json()
    assert (changed["models"], changed["limits"]["concurrent_requests"]) == ([], 0)
    assert (await boss.get(f"{path}/web")).json() == changed
    assert [each["id"] for each in (await boss.get(path)).json()["projects"]] == ["default", "web"]
    assert (await boss.get(f"{path}/none")).status_code == 404


async def test_a_key_from_making_to_its_end(boss: httpx.AsyncClient, office: Office) -> None:
    body = {"tenant": "acme", "name": "app", "role": "reader", "expires_at": "2100-01-01T00:00:00+02:00"}
    made = (await boss.post("/v1/admin/keys", json=body)).json()
    text = made.pop("key")
    path = f"/v1/admin/keys/{made['public_id']}"
    assert made["expires_at"] == "2099-12-31T22:00:00+00:00"
    assert (await boss.get(path)).json() == made
    async with office.client(text) as caller:
        assert (await caller.get("/v1/admin/keys")).status_code == 403
    rotated = (await boss.post(f"{path}/rotate", json={"grace_s": 60})).json()
    assert (rotated["replaces"], rotated["line"], rotated["role"]) == (made["public_id"], made["public_id"], "reader")
    old = (await boss.get(path)).json()
    assert old["revoke_at"] is not None
    ended = (await boss.post(f"{path}/revoke")).json()
    assert ended["revoke_at"] < old["revoke_at"]
    twice = (await boss.post(f"{path}/revoke", json={})).json()
    assert twice == ended
    changed = await boss.patch(
        f"/v1/admin/keys/{rotated['public_id']}", json={"version": 1, "priority": "batch", "expires_at": None}
    )
    assert (changed.json()["priority"], changed.json()["expires_at"]) == ("batch", None)
    everything = [
        (await boss.get("/v1/admin/keys")).text,
        (await boss.get(path)).text,
        (await boss.get("/v1/admin/changes")).text,
    ]
    for secret in (text.split("_", 2)[2], rotated["key"].split("_", 2)[2]):
        assert not any(secret in each for each in everything), "a key's text is shown once"


@pytest.mark.parametrize(
    ("dollars", "shown"),
    [
        ("0.1", "0.10"),
        ("0.3", "0.30"),
        ("8999999.999999999", "8999999.999999999"),
        ('"8999999.999999999"', "8999999.999999999"),
        ('"1234567.123456789"', "1234567.123456789"),
        ("1234567.123456789", "1234567.123456789"),
        ("0.000000001", "0.000000001"),
        ("1e3", "1000.00"),
        ("0", "0.00"),
        ('"12.50"', "12.50"),
        ("null", None),
    ],
)
async def test_money_is_exact(root: httpx.AsyncClient, dollars: str, shown: str | None) -> None:
    content = f'{{"version": 1, "limits": {{"budget_day_usd": {dollars}}}}}'
    response = await root.patch("/v1/admin/tenants/acme", content=content)
    assert response.status_code == 200, response.text
    assert response.json()["limits"]["budget_day_usd"] == shown


@pytest.mark.parametrize(
    ("content", "code", "param"),
    [
        ('{"version": 1, "limits": {"budget_day_usd": -0.01}}', "invalid_input", "limits.budget_day_usd"),
        ('{"version": 1, "limits": {"budget_day_usd": 0.0000000001}}', "invalid_input", "limits.budget_day_usd"),
        ('{"version": 1, "limits": {"budget_day_usd": 1e999999999}}', "invalid_input", "limits.budget_day_usd"),
        ('{"version": 1, "limits": {"budget_day_usd": 1e-999999999}}', "invalid_input", "limits.budget_day_usd"),
        ('{"version": 1, "limits": {"budget_day_usd": 1.00000000000000000000000000000001}}', "invalid_input",
         "limits.budget_day_usd"),
        ('{"version": 1, "limits": {"budget_day_usd": "NaN"}}', "invalid_input", "limits.budget_day_usd"),
        ('{"version": 1, "limits": {"budget_day_usd": "Infinity"}}', "invalid_input", "limits.budget_day_usd"),
        ('{"version": 1, "limits": {"budget_day_usd": true}}', "invalid_input", "limits.budget_day_usd"),
        ('{"version": 1, "limits": {"budget_day_usd": [1]}}', "invalid_input", "limits.budget_day_usd"),
        ('{"version": 1, "limits": {"budget_day_usd": 9000000.000000001}}', "invalid_input", "limits.budget_day_usd"),
        ('{"version": 1, "limits": {"budget_day_nanos": 1}}', "unknown_parameter", "limits.budget_day_nanos"),
        ('{"version": 1, "limits": {"requests_per_minute": -1}}', "invalid_input", "limits.requests_per_minute"),
        ('{"version": 1, "limits": {"requests_per_minute": 1.5}}', "invalid_input", "limits.requests_per_minute"),
        ('{"version": 1, "limits": {"requests_per_minute": 1e400}}', "invalid_input", "limits.requests_per_minute"),
        ('{"version": 1, "limits": {"requests_per_minute": 1' + "0" * 400 + "}}", "invalid_input",
         "limits.requests_per_minute"),
        ('{"version": 1, "limits": {"requests_per_minute": "5"}}', "invalid_input", "limits.requests_per_minute"),
        ('{"version": 1, "models": [5]}', "invalid_input", "models[0]"),
        ('{"version": 1, "region": null}', "invalid_input", "region"),
        ('{"version": 1, "surprise": 1}', "unknown_parameter", "surprise"),
        ('{"region": "eu"}', "missing_parameter", "version"),
        ('{"version": 1, "version": 1}', "malformed_json", None),
        ('{"version": NaN}', "malformed_json", None),
        ('{"version": 1' + "0" * 5_000 + "}", "malformed_json", None),
        ("[" * 50_000, "malformed_json", None),
        ('{"version": 1', "malformed_json", None),
        ("[]", "invalid_input", None),
        ("null", "invalid_input", None),
        (b'{"region": "\xff"}', "malformed_json", None),
        (b"\xff\xfe{\x00}\x00", "malformed_json", None),
    ],
)  # fmt: skip
async def test_a_bad_body_is_a_400_that_names_the_field(
    root: httpx.AsyncClient, content: Any, code: str, param: str | None
) -> None:
    response = await root.patch("/v1/admin/tenants/acme", content=content)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, code, param)


@pytest.mark.parametrize(
    "query", [{"page_size": "-1"}, {"page_size": "1.5"}, {"page_size": "9" * 5000}, {"page_size": "²"}]
)
async def test_a_bad_page_is_a_400(root: httpx.AsyncClient, query: dict[str, str]) -> None:
    response = await root.get("/v1/admin/keys", params=query)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "page_size")
    response = await root.get("/v1/admin/keys", params={"page_token": "' or '1'='1"})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "page_token")


async def test_who_may_not_is_refused_on_every_route(office: Office) -> None:
    calls = [
        ("GET", "/v1/admin/tenants", None),
        ("POST", "/v1/admin/tenants", {"id": "x"}),
        ("GET", "/v1/admin/tenants/acme", None),
        ("PATCH", "/v1/admin/tenants/acme", {"version": 1}),
        ("GET", "/v1/admin/tenants/acme/projects", None),
        ("POST", "/v1/admin/tenants/acme/projects", {"id": "x"}),
        ("GET", "/v1/admin/tenants/acme/projects/default", None),
        ("PATCH", "/v1/admin/tenants/acme/projects/default", {"version": 1}),
        ("GET", "/v1/admin/keys", None),
        ("POST", "/v1/admin/keys", {"tenant": "acme"}),
        ("GET", "/v1/admin/changes", None),
        *(("POST", f"/v1/admin/keys/{office.root.split('_')[1]}/{verb}", {}) for verb in ("rotate", "revoke")),
        ("GET", f"/v1/admin/keys/{office.root.split('_')[1]}", None),
        ("PATCH", f"/v1/admin/keys/{office.root.split('_')[1]}", {"version": 1}),
    ]
    before = dict(office.store.rows)
    async with office.client(office.member) as member, office.client(office.rival) as rival:
        for method, path, body in calls:
            refused = await member.request(method, path, json=body)
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "missing_scope"), (method, path)
            if "acme" in path or "acme" in json.dumps(body) or "/keys/" in path:
                unseen = await rival.request(method, path, json=body)
                assert unseen.status_code in {403, 404}, (method, path)
    async with httpx.AsyncClient(base_url=office.url) as anonymous:
        assert (await anonymous.get("/v1/admin/tenants")).status_code == 401
    assert office.store.rows == before


async def test_the_page_of_the_api_has_every_admin_call(office: Office) -> None:
    async with httpx.AsyncClient(base_url=office.url) as anonymous:
        page = (await anonymous.get("/openapi.json")).json()
    described = {(path, method) for path, methods in page["paths"].items() for method in methods if "/admin/" in path}
    assert len(described) == 15
    assert "budget_day_usd" in page["components"]["schemas"]["LimitsBody"]["properties"]


def test_outside_of_a_call_there_is_no_account() -> None:
    with pytest.raises(Exception, match="no caller"):
        current()
