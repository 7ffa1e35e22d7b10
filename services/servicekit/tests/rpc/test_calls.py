"""Calls between a real server and a real client: what travels with them, and how they end."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

import grpc
import pytest
from penstock.embedding.v1 import embedding_pb2 as pb
from penstock.embedding.v1 import embedding_pb2_grpc as pb_grpc
from penstock.inference.v1 import inference_pb2 as inference
from penstock.inference.v1 import inference_pb2_grpc as inference_grpc
from servicekit import deadline, errors, identity, status
from servicekit.rpc import CallFailed, Channel, PeerFailed, Service
from servicekit.rpc.wire import from_wire
from servicekit.testing import caller, eventually, serving


class Embedding(pb_grpc.EmbeddingServiceServicer):
    """Does with each call what the test says."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.act = act
        self.calls = 0

    async def Embed(self, request: pb.EmbedRequest, context: grpc.aio.ServicerContext) -> pb.EmbedResponse:
        self.calls += 1
        result = self.act()
        if asyncio.iscoroutine(result):
            await result
        return pb.EmbedResponse()


class Inference(inference_grpc.InferenceServiceServicer):
    """Streams until it is cancelled."""

    def __init__(self) -> None:
        self.cancelled = False

    async def Generate(
        self, request: inference.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[inference.GenerateResponse]:
        try:
            while True:
                yield inference.GenerateResponse(deltas=[inference.Delta(text="a")])
                await asyncio.sleep(0.001)
        finally:
            self.cancelled = True


INNER = ContextVar("inner", default=True)


@pytest.fixture(autouse=True, params=[True, False], ids=["our server", "the library's"])
def transport(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test runs with both servers: the one for services, and the one for strangers."""
    token = INNER.set(request.param)
    yield
    INNER.reset(token)


def service(servicer: object, scope: str = "embeddings") -> Service:
    scopes = {"Embed": scope, "GetEncoder": None}
    return Service(
        "penstock.embedding.v1.EmbeddingService", pb_grpc.add_EmbeddingServiceServicer_to_server, servicer, scopes
    )


@asynccontextmanager
async def stub(servicer: object) -> AsyncIterator[tuple[Channel, pb_grpc.EmbeddingServiceStub]]:
    async with serving(service(servicer), inner=INNER.get()) as address, Channel(address) as channel:
        yield channel, pb_grpc.EmbeddingServiceStub(channel.grpc)


@pytest.mark.parametrize("kind", list(status.GRPC))
async def test_every_kind_of_error_arrives_as_itself_with_its_particulars(kind: type[errors.PenstockError]) -> None:
    def fail() -> None:
        raise kind("no", reason="because", field="texts[3]", retry_after_s=1.5)

    async with stub(Embedding(fail)) as (channel, embedding):
        with caller(), pytest.raises(kind) as raised:
            await channel.call(embedding.Embed, pb.EmbedRequest())
    assert (raised.value.message, raised.value.reason) == ("no", "because")
    assert (raised.value.field, raised.value.retry_after_s) == ("texts[3]", 1.5)


async def test_a_bug_is_internal_and_tells_nothing_of_itself(caplog: pytest.LogCaptureFixture) -> None:
    def bug() -> None:
        raise KeyError("secret")

    async with stub(Embedding(bug)) as (channel, embedding):
        with caller(), pytest.raises(PeerFailed, match="internal error") as raised:
            await channel.call(embedding.Embed, pb.EmbedRequest())
    assert "secret" not in str(raised.value)
    assert [record.exc_info is not None for record in caplog.records] == [True]


async def test_identity_and_deadline_travel() -> None:
    seen: list[tuple[identity.Identity, float | None]] = []
    async with stub(Embedding(lambda: seen.append((identity.current(), deadline.remaining_s())))) as (
        channel,
        embedding,
    ):
        with caller(tenant="acme", principal="ada") as sent, deadline.within(5):
            await channel.call(embedding.Embed, pb.EmbedRequest())
    assert seen[0][0] == sent
    assert seen[0][1] is not None
    assert 4 < seen[0][1] < 5


@pytest.mark.parametrize(("scopes", "kind"), [(["ask"], errors.Forbidden), ([], errors.Forbidden)])
async def test_a_missing_scope_is_forbidden(scopes: list[str], kind: type[Exception]) -> None:
    servicer = Embedding(lambda: None)
    async with stub(servicer) as (channel, embedding):
        with caller(scopes=scopes), pytest.raises(kind):
            await channel.call(embedding.Embed, pb.EmbedRequest())
    assert servicer.calls == 0


async def test_without_a_valid_token_nothing_is_served() -> None:
    servicer = Embedding(lambda: None)
    async with stub(servicer) as (channel, embedding):
        with pytest.raises(errors.Unauthenticated):
            await channel.call(embedding.Embed, pb.EmbedRequest())
        with caller() as real:
            forged = identity.Identity("acme", "eve", "k", real.scopes, token=real.token[:-6] + "AAAAAA")
        with identity.acting_as(forged), pytest.raises(errors.Unauthenticated):
            await channel.call(embedding.Embed, pb.EmbedRequest())
    assert servicer.calls == 0


async def test_a_method_without_a_scope_is_open() -> None:
    class Described(Embedding):
        async def GetEncoder(
            self, request: pb.GetEncoderRequest, context: grpc.aio.ServicerContext
        ) -> pb.GetEncoderResponse:
            return pb.GetEncoderResponse(encoder={"model": "m"})

    async with stub(Described(lambda: None)) as (channel, embedding):
        assert (await channel.call(embedding.GetEncoder, pb.GetEncoderRequest())).encoder.model == "m"


async def test_a_deadline_that_passed_makes_no_call() -> None:
    servicer = Embedding(lambda: None)
    async with stub(servicer) as (channel, embedding):
        with caller(), deadline.within(0.001), pytest.raises(errors.TimedOut):
            await channel.call(embedding.Embed, pb.EmbedRequest())
    assert servicer.calls == 0


async def test_a_slow_call_ends_at_the_deadline() -> None:
    async with stub(Embedding(lambda: asyncio.sleep(30))) as (channel, embedding):
        with caller(), deadline.within(0.1), pytest.raises(errors.TimedOut):
            await channel.call(embedding.Embed, pb.EmbedRequest())


async def test_an_idempotent_read_is_tried_again_and_others_are_not() -> None:
    def fail() -> None:
        raise errors.Unavailable("later")

    servicer = Embedding(fail)
    async with stub(servicer) as (channel, embedding):
        with caller(), pytest.raises(errors.Unavailable):
            await channel.call(embedding.Embed, pb.EmbedRequest())
        assert servicer.calls == 1
        with caller(), pytest.raises(errors.Unavailable):
            await channel.call(embedding.Embed, pb.EmbedRequest(), idempotent=True)
        assert servicer.calls == 4


async def test_nobody_listening_is_unavailable() -> None:
    async with Channel("127.0.0.1:9") as channel:
        with caller(), pytest.raises(errors.Unavailable) as raised:
            await channel.call(pb_grpc.EmbeddingServiceStub(channel.grpc).Embed, pb.EmbedRequest(), timeout_s=2)
    assert "127.0.0.1" not in raised.value.message


async def test_leaving_a_stream_cancels_it_on_the_other_side() -> None:
    servicer = Inference()
    scopes = {"Generate": "models", "Complete": "models", "ListModels": "", "GetModel": ""}
    served = Service(
        "penstock.inference.v1.InferenceService",
        inference_grpc.add_InferenceServiceServicer_to_server,
        servicer,
        scopes,
    )
    async with serving(served, inner=INNER.get()) as address, Channel(address) as channel:
        generate = inference_grpc.InferenceServiceStub(channel.grpc).Generate
        with caller():
            responses = channel.stream(generate, inference.GenerateRequest())
            pieces = [await anext(responses), await anext(responses)]
            await responses.aclose()
        await eventually(lambda: servicer.cancelled)
    assert [piece.deltas[0].text for piece in pieces] == ["a", "a"]


async def test_reflection_needs_no_token() -> None:
    async with (
        serving(service(Embedding(lambda: None)), inner=INNER.get()) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        reflect = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        call = reflect()
        await call.write(b"\x3a\x01*")  # list_services: "*"
        answer = await call.read()
        call.cancel()
    assert b"penstock.embedding.v1.EmbeddingService" in answer


async def test_a_status_that_is_no_kind_of_ours_is_a_peers_failure() -> None:
    assert isinstance(from_wire(CallFailed(grpc.StatusCode.DATA_LOSS, "lost")), PeerFailed)
