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
from servicekit.rpc.framing import CallFailed
from servicekit.rpc.link import Link
from servicekit.rpc.wire import from_wire
from servicekit.telemetry import propagated
from servicekit.tls import TlsFiles

Request = TypeVar("Request")
Response = TypeVar("Response")

DEADLINE_MARGIN_S: Final = 0.005
CERTIFICATE_CHECK_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class _Method:
    """A method of a stub, kept apart from the connection, which a certificate rotation replaces."""

    path: str
    serializer: Any
    deserializer: Any

    def write(self, request: Any) -> bytes:
        """Return a request as bytes."""
        written: bytes = request if self.serializer is None else self.serializer(request)
        return written

    def parse(self, payload: bytes) -> Any:
        """Return a response message."""
        return payload if self.deserializer is None else self.deserializer(payload)


class Channel:
    """A connection to one service. Build stubs on `.grpc`, and make each call through `call` or `stream`."""

    def __init__(self, address: str, tls: TlsFiles | None = None) -> None:
        """Take the address, `host:port`; the connection is made by `async with` and comes up by itself."""
        self._address = address
        self._tls = tls
        self._checked = 0.0
        self._generation: tuple[int, ...] = ()
        self._retired: set[asyncio.Task[None]] = set()
        self._link: Link | None = None

    async def __aenter__(self) -> Self:
        """Make ready; the connection comes up with the first call."""
        self._connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connection; calls that still run fail."""
        for task in self._retired:
            task.cancel()
        await asyncio.gather(*self._retired, return_exceptions=True)
        if self._link is not None:
            await self._link.close()

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
        """Make a call of one request that answers with a stream; leaving the iteration cancels it. Errors are `call`'s.

        `take` may be offered what the iteration waits for; it says whether it took it, must not raise, and costs far
        less than the iteration, to which only what was not taken comes.
        """
        asked = cast("_Method", method)
        offered = take and _reading(asked, take)
        responses = self._current().stream(
            asked.path, asked.write(request), _allowed_s(timeout_s), _metadata(), offered
        )
        try:
            async with aclosing(responses):
                async for payload in responses:
                    yield asked.parse(payload)
        except CallFailed as failure:
            raise from_wire(failure) from failure

    async def _once(self, method: Any, request: Any, timeout_s: float | None) -> Any:
        asked = cast("_Method", method)
        written = asked.write(request)
        try:
            return asked.parse(await self._current().unary(asked.path, written, _allowed_s(timeout_s), _metadata()))
        except CallFailed as failure:
            raise from_wire(failure) from failure

    def _current(self) -> Link:
        """Return the link of the moment: other certificates make another one."""
        assert self._link is not None, "a channel is used inside `async with`"
        if self._tls is not None:
            self._follow_certificates(self._tls)
        return self._link

    def _connect(self) -> None:
        if self._tls is not None:
            self._generation = self._tls.generation()
        secure = self._tls.client_context if self._tls is not None else None
        self._link = Link(self._address, secure, keepalive=True)

    def _follow_certificates(self, tls: TlsFiles) -> None:
        """Make new calls with the certificates of now, and let those under way end with the old ones."""
        now = time.monotonic()
        if now - self._checked < CERTIFICATE_CHECK_S:
            return
        self._checked = now
        if tls.generation() != self._generation and self._link is not None:
            task = asyncio.get_running_loop().create_task(self._link.finish())
            self._retired.add(task)
            task.add_done_callback(self._retired.discard)
            self._connect()


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

    def __getattr__(self, _shape: str) -> Callable[..., _Method]:
        def describe(path: str, request_serializer: Any = None, response_deserializer: Any = None, **_: Any) -> _Method:
            return _Method(path, request_serializer, response_deserializer)

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


def _metadata() -> tuple[tuple[str, str], ...]:
    """Return who calls, and the trace that the call belongs to."""
    token, parent = identity.current_token(), propagated()
    pairs = (("authorization", f"Bearer {token}"),) if token else ()
    return (*pairs, ("traceparent", parent)) if parent else pairs
