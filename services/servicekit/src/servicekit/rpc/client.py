"""Calls to other services: identity, deadline and trace travel with them, failures come back as our own errors."""

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, Self, TypeVar, cast

import grpc
from google.protobuf.message import DecodeError
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from servicekit import deadline, identity
from servicekit.errors import TimedOut, Unavailable
from servicekit.rpc.exchange import Exchange, NotMultiplexing, Outgoing
from servicekit.rpc.wire import from_wire
from servicekit.telemetry import propagated
from servicekit.tls import TlsFiles

Request = TypeVar("Request")
Response = TypeVar("Response")

DEADLINE_MARGIN_S: Final = 0.005
CERTIFICATE_CHECK_S: Final = 1.0
OLD_CHANNEL_GRACE_S: Final = 30.0
LARGEST_SHARED_BYTES: Final = 64 * 1024
"""A larger request goes as a call of its own, or it would hold up those behind it."""

SHARED_SHAPES: Final = ("unary_unary", "unary_stream")
CHANNEL_OPTIONS: Final = (
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.max_send_message_length", 64 * 1024 * 1024),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.enable_retries", 0),  # retries are ours alone, or a failure is tried more often than anybody decided
)


@dataclass(frozen=True, slots=True)
class _Method:
    """A method of a stub, kept apart from the connection, which a certificate rotation replaces."""

    shape: str
    path: str
    serializer: Any
    deserializer: Any

    @property
    def shared(self) -> bool:
        """Whether a call of it may go over the stream that all share: it has one request, and is not gRPC's own."""
        return self.shape in SHARED_SHAPES and not self.path.startswith("/grpc.")

    def parse(self, payload: bytes) -> Any:
        """Return a response message."""
        return payload if self.deserializer is None else self.deserializer(payload)


class Channel:
    """A connection to one service. Build stubs on `.grpc`, and make each call through `call` or `stream`."""

    def __init__(self, address: str, tls: TlsFiles | None = None) -> None:
        """Take the address, `host:port`; the connection is made by `async with` and comes up by itself."""
        self._address = address
        self._tls = tls
        self._methods: dict[_Method, Any] = {}
        self._exchange: Exchange | None = None
        self._multiplexing = True
        self._checked = 0.0
        self._generation: tuple[int, ...] = ()
        self._retired: set[asyncio.Task[None]] = set()
        self._channel: grpc.aio.Channel | None = None

    async def __aenter__(self) -> Self:
        """Open the connection."""
        self._connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connection; calls that still run fail."""
        for task in self._retired:
            task.cancel()
        await asyncio.gather(*self._retired, return_exceptions=True)
        if self._exchange is not None:
            await self._exchange.close()
        if self._channel is not None:
            await self._channel.close(grace=None)

    @property
    def grpc(self) -> grpc.aio.Channel:
        """What a generated stub takes for a channel."""
        return cast("grpc.aio.Channel", _StubChannel())

    async def call(
        self,
        method: Callable[..., Awaitable[Response]],
        request: Any,
        *,
        timeout_s: float | None = None,
        idempotent: bool = False,
    ) -> Response:
        """Make a unary call. The time allowed is `timeout_s` (seconds) or what is left of the deadline, if less.

        With `idempotent` an Unavailable is tried again, at most twice, within the deadline: for reads alone.
        Raises one of servicekit's errors, or PeerFailed for a bug on the other side.
        """
        try:
            return cast("Response", await self._once(method, request, timeout_s))
        except Unavailable as error:
            if not idempotent:
                raise
            failed = error
        async for attempt in _idempotent_reads():  # a call that succeeds at once, as nearly all do, pays for no policy
            with attempt:
                if attempt.retry_state.attempt_number == 1:  # the one above
                    raise failed
                return cast("Response", await self._once(method, request, timeout_s))
        raise AssertionError("tenacity re-raises the last failure")

    async def stream(
        self,
        method: Callable[..., AsyncIterable[Response]],
        request: Any,
        *,
        timeout_s: float | None = None,
        take: Callable[[Response], bool] | None = None,
    ) -> AsyncIterator[Response]:
        """Make a call that answers with a stream; leaving the iteration cancels it. Errors are those of `call`.

        `take` may be offered what the iteration waits for; it says whether it took it, must not raise, and costs far
        less than the iteration, to which only what was not taken comes.
        """
        asked = cast("_Method", method)
        call = self._outgoing(asked, request, timeout_s)
        if (exchange := self._stream_for(asked, call)) is not None:
            try:
                async with aclosing(exchange.stream(call, take and _reading(asked, take))) as responses:
                    async for payload in responses:
                        yield asked.parse(payload)
            except NotMultiplexing:  # it says so before the first response
                self._multiplexing = False
            else:
                return
        alone = self._resolve(asked)(call.request, timeout=call.timeout_s, metadata=_metadata(call))
        try:
            async for payload in alone:
                yield asked.parse(payload)
        except grpc.aio.AioRpcError as failure:
            raise from_wire(failure) from failure
        finally:
            alone.cancel()

    async def _once(self, method: Any, request: Any, timeout_s: float | None) -> Any:
        call = self._outgoing(method, request, timeout_s)
        if (exchange := self._stream_for(method, call)) is not None:
            try:
                payload = await exchange.call(call)
            except NotMultiplexing:
                self._multiplexing = False
            else:
                return method.parse(payload)
        try:
            return method.parse(
                await self._resolve(method)(call.request, timeout=call.timeout_s, metadata=_metadata(call))
            )
        except grpc.aio.AioRpcError as failure:
            raise from_wire(failure) from failure

    def _outgoing(self, method: _Method, request: Any, timeout_s: float | None) -> Outgoing:
        token = identity.current_token()
        payload = request if method.serializer is None else method.serializer(request)
        return Outgoing(
            method.path, payload, _allowed_s(timeout_s), f"Bearer {token}" if token else "", propagated() or ""
        )

    def _stream_for(self, method: _Method, call: Outgoing) -> Exchange | None:
        """Return the stream that all small calls share, or None for a call that has to go alone."""
        if self._tls is not None:
            self._follow_certificates(self._tls)
        if not (self._multiplexing and method.shared) or len(call.request) > LARGEST_SHARED_BYTES:
            return None
        if self._exchange is None or self._exchange.closing:
            assert self._channel is not None, "a channel is used inside `async with`"
            self._exchange = Exchange(self._channel)
        return self._exchange

    def _resolve(self, method: _Method) -> Any:
        """Return the method on the connection of the moment, taking and giving bytes."""
        known = self._methods.get(method)
        if known is None:
            known = self._methods[method] = getattr(self._channel, method.shape)(method.path)
        return known

    def _connect(self) -> None:
        self._methods.clear()
        self._retire_exchange()
        if self._tls is None:
            self._channel = grpc.aio.insecure_channel(self._address, options=CHANNEL_OPTIONS)
            return
        self._generation = self._tls.generation()
        self._channel = grpc.aio.secure_channel(self._address, self._tls.client_credentials(), options=CHANNEL_OPTIONS)

    def _follow_certificates(self, tls: TlsFiles) -> None:
        now = time.monotonic()
        if now - self._checked < CERTIFICATE_CHECK_S:
            return
        self._checked = now
        if tls.generation() != self._generation and self._channel is not None:
            task = asyncio.get_running_loop().create_task(self._channel.close(grace=OLD_CHANNEL_GRACE_S))
            self._retired.add(task)
            task.add_done_callback(self._retired.discard)
            self._connect()

    def _retire_exchange(self) -> None:
        """Let the calls on the old connection end there."""
        if self._exchange is not None:
            task = asyncio.get_running_loop().create_task(self._exchange.finish())
            self._retired.add(task)
            task.add_done_callback(self._retired.discard)
            self._exchange = None


def _reading(method: _Method, take: Callable[[Any], bool]) -> Callable[[bytes], bool]:
    """Return `take` for a response as it travels; one that cannot be read is left to the iteration."""
    parse = method.parse

    def offered(payload: bytes) -> bool:
        try:
            response = parse(payload)
        except DecodeError:
            return False
        return take(response)

    return offered


class _StubChannel:
    """Hands a generated stub its methods as plain descriptions."""

    def __getattr__(self, shape: str) -> Callable[..., _Method]:
        def describe(path: str, request_serializer: Any = None, response_deserializer: Any = None, **_: Any) -> _Method:
            return _Method(shape, path, request_serializer, response_deserializer)

        return describe


def _idempotent_reads() -> AsyncRetrying:
    """Return the one retry policy: three tries, jittered, only for Unavailable, never past the deadline."""
    return AsyncRetrying(
        retry=retry_if_exception_type(Unavailable),
        wait=wait_random_exponential(multiplier=0.05, max=1.0),
        stop=stop_after_attempt(3),
        reraise=True,
    )


def _allowed_s(timeout_s: float | None) -> float | None:
    remaining_s = deadline.remaining_s()
    if remaining_s is None:
        return timeout_s
    allowed_s = remaining_s - DEADLINE_MARGIN_S
    if allowed_s <= 0:
        raise TimedOut("the deadline passed before the call was made")
    return allowed_s if timeout_s is None else min(allowed_s, timeout_s)


def _metadata(call: Outgoing) -> tuple[tuple[str, str], ...]:
    pairs = (("authorization", call.authorization),) if call.authorization else ()
    return (*pairs, ("traceparent", call.traceparent)) if call.traceparent else pairs
