"""Whatever a server does, a call over a link ends: with its answer, or with a failure that says what went wrong."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
import pytest
from servicekit.http2 import frames, header_blocks
from servicekit.http2.frames import DATA, END_STREAM
from servicekit.rpc import CallFailed, CallLost, Link, framing, link
from servicekit.testing import eventually

HELLO = frames.settings(())
HEADS = frames.frame(frames.HEADERS, frames.END_HEADERS, 1, framing.ANSWER)
LAST = frames.END_HEADERS | END_STREAM
SUCCESS = frames.frame(frames.HEADERS, LAST, 1, framing.SUCCESS)
MESSAGE = frames.frame(DATA, 0, 1, framing.pack(b"yes"))
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def speaking(talk: Talk) -> AsyncIterator[str]:
    """Run a server that reads the greeting, and then does as it likes with each connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readexactly(len(frames.PREFACE))
            await talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


def saying(said: bytes, *, stay: bool = True) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65_536)
        writer.write(HELLO + said)
        await writer.drain()
        if stay:
            await reader.read(-1)

    return talk


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (HEADS + SUCCESS, "INTERNAL"),
        (HEADS + MESSAGE[:-1], "DEADLINE_EXCEEDED"),
        (HEADS + frames.frame(DATA, END_STREAM, 1, framing.pack(b"yes")), "UNKNOWN"),
        (HEADS + frames.frame(DATA, 0, 1, b"\1\0\0\0\1x"), "UNIMPLEMENTED"),
        (HEADS + frames.frame(DATA, 0, 1, b"\0\xff\xff\xff\xff"), "RESOURCE_EXHAUSTED"),
        (frames.reset(1, frames.REFUSED_STREAM), "UNAVAILABLE"),
        (HEADS + MESSAGE + frames.reset(1, frames.CANCEL), "CANCELLED"),
        (HEADS + MESSAGE + frames.reset(1, 77), "INTERNAL"),
        (frames.go_away(0, frames.NO_ERROR), "UNAVAILABLE"),
        (frames.go_away(1, frames.NO_ERROR), "DEADLINE_EXCEEDED"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "UNAVAILABLE"),
        (frames.frame(frames.HEADERS, LAST, 1, header_blocks.write([(b":status", b"503")])), "UNAVAILABLE"),
        (frames.frame(frames.HEADERS, LAST, 1, framing.ANSWER), "UNKNOWN"),
        (b"", "DEADLINE_EXCEEDED"),
    ],
)
async def test_a_call_ends_as_the_server_left_it(said: bytes, code: str) -> None:
    async with speaking(saying(said)) as address:
        asked = Link(address)
        with pytest.raises(CallFailed) as raised:
            await asked.unary("/a/B", b"?", 0.3)
        assert raised.value.code.name == code
        await asked.close()


@pytest.mark.parametrize("said", [HEADS + MESSAGE, HEADS, b"", HEADS + MESSAGE[:-1]])
async def test_a_connection_that_is_cut_fails_its_calls_at_once(said: bytes) -> None:
    async with speaking(saying(said, stay=False)) as address:
        asked = Link(address)
        with pytest.raises(CallLost) as raised:
            await asked.unary("/a/B", b"?", 30)
        assert raised.value.code is grpc.StatusCode.UNAVAILABLE
        await asked.close()


async def test_a_server_that_goes_away_gets_no_new_calls_and_may_finish_the_old_one() -> None:
    connections = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.read(65_536)
        writer.write(HELLO + frames.go_away(1, frames.NO_ERROR))
        await asyncio.sleep(0.2)
        writer.write(HEADS + MESSAGE + SUCCESS)
        await reader.read(-1)

    async with speaking(talk) as address:
        asked = Link(address)
        first = asyncio.create_task(asked.unary("/a/B", b"?", 5))
        await asyncio.sleep(0.1)
        second = asyncio.create_task(asked.unary("/a/B", b"?", 5))
        assert (await first, await second) == (b"yes", b"yes")
        assert connections == 2
        await eventually(lambda: not asked._connections)
        await asked.close()


async def test_a_connection_whose_last_call_was_reset_is_closed_when_it_is_retired() -> None:
    async with speaking(saying(frames.go_away(1, frames.NO_ERROR) + frames.reset(1, frames.CANCEL))) as address:
        asked = Link(address)
        with pytest.raises(CallFailed):
            await asked.unary("/a/B", b"?", 5)
        await eventually(lambda: not asked._connections)
        await asked.close()


async def test_a_server_that_takes_few_calls_at_a_time_gets_more_connections() -> None:
    open_calls = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_calls
        writer.write(frames.settings([(frames.MAX_CONCURRENT_STREAMS, 1)]))
        await asyncio.sleep(0.2)
        open_calls += 1
        writer.write(HEADS + MESSAGE + SUCCESS)
        await reader.read(-1)

    async with speaking(talk) as address:
        asked = Link(address)
        first = asyncio.create_task(asked.unary("/a/B", b"?", 5))
        await asyncio.sleep(0.1)
        assert await asyncio.gather(first, asked.unary("/a/B", b"?", 5)) == [b"yes", b"yes"]
        assert open_calls == 2
        await asked.close()


async def test_a_silent_server_is_asked_whether_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "KEEPALIVE_S", 0.1)
    monkeypatch.setattr(link, "KEEPALIVE_TIMEOUT_S", 0.1)
    pings = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal pings
        writer.write(HELLO)
        while pings < 3:
            said = await reader.read(65_536)
            if frames.frame(frames.PING, 0, 0, bytes(8)) in said:
                pings += 1
                writer.write(frames.frame(frames.PING, frames.ACK, 0, bytes(8)))
        await reader.read(-1)

    async with speaking(talk) as address:
        asked = Link(address, keepalive=True)
        with pytest.raises(CallFailed) as raised:
            await asked.unary("/a/B", b"?", 30)
        assert raised.value.code is grpc.StatusCode.UNAVAILABLE
        assert pings == 3
        await asked.close()


async def test_a_link_that_is_closed_fails_what_runs_and_what_comes() -> None:
    async with speaking(saying(b"")) as address:
        asked = Link(address)
        running = asyncio.create_task(asked.unary("/a/B", b"?", 30))
        await asyncio.sleep(0.1)
        await asked.close()
        for call in (running, asked.unary("/a/B", b"?", 30)):
            with pytest.raises(CallFailed) as raised:
                await call
            assert raised.value.code is grpc.StatusCode.UNAVAILABLE


async def test_nobody_there_is_unavailable_and_somebody_later_is_found() -> None:
    async with speaking(saying(HEADS + MESSAGE + SUCCESS)) as address:
        pass
    asked = Link(address)
    for _ in range(3):
        with pytest.raises(CallFailed) as raised:
            await asked.unary("/a/B", b"?", 5)
        assert raised.value.code is grpc.StatusCode.UNAVAILABLE
    await asked.close()


async def test_a_host_that_never_answers_the_connection_costs_a_call_its_deadline_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link, "CONNECT_TIMEOUT_S", 0.2)

    async def never(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", never)
    asked = Link("127.0.0.1:1")
    for timeout_s, code in ((0.05, "DEADLINE_EXCEEDED"), (5, "UNAVAILABLE")):
        with pytest.raises(CallFailed) as raised:
            await asked.unary("/a/B", b"?", timeout_s)
        assert raised.value.code.name == code
    await asked.close()
