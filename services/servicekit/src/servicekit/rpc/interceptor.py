"""What happens around every call that comes in: who asks, until when, span, metrics, and the error it ends in."""

import inspect
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, NoReturn

import grpc
from prometheus_client import Counter, Gauge, Histogram

from servicekit import deadline, identity
from servicekit.errors import PenstockError, TimedOut
from servicekit.identity import Identity
from servicekit.rpc.wire import PeerFailed, to_wire
from servicekit.telemetry import Kind, span, trace_id
from servicekit.telemetry.metrics import SHORT_BUCKETS_S, counter, gauge, histogram

Authenticate = Callable[[str], Awaitable[Identity]]
"""Turns the bearer value of the `authorization` (empty: there is none) into who asks, or raises Unauthenticated."""

SECONDS = histogram("penstock_rpc_server_seconds", "Duration of incoming calls", ("method",), SHORT_BUCKETS_S)
ENDED = counter("penstock_rpc_server_calls", "Incoming calls by how they ended", ("method", "code"))
RUNNING = gauge("penstock_rpc_server_in_flight", "Incoming calls now running", ("method",))
OPEN_PREFIXES = ("/grpc.health.v1.", "/grpc.reflection.")
log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Outcome:
    code: str = "OK"


@dataclass(frozen=True, slots=True)
class _Method:
    """One method as the interceptor sees it: its name, the scope it needs, and how to know the caller."""

    path: str
    scope: str | None
    authenticate: Authenticate

    async def enter(self, context: Any) -> str | None:
        """Set identity and deadline of the call; return the trace it belongs to."""
        metadata = dict(context.invocation_metadata() or ())
        if self.scope is not None:
            scheme, _, credential = str(metadata.get("authorization", "")).partition(" ")
            caller = await self.authenticate(credential if scheme.lower() == "bearer" else "")
            caller.require(self.scope)
            identity.enter(caller)
        remaining_s = context.time_remaining()
        if remaining_s is not None and remaining_s <= 0:
            raise TimedOut("the deadline had passed before the call began")
        deadline.enter(remaining_s)
        parent = metadata.get("traceparent")
        return parent if isinstance(parent, str) else None

    @contextmanager
    def measured(self) -> Iterator[_Outcome]:
        """Count the call and its duration."""
        outcome = _Outcome()
        start = time.perf_counter()
        running, seconds = _meters(self.path)
        running.inc()
        try:
            yield outcome
        except BaseException:
            if outcome.code == "OK":
                outcome.code = "CANCELLED"
            raise
        finally:
            running.dec()
            seconds.observe(time.perf_counter() - start)
            _ended(self.path, outcome.code).inc()

    def span(self, parent: str | None) -> Any:
        """Open the call's server span."""
        service, _, method = self.path[1:].partition("/")
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
        return span(self.path[1:], Kind.SERVER, attributes, parent)

    async def fail(self, context: Any, error: Exception, outcome: _Outcome) -> NoReturn:
        """End the call with an error's status; log what is a bug."""
        if isinstance(error, grpc.aio.AbortError):
            outcome.code = "ABORTED_BY_SERVICER"
            raise error
        if isinstance(error, PenstockError):
            code, message, trailing = to_wire(error)
            outcome.code = code.name
            await context.abort(code, message, trailing)
        outcome.code = grpc.StatusCode.INTERNAL.name
        if isinstance(error, PeerFailed):
            await context.abort(grpc.StatusCode.INTERNAL, str(error))
        log.error("unexpected error in %s", self.path, exc_info=error)
        await context.abort(grpc.StatusCode.INTERNAL, f"internal error {trace_id() or 'untraced'}")
        raise AssertionError("abort always raises")


@cache  # looking labels up costs more than counting; there are as many as methods and codes
def _meters(path: str) -> tuple[Gauge, Histogram]:
    return RUNNING.labels(path), SECONDS.labels(path)


@cache
def _ended(path: str, code: str) -> Counter:
    return ENDED.labels(path, code)


Handler = Any  # grpc.RpcMethodHandler, which is generic in the stubs only
Unary = Callable[[Any, Any], Awaitable[Any]]
Stream = Callable[[Any, Any], AsyncGenerator[Any, None]]


def _unary(method: _Method, inner: Unary) -> Unary:
    async def serve(request: Any, context: Any) -> Any:
        with method.measured() as outcome:
            try:
                parent = await method.enter(context)
                with method.span(parent):
                    return await inner(request, context)
            except Exception as error:  # noqa: BLE001  the one place that turns errors into statuses
                await method.fail(context, error, outcome)

    return serve


def _stream(method: _Method, inner: Stream) -> Stream:
    async def serve(request: Any, context: Any) -> AsyncGenerator[Any, None]:
        with method.measured() as outcome:
            try:
                parent = await method.enter(context)
                with method.span(parent):
                    async with aclosing(inner(request, context)) as responses:
                        async for response in responses:
                            yield response
            except Exception as error:  # noqa: BLE001  the one place that turns errors into statuses
                await method.fail(context, error, outcome)

    return serve


def _wrapped(method: _Method, inner: Handler) -> Handler:
    behaviour: Any = inner.stream_stream or inner.stream_unary or inner.unary_stream or inner.unary_unary
    if inner.response_streaming and not inspect.isasyncgenfunction(behaviour):
        raise TypeError(f"{method.path} has to be an async generator")
    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[inner.request_streaming, inner.response_streaming]
    wrap: Callable[[_Method, Any], Any] = _stream if inner.response_streaming else _unary
    return make(wrap(method, behaviour), inner.request_deserializer, inner.response_serializer)


class CallInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # not generic at run time
    """One interceptor for everything, so that a call pays for one wrapping; each method is wrapped once."""

    def __init__(self, scopes: Mapping[str, str | None], authenticate: Authenticate) -> None:
        """Take the scope of every method by its path, `/package.Service/Method`; None opens it to everybody."""
        self._scopes = scopes
        self._authenticate = authenticate
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Return the wrapped method; an unknown one is left to gRPC, which answers UNIMPLEMENTED."""
        path = handler_call_details.method
        if (known := self._wrapped.get(path)) is not None:
            return known
        inner = await continuation(handler_call_details)
        if inner is None or path.startswith(OPEN_PREFIXES):
            return inner
        method = _Method(path, self._scopes[path], self._authenticate)
        self._wrapped[path] = _wrapped(method, inner)
        return self._wrapped[path]
