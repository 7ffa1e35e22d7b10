"""Bodies that are followed part by part, whatever the host does meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from inference.adapters.http_client import MOST_BUFFERED_BYTES, Connection, HttpFailed, HttpHost
from servicekit.testing import eventually

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


class Host:
    """A server whose one connection a test writes to."""

    def __init__(self) -> None:
        self.opened: HttpHost
        self.writer: asyncio.StreamWriter
        self.asked = asyncio.Event()
        self.over = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.writer = writer
        self.asked.set()
        await self.over.wait()
        writer.close()

    def say(self, *parts: bytes) -> None:
        self.writer.write(b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts))


class Heard:
    """Keeps what it is given, and asks to wake the caller at every part that ends in `!`."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def __call__(self, part: bytes) -> bool:
        self.parts.append(part)
        return part.endswith(b"!")

    @property
    def text(self) -> bytes:
        return b"".join(self.parts)


@asynccontextmanager
async def asked() -> AsyncIterator[tuple[Host, Connection]]:
    """A connection that has its head."""
    host = Host()
    server = await asyncio.start_server(host.serve, "127.0.0.1", 0)
    host.opened = HttpHost(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", {})
    async with server:
        connection = await host.opened.connection(2.0)
        asking = asyncio.create_task(connection.request(host.opened.written(b"", b""), 2.0))
        await host.asked.wait()
        host.writer.write(HEAD)
        await asking
        try:
            yield host, connection
        finally:
            host.opened.release(connection)
            host.opened.close()
            host.over.set()


def in_s(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_parts_come_until_the_caller_is_wanted_and_then_the_end() -> None:
    heard = Heard()
    async with asked() as (host, connection):
        host.say(b"a", b"b!")
        assert await connection.follow(heard, lambda: in_s(2))
        host.say(b"c")
        host.writer.write(END)
        while await connection.follow(heard, lambda: in_s(2)):
            pass
        assert heard.text == b"ab!c"
        assert connection.reusable()


async def test_what_came_is_heard_before_the_end_of_the_connection() -> None:
    heard = Heard()
    async with asked() as (host, connection):
        host.say(b"last words")
        host.over.set()
        with pytest.raises(HttpFailed):
            while await connection.follow(heard, lambda: in_s(2)):
                pass
        assert heard.text == b"last words"


async def test_garbage_breaks_the_stream() -> None:
    async with asked() as (host, connection):
        host.writer.write(b"zz\r\nno chunk")
        with pytest.raises(HttpFailed):
            while await connection.follow(Heard(), lambda: in_s(2)):
                pass


async def test_a_follower_that_fails_breaks_the_stream() -> None:
    def fail(_: bytes) -> bool:
        raise ZeroDivisionError

    async with asked() as (host, connection):
        following = asyncio.create_task(connection.follow(fail, lambda: in_s(2)))
        await asyncio.sleep(0)
        host.say(b"a")
        await following
        with pytest.raises(HttpFailed):
            await connection.follow(fail, lambda: in_s(2))


async def test_silence_ends_at_its_moment_which_every_part_moves() -> None:
    heard = Heard()
    async with asked() as (host, connection):
        until_s = in_s(0.05)

        def late_s() -> float:
            return until_s + 0.05 * len(heard.parts)

        host.say(b"a", b"b")
        with pytest.raises(TimeoutError):
            await connection.follow(heard, late_s)
        assert heard.text == b"ab"
        assert in_s(0) >= late_s() - 0.002


async def test_nobody_following_holds_the_host_up() -> None:
    async with asked() as (host, connection):
        part = b"x" * 65536
        for _ in range(400):
            host.say(part)
        await eventually(lambda: connection._paused)
        assert connection._buffered < MOST_BUFFERED_BYTES + 2 * 256 * 1024
        heard = Heard()
        following = asyncio.create_task(connection.follow(heard, lambda: in_s(10)))
        host.writer.write(END)
        while await following:
            following = asyncio.create_task(connection.follow(heard, lambda: in_s(10)))
        assert len(heard.text) == 400 * len(part)
