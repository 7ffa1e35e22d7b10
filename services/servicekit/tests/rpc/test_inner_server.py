"""The server for services answers gRPC's own client as it answers ours, and survives what is no client."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakSet

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from penstock.embedding.v1 import embedding_pb2 as pb
from penstock.embedding.v1 import embedding_pb2_grpc as pb_grpc
from servicekit.errors import NotFound
from servicekit.http2 import frames, header_blocks
from servicekit.http2.connection import MOST_UNREAD_BYTES
from servicekit.landed import Land, Message
from servicekit.rpc import Service, framing
from servicekit.rpc.inner_server import InnerServer
from servicekit.rpc.server import listen
from servicekit.testing import Place, authenticate, caller, eventually

LARGE = (("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20))
PATH = "/test.Echo/{}"
HEADS = ((b":method", b"POST"), (b":scheme", b"http"), (b"content-type", b"application/grpc"))


class Echo:
    """Answers with what it is asked, in each of gRPC's four shapes."""

    def __init__(self) -> None:
        self.cancelled = 0
        self.landed = 0
        self.sent = 0

    async def Unary(self, request: Message, context: Any) -> bytes:
        if not isinstance(request, bytes):
            self.landed += 1
            return bytes(request)
        if request == b"hang":
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled += 1
        if request == b"fail":
            raise NotFound("no such thing – é", field="it")
        return request

    async def Down(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for self.sent in range(1, 1_001):
            yield b"%d %b" % (self.sent, request)

    async def Up(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        return b",".join([each async for each in requests])

    async def Both(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for each in requests:
            yield each * 2


def _add(servicer: Echo, server: Any) -> None:
    methods = {
        "Unary": grpc.unary_unary_rpc_method_handler(servicer.Unary),
        "Down": grpc.unary_stream_rpc_method_handler(servicer.Down),
        "Up": grpc.stream_unary_rpc_method_handler(servicer.Up),
        "Both": grpc.stream_stream_rpc_method_handler(servicer.Both),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", methods),))


@asynccontextmanager
async def running(echo: Echo, land: Land | None = None) -> AsyncIterator[InnerServer]:
    service = Service("test.Echo", _add, echo, dict.fromkeys(("Unary", "Down", "Up", "Both")), land)
    listening = listen([service], authenticate, "127.0.0.1:0", None, inner=True)
    server = listening.server
    assert isinstance(server, InnerServer)
    await listening.health.set("", health_pb2.HealthCheckResponse.SERVING)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(0)


@asynccontextmanager
async def library(server: InnerServer) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=LARGE) as channel:
        yield channel


async def test_the_librarys_client_is_served_in_all_four_shapes() -> None:
    async with running(Echo()) as server, library(server) as channel:
        unary, up = channel.unary_unary(PATH.format("Unary")), channel.stream_unary(PATH.format("Up"))
        down, both = channel.unary_stream(PATH.format("Down")), channel.stream_stream(PATH.format("Both"))
        answers = await asyncio.gather(*(unary(b"%d" % number, timeout=30) for number in range(300)))
        assert answers == [b"%d" % number for number in range(300)]
        for size in (0, 1, 16_379, 16_380, 65_535, 1 << 20, 30 << 20):
            assert await unary(bytes(size)) == bytes(size)
        assert [each async for each in down(b"x")] == [b"%d x" % number for number in range(1, 1_001)]
        assert await up(iter([b"a", b"", b"b" * 200_000])) == b"a,," + b"b" * 200_000
        assert [each async for each in both(iter([b"1", b"2" * 100_000]))] == [b"11", b"2" * 200_000]
        assert await up(iter([])) == b""


class Room:
    """Room for so many requests at a time; a place is free again when nobody refers to it."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._taken = WeakSet[Place]()
        self.sizes: list[int] = []

    @property
    def taken(self) -> int:
        return len(self._taken)

    def land(self, size: int) -> Place | None:
        if self.taken == self._places:
            return None
        self.sizes.append(size)
        place = Place(size)
        self._taken.add(place)
        return place


async def test_large_requests_land_where_the_service_says_while_there_is_room() -> None:
    echo, room, large = Echo(), Room(3), [bytes([number]) * (3 << 20) for number in range(8)]
    async with running(echo, room.land) as server, library(server) as channel:
        unary, up = channel.unary_unary(PATH.format("Unary")), channel.stream_unary(PATH.format("Up"))
        assert await unary(b"x" * 1_000_000) == b"x" * 1_000_000
        assert await up(iter(large[:2])) == b",".join(large[:2])
        assert room.sizes == []
        assert await asyncio.gather(*(unary(each) for each in large)) == large
        assert 3 <= echo.landed == len(room.sizes)
        await eventually(lambda: room.taken == 0)


async def test_a_request_that_breaks_off_frees_its_place() -> None:
    room = Room(3)
    async with running(Echo(), room.land) as server:
        async with talking(server) as (_, writer):
            writer.write(call(1, "Unary", framing.pack(bytes(3 << 20))[:10_000], whole=False))
            await eventually(lambda: room.taken == 1)
            writer.write(frames.reset(1, frames.CANCEL))
            await eventually(lambda: room.taken == 0)
            writer.write(call(3, "Unary", framing.pack(bytes(3 << 20))[:10_000], whole=False))
            await eventually(lambda: room.taken == 1)
        await eventually(lambda: not gc.collect() and room.taken == 0)


async def test_the_library_reads_how_a_call_failed() -> None:
    async with running(Echo()) as server, library(server) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await channel.unary_unary(PATH.format("Unary"))(b"fail")
        assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.NOT_FOUND, "no such thing – é")
        assert b"penstock" in dict(raised.value.trailing_metadata() or ())[framing.DETAILS_KEY]
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await channel.unary_unary("/test.Echo/Nothing")(b"")
        assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await channel.unary_unary(PATH.format("Unary"))(b"x", compression=grpc.Compression.Gzip)
        assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_call_that_is_given_up_or_late_is_cancelled() -> None:
    echo = Echo()
    async with running(echo) as server, library(server) as channel:
        unary = channel.unary_unary(PATH.format("Unary"))
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await unary(b"hang", timeout=0.05)
        assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await eventually(lambda: echo.cancelled == 1)
        hanging = unary(b"hang")
        await asyncio.sleep(0.05)
        hanging.cancel()
        await eventually(lambda: echo.cancelled == 2)


async def test_the_deadline_ends_a_call_whose_caller_says_nothing_more() -> None:
    echo = Echo()
    async with running(echo) as server, talking(server) as (reader, writer):
        writer.write(call(1, "Unary", framing.pack(b"hang"), (b"grpc-timeout", b"50m")))
        said = await read_until(reader, b"grpc-status")
        assert b"grpc-status\x014" in said  # the length of the text, and DEADLINE_EXCEEDED
        assert echo.cancelled == 1


async def test_health_is_served_to_everybody_and_watched() -> None:
    async with running(Echo()) as server, library(server) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        assert (await stub.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
        watching = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await watching.read()).status == health_pb2.HealthCheckResponse.SERVING
        watching.cancel()
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.Check(health_pb2.HealthCheckRequest(service="nobody"))
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND


async def test_without_a_valid_token_nothing_is_served() -> None:
    class Embedding(pb_grpc.EmbeddingServiceServicer):
        async def Embed(self, request: pb.EmbedRequest, context: Any) -> pb.EmbedResponse:
            return pb.EmbedResponse()

    add = pb_grpc.add_EmbeddingServiceServicer_to_server
    service = Service("penstock.embedding.v1.EmbeddingService", add, Embedding(), {"Embed": "embeddings"})
    server = listen([service], authenticate, "127.0.0.1:0", None, inner=True).server
    assert isinstance(server, InnerServer)
    await server.start()
    async with library(server) as channel:
        embed = channel.unary_unary("/penstock.embedding.v1.EmbeddingService/Embed")
        with caller() as known:
            token = f"Bearer {known.token}"
        for said, code in (((), "UNAUTHENTICATED"), ((("authorization", "Bearer x"),), "UNAUTHENTICATED")):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await embed(b"", metadata=said)
            assert raised.value.code().name == code
        assert await embed(b"", metadata=(("authorization", token),)) == b""
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await embed(b"\xff\xff\xff", metadata=(("authorization", token),))
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    await server.stop(0)


# --- who is no client ---


@asynccontextmanager
async def talking(server: InnerServer) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(frames.PREFACE + frames.settings(()))
    try:
        yield reader, writer
    finally:
        writer.close()


def call(stream: int, method: str, data: bytes, *more: header_blocks.Header, whole: bool = True) -> bytes:
    block = header_blocks.write((*HEADS, (b":path", PATH.format(method).encode()), *more))
    return b"".join(frames.header_frames(stream, block, 16_384, end=False)) + frames.frame(
        frames.DATA, frames.END_STREAM if whole else 0, stream, data
    )


async def read_until(reader: asyncio.StreamReader, what: bytes) -> bytes:
    said = b""
    async with asyncio.timeout(5):
        while what not in said:
            piece = await reader.read(65_536)
            assert piece, f"the server ended the connection after {said!r}"
            said += piece
    return said


async def ends(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(5):
        return await reader.read(-1)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (frames.frame(frames.PING, 0, 0, b"short"), frames.FRAME_SIZE_ERROR),
        (frames.frame(frames.SETTINGS, 0, 0, b"12345"), frames.FRAME_SIZE_ERROR),
        (frames.settings([(frames.INITIAL_WINDOW_SIZE, 2**31)]), frames.FLOW_CONTROL_ERROR),
        (frames.settings([(frames.MAX_FRAME_SIZE, 5)]), frames.PROTOCOL_ERROR),
        (frames.window_update(0, 0), frames.PROTOCOL_ERROR),
        (frames.window_update(0, 2**31 - 1), frames.FLOW_CONTROL_ERROR),
        (frames.frame(frames.PUSH_PROMISE, 0, 1, bytes(4)), frames.PROTOCOL_ERROR),
        (frames.frame(frames.HEADERS, frames.END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"), frames.COMPRESSION_ERROR),
        (frames.frame(frames.HEADERS, frames.END_HEADERS, 2, b""), frames.PROTOCOL_ERROR),
    ],
)
async def test_who_breaks_the_protocol_is_told_so_and_let_go(said: bytes, code: int) -> None:
    async with running(Echo()) as server:
        async with talking(server) as (reader, writer), library(server) as channel:
            unary = channel.unary_unary(PATH.format("Unary"))
            assert await unary(b"before") == b"before"
            writer.write(said)
            last = (await ends(reader))[-8:]
            assert int.from_bytes(last[4:], "big") == code
            assert await unary(b"others go on") == b"others go on"
        await eventually(lambda: not server._connections)


async def test_more_than_the_window_allows_ends_the_connection() -> None:
    async with running(Echo()) as server, talking(server) as (reader, writer):
        head = header_blocks.write((*HEADS, (b":path", b"/test.Echo/Up")))
        writer.write(b"".join(frames.header_frames(1, head, 16_384, end=False)))
        piece = b"\0\0\0\0\0" * 3_000
        writer.write(b"".join(frames.frame(frames.DATA, 0, 1, piece) for _ in range(5)))
        assert int.from_bytes((await ends(reader))[-4:], "big") == frames.FLOW_CONTROL_ERROR


@pytest.mark.parametrize("data", [b"", b"\0\0", framing.pack(b"x")[:-1], framing.pack(b"x") * 2, b"\1\0\0\0\0"])
async def test_a_request_that_is_no_single_message_fails_its_call_alone(data: bytes) -> None:
    async with running(Echo()) as server, talking(server) as (reader, writer):
        writer.write(call(1, "Unary", data) + call(3, "Unary", framing.pack(b"the next")))
        said = await read_until(reader, b"grpc-status\x010")
        assert b"the next" in said
        assert b"grpc-message" in said, "the first one failed"


@pytest.mark.parametrize(
    "more", [(b"grpc-timeout", b"soon"), (b"grpc-encoding", b"gzip"), (b"content-type", b"text/html")]
)
async def test_a_call_with_wrong_headers_fails(more: header_blocks.Header) -> None:
    async with running(Echo()) as server, talking(server) as (reader, writer):
        writer.write(call(1, "Unary", framing.pack(b"x"), more))
        assert b"grpc-message" in await read_until(reader, b"grpc-message")


async def test_who_makes_us_answer_and_does_not_read_is_let_go() -> None:
    async with running(Echo()) as server, talking(server) as (_, writer):
        ping = frames.frame(frames.PING, 0, 0, bytes(8)) * 1_000
        await eventually(lambda: len(server._connections) == 1)
        async with asyncio.timeout(20):
            with pytest.raises(ConnectionError):
                for _ in range(20 * MOST_UNREAD_BYTES // len(ping)):
                    writer.write(ping)
                    await writer.drain()
        await eventually(lambda: not server._connections)


async def test_a_reader_that_stops_holds_its_method_up_and_what_it_is_sent_has_an_end() -> None:
    echo = Echo()
    async with running(echo) as server, talking(server) as (_, writer):
        writer.write(call(1, "Down", framing.pack(bytes(1_000))))
        await asyncio.sleep(0.3)
        held = echo.sent
        assert 1 <= held < 100, "64 KiB are its window"
        writer.write(frames.window_update(1, 10_000_000) + frames.window_update(0, 10_000_000))
        await eventually(lambda: echo.sent == 1_000)


async def test_a_small_window_and_settings_that_change_lose_nothing() -> None:
    async with running(Echo()) as server, talking(server) as (reader, writer):
        writer.write(frames.settings([(frames.INITIAL_WINDOW_SIZE, 10)]) + call(1, "Unary", framing.pack(bytes(1_000))))
        got = await read_until(reader, frames.data_head(10, 0, 1))
        writer.write(frames.settings([(frames.INITIAL_WINDOW_SIZE, 400)]))
        got += await read_until(reader, frames.data_head(390, 0, 1))
        writer.write(frames.window_update(1, 5_000))
        got += await read_until(reader, b"grpc-status\x010")
        assert frames.data_head(605, 0, 1) in got


async def test_a_stopping_server_does_not_wait_for_a_call_that_is_given_up() -> None:
    async with running(Echo()) as server, talking(server) as (_, writer):
        writer.write(call(1, "Unary", framing.pack(b"hang")))
        await eventually(lambda: any(each.streams for each in server._connections))
        stopping = asyncio.create_task(server.stop(30))
        await asyncio.sleep(0.05)
        writer.write(frames.reset(1, frames.CANCEL))
        async with asyncio.timeout(5):
            await stopping


async def test_resets_by_the_thousand_leave_nothing_behind() -> None:
    echo = Echo()
    async with running(echo) as server, talking(server) as (reader, writer):
        for number in range(1, 4_001, 2):
            writer.write(call(number, "Unary", framing.pack(b"hang")) + frames.reset(number, frames.CANCEL))
        writer.write(call(4_001, "Unary", framing.pack(b"still there")))
        await read_until(reader, b"still there")
        (connection,) = server._connections
        await eventually(lambda: not connection.streams)
