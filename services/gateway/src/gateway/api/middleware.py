"""What happens around every HTTP request: who asks, until when, span, metrics, the body, and the error it ends in."""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from servicekit import deadline
from servicekit.errors import InvalidInput, PenstockError, TimedOut
from servicekit.identity import Identity, enter
from servicekit.rpc import PeerFailed
from servicekit.telemetry import Kind, Span, span, trace_id
from servicekit.telemetry.metrics import SHORT_BUCKETS_S, counter, gauge, histogram
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.errors import TooLarge, error_body, error_headers, http_status
from gateway.api.intake import ClientGone, linger, take
from gateway.api.quota_headers import quota_headers
from gateway.api.server import ON_GONE
from gateway.core import accounts, arrival
from gateway.core.accounts import Account
from gateway.core.arrival import Arrival
from gateway.core.retries import fingerprint

KEYED: Final = ("/v1", "/v2")
"""Under these nothing opens without a key, but for OPEN: OIP's health, which probes ask for before anybody calls."""
OPEN: Final = "/v2/health/"
TIMEOUT_HEADER: Final = "Penstock-Timeout-Ms"
LONGEST_TIMEOUT_MS: Final = 600_000
CLIENT_GONE: Final = 499
"""The status of requests whose caller left, as nginx counts them."""

REQUESTS = counter("penstock_gateway_http_requests", "Requests by route and status", ("method", "route", "status"))
SECONDS = histogram(
    "penstock_gateway_http_seconds", "Duration until the last byte", ("method", "route"), SHORT_BUCKETS_S
)
RUNNING = gauge("penstock_gateway_http_in_flight", "Requests now running")

LONGEST_IDEMPOTENCY_KEY: Final = 256
REST: Final = Arrival("rest")

Endpoint = Callable[[Request], Awaitable[Response]]
_TRACEPARENT: Final = re.compile(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
log = logging.getLogger(__name__)


@dataclass(slots=True)
class Reply:
    """The response as it goes out: what was sent of it, and the error it may still end in."""

    send: Send
    request_id: str = ""
    status: int = 0
    streaming: bool = False
    finished: bool = False
    labels: tuple[str, str] = field(default=("", ""))
    oip: bool = False

    async def __call__(self, message: Message) -> None:
        """Pass a message on, with the request's id in the headers."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = message["headers"]
            self.streaming = any(name == b"content-type" and b"event-stream" in value for name, value in headers)
            message["headers"] = [*headers, (b"x-request-id", self.request_id.encode()), *quota_headers()]
        elif not message.get("more_body", False):
            self.finished = True
        await self.send(message)

    async def fail(self, error: Exception, before_end: Callable[[], Awaitable[None]] | None = None) -> None:
        """End in an error: a whole response when nothing was sent yet, an event when a stream has begun.

        `before_end` is done when the response is sent and the connection not yet given up.
        """
        body = error_body(error, self.request_id, oip=self.oip)
        if not self.status:
            headers = [*error_headers(error), (b"content-length", str(len(body)).encode())]
            await self({"type": "http.response.start", "status": http_status(error), "headers": headers})
        elif self.streaming:
            body = b"data: " + body + b"\n\n"
        if before_end is not None:
            await self({"type": "http.response.body", "body": body, "more_body": True})
            await before_end()
            body = b""
        if not self.finished:
            await self({"type": "http.response.body", "body": body})


class Failures:
    """Carries what a route raises past the framework, which would answer it in its own way, to the door."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve; a failure is left in the scope."""
        try:
            await self._app(scope, receive, send)
        except Exception as error:  # noqa: BLE001  the door, which is around all this, tells them apart
            scope["penstock.failure"] = error


class Door:
    """Pure ASGI around the routes. It answers every error itself, so routes raise and never catch.

    A path without parameters needs no router: the door calls its endpoint itself. The framework's own layers would
    cost such a request more than all the rest of the gateway.
    """

    def __init__(
        self,
        app: ASGIApp,
        fixed: Mapping[tuple[str, str], Endpoint],
        *,
        authenticate: Callable[[str], Awaitable[tuple[Identity, Account]]],
        default_timeout_s: float,
        max_body_bytes: int,
    ) -> None:
        self._app = app
        self._fixed = fixed
        self._authenticate = authenticate
        self._default_timeout_s = default_timeout_s
        self._max_body_bytes = max_body_bytes
        self._children: dict[tuple[str, str, int], tuple[Any, Any]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; other protocols are not spoken here."""
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])
        reply = Reply(send, oip=scope["path"].startswith("/v2"))
        start = time.perf_counter()
        RUNNING.inc()
        try:
            with span(_span_name(scope), Kind.SERVER, _attributes(scope), _parent(headers)) as opened:
                reply.request_id = trace_id() or secrets.token_hex(16)
                try:
                    await self._serve(scope, receive, headers, reply)
                except ClientGone:
                    reply.status = CLIENT_GONE
                _describe(opened, scope, reply)
        finally:
            RUNNING.dec()
            self._count(scope, reply.status, time.perf_counter() - start)

    async def _serve(self, scope: Scope, receive: Receive, headers: dict[bytes, bytes], reply: Reply) -> None:
        try:
            if not scope["path"].startswith(KEYED) or scope["path"].startswith(OPEN):
                await self._answer(scope, receive, reply)
                return
            identity, account = await self._authenticate(_bearer(headers))
            # a request has a task and a context of its own: what is set here ends with it
            deadline.enter(self._timeout_s(headers))
            enter(identity)
            accounts.enter(account)
            body = await _read_in_time(receive, headers, self._max_body_bytes)
            arrival.enter(_arrival(scope, headers, body))
            with _LeavingWithClient(scope, reply):
                await self._answer(scope, _replay(body), reply)
        except TooLarge as error:
            await reply.fail(error, partial(linger, receive, headers))
        except PenstockError as error:
            await reply.fail(error)

    async def _answer(self, scope: Scope, receive: Receive, reply: Reply) -> None:
        try:
            endpoint = self._fixed.get((scope["method"], scope["path"]))
            if endpoint is None:
                await self._through_framework(scope, receive, reply)
            else:
                scope["penstock.route"] = scope["path"]
                request = Request(scope, receive)
                await (await endpoint(request))(scope, receive, reply)
        except PenstockError as error:
            await reply.fail(error)
        except PeerFailed as error:  # the service that has the bug has logged it
            await reply.fail(error)
        except Exception as error:
            log.exception("unexpected error in %s %s", scope["method"], _route(scope))
            await reply.fail(error)

    async def _through_framework(self, scope: Scope, receive: Receive, reply: Reply) -> None:
        await self._app(scope, receive, reply)
        if (failure := scope.get("penstock.failure")) is not None:
            raise failure

    def _timeout_s(self, headers: dict[bytes, bytes]) -> float:
        asked = headers.get(TIMEOUT_HEADER.lower().encode())
        if asked is None:
            return self._default_timeout_s
        if not asked.isdigit() or not 1 <= int(asked) <= LONGEST_TIMEOUT_MS:
            limits = f"a whole number of milliseconds, 1 to {LONGEST_TIMEOUT_MS}"
            raise InvalidInput(f"{TIMEOUT_HEADER} has to be {limits}", field=TIMEOUT_HEADER)
        return int(asked) / 1000

    def _count(self, scope: Scope, status: int, duration_s: float) -> None:
        key = (scope["method"], _route(scope), status)
        children = self._children.get(key)
        if children is None:
            method, route, _ = key
            children = REQUESTS.labels(method, route, str(status)), SECONDS.labels(method, route)
            self._children[key] = children
        children[0].inc()
        children[1].observe(duration_s)


def _arrival(scope: Scope, headers: dict[bytes, bytes], body: bytes) -> Arrival:
    """Return how a request came in; one that a client sends again says so, and is known by its key or its body."""
    if scope["method"] != "POST":
        return REST
    count = headers.get(b"x-stainless-retry-count", b"0")
    key = headers.get(b"idempotency-key", b"")[:LONGEST_IDEMPOTENCY_KEY].decode("latin-1")
    door = "oip" if scope["path"].startswith("/v2") else "rest"
    return Arrival(door, int(count) if count.isdigit() and len(count) < 4 else 0, fingerprint(key, body))


def _bearer(headers: dict[bytes, bytes]) -> str:
    scheme, _, credential = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    return credential.strip() if scheme.lower() == "bearer" else ""


def _parent(headers: dict[bytes, bytes]) -> str | None:
    traceparent = headers.get(b"traceparent", b"")
    return traceparent.decode() if _TRACEPARENT.fullmatch(traceparent) else None


async def _read_in_time(receive: Receive, headers: dict[bytes, bytes], limit: int) -> bytes:
    try:
        async with asyncio.timeout(deadline.remaining_s()):
            return await take(receive, headers, limit)
    except TimeoutError as error:
        raise TimedOut("the deadline passed before the body was there") from error


def _replay(body: bytes) -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


class _LeavingWithClient:
    """Cancels the work inside, and whatever it asked upstream, when the connection closes first: ClientGone.

    The server calls what it finds in the scope under ON_GONE: no task has to wait beside each request.
    """

    __slots__ = ("_gone", "_reply", "_scope", "_working")

    def __init__(self, scope: Scope, reply: Reply) -> None:
        self._scope = scope
        self._reply = reply
        self._gone = False

    def __enter__(self) -> None:
        self._working = asyncio.current_task()
        self._scope[ON_GONE] = self._leave

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        del self._scope[ON_GONE]
        if kind is asyncio.CancelledError and self._gone and self._working and self._working.uncancel() == 0:
            raise ClientGone from None

    def _leave(self) -> None:
        if not self._reply.finished and self._working is not None:
            self._gone = True
            self._working.cancel()


def _span_name(scope: Scope) -> str:
    """Return method and the first two segments of a known path: few names, and none with an id in it."""
    segments = scope["path"].split("/", 3)[1:3]
    return f"{scope['method']} /{'/'.join(segments)}" if segments[0] in {"v1", "v2"} else str(scope["method"])


def _attributes(scope: Scope) -> dict[str, str]:
    return {"http.request.method": scope["method"], "url.scheme": scope["scheme"]}


def _describe(opened: Span, scope: Scope, reply: Reply) -> None:
    opened.set("http.route", _route(scope))
    opened.set("http.response.status_code", reply.status)


def _route(scope: Scope) -> str:
    """Return the path as it was declared; one that the door answers itself is declared as it stands."""
    return str(scope.get("penstock.route") or getattr(scope.get("route"), "path", "unmatched"))
