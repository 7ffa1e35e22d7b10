"""VersionService: a real server, a real stub, and a chat that is answered by who it says."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.message import Message
from inference.api.caller import current_caller
from inference.api.servicer import inference_service
from inference.api.version_servicer import version_service
from inference.core.catalogue import Task
from inference.core.pool import Pool
from inference.core.registry import Registry
from inference.core.served_model import ServedModel
from inference.core.shadow import Difference, Mirror, Speech
from inference.core.version_ports import Imported
from inference.core.versioned_pool import VersionedPool
from inference_fakes import FakeGenerator, generating, model
from inference_version_fakes import FakeModelRegistry, FakeVersionStore, SpellingLabels, digest, running
from penstock.inference.v1 import inference_pb2
from penstock.inference.v1 import versions_pb2 as pb
from penstock.inference.v1.inference_pb2_grpc import InferenceServiceStub
from penstock.inference.v1.versions_pb2_grpc import VersionServiceStub
from servicekit.errors import Conflict, Forbidden, InvalidInput, NotFound, PenstockError, Unavailable
from servicekit.rpc import Channel
from servicekit.testing import caller, serving

IMPORTABLE = {
    "models:/chat@champion": Imported("7", digest(2), "mlflow models:/chat@champion, version 7, run r"),
    "models:/chat/8": Imported("8", digest(9), "mlflow models:/chat/8, version 8, run r"),
    "models:/chat/9": Imported("9", "", "mlflow models:/chat/9, version 9, run r"),
}
CALLS = (
    ("ListVersions", "", {"model": "chat"}),
    ("GetVersion", "", {"model": "chat", "version": "2"}),
    ("GetRoles", "", {"model": "chat"}),
    ("RegisterVersion", "admin", {"model": "chat"}),
    ("ImportVersion", "admin", {"model": "chat"}),
    ("RecordEvaluation", "admin", {"model": "chat"}),
    ("SetRoles", "admin", {"model": "chat"}),
    ("ListVersionChanges", "admin", {}),
    ("GetShadowReport", "admin", {"model": "chat", "version": "2"}),
)


@dataclass
class Client:
    """Calls VersionService and chats."""

    channel: Channel
    store: FakeVersionStore
    entries: Mapping[str, ServedModel]

    async def __call__(self, method: str, **fields: Any) -> Any:
        stub = VersionServiceStub(self.channel.grpc)
        return await self.channel.call(getattr(stub, method), getattr(pb, f"{method}Request")(**fields))

    async def chat(self) -> inference_pb2.ServedModel:
        stub = InferenceServiceStub(self.channel.grpc)
        message = inference_pb2.Message(role="user", content="Hi")
        request = inference_pb2.CompleteRequest(model="chat", messages=[message])
        return (await self.channel.call(stub.Complete, request)).served

    async def second(self, name: str = "2", *, passed: bool = True) -> None:
        """Register a version and let it pass."""
        await self("RegisterVersion", model="chat", version=name, variants=[pb.NewVariant(served_by="chat-v2")])
        if passed:
            await self("RecordEvaluation", model="chat", version=name, verdict=pb.VERDICT_PASSED, report="see there")

    async def listed(self) -> inference_pb2.Model:
        stub = InferenceServiceStub(self.channel.grpc)
        return (await self.channel.call(stub.GetModel, inference_pb2.GetModelRequest(name="chat"))).model


@asynccontextmanager
async def opened(elsewhere: FakeModelRegistry | None = FakeModelRegistry(IMPORTABLE)) -> AsyncIterator[Client]:  # noqa: B008
    served = [
        running(generating(FakeGenerator(), "chat"), 1),
        running(generating(FakeGenerator(), "chat-v2"), 2),
        running(ServedModel(model("rows", Task.TENSOR)), 3),
    ]
    entries = {each.model.name: each for each in served}
    pool, store = Pool(served), FakeVersionStore()
    registry = Registry(store, entries)
    labels = SpellingLabels()
    mirror = Mirror(pool, entries, Speech(labels.asked, lambda *_: Difference(same=True)), store)
    named = VersionedPool(pool, registry.traffic, mirror, labels, current_caller)
    services = (version_service(registry, store, elsewhere), inference_service(named, datetime.now(UTC)))
    async with serving(*services) as address, Channel(address) as channel:
        yield Client(channel, store, entries)


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with opened() as started:
        with caller(tenant="ops", principal="root", key_id="k1"):
            yield started


async def test_a_version_is_registered_judged_promoted_and_answers(client: Client) -> None:
    await client.second()
    before = await client("GetRoles", model="chat")
    assert (before.revision, before.HasField("former_champion")) == (0, False)
    assert ((await client.chat()).version, (await client.listed()).digest) == ("v1", digest(1))
    after = await client("SetRoles", model="chat", revision=0, roles=pb.Roles(champion="2"))
    assert (after.revision, after.roles.champion, after.former_champion) == (1, "2", "")
    assert after.HasField("former_champion")
    served = await client.chat()
    assert (served.model, served.version, served.digest) == ("chat", "2", digest(2))
    shown = await client.listed()
    assert (shown.name, shown.version, shown.digest, shown.ready) == ("chat", "2", digest(2), True)
    rolled = await client("SetRoles", model="chat", revision=1, roles=pb.Roles(champion=after.former_champion))
    assert rolled.former_champion == "2"
    assert (await client.chat()).digest == digest(1)


async def test_a_version_tells_everything_about_itself(client: Client) -> None:
    await client.second()
    await client("SetRoles", model="chat", roles=pb.Roles(canaries=[pb.CanaryWeight(version="2", weight_percent=2.5)]))
    version = (await client("GetVersion", model="chat", version="2")).version
    assert (version.model, version.name, version.digest, version.role) == (
        "chat",
        "2",
        digest(2),
        pb.VERSION_ROLE_CANARY,
    )
    assert (version.registered_by, version.variants[0].evaluated_by) == ("ops/root/k1", "ops/root/k1")
    (variant,) = version.variants
    assert (variant.name, variant.served_by, variant.verdict, variant.report) == (
        "default",
        "chat-v2",
        pb.VERDICT_PASSED,
        "see there",
    )
    assert variant.servable
    running(client.entries["chat-v2"], 5)
    listed = await client("ListVersions", model="chat")
    assert [each.name for each in listed.versions] == ["2"]
    assert not listed.versions[0].variants[0].servable
    assert (listed.revision, listed.roles.canaries[0].weight_percent) == (1, 2.5)


async def test_all_roles_travel_both_ways(client: Client) -> None:
    for name in ("a", "b", "c"):
        await client.second(name)
    roles = pb.Roles(
        champion="a",
        canaries=[pb.CanaryWeight(version="b", weight_percent=0.01)],
        shadow="c",
        shadow_percent=100,
        split_by=pb.SPLIT_BY_TENANT,
    )
    assert (await client("SetRoles", model="chat", roles=roles)).roles == roles
    assert (await client("GetRoles", model="chat")).roles == roles


@pytest.mark.parametrize(
    ("roles", "field", "reason"),
    [
        (pb.Roles(champion="9"), "champion", "unknown_version"),
        (pb.Roles(champion="u"), "champion", "not_evaluated"),
        (
            pb.Roles(canaries=[pb.CanaryWeight(version="2", weight_percent=-1)]),
            "canaries[0].weight_percent",
            "invalid_weight",
        ),
        (
            pb.Roles(canaries=[pb.CanaryWeight(version="2", weight_percent=101)]),
            "canaries[0].weight_percent",
            "invalid_weight",
        ),
        (pb.Roles(shadow="2", shadow_percent=float("nan")), "shadow_percent", "invalid_weight"),
        (pb.Roles(split_by=9), "split_by", "invalid_input"),
    ],
)
async def test_wrong_roles_name_their_field(client: Client, roles: pb.Roles, field: str, reason: str) -> None:
    await client.second()
    await client.second("u", passed=False)
    with pytest.raises(InvalidInput) as caught:
        await client("SetRoles", model="chat", roles=roles)
    assert (caught.value.field, caught.value.reason) == (field, reason)
    assert (await client("GetRoles", model="chat")).revision == 0


@pytest.mark.parametrize(
    ("method", "fields", "error", "reason"),
    [
        ("ListVersions", {"model": "nobody"}, NotFound, "model_not_found"),
        ("GetVersion", {"model": "chat", "version": "9"}, NotFound, "version_not_found"),
        ("GetShadowReport", {"model": "chat", "version": "9"}, NotFound, "version_not_found"),
        ("RegisterVersion", {"model": "chat", "version": "3"}, InvalidInput, "invalid_input"),
        ("RegisterVersion", {"model": "chat", "source": "x" * 513}, InvalidInput, "invalid_input"),
        ("RecordEvaluation", {"model": "chat", "version": "2", "verdict": 9}, InvalidInput, "invalid_input"),
        ("RecordEvaluation", {"model": "chat", "version": "2", "variant": "x"}, NotFound, "variant_not_found"),
        ("SetRoles", {"model": "chat", "revision": 4}, Conflict, "revision_conflict"),
        ("ListVersionChanges", {"page_size": -1}, InvalidInput, "invalid_input"),
        ("ListVersionChanges", {"page_size": 1_001}, InvalidInput, "invalid_input"),
        ("ListVersionChanges", {"page_token": "²"}, InvalidInput, "invalid_input"),
        ("ImportVersion", {"model": "chat", "uri": "models:/no@no"}, NotFound, "version_not_found"),
    ],
)
async def test_errors_have_their_kind_and_reason(
    client: Client, method: str, fields: dict[str, Any], error: type[PenstockError], reason: str
) -> None:
    await client.second()
    with pytest.raises(error) as caught:
        await client(method, **fields)
    assert caught.value.reason == reason


async def test_a_digest_that_the_backend_does_not_run_is_refused(client: Client) -> None:
    with pytest.raises(InvalidInput) as caught:
        variant = pb.NewVariant(served_by="chat-v2", digest=digest(6))
        await client("RegisterVersion", model="chat", version="2", variants=[variant])
    assert (caught.value.field, caught.value.reason) == ("variants[0].digest", "digest_mismatch")


async def test_a_version_comes_from_mlflow_with_its_digest_checked(client: Client) -> None:
    variant = pb.NewVariant(served_by="chat-v2")
    made = (await client("ImportVersion", model="chat", uri="models:/chat@champion", variant=variant)).version
    assert (made.name, made.digest, made.source) == ("7", digest(2), IMPORTABLE["models:/chat@champion"].source)
    made = (await client("ImportVersion", model="chat", uri="models:/chat/9", variant=variant)).version
    assert (made.name, made.digest) == ("9", digest(2))
    with pytest.raises(InvalidInput) as caught:
        await client("ImportVersion", model="chat", uri="models:/chat/8", variant=variant)
    assert caught.value.reason == "digest_mismatch"
    stated = pb.NewVariant(served_by="chat-v2", digest=digest(2))
    with pytest.raises(InvalidInput) as caught:
        await client("ImportVersion", model="chat", uri="models:/chat/8", variant=stated)
    assert caught.value.field == "variant.digest"


async def test_without_a_registry_nothing_can_be_imported() -> None:
    async with opened(None) as client:
        with caller(), pytest.raises(Unavailable) as caught:
            await client("ImportVersion", model="chat", uri="models:/chat@champion")
    assert caught.value.reason == "mlflow_failed"


async def test_the_journal_comes_in_pages(client: Client) -> None:
    for name in ("a", "b"):
        await client.second(name)
    first = await client("ListVersionChanges", page_size=3)
    second = await client("ListVersionChanges", page_size=3, page_token=first.next_page_token)
    assert [each.action for each in first.changes] == ["evaluate", "register", "evaluate"]
    assert ([each.action for each in second.changes], second.next_page_token) == (["register"], "")
    assert first.changes[0].by == "ops/root/k1"
    assert len((await client("ListVersionChanges", model="rows")).changes) == 0


async def test_a_shadows_report(client: Client) -> None:
    await client.second()
    told = await client("GetShadowReport", model="chat", version="2")
    assert (told.requests, told.HasField("max_abs_diff")) == (0, False)


@pytest.mark.parametrize(("method", "scope", "fields"), CALLS)
async def test_who_may_do_what(method: str, scope: str, fields: dict[str, Any]) -> None:
    async with opened() as client:
        with caller():
            await client.second()
        with caller(scopes=()):
            if scope:
                with pytest.raises(Forbidden):
                    await client(method, **fields)
            else:
                assert isinstance(await client(method, **fields), Message)


async def test_while_the_store_is_away_reading_and_chatting_go_on(client: Client) -> None:
    await client.second()
    await client("SetRoles", model="chat", roles=pb.Roles(champion="2"))
    client.store.away = True
    with pytest.raises(Unavailable) as caught:
        await client("SetRoles", model="chat", revision=1, roles=pb.Roles())
    assert caught.value.reason == "version_store_failed"
    assert (await client("GetRoles", model="chat")).roles.champion == "2"
    assert (await client.chat()).version == "2"
