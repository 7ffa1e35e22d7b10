"""What happens around every call that comes in: who asks, until when, span, metrics, and the error it ends in."""

import inspect
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

import grpc
from google.protobuf.message import DecodeError
from prometheus_client import Counter, Gauge, Histogram

from servicekit import deadline, identity
from servicekit.errors import InvalidInput, PenstockError, TimedOut
from servicekit.identity import Identity
from servicekit.landed import Land
from servicekit.rpc.framing import DETAILS_KEY, CallFailed
from servicekit.rpc.wire import PeerFailed, to_wire
from servicekit.telemetry import Kind, span, trace_id
from servicekit.telemetry.metrics import SHORT_BUCKETS_S, counter, gauge, histogram

Authenticate = Callable[[str], Awaitable[Identity]]
"""Turns the bearer value of the `authorization` (empty: there is none) into who asks, or raises Unauthenticated."""

SECONDS = histogram("penstock_rpc_server_seconds", "Duration of incoming calls", ("method",), SHORT_BUCKETS_S)
ENDED = counter("penstock_rpc_server_calls", "Incoming calls by how they ended", ("method", "code"))
RUNNING = gauge("penstock_rpc_server_in_flight", "Incoming calls now running", ("method",))
OPEN_PREFIXES = ("/grpc.health.v1.", "/grpc.reflection.")
"""What has no caller of its own."""

log = logging.getLogger(__name__)


class _Measured:
    """Counts a call that runs inside, its duration, and the code it ends with."""

    __slots__ = ("_path", "_running", "_seconds", "_start", "code")

    def __init__(self, path: str) -> None:
        self._path = path
        self._running, self._seconds = _meters(path)
        self.code = "OK"

    def __enter__(self) -> Self:
        self._start = time.perf_counter()
        self._running.inc()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and self.code == "OK":
            self.code = "CANCELLED"
        self._running.dec()
        self._seconds.observe(time.perf_counter() - self._start)
        _ended(self._path, self.code).inc()


@dataclass(frozen=True, slots=True)
class Incoming:
    """What comes with a call: who asks, seconds until he gives up (None: never), and the trace it belongs to."""

    authorization: str
    remaining_s: float | None
    traceparent: str | None


@dataclass(frozen=True, slots=True)
class Method:
    """One method with what surrounds every call of it, whichever way the call came in."""

    path: str
    scope: str | None
    authenticate: Authenticate
    handler: Any
    land: Land | None = None

    async def unary(self, incoming: Incoming, request: Any, context: Any = None) -> Any:
        """Return the response; raise CallFailed."""
        behaviour = self.handler.unary_unary or self.handler.stream_unary
        with _Measured(self.path) as outcome:
            try:
                await self._enter(incoming)
                with self._span(incoming.traceparent):
                    return await behaviour(self._read(request), context)
            except Exception as error:
                raise self._failed(error, outcome) from error

    async def stream(self, incoming: Incoming, request: Any, context: Any = None) -> AsyncGenerator[Any, None]:
        """Yield the responses; raise CallFailed."""
        behaviour = self.handler.unary_stream or self.handler.stream_stream
        with _Measured(self.path) as outcome:
            try:
                await self._enter(incoming)
                with self._span(incoming.traceparent):
                    async with aclosing(behaviour(self._read(request), context)) as responses:
                        async for response in responses:
                            yield response
            except Exception as error:
                raise self._failed(error, outcome) from error

    def _read(self, request: Any) -> Any:
        """Return the request as the handler takes it.

        gRPC would end a call with UNKNOWN and the parser's own words; read here, it is the caller's fault, and a caller
        who is not known has nothing parsed at all.
        """
        parse = self.handler.request_deserializer
        if parse is None:
            return request
        if self.handler.request_streaming:
            return _each(parse, request)
        return _parsed(parse, request) if isinstance(request, bytes) else request

    async def _enter(self, incoming: Incoming) -> None:
        """Set identity and deadline of the call."""
        if self.scope is not None:
            scheme, _, credential = incoming.authorization.partition(" ")
            caller = await self.authenticate(credential if scheme.lower() == "bearer" else "")
            caller.require(self.scope)
            identity.enter(caller)
        if incoming.remaining_s is not None and incoming.remaining_s <= 0:
            raise TimedOut("the deadline had passed before the call began")
        deadline.enter(incoming.remaining_s)

    def _span(self, parent: str | None) -> Any:
        """Open the call's server span."""
        service, _, method = self.path[1:].partition("/")
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
        return span(self.path[1:], Kind.SERVER, attributes, parent)

    def _failed(self, error: Exception, outcome: _Measured) -> Exception:
        """Return what the caller gets for an error; log what is a bug."""
        if isinstance(error, grpc.aio.AbortError):
            outcome.code = "ABORTED_BY_SERVICER"
            return error
        if isinstance(error, PenstockError):
            failed = to_wire(error)
        elif isinstance(error, PeerFailed):
            failed = CallFailed(grpc.StatusCode.INTERNAL, str(error))
        else:
            log.error("unexpected error in %s", self.path, exc_info=error)
            failed = CallFailed(grpc.StatusCode.INTERNAL, f"internal error {trace_id() or 'untraced'}")
        outcome.code = failed.code.name
        return failed


@dataclass(frozen=True, slots=True)
class OpenMethod:
    """A method of gRPC's own, of health or reflection: it has no caller, and nothing surrounds it."""

    handler: Any
    scope: None = None
    land: None = None

    async def unary(self, _incoming: Incoming, request: bytes, context: Any) -> Any:
        """Return the response; raise CallFailed."""
        return await self.handler.unary_unary(self._read(request), context)

    async def stream(self, _incoming: Incoming, request: Any, context: Any) -> AsyncGenerator[Any, None]:
        """Yield the responses; raise CallFailed."""
        if self.handler.stream_stream is not None:
            answers = self.handler.stream_stream((self._read(each) async for each in request), context)
        else:
            answers = self.handler.unary_stream(self._read(request), context)
        if inspect.isawaitable(answers):  # it writes to the context
            await answers
            return
        async with aclosing(answers):
            async for each in answers:
                yield each

    def _read(self, request: bytes) -> Any:
        try:
            return _parsed(self.handler.request_deserializer, request)
        except InvalidInput as error:
            raise to_wire(error) from error


async def _each(parse: Callable[[bytes], Any], requests: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
    async for request in requests:
        yield _parsed(parse, request) if isinstance(request, bytes) else request


def _parsed(parse: Callable[[bytes], Any], request: bytes) -> Any:
    try:
        return parse(request)
    except DecodeError as error:
        raise InvalidInput("the request is not a well-formed message", reason="malformed_message") from error


@cache  # looking labels up costs more than counting; there are as many as methods and codes
def _meters(path: str) -> tuple[Gauge, Histogram]:
    return RUNNING.labels(path), SECONDS.labels(path)


@cache
def _ended(path: str, code: str) -> Counter:
    return ENDED.labels(path, code)


def _wrapped(method: Method) -> Any:
    """Return the method's handler as gRPC calls it."""
    handler = method.handler

    async def unary(request: Any, context: Any) -> Any:
        try:
            return await method.unary(_incoming(context), request, context)
        except CallFailed as failed:
            await _abort(context, failed)

    async def stream(request: Any, context: Any) -> AsyncGenerator[Any, None]:
        try:
            async with aclosing(method.stream(_incoming(context), request, context)) as responses:
                async for response in responses:
                    yield response
        except CallFailed as failed:
            await _abort(context, failed)

    make: Callable[..., Any] = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    return make(stream if handler.response_streaming else unary, None, handler.response_serializer)


async def _abort(context: Any, failed: CallFailed) -> None:
    await context.abort(failed.code, failed.message, ((DETAILS_KEY, failed.details),) if failed.details else ())


def _incoming(context: Any) -> Incoming:
    metadata = dict(context.invocation_metadata() or ())
    parent = metadata.get("traceparent")
    return Incoming(
        str(metadata.get("authorization", "")),
        context.time_remaining(),
        parent if isinstance(parent, str) else None,
    )


class Methods(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # not generic at run time
    """Every method that is served, each wrapped once; gRPC asks for them as for an interceptor."""

    def __init__(self) -> None:
        self._methods: dict[str, Method] = {}
        self._wrapped: dict[str, Any] = {}

    def add(self, method: Method) -> None:
        """Serve one more."""
        self._methods[method.path] = method
        self._wrapped[method.path] = _wrapped(method)

    def find(self, path: str) -> Method | None:
        """Return a method by its path, `/package.Service/Method`."""
        return self._methods.get(path)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return the wrapped method; a path that was not added is unknown, unless everybody may call it."""
        path = handler_call_details.method
        if path.startswith(OPEN_PREFIXES):
            return await continuation(handler_call_details)
        return self._wrapped.get(path)
