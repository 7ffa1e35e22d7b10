"""Calls over one connection to one address, which comes up when it is needed, and up again."""

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextvars import Context
from functools import lru_cache
from typing import Final, cast

import grpc

from servicekit.http2 import frames, header_blocks
from servicekit.http2.connection import Connection, Stream
from servicekit.http2.frame_reader import Part
from servicekit.http2.header_blocks import Header
from servicekit.rpc import framing
from servicekit.rpc.framing import CallFailed, CallLost, MessageStream

CONNECT_TIMEOUT_S: Final = 2.0
KEEPALIVE_S: Final = 20.0
KEEPALIVE_TIMEOUT_S: Final = 5.0
LAST_NUMBER: Final = frames.LARGEST_WINDOW - 2
"""A connection whose streams have numbers up to this takes no more."""

Take = Callable[[bytes], bool]
"""Is offered a response that the iteration waits for, and says whether it took it; one it did not take is yielded."""

Metadata = Sequence[tuple[str, str]]
CLOSED: Final = "the connection was closed"
log = logging.getLogger(__name__)


class Link:
    """A connection to one server. Calls raise CallFailed; a call given up is given up on the other side too."""

    def __init__(
        self, address: str, secure: Callable[[], ssl.SSLContext] | None = None, *, keepalive: bool = False
    ) -> None:
        """Take `host:port`, and what makes the TLS context of a connection, if it is to have one.

        `keepalive` has a server that says nothing while it is waited for asked whether it is there; one of another
        make may take offence at that.
        """
        self._host, _, self._port = address.rpartition(":")
        self._authority = address
        self._secure = secure
        self._keepalive = keepalive
        self._current: _ClientConnection | None = None
        self._connecting: asyncio.Task[_ClientConnection] | None = None
        self._connections: set[_ClientConnection] = set()
        self._closed = False

    async def unary(self, path: str, request: bytes, timeout_s: float | None = None, metadata: Metadata = ()) -> bytes:
        """Return the response to one request; `timeout_s` in seconds, None for no limit."""
        call = await self._begin(path, request, timeout_s, metadata)
        try:
            while not call.ended:
                await call.more()
        finally:
            call.leave()
        if call.failure is not None:
            try:
                raise call.failure
            finally:
                del call  # it holds the error, whose traceback would hold it and what callers have in hand
        if not call.responses:
            raise CallFailed(grpc.StatusCode.INTERNAL, "the call ended without a response")
        return call.responses[0]

    async def stream(
        self,
        path: str,
        request: bytes,
        timeout_s: float | None = None,
        metadata: Metadata = (),
        take: Take | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """Yield the responses to one request as they come; leaving the iteration gives the call up.

        `take` must not raise; what it takes never comes to the iteration, which costs many times as much. It is offered
        what has piled up, too: a loop that is behind would otherwise go the dear way, and stay behind.
        """
        call = await self._begin(path, request, timeout_s, metadata, take)
        call.connection.hurry()  # what streams is waited for; what comes later of it may wait for others
        try:
            while True:
                while call.responses:
                    response = call.responses.popleft()
                    call.dealt_with(response)
                    if take is None or not take(response):
                        yield response
                if call.ended:
                    break
                await call.more()
        finally:
            call.leave()
        if call.failure is not None:
            try:
                raise call.failure
            finally:
                del call  # as above

    async def finish(self) -> None:
        """Take no new calls, and close the connection when the open ones are answered."""
        self._closed = True
        for connection in tuple(self._connections):
            await connection.finish()
        await self.close()

    async def close(self) -> None:
        """Close the connection; open calls fail, and so do those that come."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        for connection in tuple(self._connections):
            connection.abort()
            await connection.over.wait()

    async def _begin(
        self, path: str, request: bytes, timeout_s: float | None, metadata: Metadata, take: Take | None = None
    ) -> "_Call":
        connection = self._current
        if connection is None or not connection.usable():
            start = asyncio.get_running_loop().time()
            connection = await self._connected(timeout_s)
            if timeout_s is not None:
                timeout_s -= asyncio.get_running_loop().time() - start
        head = _head(path, self._authority, b"http" if self._secure is None else b"https")
        return connection.begin(head + _more(timeout_s, metadata), request, timeout_s, take)

    async def _connected(self, timeout_s: float | None) -> "_ClientConnection":
        """Return a connection that takes calls, made now if there is none; all who wait, wait for the same one."""
        while True:
            if self._closed:
                raise CallFailed(grpc.StatusCode.UNAVAILABLE, CLOSED)
            if self._current is not None and self._current.usable():
                return self._current
            if self._connecting is None:
                self._connecting = asyncio.create_task(self._connect(), context=Context())  # it is nobody's own
                self._connecting.add_done_callback(self._made)
            making = self._connecting
            await asyncio.wait((making,), timeout=timeout_s)
            if not making.done():
                raise CallFailed(grpc.StatusCode.DEADLINE_EXCEEDED, "no connection was made in time")
            self._check(making)

    def _check(self, made: "asyncio.Task[_ClientConnection]") -> None:
        """Raise CallFailed when no connection came of it."""
        if made.cancelled():
            raise CallFailed(grpc.StatusCode.UNAVAILABLE, CLOSED)
        if (error := made.exception()) is not None:
            why = str(error) or type(error).__name__
            raise CallFailed(grpc.StatusCode.UNAVAILABLE, f"{self._authority} cannot be reached: {why}")
        if made.result().gone:
            raise CallFailed(grpc.StatusCode.UNAVAILABLE, f"{self._authority} closed the connection")

    async def _connect(self) -> "_ClientConnection":
        secure = self._secure() if self._secure is not None else None
        host = self._host.strip("[]")
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: _ClientConnection(self._connections.discard), host, int(self._port), ssl=secure
            )
        if self._keepalive:
            connection.watch()
        return connection

    def _made(self, making: "asyncio.Task[_ClientConnection]") -> None:
        self._connecting = None
        if not making.cancelled() and making.exception() is None:
            if self._current is not None:
                self._current.retire()
            self._current = making.result()
            if not self._current.gone:
                self._connections.add(self._current)


class _ClientConnection(Connection):
    """The caller's side of a connection."""

    def __init__(self, gone: Callable[["_ClientConnection"], None]) -> None:
        super().__init__(frames.PREFACE, b"")
        self.over = asyncio.Event()
        self._gone = gone
        self._next = 1
        self._retiring = False
        self._asked = False

    def usable(self) -> bool:
        """Tell whether new calls may be made."""
        return not (self.gone or self._retiring) and self._next <= LAST_NUMBER and len(self.streams) < self.most_streams

    def begin(self, head: bytes, request: bytes, timeout_s: float | None, take: Take | None) -> "_Call":
        """Make a call."""
        call = self.streams[self._next] = _Call(self, self._next, take)
        self._next += 2
        call.send_headers(head)
        call.send(framing.pack(request), end=True)
        self.lone()
        if timeout_s is not None:
            call.end_after(timeout_s)
        return call

    def retire(self) -> None:
        """Take no new calls, and end when the open ones have ended."""
        self._retiring = True
        if not self.streams:
            self.close()

    async def finish(self) -> None:
        """Return when the open calls have ended and the connection is closed."""
        self.retire()
        await self.over.wait()

    def watch(self) -> None:
        """Ask the other side whether it is there, now and then, while it is waited for; give it up if it is not."""
        self.heard = self._asked = False
        asyncio.get_running_loop().call_later(KEEPALIVE_S, self._look)

    def forget(self, stream: Stream) -> None:
        """Take no more for a call."""
        super().forget(stream)
        if self._retiring and not self.streams:
            self.close()

    def opened(self, number: int, headers: Sequence[Header], *, ended: bool) -> None:
        """Ignore what comes for a call that is over."""

    def went_away(self, last_stream: int, code: int) -> None:
        """Fail the calls that the server will not serve."""
        log.debug("the server takes no more calls: %d", code)
        unserved = [stream for number, stream in self.streams.items() if number > last_stream]
        for stream in unserved:
            self.streams.pop(stream.number)
            stream.broken(frames.REFUSED_STREAM)
        self.retire()

    def ended(self) -> None:
        """Note that there is nothing left."""
        self.over.set()
        self._gone(self)

    def _look(self) -> None:
        if self.gone:
            return
        silent = bool(self.streams) and not self.heard
        if silent and self._asked:
            self.abort()
            return
        if silent:
            self.write(frames.frame(frames.PING, 0, 0, bytes(8)))
        self.heard, self._asked = False, silent
        wait_s = KEEPALIVE_TIMEOUT_S if silent else KEEPALIVE_S
        asyncio.get_running_loop().call_later(wait_s, self._look)


class _Call(MessageStream):
    """A call whose answers are awaited."""

    __slots__ = ("_filled", "_status", "_take", "_timer", "ended", "failure", "responses")

    connection: _ClientConnection

    def __init__(self, connection: _ClientConnection, number: int, take: Take | None) -> None:
        super().__init__(connection, number)
        self.responses: deque[bytes] = deque()
        self.ended = False
        self.failure: CallFailed | None = None
        self._take = take
        self._filled: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._status: dict[bytes, bytes] = {}

    def end_after(self, seconds: float) -> None:
        """End the call as late after so many seconds."""
        self._timer = asyncio.get_running_loop().call_later(max(0.0, seconds), self._late)

    async def more(self) -> None:
        """Return when there is something new."""
        self._filled = asyncio.get_running_loop().create_future()
        try:
            await self._filled
        finally:
            self._filled = None

    def leave(self) -> None:
        """Give the call up unless it has ended."""
        if self._timer is not None:
            self._timer.cancel()
        if self.number in self.connection.streams:
            self.give_up(frames.CANCEL)

    def headers(self, headers: Sequence[Header], *, ended: bool) -> None:
        """Take what goes before the answer, or the status that ends it."""
        self._status.update(headers)
        if ended:
            self._let_go()
            broken_off = self._messages.broken_off and b"grpc-status" not in self._status
            cut = CallFailed(grpc.StatusCode.INTERNAL, "a message was cut off") if broken_off else None
            self._end(cut or framing.read_status(self._status))

    def data(self, part: Part, *, ended: bool) -> None:
        """Take responses."""
        try:
            for response in cast("Sequence[bytes]", self.put_together(part)):  # no place is named for it to land in
                if self._take is not None and self._is_awaited() and self._take(response):
                    self.dealt_with(response)
                else:
                    self.responses.append(response)
                    self._wake()
        except CallFailed as failed:
            self.give_up(frames.CANCEL)
            self._end(failed)
        if ended:
            self._let_go()
            self._end(framing.read_status(self._status))

    def broken(self, code: int | None) -> None:
        """Take that there will be no answer."""
        lost = CallLost(grpc.StatusCode.UNAVAILABLE, "the connection was lost")
        self._end(lost if code is None else framing.of_reset(code))

    def _let_go(self) -> None:
        """Expect no more; what of the request was still to be sent is not wanted."""
        if self.waits:
            self.give_up(frames.NO_ERROR)
        else:
            self.connection.forget(self)

    def _is_awaited(self) -> bool:
        """Tell whether all that came before has been dealt with, and the next is waited for."""
        return self._filled is not None and not self.responses and not self.ended

    def _late(self) -> None:
        if not self.ended:
            self.give_up(frames.CANCEL)
            self._end(CallFailed(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed before the answer came"))

    def _end(self, failure: CallFailed | None) -> None:
        if not self.ended:
            self.ended, self.failure = True, failure
            self._wake()

    def _wake(self) -> None:
        if self._filled is not None and not self._filled.done():
            self._filled.set_result(None)


@lru_cache(1_024)
def _head(path: str, authority: str, scheme: bytes) -> bytes:
    """Return the part of the headers that every call of a method has."""
    return header_blocks.write(
        (
            (b":method", b"POST"),
            (b":scheme", scheme),
            (b":path", path.encode()),
            (b":authority", authority.encode()),
            (b"te", b"trailers"),
            (b"content-type", framing.CONTENT_TYPE),
            (b"user-agent", b"penstock"),
        )
    )


def _more(timeout_s: float | None, metadata: Metadata) -> bytes:
    """Return the part of the headers that is a call's own."""
    pairs = [(name.encode(), value.encode()) for name, value in metadata]
    if timeout_s is not None:
        pairs.append((b"grpc-timeout", framing.write_timeout(max(timeout_s, 0.0))))
    return header_blocks.write(pairs)
