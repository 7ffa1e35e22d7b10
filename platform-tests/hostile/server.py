"""The connections of the hostile upstream: reads requests, counts them, and lets a scenario answer."""

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from answers import ANSWERS
from exchange import Exchange
from faults import FAULTS

SCENARIOS = ANSWERS | FAULTS
LARGEST_HEAD_BYTES = 64 * 1024


@dataclass
class Counts:
    """What has happened so far."""

    requests: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    open: Counter[str] = field(default_factory=Counter)
    connections: int = 0
    last: dict[str, Any] = field(default_factory=dict)

    def shown(self) -> dict[str, Any]:
        """Return the numbers as JSON values."""
        running = {name: count for name, count in self.open.items() if count}
        return {"requests": self.requests, "open": running, "left": self.left, "connections": self.connections}


class Server:
    """One process of the upstream."""

    def __init__(self) -> None:
        self.counts = Counts()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve the requests of one connection until either side closes it."""
        self.counts.connections += 1
        try:
            while await self._serve_one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            self.counts.connections -= 1
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer the next request; return whether the connection can take another."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        request_line, *lines = head.strip().split("\r\n")
        method, target, _ = request_line.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        raw = await reader.readexactly(int(headers.get("content-length", "0")))
        if (method, target) == ("POST", "/v1/chat/completions"):
            return await self._complete(json.loads(raw), headers, reader, writer)
        status, value = self._look(method, target)
        await Exchange(writer, {}, headers, 0).json(status, value)
        return True

    def _look(self, method: str, target: str) -> tuple[int, Any]:
        url = urlsplit(target)
        if url.path == "/counts":
            return 200, self.counts.shown()
        if url.path == "/last":
            return 200, self.counts.last.get(parse_qs(url.query)["scenario"][0])
        if (method, url.path) == ("POST", "/reset"):
            self.counts.requests.clear()
            self.counts.left.clear()
            return 200, {}
        if url.path == "/redirected":
            self.counts.requests["redirected"] += 1
        return 404, {"error": {"message": "nothing here", "type": "invalid_request_error", "param": None, "code": None}}

    async def _complete(
        self, body: dict[str, Any], headers: dict[str, str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        name = str(body["model"]).removeprefix("hostile-")
        counts = self.counts
        counts.requests[name] += 1
        counts.last[name] = {"body": body, "headers": headers}
        exchange = Exchange(writer, body, headers, counts.requests[name])
        if name not in SCENARIOS:
            await exchange.error(404, f"no model {name!r}", code="model_not_found")
            return True
        counts.open[name] += 1
        try:
            return await self._watched(name, exchange, reader)
        finally:
            counts.open[name] -= 1

    async def _watched(self, name: str, exchange: Exchange, reader: asyncio.StreamReader) -> bool:
        """Run a scenario until it ends or the client is gone, whichever comes first."""
        answering = asyncio.ensure_future(SCENARIOS[name](exchange))
        leaving = asyncio.ensure_future(reader.read(1))
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if answering.done() and answering.exception() is None:
            if not leaving.done():
                leaving.cancel()
                await asyncio.wait({leaving})
                return not exchange.closed
            return False
        self.counts.left[name] += 1
        for task in (answering, leaving):
            task.cancel()
        await asyncio.gather(answering, leaving, return_exceptions=True)
        return False


async def serve(port: int, host: str = "127.0.0.1") -> None:
    """Serve on the loopback interface, or another address, until the process is ended; print the address first."""
    server = await asyncio.start_server(Server().connected, host, port, limit=64 * 1024 * 1024)
    print(f"http://{host}:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()
