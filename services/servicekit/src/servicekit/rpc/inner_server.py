"""The gRPC server of a service that services call: on asyncio's own sockets, in the loop that does the work."""

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from contextvars import Context
from typing import Any, Final, NoReturn

import grpc

from servicekit.errors import InvalidInput
from servicekit.http2 import frames, header_blocks
from servicekit.http2.connection import Connection, Stream
from servicekit.http2.frame_reader import Part
from servicekit.http2.header_blocks import Header
from servicekit.landed import Message
from servicekit.rpc import framing
from servicekit.rpc.framing import CallFailed, MessageStream
from servicekit.rpc.interceptor import Incoming, Method, OpenMethod
from servicekit.rpc.passage import LARGEST_RESPONSE_BYTES, Passage

BACKLOG: Final = 1_024
HANDSHAKE_TIMEOUT_S: Final = 10.0
PAUSE_AFTER_FAILED_ACCEPT_S: Final = 0.1
LAST_WORDS_S: Final = 1.0
NO_LONGER: Final = CallFailed(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed before the answer came")
Served = Method | OpenMethod
Find = Callable[[str], Served | None]
log = logging.getLogger(__name__)


class InnerServer:
    """Serves the methods that `find` knows on one address."""

    def __init__(self, find: Find, address: str, secure: Callable[[], ssl.SSLContext] | None) -> None:
        """Listen on `host:port`; take what makes the TLS context of a connection, if it is to have one.

        Raises OSError when the address is not free.
        """
        self._find = find
        self._secure = secure
        self._listener = _bind(address)
        self.port: int = self._listener.getsockname()[1]
        self._connections: set[_ServerConnection] = set()
        self._accepting: asyncio.Task[None] | None = None
        self._greeting: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Take connections."""
        self._accepting = asyncio.create_task(self._accept(), context=Context())

    async def stop(self, grace_s: float) -> None:
        """Take no connections, and ask callers to go elsewhere; let calls end for some seconds, then end them."""
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, *self._greeting, return_exceptions=True)
        self._listener.close()
        for connection in self._connections:
            connection.say_goodbye()
        ending = [asyncio.create_task(connection.end(grace_s)) for connection in self._connections]
        await asyncio.gather(*ending)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = await loop.sock_accept(self._listener)
            except OSError as error:  # of one connection, or of all: no more files may be opened
                log.warning("a connection could not be taken: %s", error.strerror)
                await asyncio.sleep(PAUSE_AFTER_FAILED_ACCEPT_S)
                continue
            task = loop.create_task(self._greet(accepted))
            self._greeting.add(task)
            task.add_done_callback(self._greeting.discard)

    async def _greet(self, accepted: socket.socket) -> None:
        """Make a connection of an accepted socket; the handshake, if there is one, holds no other connection up."""
        try:
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            secure = self._secure() if self._secure is not None else None
            handshake_s = HANDSHAKE_TIMEOUT_S if secure is not None else None
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: _ServerConnection(self._find, self._connections),
                accepted,
                ssl=secure,
                ssl_handshake_timeout=handshake_s,
            )
        except OSError as error:  # ssl.SSLError is one: a stranger, or a peer that went away
            log.debug("a connection ended before it began: %s", error)
            accepted.close()


class _ServerConnection(Connection):
    """The server's side of a connection."""

    def __init__(self, find: Find, connections: "set[_ServerConnection]") -> None:
        super().__init__(b"", frames.PREFACE)
        self.find = find
        self.over = asyncio.Event()
        self._idle = asyncio.Event()
        self._connections = connections
        self._last = 0

    def connection_made(self, transport: Any) -> None:
        """Count the connection."""
        self._connections.add(self)
        super().connection_made(transport)

    async def end(self, grace_s: float) -> None:
        """Close the connection when its calls have ended, or after some seconds without them."""
        deadline = asyncio.get_running_loop().time() + grace_s
        while self.streams and asyncio.get_running_loop().time() < deadline and not self.gone:
            self._idle.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._idle.wait()
            except TimeoutError:
                break
        for stream in tuple(self.streams.values()):
            stream.broken(None)
        self.close()
        try:
            async with asyncio.timeout(LAST_WORDS_S):
                await self.over.wait()
        except TimeoutError:  # a caller who does not read
            self.abort()

    def forget(self, stream: Stream) -> None:
        """Take no more for a call."""
        super().forget(stream)
        if not self.streams:
            self._idle.set()

    def opened(self, number: int, headers: Sequence[Header], *, ended: bool) -> None:
        """Begin to answer a call."""
        if number <= self._last:
            return  # what came late for a call that is over
        if not number % 2:
            raise frames.Http2Error(frames.PROTOCOL_ERROR, "a client's streams have odd numbers")
        self._last = number
        call = self.streams[number] = _Answer(self, number)
        call.headers(headers, ended=ended)

    def went_away(self, last_stream: int, code: int) -> None:
        """Leave it to the caller to close the connection."""

    def ended(self) -> None:
        """Note that there is nothing left."""
        self.over.set()
        self._idle.set()
        self._connections.discard(self)


class _Answer(MessageStream):
    """A call that is being answered."""

    __slots__ = (
        "_answered",
        "_begun",
        "_ended",
        "_filled",
        "_incoming",
        "_late",
        "_method",
        "_requests",
        "_sent",
        "_streams",
        "_task",
        "_timer",
    )

    connection: _ServerConnection

    def __init__(self, connection: _ServerConnection, number: int) -> None:
        super().__init__(connection, number)
        self._task: asyncio.Task[None] | None = None
        self._method: Served | None = None
        self._incoming: Incoming | None = None
        self._requests: list[Message] = []
        self._filled = asyncio.Event()
        self._sent = asyncio.Event()
        self._begun = self._answered = self._ended = self._late = self._streams = False
        self._timer: asyncio.TimerHandle | None = None

    # --- what comes ---

    def headers(self, headers: Sequence[Header], *, ended: bool) -> None:
        """Take what is asked for; a second block may only end the request."""
        if self._method is None:
            try:
                self._ask(dict(headers))
            except CallFailed as failed:
                self._fail(failed)
                return
        if ended:
            self._end()

    def data(self, part: Part, *, ended: bool) -> None:
        """Take requests."""
        try:
            requests = self.put_together(part)
        except CallFailed as failed:
            self._fail(failed)
            self.broken(None)
            return
        if requests:
            self._requests += requests
            self._filled.set()
            self._begin_stream()
        if ended:
            self._end()

    def sent_on(self) -> None:
        """Let the method go on, which waited for the caller to read, or end the call, whose last words these were."""
        self._sent.set()
        if self._answered:
            self.connection.forget(self)

    def broken(self, _code: int | None) -> None:
        """Stop: nobody wants the answer."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _ask(self, headers: dict[bytes, bytes]) -> None:
        path = headers.get(b":path", b"").decode("latin-1")
        if not headers.get(b"content-type", b"").startswith(framing.CONTENT_TYPE):
            raise CallFailed(grpc.StatusCode.INTERNAL, "the content type is not application/grpc")
        if headers.get(b"grpc-encoding", b"identity") != b"identity":
            raise CallFailed(grpc.StatusCode.UNIMPLEMENTED, "compressed messages are not taken")
        method = self.connection.find(path)
        if method is None:
            raise CallFailed(grpc.StatusCode.UNIMPLEMENTED, f"{path[:200]} is not served here")
        timeout = headers.get(b"grpc-timeout")
        timeout_s = None if timeout is None else framing.read_timeout(timeout)
        traceparent = headers.get(b"traceparent", b"").decode("latin-1")
        authorization = headers.get(b"authorization", b"").decode("latin-1")
        self._method, self._incoming = method, Incoming(authorization, timeout_s, traceparent or None)
        self._messages.land = method.land
        if timeout_s is not None:
            self._timer = asyncio.get_running_loop().call_later(timeout_s, self._expire)

    def _end(self) -> None:
        """Take that the request is complete."""
        self._ended = True
        self._filled.set()
        self._begin_stream()
        method, incoming = self._method, self._incoming
        if method is None or incoming is None or method.handler.request_streaming:
            return
        if len(self._requests) != 1 or self._messages.broken_off:
            self._fail(CallFailed(grpc.StatusCode.INTERNAL, "the call has to have one request, and a whole one"))
        else:
            self._start(method, incoming, self._requests.pop())

    def _begin_stream(self) -> None:
        """Start a method that takes a stream of requests: with the first, or with their end.

        A refusal of it that came any sooner would meet the first one, and gRPC's own client takes a request that it
        cannot send for how the call ended.
        """
        method, incoming = self._method, self._incoming
        if method is not None and incoming is not None and method.handler.request_streaming and self._task is None:
            self._start(method, incoming, self._each())

    def _start(self, method: Served, incoming: Incoming, request: Message | AsyncIterator[Message]) -> None:
        self._task = asyncio.get_running_loop().create_task(self._answer(method, incoming, request))

    async def _each(self) -> AsyncIterator[Message]:
        while True:
            while self._requests:
                request = self._requests.pop(0)
                self.dealt_with(request)
                yield request
            if self._ended:
                break
            self._filled.clear()
            await self._filled.wait()
        if self._messages.broken_off:
            raise InvalidInput("a request was cut off", reason="malformed_message")

    def _expire(self) -> None:
        self._late = True
        if self._task is None:
            self._fail(NO_LONGER)
        else:
            self._task.cancel()

    # --- the answer ---

    async def _answer(self, method: Served, incoming: Incoming, request: Any) -> None:
        try:
            if method.handler.response_streaming:
                await self._stream(method, incoming, request)
            else:
                self.respond(_bytes(method, await method.unary(incoming, request, self)))
            self._finish(framing.SUCCESS)
        except CallFailed as failed:
            self._fail(failed)
        except asyncio.CancelledError:
            if not self._late:
                raise
            self._fail(NO_LONGER)
        finally:
            self._task = None  # it holds how it was cancelled, and by that the request, and this call

    async def _stream(self, method: Served, incoming: Incoming, request: Any) -> None:
        self._streams = True
        passage = Passage(self, method.handler.response_serializer or bytes)
        context = self if isinstance(method, OpenMethod) else passage
        async with aclosing(method.stream(incoming, request, context)) as responses:
            async for each in responses:
                self.respond(_bytes(method, each))
                while self.waits:
                    self._sent.clear()
                    await self._sent.wait()
        self._begin()

    async def abort(self, code: grpc.StatusCode, message: str = "", _trailing: object = ()) -> NoReturn:
        """Fail the call, as gRPC's own servicers do it."""
        raise CallFailed(code, message)

    async def write(self, response: Any) -> None:
        """Send a response, as gRPC's own servicers do it."""
        assert self._method is not None
        self.respond(_bytes(self._method, response))

    def respond(self, response: bytes) -> None:
        """Send a response."""
        first = not self._begun
        self._begin()
        self.send(framing.pack(response))
        if first and self._streams:
            self.connection.hurry()

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self.send_headers(framing.ANSWER)

    def _finish(self, status: bytes) -> None:
        """End the call; what was answered may still be on its way.

        The rest of a request that is not complete has no more than its window; a reset of the stream would stop it, and
        gRPC's own client, which may be sending just then, would take that for a failure in the place of the status.
        """
        if self._timer is not None:
            self._timer.cancel()
        if self._answered or self.number not in self.connection.streams:
            return
        self.send_headers(status if self._begun else framing.ANSWER + status, end=True)
        self.connection.lone()
        self._answered = True
        if not self.waits:
            self.connection.forget(self)

    def _fail(self, failed: CallFailed) -> None:
        self._finish(header_blocks.write(framing.write_status(failed)))


def _bytes(method: Served, response: Any) -> bytes:
    serialize = method.handler.response_serializer
    written: bytes = response if serialize is None else serialize(response)
    if len(written) > LARGEST_RESPONSE_BYTES:
        raise CallFailed(grpc.StatusCode.RESOURCE_EXHAUSTED, f"the response has {len(written)} bytes")
    return written


def _bind(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    family, kind, protocol, _, place = socket.getaddrinfo(
        host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(place)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener
