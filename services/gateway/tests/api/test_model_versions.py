"""Versions and roles over REST: a real door and a real client of the pool's service, which answers from memory."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from gateway_version_fakes import FakeVersionService, versions_door
from penstock.inference.v1 import versions_pb2 as pb
from servicekit.errors import Conflict, InvalidInput

SHOWN = {
    "model": "org/chat",
    "version": "2",
    "digest": "sha256:" + "0" * 64,
    "variants": [
        {
            "name": "int8",
            "served_by": "chat-v2",
            "digest": "sha256:" + "0" * 64,
            "cost_nanos": 30,
            "verdict": "passed",
            "report": "see there",
            "evaluated_at": "2026-01-02T03:04:05Z",
            "evaluated_by": "ops",
            "servable": True,
        },
        {
            "name": "fp32",
            "served_by": "chat-v3",
            "digest": "",
            "cost_nanos": 0,
            "verdict": "pending",
            "report": "",
            "evaluated_at": None,
            "evaluated_by": "",
            "servable": False,
        },
    ],
    "source": "mlflow",
    "registered_at": "2026-01-02T03:04:05Z",
    "registered_by": "ops",
    "role": "canary",
}
ROLES_BODY = {
    "champion": "1",
    "canaries": [{"version": "2", "weight_percent": 2.5}],
    "shadow": "3",
    "shadow_percent": 50.0,
    "retired": ["0"],
    "split_by": "tenant",
}


@dataclass
class Door:
    """The REST door, as an administrator and as a tenant's administrator, and the service behind it."""

    root: httpx.AsyncClient
    boss: httpx.AsyncClient
    service: FakeVersionService


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    fake = FakeVersionService()
    async with versions_door(fake) as (url, texts), AsyncExitStack() as opened:
        clients = [
            httpx.AsyncClient(
                base_url=f"{url}/v1/admin/models/", headers={"Authorization": f"Bearer {text}"}, timeout=10
            )
            for text in texts
        ]
        root, boss = [await opened.enter_async_context(client) for client in clients]
        yield Door(root, boss, fake)


async def test_a_version_is_shown_whole(door: Door) -> None:
    assert (await door.root.get("org/chat/versions")).json() == {"versions": [SHOWN]}
    assert (await door.root.get("org/chat/versions/2")).json() == SHOWN
    assert door.service.asked == [
        pb.ListVersionsRequest(model="org/chat"),
        pb.GetVersionRequest(model="org/chat", version="2"),
    ]


async def test_registering_importing_and_judging(door: Door) -> None:
    variant = {"name": "int8", "served_by": "chat-v2", "digest": "sha256:x", "cost_nanos": 30}
    sent = {"version": "2", "variants": [variant], "source": "ci"}
    assert (await door.root.post("chat/versions", json=sent)).json() == SHOWN
    found = {"uri": "models:/chat@champion", "variant": {"served_by": "chat-v2"}}
    assert (await door.root.post("chat/versions/import", json=found)).json() == SHOWN
    said = {"variant": "int8", "verdict": "failed", "report": "see there"}
    assert (await door.root.post("chat/versions/2/evaluation", json=said)).json() == SHOWN
    assert door.service.asked == [
        pb.RegisterVersionRequest(model="chat", version="2", variants=[pb.NewVariant(**variant)], source="ci"),
        pb.ImportVersionRequest(model="chat", uri=found["uri"], variant=pb.NewVariant(served_by="chat-v2")),
        pb.RecordEvaluationRequest(
            model="chat", version="2", variant="int8", verdict=pb.VERDICT_FAILED, report="see there"
        ),
    ]


async def test_roles_travel_both_ways(door: Door) -> None:
    changed = (await door.root.put("chat/roles", json={"revision": 4, **ROLES_BODY})).json()
    assert changed == {"revision": 5, "former_champion": None, **ROLES_BODY}
    assert door.service.asked[0].roles.split_by == pb.SPLIT_BY_TENANT
    assert (await door.root.get("chat/roles")).json()["former_champion"] == ""


async def test_the_journal_and_a_shadows_report(door: Door) -> None:
    page = (await door.root.get("chat/changes", params={"page_size": "5", "page_token": "20"})).json()
    assert (page["next_page_token"], page["changes"][0]["after"]) == ("9", {"a": 1})
    assert door.service.asked == [pb.ListVersionChangesRequest(model="chat", page_size=5, page_token="20")]
    report = (await door.root.get("chat/versions/2/shadow-report")).json()
    assert (report["requests"], report["max_abs_diff"], report["details"]) == (3, 0.5, ["out: differs"])


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "chat/versions", None),
        ("POST", "chat/versions", {"variants": []}),
        ("PUT", "chat/roles", {"revision": 0}),
        ("GET", "chat/changes", None),
        ("GET", "chat/versions/2/shadow-report", None),
    ],
)
async def test_only_who_administers_everything_may(door: Door, method: str, path: str, body: Any) -> None:
    response = await door.boss.request(method, path, json=body)
    assert (response.status_code, response.json()["error"]["code"]) == (403, "missing_scope")
    assert door.service.asked == []


@pytest.mark.parametrize(
    ("method", "path", "body", "param"),
    [
        ("PUT", "chat/roles", {}, "revision"),
        ("PUT", "chat/roles", {"revision": -1}, "revision"),
        ("PUT", "chat/roles", {"revision": 2**63}, "revision"),
        ("PUT", "chat/roles", {"revision": 0, "split_by": "mood"}, "split_by"),
        ("PUT", "chat/roles", {"revision": 0, "canaries": [{"version": "2"}]}, "canaries.0.weight_percent"),
        ("PUT", "chat/roles", {"revision": 0, "champoin": "2"}, "champoin"),
        ("POST", "chat/versions", {"variants": [{"served_by": "x", "cost_nanos": 2**63}]}, "variants.0.cost_nanos"),
        ("POST", "chat/versions/2/evaluation", {"verdict": "fine"}, "verdict"),
        ("GET", "chat/changes?page_size=x", None, "page_size"),
    ],
)
async def test_wrong_requests_name_their_field(door: Door, method: str, path: str, body: Any, param: str) -> None:
    response = await door.root.request(method, path, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"].replace("[", ".").replace("]", "") == param
    assert door.service.asked == []


async def test_what_the_pool_refuses_is_told_with_its_field(door: Door) -> None:
    door.service.error = InvalidInput("more than 100", reason="invalid_weight", field="canaries")
    refused = await door.root.put("chat/roles", json={"revision": 0})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "canaries")
    assert refused.json()["error"]["code"] == "invalid_weight"
    door.service.error = Conflict("revision 3", reason="revision_conflict", field="revision")
    refused = await door.root.put("chat/roles", json={"revision": 0})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "revision_conflict")


@pytest.mark.parametrize("model", ["%ED%A0%80", "%FF", "a%00b", "%2e%2e", "a" * 5_000, "a%20b%2Fc"])
async def test_any_name_in_a_path_is_the_pools_to_judge(door: Door, model: str) -> None:
    response = await door.root.get(f"{model}/roles")
    assert response.status_code in {200, 400, 404}, response.text


@pytest.mark.parametrize("text", ["\\ud800", "\\u0000", "x" * 300_000])
async def test_any_text_in_a_body_is_taken_or_refused(door: Door, text: str) -> None:
    body = f'{{"version": "{text}", "variants": [{{"served_by": "{text}"}}]}}'
    response = await door.root.post("chat/versions", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code in {200, 400}, response.text
    token = await door.root.get("chat/changes", params={"page_token": "%ED%A0%80"})
    assert token.status_code in {200, 400}
