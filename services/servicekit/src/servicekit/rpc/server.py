"""Runs a service: its gRPC server with health and reflection, its metrics page, its background work, and its end."""

import asyncio
import gc
import logging
import signal
import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import grpc
import prometheus_client
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio  # type: ignore[attr-defined]  # not in the stubs
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from servicekit.identity import Identity, Verifier
from servicekit.landed import Land
from servicekit.rpc.inner_server import InnerServer
from servicekit.rpc.interceptor import OPEN_PREFIXES, Authenticate, Method, Methods, OpenMethod
from servicekit.settings import ServiceSettings
from servicekit.tls import TlsFiles

LARGEST_MESSAGE_BYTES = 64 * 1024 * 1024
READINESS_PERIOD_S = 1.0
READINESS_TIMEOUT_S = 5.0
SERVER_OPTIONS = (
    ("grpc.max_receive_message_length", LARGEST_MESSAGE_BYTES),
    ("grpc.max_send_message_length", LARGEST_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),  # a second server on the port has to fail, not to share it
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
)
MOST_UNSEEN_OBJECTS = 50_000
"""How many more containers there may be than before until the garbage collector looks through what came since.

Calls leave it nothing to find, and what came since is all that they hold: with two hundred streams, Python's 700 stops
every call for 10 ms every four seconds, and with more of them for longer.
"""
Background = Callable[[], Awaitable[None]]
Readiness = Callable[[], Awaitable[str | None]]
"""Says why the service cannot do its work, or None when it can; asked every second."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Service:
    """One gRPC service: its full proto name, how it is added to a server, and the scope each method needs.

    The empty scope lets any authenticated caller in, None everybody: that is for health and for descriptions that hold
    no tenant's data. Every method has to be listed. A method that takes one request as bytes gets a large one where
    `land` says, if there is a place.
    """

    name: str
    add: Callable[[Any, grpc.aio.Server], None]
    servicer: object
    scopes: Mapping[str, str | None]
    land: Land | None = None

    def methods(self, authenticate: Authenticate) -> Iterator[Method]:
        """Yield every listed method; raise TypeError for one that the servicer does not have."""
        registered = _Registered()
        self.add(self.servicer, cast("grpc.aio.Server", registered))
        for name, scope in self.scopes.items():
            path = f"/{self.name}/{name}"
            if (handler := registered.find(path)) is None:
                raise TypeError(f"{path} is listed, but nothing serves it")
            as_bytes = handler.request_deserializer is None and not handler.request_streaming
            yield Method(path, scope, authenticate, handler, self.land if as_bytes else None)


@dataclass(frozen=True, slots=True)
class _Details(grpc.HandlerCallDetails):
    """What a generic handler is asked with."""

    method: str
    invocation_metadata: tuple[()]


class _Registered:
    """Takes what generated code registers at a server."""

    def __init__(self) -> None:
        self._handlers: list[Any] = []

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        self._handlers += handlers

    def add_registered_method_handlers(self, _service: str, _handlers: Mapping[str, Any]) -> None:
        """Leave out what the generic handlers hold as well."""

    def find(self, path: str) -> Any:
        """Return what serves a path, or None."""
        found = (handler.service(_Details(path, ())) for handler in self._handlers)
        return next(filter(None, found), None)


class AddressTaken(RuntimeError):
    """The address a server should listen on is not free."""


@dataclass(frozen=True, slots=True)
class Listening:
    """A server that is not started yet, its port, and what says whether its services are well."""

    server: InnerServer | grpc.aio.Server
    port: int
    health: Any


def listen(
    services: Sequence[Service], authenticate: Authenticate, address: str, tls: TlsFiles | None, *, inner: bool
) -> Listening:
    """Return a server; `inner` says that services call it, and no strangers.

    Strangers meet gRPC's own library, which is slower and has met more of them (ADR 19). Raises AddressTaken.
    """
    methods = Methods()
    for service in services:
        for method in service.methods(authenticate):
            methods.add(method)
    checker = health_aio.HealthServicer()
    names = [*(service.name for service in services), health.SERVICE_NAME, reflection.SERVICE_NAME]
    describer = reflection.aio.ReflectionServicer(names)  # type: ignore[attr-defined]  # not in the stubs
    secure = tls.server_contexts() if inner and tls is not None else None
    try:
        if inner:
            return _inner(methods, address, secure, (checker, describer))
        server = grpc.aio.server(interceptors=[methods], options=SERVER_OPTIONS)
        for service in services:
            service.add(service.servicer, server)
        _add_open(checker, describer, server)
        return Listening(server, server.add_insecure_port(address), checker)
    except (OSError, RuntimeError) as error:
        raise AddressTaken(f"cannot listen on {address}: it is taken or not ours") from error


def _inner(
    methods: Methods, address: str, secure: Callable[[], ssl.SSLContext] | None, open_servicers: tuple[Any, Any]
) -> Listening:
    registered = _Registered()
    _add_open(*open_servicers, registered)

    def find(path: str) -> Method | OpenMethod | None:
        if (method := methods.find(path)) is not None:
            return method
        handler = registered.find(path) if path.startswith(OPEN_PREFIXES) else None
        return OpenMethod(handler) if handler is not None else None

    server = InnerServer(find, address, secure)
    return Listening(server, server.port, open_servicers[0])


def _add_open(checker: Any, describer: Any, server: Any) -> None:
    health_pb2_grpc.add_HealthServicer_to_server(checker, server)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(describer, server)


async def serve(
    settings: ServiceSettings,
    services: Sequence[Service],
    *,
    readiness: Readiness | None = None,
    background: Sequence[Background] = (),
    authenticate: Authenticate | None = None,
    draining: Callable[[], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then call `draining` and let running calls end within `drain_s`.

    Health says SERVING while `readiness` returns None. `authenticate` replaces the check of internal tokens; only the
    gateway, which knows API keys, has another one. mTLS is between services: a door for callers from outside is plain,
    TLS ends before it. A background task that fails ends the service.
    """
    inner = authenticate is None
    listening = listen(
        services,
        authenticate or _internal_tokens(settings),
        settings.address,
        settings.tls if inner else None,
        inner=inner,
    )
    server, checker = listening.server, listening.health
    metrics, thread = _serve_metrics(settings.metrics_address)
    await server.start()
    log.info("listening on %s, metrics on %s", settings.address, settings.metrics_address)
    gc.collect()
    gc.freeze()  # what is there now stays; looking through it again would stop every call for 0.1 s every few seconds
    gc.set_threshold(MOST_UNSEEN_OBJECTS, *gc.get_threshold()[1:])
    try:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(_run(work)) for work in background]
            running.append(tasks.create_task(_watch(readiness, checker, [service.name for service in services])))
            await _stop_signal()
            log.info("stopping: running calls have %.0f s", settings.drain_s)
            if draining is not None:
                draining()
            await checker.enter_graceful_shutdown()
            await server.stop(settings.drain_s)
            for task in running:
                task.cancel()
    finally:
        await server.stop(0)
        metrics.shutdown()
        metrics.server_close()
        thread.join()


def _serve_metrics(address: str) -> tuple[Any, Any]:
    host, _, port = address.rpartition(":")
    try:
        return prometheus_client.start_http_server(int(port), host)
    except OSError as error:
        raise AddressTaken(f"cannot serve metrics on {address}: {error.strerror}") from error


async def _run(work: Background) -> None:
    await work()


def _internal_tokens(settings: ServiceSettings) -> Authenticate:
    verifier = Verifier(settings.identity_public_key_file.read_bytes())

    async def authenticate(credential: str) -> Identity:
        return verifier.verify(credential)

    return authenticate


async def _watch(readiness: Readiness | None, checker: Any, names: Sequence[str]) -> None:
    last: str | None = "starting"
    while True:
        reason = await _reason(readiness)
        if reason != last:
            log.info("ready" if reason is None else "not ready: %s", *([] if reason is None else [reason]))
            last = reason
        state = health_pb2.HealthCheckResponse
        for name in ("", *names):
            await checker.set(name, state.SERVING if reason is None else state.NOT_SERVING)
        await asyncio.sleep(READINESS_PERIOD_S if reason is None else READINESS_PERIOD_S / 5)


async def _reason(readiness: Readiness | None) -> str | None:
    if readiness is None:
        return None
    try:
        async with asyncio.timeout(READINESS_TIMEOUT_S):
            return await readiness()
    except Exception as error:  # noqa: BLE001  whatever goes wrong in the check, the service is not ready
        return f"the check failed: {type(error).__name__}: {error}"


async def _stop_signal() -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()
