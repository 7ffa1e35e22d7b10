"""Many calls over one stream: each stays a call of its own, whatever happens to the others."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.protobuf.message import DecodeError
from penstock.embedding.v1 import embedding_pb2 as pb
from penstock.embedding.v1 import embedding_pb2_grpc as pb_grpc
from penstock.inference.v1 import inference_pb2 as inference
from penstock.inference.v1 import inference_pb2_grpc as inference_grpc
from penstock.multiplex.v1 import multiplex_pb2
from penstock.multiplex.v1 import multiplex_pb2_grpc as multiplex_grpc
from servicekit import identity
from servicekit.errors import NotFound, QuotaExceeded, TimedOut, Unavailable
from servicekit.rpc import Channel, Passage, PeerFailed, Service
from servicekit.rpc.passage import WINDOW
from servicekit.rpc.server import Listening, listen
from servicekit.testing import authenticate, caller, eventually


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
        for _ in range(1000):
            self.sent += 1
            yield inference.GenerateResponse(served={"version": str(self.sent)})

    async def _past(self, passage: Any) -> AsyncIterator[Any]:
        assert isinstance(passage, Passage)
        for number in range(1, 1001):
            response = inference.GenerateResponse(served={"version": str(number)})
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


async def test_calls_share_one_stream_and_a_large_one_goes_alone() -> None:
    house = House()
    streams, calls = [], []
    async with house.channel() as channel:
        inner, resolve = channel._stream_for, channel._resolve
        channel._stream_for = lambda *a: streams.append(inner(*a)) or streams[-1]  # type: ignore[method-assign,func-returns-value]
        channel._resolve = lambda method: calls.append(method) or resolve(method)  # type: ignore[method-assign,func-returns-value]
        with caller():
            await asyncio.gather(*(embed(channel, "a") for _ in range(5)))
            await embed(channel, "x" * 100_000)
    assert len(set(streams) - {None}) == 1
    assert len(calls) == 1


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
            assert listening.multiplex is not None
            listening.multiplex.drain()
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
            assert house.inference.sent <= WINDOW + 1
            taken += [response async for response in responses]
    assert [response.served.version for response in taken] == [str(number) for number in range(1, 1001)]


async def test_what_no_channel_sends_is_answered_all_the_same() -> None:
    house = House()
    listening = await house.start()
    async with grpc.aio.insecure_channel(house.address) as raw:
        stream = multiplex_grpc.MultiplexServiceStub(raw).Exchange()
        embed_path = "/penstock.embedding.v1.EmbeddingService/Embed"
        with caller() as known:
            token = f"Bearer {known.token}"
        await stream.write(
            multiplex_pb2.ExchangeRequest(
                calls=[
                    {"id": 1, "method": "/no.Such/Method"},
                    {"id": 2, "method": embed_path, "request": b"\xff\xff\xff", "authorization": token},
                    {"id": 3, "method": embed_path},
                    {"id": 4, "method": "/penstock.multiplex.v1.MultiplexService/Exchange", "authorization": token},
                ],
                cancelled=[99],
                credits=[{"id": 98, "responses": 5}],
            )
        )
        codes = {}
        while len(codes) < 4:
            codes |= {answer.id: answer.end.code for answer in (await stream.read()).answers}
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
    await listening.server.stop(0)
    unimplemented, invalid, unauthenticated = 12, 3, 16
    assert codes == {1: unimplemented, 2: invalid, 3: unauthenticated, 4: unimplemented}


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
    assert taking.versions == list(range(1, 1001))
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
            assert house.inference.sent <= WINDOW + 1
            taken += [response async for response in responses]
    assert [int(response.served.version) for response in taken] == list(range(1, 1001))


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
    assert sum(map(len, rest)) + taking.taken == 20_000


async def _all(responses: AsyncIterator[Any]) -> list[Any]:
    return [response async for response in responses]
