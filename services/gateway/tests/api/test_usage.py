"""The usage calls over HTTP, on a real database."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from gateway.adapters.ledger_sql import SqlLedger
from gateway.adapters.usage_sql import SqlUsage
from gateway.api.authentication import Authenticator
from gateway.api.middleware import Door, Failures
from gateway.api.server import RestServer, bind
from gateway.api.usage import UsageRoutes, usage_operations
from gateway.api.usage_responses import Attempts, UsageSums
from gateway.core.key_ring import KeyRing
from gateway.core.scopes import ADMIN, MODELS, TENANT_ADMIN
from gateway.core.usage import Usage
from gateway_account_fakes import FakeAccounts, new_key
from gateway_ledger_fakes import NOON, database, outcome, settled
from servicekit.identity import Minter
from servicekit.testing import PRIVATE_KEY_PEM, eventually
from starlette.applications import Starlette
from starlette.routing import Route

ROWS = [
    settled("a", NOON + 2, call_id="c1", result=outcome(cost_nanos=1_234_567_891)),
    settled("b", NOON + 3, call_id="c2", retry_of="c1", retry_count=1, started_at=NOON + 1),
    settled("c", NOON + 3, project="other", started_at=NOON + 2, result=outcome(status="failed", reason="queue_full")),
    settled("d", NOON + 3, tenant="rival", started_at=NOON + 3),
]


@pytest.fixture
async def clients(tmp_path: Path) -> AsyncIterator[dict[str, httpx.AsyncClient]]:
    """A client of a door for each kind of caller of the tenant `acme`."""
    accounts, texts = FakeAccounts(), {}
    for name, scopes in (("member", {MODELS}), ("tenant-admin", {TENANT_ADMIN}), ("admin", {ADMIN})):
        key, texts[name] = new_key(frozenset(scopes))
        await accounts.add(key)
    async with database("sqlite", tmp_path) as url, SqlLedger.open(url) as store, SqlUsage.open(url) as source:
        await store.add(ROWS)
        routes = UsageRoutes(Usage(source), clock=lambda: NOON + 60)
        app = Starlette(
            routes=[Route(path, call, methods=[verb]) for _, verb, path, call, _ in usage_operations(routes)]
        )
        authenticate = Authenticator(KeyRing(accounts), Minter(PRIVATE_KEY_PEM))
        app.add_middleware(Failures)
        door = Door(app, {}, authenticate=authenticate, default_timeout_s=10, max_body_bytes=1000)
        listener = bind("127.0.0.1:0")
        base = f"http://127.0.0.1:{listener.getsockname()[1]}"
        rest = RestServer(door, listener, drain_s=1)
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(rest.run_until_cancelled())
            await eventually(lambda: rest.started)
            made = {
                name: httpx.AsyncClient(base_url=base, headers={"Authorization": f"Bearer {text}"})
                for name, text in texts.items()
            }
            yield made
            for client in made.values():
                await client.aclose()
            serving.cancel()


async def test_a_member_sees_the_sums_of_his_project(clients: dict[str, httpx.AsyncClient]) -> None:
    response = await clients["member"].get("/v1/usage", params={"by": "model,day"})
    assert response.status_code == 200
    (found,) = UsageSums.model_validate(response.json()).data
    assert (found.model, found.attempts, found.calls, found.failed) == ("writer", 2, 2, 0)
    assert (found.cost_nanos, found.cost_usd) == (1_234_567_991, "1.234567991")
    assert found.day is not None
    assert found.day.endswith("T00:00:00Z")
    assert found.tenant is None


async def test_administrators_see_theirs(clients: dict[str, httpx.AsyncClient]) -> None:
    async def tenants(name: str) -> dict[str | None, int]:
        response = await clients[name].get("/v1/admin/usage", params={"by": "tenant"})
        return {entry.tenant: entry.attempts for entry in UsageSums.model_validate(response.json()).data}

    assert await tenants("tenant-admin") == {"acme": 3}
    assert await tenants("admin") == {"acme": 3, "rival": 1}
    response = await clients["member"].get("/v1/admin/usage")
    assert (response.status_code, response.json()["error"]["code"]) == (403, "missing_scope")
    response = await clients["tenant-admin"].get("/v1/admin/usage/attempts", params={"tenant": "rival"})
    assert (response.status_code, response.json()["error"]["code"]) == (403, "other_tenant")


async def test_attempts_come_with_all_that_is_known(clients: dict[str, httpx.AsyncClient]) -> None:
    response = await clients["admin"].get("/v1/admin/usage/attempts", params={"call_id": "c1"})
    later, first = Attempts.model_validate(response.json()).data
    assert (first.id, first.cost_usd, first.status, first.reason) == ("a", "1.234567891", "ok", None)
    assert (later.id, later.retry_of, later.retry_count) == ("b", "c1", 1)


async def test_pages_follow_the_token(clients: dict[str, httpx.AsyncClient]) -> None:
    ids, token = [], ""
    for _ in range(3):
        asked = {"page_size": "2", "page_token": token}
        body = (await clients["admin"].get("/v1/admin/usage/attempts", params=asked)).json()
        ids += [row["id"] for row in body["data"]]
        token = body["next_page_token"] or ""
        if not token:
            break
    assert ids == ["d", "c", "b", "a"]


@pytest.mark.parametrize(
    ("query", "param"),
    [("since=yesterday", "since"), ("until=2026-13-01", "until"), ("since=0001-01-01T00:00:00%2B14:00", "since"),
     ("by=secret", "by"), ("page_size=-1", "page_size"), ("page_size=0", "page_size"), ("page_size=1001", "page_size"),
     ("page_size=%D9%A1", "page_size"), ("page_token=%00", "page_token"), ("tenant=a%00", "tenant"),
     ("wat=1", "wat"), ("since=2026-02-01&until=2026-01-01", "until"), ("page_size=99999999999999", "page_size")],
)  # fmt: skip
async def test_what_is_no_question_is_400_and_names_its_field(
    clients: dict[str, httpx.AsyncClient], query: str, param: str
) -> None:
    response = await clients["admin"].get(f"/v1/admin/usage?{query}")
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_any_time_can_be_asked_for(clients: dict[str, httpx.AsyncClient]) -> None:
    response = await clients["admin"].get("/v1/admin/usage?since=0001-01-02&until=9999-12-31T23:59:59Z")
    assert response.json()["data"][0]["attempts"] == 4
    response = await clients["admin"].get("/v1/admin/usage/attempts?since=0001-01-02&until=9999-12-31T23:59:59Z")
    assert len(response.json()["data"]) == 4
