"""Server-sent events. The status line waits for the first event, so that a failure before it has a real status."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any, Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


PASSAGE: Final = "penstock.passage"
"""The ASGI extension of a server that can be given a part of a body at once, without the framework's `send`."""


class Passage:
    """The short way of events to the client, past the iteration; open once the answer has begun."""

    __slots__ = ("_write",)

    def __init__(self) -> None:
        self._write: Callable[[bytes], bool] | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is such a way now."""
        return self._write is not None

    def lead(self, scope: Scope) -> None:
        """Open it, where the server of a request has one."""
        extensions: dict[str, Any] = scope.get("extensions", {})
        self._write = extensions.get(PASSAGE)

    def write(self, events: bytes) -> bool:
        """Send events; False when the client does not keep up or is gone, and they were not sent."""
        return self._write is not None and self._write(events)


class EventStream(Response):
    """Sends events as they come. Leaving early closes the generator, and with it the call behind it.

    A failure is raised on: the door ends the stream with an event of the error.
    """

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        more_headers: Sequence[tuple[bytes, bytes]] = (),
        passage: Passage | None = None,
    ) -> None:
        super().__init__(media_type="text/event-stream")
        self._events = events
        self._sent_headers = [*HEADERS, *more_headers]
        self._passage = passage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  ASGI's signature
        """Send headers with the first event, then event by event."""
        async with aclosing(self._events) as events:
            first = await anext(events, b"")
            await send({"type": "http.response.start", "status": 200, "headers": self._sent_headers})
            await send({"type": "http.response.body", "body": first, "more_body": True})
            if self._passage is not None:
                self._passage.lead(scope)
            async for event in events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def event_bytes(payload: bytes, name: str = "") -> bytes:
    """Return one event of one line of JSON."""
    return b"event: " + name.encode() + b"\ndata: " + payload + b"\n\n" if name else b"data: " + payload + b"\n\n"
