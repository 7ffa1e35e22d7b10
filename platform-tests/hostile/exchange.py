"""One request to the hostile upstream, and the means to answer it rightly or wrongly."""

import asyncio
import json
from typing import Any

REASONS = {200: "OK", 302: "Found", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests"}
JSON = "application/json"
EVENTS = "text/event-stream; charset=utf-8"


class Exchange:
    """A request body with its headers, which request of its scenario it is (from 1), and what can be sent back."""

    def __init__(
        self, writer: asyncio.StreamWriter, body: dict[str, Any], headers: dict[str, str], number: int
    ) -> None:
        self.body = body
        self.headers = headers
        self.number = number
        self.closed = False
        self._writer = writer

    @property
    def streaming(self) -> bool:
        """Whether the client asked for a stream."""
        return self.body.get("stream") is True

    async def raw(self, sent: bytes) -> None:
        """Send bytes as they are."""
        self._writer.write(sent)
        await self._writer.drain()

    async def head(self, status: int, content_type: str, length: int | None = None, **headers: str) -> None:
        """Send the head of a response; without a length its body is chunked."""
        framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
        lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Error')}", f"Content-Type: {content_type}", framing]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.raw("\r\n".join([*lines, "", ""]).encode())

    async def chunk(self, data: bytes) -> None:
        """Send a piece of a chunked body."""
        await self.raw(b"%x\r\n%s\r\n" % (len(data), data))

    async def event(self, value: Any) -> None:
        """Send a server-sent event."""
        await self.chunk(b"data: " + json.dumps(value).encode() + b"\n\n")

    async def end(self) -> None:
        """Send [DONE] and end a chunked body, in one write."""
        await self.raw(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")

    async def json(self, status: int, value: Any, **headers: str) -> None:
        """Send a whole response."""
        text = json.dumps(value).encode()
        await self.head(status, JSON, len(text), **headers)
        await self.raw(text)

    async def error(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, **headers: str
    ) -> None:
        """Send an error in OpenAI's envelope."""
        body = {"message": message, "type": "upstream_error", "param": param, "code": code}
        await self.json(status, {"error": body}, **headers)

    def reset(self) -> None:
        """Cut the connection."""
        self.closed = True
        self._writer.transport.abort()

    async def for_ever(self) -> None:
        """Keep the connection open and say nothing more."""
        await asyncio.Event().wait()
