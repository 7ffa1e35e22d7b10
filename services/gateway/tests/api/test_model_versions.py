"""Versions and roles over REST: a real door and a real client of the pool's service, which answers from memory."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, cast

import httpx
import pytest
from gateway.adapters.model_versions import InferenceVersions
from gateway.api.app import Operation, rest_app
from gateway.api.authentication import Authenticator
from gateway.api.model_versions import ModelVersionRoutes, model_version_operations
from gateway.api.server import RestServer, bind
from gateway.core.key_ring import KeyRing
from gateway.core.scopes import ALL_SCOPES, ROLES
from gateway_account_fakes import FakeAccounts, new_key
from google.protobuf.timestamp_pb2 import Timestamp
from penstock.inference.v1 import versions_pb2 as pb
from penstock.inference.v1 import versions_pb2_grpc as pb_grpc
from servicekit.errors import Conflict, InvalidInput
from servicekit.identity import Minter
from servicekit.rpc import Channel, Service
from servicekit.testing import PRIVATE_KEY_PEM, eventually, serving

AT = Timestamp(seconds=1_767_323_045)
VERSION = pb.Version(
    model="org/chat",
    name="2",
    digest="sha256:" + "0" * 64,
    variants=[
        pb.Variant(
            name="int8",
            served_by="chat-v2",
            digest="sha256:" + "0" * 64,
            cost_nanos=30,
            verdict=pb.VERDICT_PASSED,
            report="see there",
            evaluated_at=AT,
            evaluated_by="ops",
            servable=True,
        ),
        pb.Variant(name="fp32", served_by="chat-v3"),
    ],
    source="mlflow",
    registered_at=AT,
    registered_by="ops",
    role=pb.VERSION_ROLE_CANARY,
)
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
class FakeVersionService(pb_grpc.VersionServiceServicer):
    """Notes what it is asked and answers with the version and roles above, or with what it is told to raise."""

    asked: list[Any] = field(default_factory=list)
    error: Exception | None = None

    def _take(self, request: Any) -> None:
        self.asked.append(request)
        if self.error is not None:
            raise self.error

    async def ListVersions(self, request: Any, context: Any) -> Any:
        self._take(request)
        return pb.ListVersionsResponse(versions=[VERSION])

    async def GetVersion(self, request: Any, context: Any) -> Any:
        self._take(request)
        return pb.GetVersionResponse(version=VERSION)

    async def RegisterVersion(self, request: Any, context: Any) -> Any:
        self._take(request)
        return pb.RegisterVersionResponse(version=VERSION)

    async def ImportVersion(self, request: Any, context: Any) -> Any:
        self._take(request)
        return pb.ImportVersionResponse(version=VERSION)

    async def RecordEvaluation(self, request: Any, context: Any) -> Any:
        self._take(request)
        return pb.RecordEvaluationResponse(version=VERSION)

    async def GetRoles(self, request: Any, context: Any) -> Any:
        self._take(request)
        return pb.GetRolesResponse(revision=4, former_champion="")

    async def SetRoles(self, request: Any, context: Any) -> Any:
        self._take(request)
        return pb.SetRolesResponse(roles=request.roles, revision=request.revision + 1)

    async def ListVersionChanges(self, request: Any, context: Any) -> Any:
        self._take(request)
        change = pb.VersionChange(
            id=9, model="m", at=AT, by="ops", action="assign", before_json="{}", after_json='{"a":1}'
        )
        return pb.ListVersionChangesResponse(changes=[change], next_page_token="9")

    async def GetShadowReport(self, request: Any, context: Any) -> Any:
        self._take(request)
        return pb.GetShadowReportResponse(requests=3, same=2, failed=1, max_abs_diff=0.5, details=["out: differs"])


METHODS = [method.name for method in pb.DESCRIPTOR.services_by_name["VersionService"].methods]


@dataclass
class Door:
    """The REST door, as an administrator and as a tenant's administrator, and the service behind it."""

    root: httpx.AsyncClient
    boss: httpx.AsyncClient
    service: FakeVersionService


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    fake, accounts, texts = FakeVersionService(), FakeAccounts(), []
    for scopes in (ALL_SCOPES, ROLES["tenant-admin"]):
        key, text = new_key(scopes)
        await accounts.add(key)
        texts.append(text)
    ring = KeyRing(accounts)
    service = Service(
        "penstock.inference.v1.VersionService",
        pb_grpc.add_VersionServiceServicer_to_server,
        fake,
        dict.fromkeys(METHODS, "admin"),
    )
    async with AsyncExitStack() as opened:
        channel = await opened.enter_async_context(Channel(await opened.enter_async_context(serving(service))))
        routes = ModelVersionRoutes(InferenceVersions(channel))
        offered = [Operation(*each) for each in model_version_operations(routes)]
        authenticate = Authenticator(ring, Minter(PRIVATE_KEY_PEM))
        app = rest_app(cast("Any", None), authenticate, ring.check, more=offered)
        listener = bind("127.0.0.1:0")
        rest = RestServer(app, listener, drain_s=1)
        tasks = await opened.enter_async_context(asyncio.TaskGroup())
        running = tasks.create_task(rest.run_until_cancelled())
        await eventually(lambda: rest.started)
        clients = []
        for text in texts:
            client = httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{listener.getsockname()[1]}/v1/admin/models/",
                headers={"Authorization": f"Bearer {text}"},
                timeout=10,
            )
            clients.append(await opened.enter_async_context(client))
        yield Door(*clients, fake)
        running.cancel()


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
