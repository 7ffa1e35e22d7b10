"""Usage through the typed door, by a real stub, on a real database."""

import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from gateway.adapters.ledger_sql import SqlLedger
from gateway.adapters.usage_sql import SqlUsage
from gateway.api.authentication import Authenticator
from gateway.api.usage_servicer import usage_service
from gateway.core.key_ring import KeyRing
from gateway.core.scopes import ADMIN, MODELS, TENANT_ADMIN
from gateway.core.usage import Usage
from gateway_account_fakes import FakeAccounts, new_key
from gateway_ledger_fakes import NOON, database, outcome, settled
from gateway_mutation_fakes import CLEAN, MUTATIONS, mutated
from google.protobuf import message_factory
from google.protobuf.timestamp_pb2 import Timestamp
from penstock.gateway.v1 import usage_pb2 as pb
from penstock.gateway.v1.usage_pb2_grpc import UsageServiceStub
from servicekit.identity import Minter
from servicekit.testing import PRIVATE_KEY_PEM, serving

ROWS = [
    settled("a", NOON + 2, call_id="c1", result=outcome(cost_nanos=1_234_567_891)),
    settled("b", NOON + 3, call_id="c2", retry_of="c1", retry_count=1, started_at=NOON + 1),
    settled("c", NOON + 3, project="other", started_at=NOON + 2, result=outcome(status="failed", reason="queue_full")),
    settled("d", NOON + 3, tenant="rival", started_at=NOON + 3),
]
SINCE = Timestamp(seconds=int(NOON) - 3_600)
UNTIL = Timestamp(seconds=int(NOON) + 3_600)


@pytest.fixture
async def ask(tmp_path: Path) -> AsyncIterator[Any]:
    """Ask a question as a member, a tenant-admin or an admin of `acme`."""
    accounts, texts = FakeAccounts(), {}
    for name, scopes in (("member", {MODELS}), ("tenant-admin", {TENANT_ADMIN}), ("admin", {ADMIN})):
        key, texts[name] = new_key(frozenset(scopes))
        await accounts.add(key)
    authenticate = Authenticator(KeyRing(accounts), Minter(PRIVATE_KEY_PEM)).enter
    async with (
        database("sqlite", tmp_path) as url,
        SqlLedger.open(url) as store,
        SqlUsage.open(url) as source,
        serving(usage_service(Usage(source)), authenticate=authenticate, inner=False) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        await store.add(ROWS)
        stub = UsageServiceStub(channel)

        async def call(who: str, method: str, request: Any) -> Any:
            metadata = (("authorization", f"Bearer {texts[who]}"),)
            called = channel.unary_unary(method) if isinstance(request, bytes) else getattr(stub, method)
            return await called(request, metadata=metadata, timeout=10)

        yield call


def over(**more: Any) -> pb.UsageFilter:
    return pb.UsageFilter(since=SINCE, until=UNTIL, **more)


async def test_each_sees_what_is_his(ask: Any) -> None:
    for who, administered, attempts in (
        ("member", False, 2),
        ("tenant-admin", True, 3),
        ("admin", True, 4),
        ("admin", False, 2),
    ):
        request = pb.SumUsageRequest(filter=over(administered=administered))
        sums = (await ask(who, "SumUsage", request)).sums
        assert [each.attempts for each in sums] == [attempts], who
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask("member", "SumUsage", pb.SumUsageRequest(filter=over(administered=True)))
    assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED


async def test_sums_by_group_are_exact_and_come_in_pages(ask: Any) -> None:
    request = pb.SumUsageRequest(filter=over(administered=True), by=["tenant", "project", "hour"], page_size=1)
    seen: list[pb.UsageSum] = []
    while True:
        page = await ask("admin", "SumUsage", request)
        seen += page.sums
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert [(each.tenant, each.project, each.attempts) for each in seen] == [
        ("acme", "default", 2),
        ("acme", "other", 1),
        ("rival", "default", 1),
    ]
    assert {each.begin.seconds for each in seen} == {int(NOON) // 3_600 * 3_600}
    expected = sum(row.outcome.cost_nanos for row in ROWS if row.attempt.id in {"a", "b"})
    assert seen[0].cost_nanos == expected
    assert seen[1].failed == 1


async def test_attempts_with_all_that_is_known(ask: Any) -> None:
    found = (await ask("member", "ListAttempts", pb.ListAttemptsRequest(filter=over()))).attempts
    assert [each.id for each in found] == ["b", "a"]
    row = ROWS[0]
    assert (found[1].cost_nanos, found[1].key, found[1].status) == (1_234_567_891, row.attempt.key_id, "ok")
    assert found[1].ended_at.ToMicroseconds() == round(row.ended_at * 1e6)
    assert found[0].retry_of == "c1"
    linked = await ask("member", "ListAttempts", pb.ListAttemptsRequest(filter=over(), call_id="c1"))
    assert {each.id for each in linked.attempts} == {"a", "b"}


@pytest.mark.parametrize(
    "request_",
    [
        pb.SumUsageRequest(filter=over(), by=["cheese"]),
        pb.SumUsageRequest(filter=over(), page_size=-1),
        pb.SumUsageRequest(filter=over(), page_token="x"),
        pb.SumUsageRequest(filter=pb.UsageFilter(since=UNTIL, until=SINCE)),
        pb.SumUsageRequest(filter=pb.UsageFilter(since=Timestamp(seconds=2**60))),
        pb.SumUsageRequest(filter=over(model="\x00")),
    ],
)
async def test_a_bad_question_is_refused(ask: Any, request_: pb.SumUsageRequest) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask("admin", "SumUsage", request_)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("method", [each.name for each in pb.DESCRIPTOR.services_by_name["UsageService"].methods])
async def test_mutated_messages_end_in_a_clean_status(ask: Any, method: str, caplog: pytest.LogCaptureFixture) -> None:
    service = pb.DESCRIPTOR.services_by_name["UsageService"]
    request = message_factory.GetMessageClass(service.methods_by_name[method].input_type)()
    request.filter.CopyFrom(over(administered=True))
    dice, message, seen = random.Random(method), request.SerializeToString(), set()
    for _ in range(MUTATIONS):
        sent = mutated(message, dice)
        try:
            await ask("admin", f"/{service.full_name}/{method}", sent)
            seen.add(grpc.StatusCode.OK)
        except grpc.aio.AioRpcError as error:
            assert error.code() in CLEAN, f"{sent!r}: {error.code()} {error.details()}"
            seen.add(error.code())
    assert grpc.StatusCode.INVALID_ARGUMENT in seen
    assert not [each for each in caplog.records if each.levelname == "ERROR"]
