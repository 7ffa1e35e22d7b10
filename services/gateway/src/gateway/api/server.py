"""Runs the REST door beside the gRPC door, in the same loop."""

import asyncio
import math
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from servicekit.rpc.server import AddressTaken
from starlette.types import ASGIApp

from gateway.api.event_stream import PASSAGE
from gateway.api.head_deadline import PunctualProtocol

KEEP_ALIVE_S = 75
BACKLOG = 1024
ON_GONE = "penstock.on_gone"
"""In a request's scope: what is called when the client closes the connection before it has its answer."""


def bind(address: str) -> socket.socket:
    """Return a socket bound to `host:port`; raise AddressTaken, which names the address."""
    host, _, port = address.rpartition(":")
    # asyncio sets TCP_NODELAY where a socket says TCP by name, and nowhere else; without it an answer waits for 40 ms
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, int(port)))
    except OSError as error:
        listener.close()
        raise AddressTaken(f"cannot listen on {address}: {error.strerror}") from error
    return listener


class GatheringProtocol(PunctualProtocol):
    """Sends the head and the body of an answer together: apart they are two packets, and wake the caller twice.

    It tells the request that runs when its client has gone. A stream's events may be sent past the framework.
    """

    def connection_made(self, transport: Any) -> None:
        """Put the gathering transport between."""
        gathering: Any = GatheringTransport(transport, self.loop)
        super().connection_made(gathering)
        self._send_soon = gathering.send_soon

    def on_headers_complete(self) -> None:
        """Offer the short way to whoever answers."""
        scope: Any = self.scope
        scope["extensions"] = {PASSAGE: self._pass_on}
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Say so to the request that runs, if one does."""
        super().connection_lost(exc)
        request: Any = self.cycle.scope if self.cycle is not None else {}
        if (on_gone := request.get(ON_GONE)) is not None:
            on_gone()
        request.pop("extensions", None)  # it leads back here: a cycle would stay until it is collected

    def _pass_on(self, part: bytes) -> bool:
        """Send a part of the body of a stream under way; False when the client is gone or does not keep up.

        When another request has already come behind this one, all of the body goes through the framework.
        """
        cycle = self.cycle
        if self.flow.write_paused or cycle.disconnected or cycle.response_complete or not cycle.chunked_encoding:
            return False
        if part:
            self._send_soon(b"%x\r\n%b\r\n" % (len(part), part))
        return True


class GatheringTransport:
    """A transport that lets what is written wait for what follows it, to the end of the loop's turn at most."""

    __slots__ = ("_loop", "_pieces", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._pieces: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        """Everything else is the transport's own."""
        return getattr(self._transport, name)

    def write(self, piece: bytes) -> None:
        """Send with the next piece, or when nothing more comes in this turn."""
        self._pieces.append(piece)
        if len(self._pieces) > 1:
            self._flush()  # the turn that would do it comes after whatever else has arrived
        else:
            self._loop.call_soon(self._flush)

    def send_soon(self, piece: bytes) -> None:
        """Send at the end of the loop's turn, right after or before what other streams have.

        A packet between two pieces of work wakes its reader, and by that costs more than the work; packets that are
        sent one after the other find the reader awake, and cost a third of it.
        """
        if not self._pieces:
            self._loop.call_soon(self._flush)
        self._pieces.append(piece)

    def close(self) -> None:
        """Send what is left, and close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        pieces, self._pieces = self._pieces, []
        if pieces and not self._transport.is_closing():
            self._transport.writelines(pieces)


class RestServer(uvicorn.Server):
    """A uvicorn server that is ended by cancelling `run`: no new connections, then running requests get `drain_s`."""

    def __init__(self, app: ASGIApp, listener: socket.socket, drain_s: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=GatheringProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=math.ceil(drain_s),
            )
        )
        self._listener = listener
        self._cancelled = False

    async def run_until_cancelled(self) -> None:
        """Serve until cancelled, then drain."""
        await self.serve(sockets=[self._listener])
        if self._cancelled:
            raise asyncio.CancelledError

    async def main_loop(self) -> None:
        """Wait for the end; a cancellation is one, and is raised again when everything is drained."""
        try:
            await super().main_loop()
        except asyncio.CancelledError:
            self._cancelled = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to servicekit, which ends both doors."""
        yield
