"""Many calls over one connection: each stays a call of its own, whatever happens to the others."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from penstock.embedding.v1 import embedding_pb2 as pb
from penstock.embedding.v1 import embedding_pb2_grpc as pb_grpc
from penstock.inference.v1 import inference_pb2 as inference
from penstock.inference.v1 import inference_pb2_grpc as inference_grpc
from servicekit import identity
from servicekit.errors import NotFound, QuotaExceeded, TimedOut, Unavailable
from servicekit.http2.frames import DEFAULT_WINDOW
from servicekit.rpc import Channel, Passage, PeerFailed, Service
from servicekit.rpc.inner_server import InnerServer
from servicekit.rpc.server import Listening, listen
from servicekit.testing import authenticate, caller, eventually

RESPONSES, RESPONSE_BYTES = 1_000, 500
"""Many more than a window holds."""


def response_of(number: int) -> inference.GenerateResponse:
    return inference.GenerateResponse(served={"version": str(number), "model": "x" * RESPONSE_BYTES})


class Embedding(pb_grpc.EmbeddingServiceServicer):
    """Answers by the first text: `hang`, `fail`, `large`, or the caller's tenant as the model."""

    def __init__(self) -> None:
        self.running = 0
        self.cancelled = 0
        self.go_on = asyncio.Event()

    async def Embed(self, request: pb.EmbedRequest, context: Any) -> pb.EmbedResponse:
        self.running += 1
        try:
            return await self._act(request.texts[0])
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    async def _act(self, text: str) -> pb.EmbedResponse:
        match text:
            case "hang":
                await self.go_on.wait()
            case "fail":
                raise NotFound("no such thing", field="texts[0]")
            case "large":
                return pb.EmbedResponse(vectors=bytes(63 * 1024 * 1024 + 1))
            case "megabytes":
                return pb.EmbedResponse(vectors=bytes(5 * 1024 * 1024))
        return pb.EmbedResponse(encoder={"model": f"{identity.current().tenant} {text}"})


class Inference(inference_grpc.InferenceServiceServicer):
    """Streams as fast as it may; asked for `past`, as much of it past its iteration as it may."""

    sent = 0
    past = 0

    async def Generate(self, request: inference.GenerateRequest, context: Any) -> AsyncIterator[Any]:
        if request.model == "past":
            async for response in self._past(context):
                yield response
            return
        for _ in range(RESPONSES):
            self.sent += 1
            yield response_of(self.sent)

    async def _past(self, passage: Any) -> AsyncIterator[Any]:
        assert isinstance(passage, Passage)
        for number in range(1, RESPONSES + 1):
            response = response_of(number)
            if passage.send(response):
                self.past += 1
            else:
                yield response
            self.sent = number
            if not number % 40:
                await asyncio.sleep(0)


class House:
    """A server with both services, a channel to it, and the means to break them."""

    def __init__(self) -> None:
        self.embedding = Embedding()
        self.inference = Inference()
        self.services = [
            Service(
                "penstock.embedding.v1.EmbeddingService",
                pb_grpc.add_EmbeddingServiceServicer_to_server,
                self.embedding,
                {"Embed": "embeddings"},
            ),
            Service(
                "penstock.inference.v1.InferenceService",
                inference_grpc.add_InferenceServiceServicer_to_server,
                self.inference,
                {"Generate": "models"},
            ),
        ]
        self.address = "127.0.0.1:0"

    async def start(self) -> Listening:
        listening = listen(self.services, authenticate, self.address, None, inner=True)
        self.address = f"127.0.0.1:{listening.port}"
        await listening.server.start()
        assert isinstance(listening.server, InnerServer)
        self.server = listening.server
        return listening

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[Channel]:
        async with AsyncExitStack() as stack:
            listening = await self.start()
            stack.push_async_callback(listening.server.stop, 0)
            yield await stack.enter_async_context(Channel(self.address))


async def embed(channel: Channel, text: str, **options: Any) -> pb.EmbedResponse:
    return await channel.call(
        pb_grpc.EmbeddingServiceStub(channel.grpc).Embed, pb.EmbedRequest(texts=[text]), **options
    )


async def embed_as(channel: Channel, tenant: str, text: str) -> str:
    with caller(tenant=tenant):
        return (await embed(channel, text)).encoder.model


async def test_every_call_has_its_own_caller_and_answer() -> None:
    house = House()
    async with house.channel() as channel:
        asked = [(f"tenant{number % 7}", f"text{number}") for number in range(300)]
        answers = await asyncio.gather(*(embed_as(channel, tenant, text) for tenant, text in asked))
    assert answers == [f"{tenant} {text}" for tenant, text in asked]


async def test_calls_share_one_connection_whatever_their_size() -> None:
    house = House()
    async with house.channel() as channel:
        with caller():
            await asyncio.gather(*(embed(channel, "a") for _ in range(5)))
            await embed(channel, "x" * 5_000_000)
        assert len(house.server._connections) == 1


async def test_a_failure_and_a_hanging_call_leave_the_others_alone() -> None:
    house = House()
    async with house.channel() as channel:
        with caller():
            hanging = asyncio.create_task(embed(channel, "hang"))
            with pytest.raises(NotFound) as raised:
                await embed(channel, "fail")
            assert raised.value.field == "texts[0]"
            assert (await embed(channel, "b")).encoder.model == "acme b"
            with pytest.raises(QuotaExceeded, match="the response has"):
                await embed(channel, "large")
            assert len((await embed(channel, "megabytes")).vectors) == 5 * 1024 * 1024
            house.embedding.go_on.set()
            assert (await hanging).encoder.model == "acme hang"


async def test_a_call_given_up_is_cancelled_on_the_other_side() -> None:
    house = House()
    async with house.channel() as channel:
        with caller():
            with pytest.raises(TimedOut):
                await embed(channel, "hang", timeout_s=0.05)
            await eventually(lambda: house.embedding.cancelled == 1)
            task = asyncio.create_task(embed(channel, "hang"))
            await eventually(lambda: house.embedding.running == 1)
            task.cancel()
            await eventually(lambda: house.embedding.cancelled == 2)
            tasks = [asyncio.create_task(embed(channel, "hang")) for _ in range(100)]
            for task in tasks:
                await asyncio.sleep(0)
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await eventually(lambda: house.embedding.running == 0)
            assert (await embed(channel, "c")).encoder.model == "acme c"


async def test_a_server_that_dies_fails_its_calls_and_the_next_one_is_found_again() -> None:
    house = House()
    first = await house.start()
    async with Channel(house.address) as channel:
        with caller():
            hanging = [asyncio.create_task(embed(channel, "hang")) for _ in range(10)]
            await eventually(lambda: house.embedding.running == 10)
            await first.server.stop(0)
            ended = await asyncio.gather(*hanging, return_exceptions=True)
            assert {type(error) for error in ended} == {Unavailable}
            with pytest.raises(Unavailable):
                await embed(channel, "d", timeout_s=1)
            await eventually(lambda: house.embedding.running == 0)
            second = await house.start()

            async def answered() -> bool:
                with suppress(Unavailable):
                    return (await embed(channel, "e")).encoder.model == "acme e"
                return False

            await eventually(answered)
            await second.server.stop(0)


async def test_a_stopping_server_answers_what_runs_and_ends_without_waiting() -> None:
    house = House()
    listening = await house.start()
    async with Channel(house.address) as channel:
        with caller():
            running = asyncio.create_task(embed(channel, "hang"))
            await eventually(lambda: house.embedding.running == 1)
            stopped = asyncio.create_task(listening.server.stop(30))
            house.embedding.go_on.set()
            assert (await running).encoder.model == "acme hang"
            async with asyncio.timeout(5):  # not the 30 s of its grace
                await stopped


async def test_a_slow_reader_holds_its_stream_up_and_nobody_else() -> None:
    house = House()
    async with house.channel() as channel:
        generate = inference_grpc.InferenceServiceStub(channel.grpc).Generate
        with caller():
            responses = channel.stream(generate, inference.GenerateRequest())
            taken = [await anext(responses) for _ in range(3)]
            for _ in range(20):
                assert (await embed(channel, "f")).encoder.model == "acme f"
            assert house.inference.sent < 2 * DEFAULT_WINDOW / RESPONSE_BYTES
            taken += [response async for response in responses]
    assert [response.served.version for response in taken] == [str(number) for number in range(1, RESPONSES + 1)]


async def test_a_method_that_is_not_listed_cannot_be_called() -> None:
    house = House()
    async with house.channel() as channel:
        with caller(), pytest.raises(PeerFailed):
            await channel.call(pb_grpc.EmbeddingServiceStub(channel.grpc).GetEncoder, pb.GetEncoderRequest())


class Taking:
    """Takes responses by the short way, as often as it is told to."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.versions: list[int] = []
        self.offered = self.taken = 0

    def __call__(self, response: inference.GenerateResponse) -> bool:
        self.offered += 1
        if not self.every or self.offered % self.every:
            return False
        self.taken += 1
        self.versions.append(int(response.served.version))
        return True


@pytest.mark.parametrize("every", [0, 1, 2, 7])
@pytest.mark.parametrize("model", ["", "past"])
async def test_the_short_way_and_the_iteration_together_keep_the_order(model: str, every: int) -> None:
    house, taking = House(), Taking(every)
    async with house.channel() as channel:
        generate = inference_grpc.InferenceServiceStub(channel.grpc).Generate
        with caller():
            async for response in channel.stream(generate, inference.GenerateRequest(model=model), take=taking):
                taking.versions.append(int(response.served.version))
                if len(taking.versions) % 100 == 0:
                    await asyncio.sleep(0.001)  # so that something waits
    assert taking.versions == list(range(1, RESPONSES + 1))
    assert bool(taking.taken) == bool(every)
    assert bool(house.inference.past) == bool(model)


async def test_the_short_way_is_as_narrow_as_the_other_for_a_slow_reader() -> None:
    house, taking = House(), Taking(0)
    async with house.channel() as channel:
        generate = inference_grpc.InferenceServiceStub(channel.grpc).Generate
        with caller():
            request = inference.GenerateRequest(model="past")
            responses = channel.stream(generate, request, take=taking)
            taken = [await anext(responses) for _ in range(3)]
            for _ in range(20):
                assert (await embed(channel, "f")).encoder.model == "acme f"
            assert house.inference.sent < 2 * DEFAULT_WINDOW / RESPONSE_BYTES
            taken += [response async for response in responses]
    assert [int(response.served.version) for response in taken] == list(range(1, RESPONSES + 1))


async def test_what_has_piled_up_goes_the_short_way_too() -> None:
    house, behind = House(), False
    yielded: list[int] = []

    def take(_: inference.GenerateResponse) -> bool:
        return behind

    async with house.channel() as channel:
        generate = inference_grpc.InferenceServiceStub(channel.grpc).Generate
        with caller():
            async for response in channel.stream(generate, inference.GenerateRequest(), take=take):
                yielded.append(int(response.served.version))
                assert await embed(channel, "f"), "by now there is more"
                behind = True
    assert yielded == [1]


async def test_what_cannot_be_read_is_the_iterations_affair() -> None:
    house, taking = House(), Taking(1)
    async with house.channel() as channel:
        stub = inference_grpc.InferenceServiceStub(channel.grpc)
        method: Any = stub.Generate
        broken = replace(method, deserializer=lambda _: pb.EmbedRequest.FromString(b"\xff\xff"))
        with caller():
            with pytest.raises(DecodeError):
                async for _ in channel.stream(broken, inference.GenerateRequest(), take=taking):
                    pass
            assert (await embed(channel, "g")).encoder.model == "acme g", "others go on"
    assert taking.offered == 0


async def test_a_bug_in_the_short_way_leaves_nobody_waiting() -> None:
    house = House()

    def take(_: inference.GenerateResponse) -> bool:
        raise ZeroDivisionError

    async with house.channel() as channel:
        generate = inference_grpc.InferenceServiceStub(channel.grpc).Generate
        with caller():
            hanging = asyncio.create_task(embed(channel, "hang"))
            await eventually(lambda: house.embedding.running == 1)
            with pytest.raises(Unavailable):
                await _all(channel.stream(generate, inference.GenerateRequest(), take=take))
            with pytest.raises(Unavailable):
                await hanging
            assert (await embed(channel, "h")).encoder.model == "acme h"


async def test_a_call_that_ends_with_its_last_response_ends() -> None:
    house, taking = House(), Taking(1)
    async with house.channel() as channel:
        generate = inference_grpc.InferenceServiceStub(channel.grpc).Generate
        with caller():
            calls = [channel.stream(generate, inference.GenerateRequest(), take=taking) for _ in range(20)]
            async with asyncio.timeout(10):
                rest = await asyncio.gather(*(_all(call) for call in calls))
    assert sum(map(len, rest)) + taking.taken == 20 * RESPONSES


async def _all(responses: AsyncIterator[Any]) -> list[Any]:
    return [response async for response in responses]
