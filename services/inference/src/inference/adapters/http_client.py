"""A lean HTTP/1.1 client for one address: kept-alive connections, bodies as they come, nothing followed or unpacked.

A general client costs a chat more processor time than everything else here together; this one does what chats need.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, cast
from urllib.parse import quote, urlsplit

import httptools

IDLE_S: Final = 30.0
MOST_BUFFERED_BYTES: Final = 512 * 1024
LARGEST_HEAD_BYTES: Final = 512 * 1024
"""More than a read can bring, so that a head is never refused for the body that came with it."""
PATH: Final = "/%:@!$&'()*+,;=~-._"
PORTS: Final = {"http": 80, "https": 443}


Follower = Callable[[bytes], bool]
"""Takes a part of a body, and says whether whoever awaits it has to be woken; what it raises breaks the answer."""


class HttpFailed(Exception):
    """The host could not be reached, broke off, or does not speak HTTP."""


class ConnectTimedOut(HttpFailed):
    """There was no connection in time."""


@dataclass(frozen=True, slots=True)
class Head:
    """Status and headers of a response; the names are in lower case."""

    status: int
    headers: Mapping[str, str]

    @property
    def content_type(self) -> str:
        """The media type without its parameters, in lower case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


class Connection(asyncio.Protocol):
    """One connection; carries one request at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._awaited = False
        self._complete = True
        self._until_close = False
        self._reusable = True
        self._paused = False
        self._head: Head | None = None
        self._headers: dict[str, str] = {}
        self._chunks: list[bytes] = []
        self._follower: Follower | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._buffered = 0
        self._unread = 0
        self.idle_since = 0.0

    async def request(self, sent: list[bytes], timeout_s: float) -> Head:
        """Send a request and return the head of its response; raise HttpFailed or TimeoutError."""
        self._head, self._headers, self._chunks = None, {}, []
        self._buffered = self._unread = 0
        self._awaited, self._complete = True, False
        self._transport.writelines(sent)
        while self._head is None:
            if self._error is not None:
                raise self._error
            await self._wait(timeout_s)
        return self._head

    async def read(self, timeout_s: float) -> bytes:
        """Return what has come of the body, waiting if that is nothing; b"" at its end.

        Raises HttpFailed when the body breaks off and TimeoutError when nothing comes for `timeout_s` seconds.
        """
        while not self._chunks:
            if self._complete:
                return b""
            if self._error is not None:
                raise self._error
            await self._wait(timeout_s)
        return self._take_chunks()

    async def follow(self, follower: Follower, late_s: Callable[[], float]) -> bool:
        """Give what comes of the body to `follower` until it asks to wake the caller; False when the body has ended.

        `late_s` is the moment of the loop's clock until when to wait, and may move on the way. Raises what `read` does.
        """
        if self._chunks and follower(self._take_chunks()):
            return True
        if self._complete:
            return False
        if self._error is not None:
            raise self._error
        self._follower = follower
        try:
            await self._wait_until(late_s)
        finally:
            self._follower = None
        return True

    def _take_chunks(self) -> bytes:
        chunks, self._chunks, self._buffered = self._chunks, [], 0
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def reusable(self) -> bool:
        """Tell whether another request can be sent: the response has ended, and both sides keep the connection."""
        return (
            self._complete
            and not self._chunks
            and self._reusable
            and self._error is None
            and not self._transport.is_closing()
            and not self._transport.get_write_buffer_size()
        )

    def close(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Parse what has come; whatever comes unasked ends the connection."""
        if not self._awaited:
            self._fail(HttpFailed("the host spoke unasked"))
            return
        self._unread += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self._complete:
                self._fail(HttpFailed("the host does not speak HTTP"), error)
            self._reusable = False
        if self._unread > LARGEST_HEAD_BYTES:
            self._fail(HttpFailed("the host sends headers without an end"))
        if self._buffered > MOST_BUFFERED_BYTES and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the response if this is how it ends, and fail it otherwise."""
        self._reusable = False
        if self._complete:
            return
        if exc is None and self._until_close:
            self._finish()
        else:
            self._fail(HttpFailed("the host broke off"), exc)

    def on_message_begin(self) -> None:
        """Note that a response begins; a second one was not asked for."""
        if self._complete:
            self._reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; those that come after the body are dropped."""
        if self._head is None:
            self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Tell the head, unless it is one before the real one."""
        status = self._parser.get_status_code()
        if self._complete:
            return
        if status < 200:
            self._headers = {}
            return
        self._unread = 0
        self._head = Head(status, self._headers)
        self._until_close = not (self._headers.keys() & {"content-length", "transfer-encoding"})
        self._wake()

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body until it is read."""
        if self._complete:
            return
        self._unread = 0
        if self._follower is not None:
            if self._follower(body):
                self._follower = None
                self._wake()
            return
        self._chunks.append(body)
        self._buffered += len(body)
        self._wake()

    def on_message_complete(self) -> None:
        """Note that the response has ended."""
        if self._head is not None and not self._complete:
            self._reusable = self._reusable and self._parser.should_keep_alive()
            self._finish()

    def _finish(self) -> None:
        self._complete, self._awaited = True, False
        self._wake()

    def _fail(self, error: HttpFailed, cause: Exception | None = None) -> None:
        error.__cause__ = cause
        self._error = self._error or error
        self._reusable = self._awaited = False
        self._transport.abort()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self, timeout_s: float) -> None:
        """Wait until something has happened; raise TimeoutError after `timeout_s` seconds."""
        waiter = self._waiter = self._loop.create_future()
        timer = self._loop.call_later(max(0.0, timeout_s), _expire, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None

    async def _wait_until(self, late_s: Callable[[], float]) -> None:
        """Wait until something has happened; raise TimeoutError at `late_s`, which is asked for only when it is due."""
        waiter = self._waiter = self._loop.create_future()
        self._look(waiter, late_s)
        try:
            await waiter
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._waiter = self._timer = None

    def _look(self, waiter: "asyncio.Future[None]", late_s: Callable[[], float]) -> None:
        moment_s = late_s()
        if moment_s > self._loop.time():
            self._timer = self._loop.call_at(moment_s, self._look, waiter, late_s)
        else:
            _expire(waiter)


def _expire(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_exception(TimeoutError())


class HttpHost:
    """The connections to one URL that takes POSTs; how many there are is for the caller to bound."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        """Take an http or https URL in ASCII and the headers that every request has; raise ValueError for others."""
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or PORTS[parts.scheme]
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        place = parts.netloc.rpartition("@")[2]
        lines = [f"POST {quote(parts.path, safe=PATH)} HTTP/1.1", f"Host: {place}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if any(not line.isascii() or not line.isprintable() for line in lines):
            raise ValueError("an address or a header holds what none may hold")
        self._head = "\r\n".join([*lines, ""]).encode("ascii")
        self._idle: deque[Connection] = deque()

    async def connection(self, timeout_s: float) -> Connection:
        """Return a connection that nobody uses, opened within `timeout_s`; raise HttpFailed."""
        loop = asyncio.get_running_loop()
        while self._idle:
            kept = self._idle.pop()
            if kept.reusable() and loop.time() - kept.idle_since < IDLE_S:
                return kept
            kept.close()
        try:
            async with asyncio.timeout(timeout_s):
                _, opened = await loop.create_connection(Connection, self._host, self._port, ssl=self._tls)
        except TimeoutError as error:
            raise ConnectTimedOut(type(error).__name__) from error
        except OSError as error:  # refused, unresolvable, or TLS that cannot be trusted
            raise HttpFailed(type(error).__name__) from error
        return opened

    def written(self, body: bytes, headers: bytes) -> list[bytes]:
        """Return a request as it is sent; `headers` are whole lines."""
        return [b"%s%sContent-Length: %d\r\n\r\n" % (self._head, headers, len(body)), body]

    def release(self, connection: Connection) -> None:
        """Take a connection back: one that can be used again is kept, others are closed."""
        if not connection.reusable():
            connection.close()
            return
        now = connection.idle_since = asyncio.get_running_loop().time()
        self._idle.append(connection)
        while now - self._idle[0].idle_since > IDLE_S:
            self._idle.popleft().close()

    def close(self) -> None:
        """Close the connections that nobody uses."""
        while self._idle:
            self._idle.pop().close()
