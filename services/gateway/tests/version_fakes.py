"""Model versions behind a real REST door: the pool's service answers from memory."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

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


SERVICE = "penstock.inference.v1.VersionService"
METHODS = [method.name for method in pb.DESCRIPTOR.services_by_name["VersionService"].methods]


@asynccontextmanager
async def versions_door(fake: FakeVersionService) -> AsyncIterator[tuple[str, tuple[str, str]]]:
    """Yield the door's address, with the key of an administrator of everything and that of a tenant's."""
    accounts, texts = FakeAccounts(), []
    for scopes in (ALL_SCOPES, ROLES["tenant-admin"]):
        key, text = new_key(scopes)
        await accounts.add(key)
        texts.append(text)
    ring = KeyRing(accounts)
    scoped = dict.fromkeys(METHODS, "admin")
    service = Service(SERVICE, pb_grpc.add_VersionServiceServicer_to_server, fake, scoped)
    async with AsyncExitStack() as opened:
        channel = await opened.enter_async_context(Channel(await opened.enter_async_context(serving(service))))
        routes = ModelVersionRoutes(InferenceVersions(channel))
        offered = [Operation(*each) for each in model_version_operations(routes)]
        app = rest_app(cast("Any", None), Authenticator(ring, Minter(PRIVATE_KEY_PEM)), ring.check, more=offered)
        listener = bind("127.0.0.1:0")
        rest = RestServer(app, listener, drain_s=1)
        tasks = await opened.enter_async_context(asyncio.TaskGroup())
        running = tasks.create_task(rest.run_until_cancelled())
        await eventually(lambda: rest.started)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", (texts[0], texts[1])
        running.cancel()
