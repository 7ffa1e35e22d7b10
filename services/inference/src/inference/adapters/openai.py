"""Generates text with any upstream that has the OpenAI chat completions API."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Self

from servicekit import telemetry
from servicekit.errors import PenstockError, TimedOut

from inference.adapters.event_stream import EventStream, EventTooLong
from inference.adapters.http_client import Connection, ConnectTimedOut, Follower, Head, HttpFailed, HttpHost
from inference.adapters.openai_answer import StreamedAnswer, failed, read_whole
from inference.adapters.openai_errors import of_status
from inference.adapters.openai_request import write_body
from inference.core.answer import Answer, Piece, TakeText
from inference.core.generation import Order

DRAIN_S: Final = 0.05
LARGEST_ERROR_BYTES: Final = 16 * 1024
LARGEST_ANSWER_BYTES: Final = 32 * 1024 * 1024
LARGEST_STREAM_BYTES: Final = 256 * 1024 * 1024
EVENTS: Final = "text/event-stream"
JSON: Final = "application/json"
ACCEPTS: Final = {accept: f"Accept: {accept}\r\n".encode() for accept in (EVENTS, JSON)}
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds to wait for an upstream, each within the request's own time.

    `connect_s`: for a connection; `first_byte_s`: for a stream to begin; `stall_s`: between the parts of an answer;
    `answer_s`: for an answer that is not streamed to begin, which it does when all of it is written.
    """

    connect_s: float = 5.0
    first_byte_s: float = 60.0
    stall_s: float = 30.0
    answer_s: float = 600.0


class OpenAIUpstream:
    """The connections to one upstream, kept open between requests; the models' queues bound how many there are."""

    def __init__(self, base_url: str, api_key: str | None, patience: Patience = Patience()) -> None:
        """Take the address up to and with the version, and the key, which is sent and never shown."""
        self.patience = patience
        self.api_key = api_key
        headers = {"Content-Type": JSON, "Accept-Encoding": "identity", "User-Agent": "penstock"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        self.host = HttpHost(f"{base_url.rstrip('/')}/chat/completions", headers)

    async def __aenter__(self) -> Self:
        """Return itself; connections are opened when they are needed."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        self.host.close()


class _Exchange:
    """One request under way: every wait is bounded, and so is what is read."""

    def __init__(self, upstream: OpenAIUpstream, name: str, timeout_s: float) -> None:
        self._upstream = upstream
        self._name = name
        self._clock = asyncio.get_running_loop().time
        self._end = self._clock() + timeout_s
        self._connection: Connection | None = None
        self._wait_s = upstream.patience.first_byte_s
        self._bytes_left = LARGEST_STREAM_BYTES
        self._asked_s = self._heard_s = 0.0

    def took_s(self) -> float:
        """Return the seconds since the request was sent."""
        return time.monotonic() - self._asked_s

    async def begin(self, body: bytes, accept: str, now: Callable[[], float]) -> None:
        """Send the request; raise what an answer means that is not one of type `accept`."""
        patience, host = self._upstream.patience, self._upstream.host
        left_s = self._end - self._clock()
        try:
            self._connection = await host.connection(min(left_s, patience.connect_s))
        except ConnectTimedOut as error:
            raise self._late(left_s, patience.connect_s, "take a connection") from error
        self._wait_s = wait_s = patience.first_byte_s if accept is EVENTS else patience.answer_s
        self._asked_s = time.monotonic()  # the loop's clock stands still within a turn
        left_s = self._end - self._clock()
        try:
            head = await self._connection.request(host.written(body, _headers(accept)), min(left_s, wait_s))
        except TimeoutError as error:
            raise self._late(left_s, wait_s, "begin to answer") from error
        if head.status != 200 or head.content_type != accept or "content-encoding" in head.headers:
            raise await self._refusal(head, now())

    async def follow(self, follower: Follower) -> bool:
        """Give what comes to `follower` until it asks to be looked at; False at the end."""
        assert self._connection is not None, "begin comes first"
        clock, stall_s = self._clock, self._upstream.patience.stall_s
        self._heard_s = clock()

        def hear(chunk: bytes) -> bool:
            self._heard_s, self._wait_s = clock(), stall_s
            self._bytes_left -= len(chunk)
            return self._bytes_left < 0 or follower(chunk)

        try:
            goes_on = await self._connection.follow(hear, self._late_s)
        except TimeoutError as error:
            raise self._late(self._end - self._heard_s, self._wait_s, "go on") from error
        if self._bytes_left < 0:
            raise failed(self._name, "sent more than anyone can want")
        return goes_on

    def _late_s(self) -> float:
        """Return the moment until when to wait for more."""
        return min(self._end, self._heard_s + self._wait_s)

    async def chunk(self) -> bytes:
        """Return what has come in, waiting for it if there is nothing; b"" at the end."""
        assert self._connection is not None, "begin comes first"
        left_s, wait_s = self._end - self._clock(), self._wait_s
        try:
            chunk = await self._connection.read(min(left_s, wait_s))
        except TimeoutError as error:
            raise self._late(left_s, wait_s, "go on") from error
        self._wait_s = self._upstream.patience.stall_s
        self._bytes_left -= len(chunk)
        if self._bytes_left < 0:
            raise failed(self._name, "sent more than anyone can want")
        return chunk

    async def whole(self, largest: int) -> bytes:
        """Return the rest of the body; raise Unavailable when it is larger than `largest` bytes."""
        chunks: list[bytes] = []
        self._bytes_left = largest
        while chunk := await self.chunk():
            chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def drain(self) -> None:
        """Read the end of a body that is complete, so that its connection can be used again."""
        assert self._connection is not None, "begin comes first"
        try:
            await self._connection.read(DRAIN_S)
        except (TimeoutError, HttpFailed):
            return  # the connection is closed instead

    def close(self) -> None:
        """Give the connection back, which closes it unless the body was read to its end."""
        if self._connection is not None:
            self._upstream.host.release(self._connection)

    def _late(self, left_s: float, wait_s: float, what: str) -> PenstockError:
        if left_s <= wait_s:
            return TimedOut(f"the upstream of {self._name} did not {what} in time")
        log.warning("the upstream of %s did not %s within %s s", self._name, what, wait_s)
        return failed(self._name, f"did not {what} within {wait_s:g} s")

    async def _refusal(self, head: Head, now: float) -> PenstockError:
        """Return what a response means that is no answer; its body is the upstream's and shown only where it helps."""
        status, content_type = head.status, head.content_type[:80]
        if status == 200:
            log.warning("the upstream of %s answered with content type %r", self._name, content_type)
            return failed(self._name, f"answered with content type {content_type!r}")
        if status not in (400, 413, 422, 429):
            log.warning("the upstream of %s answered with status %s", self._name, status)
        body = await self._error_body() if status < 500 else b""
        if self._upstream.api_key:
            body = body.replace(self._upstream.api_key.encode(), b"***")
        return of_status(self._name, status, head.headers, body, datetime.fromtimestamp(now, UTC))

    async def _error_body(self) -> bytes:
        try:
            return await self.whole(LARGEST_ERROR_BYTES)
        except (PenstockError, HttpFailed):  # too long, too slow, cut: the status alone has to do
            return b""


class _Reading:
    """Reads the events of an answer as they come; what is not taken waits in `pieces`, and what is wrong is `error`."""

    __slots__ = ("_stream", "answer", "error", "pieces")

    def __init__(self, answer: StreamedAnswer) -> None:
        self.answer = answer
        self.pieces: list[Piece] = []
        self.error: Exception | None = None
        self._stream = EventStream()

    def feed(self, chunk: bytes) -> bool:
        """Read what has come, and say whether there is something to look at."""
        try:
            piece = self.answer.read(self._stream.feed(chunk))
        except (EventTooLong, PenstockError) as error:
            self.error = error
            return True
        if piece is not None:
            self.pieces.append(piece)
        return piece is not None

    def taken(self) -> list[Piece]:
        """Return the pieces that have come, once; raise what was wrong."""
        if self.error is not None:
            raise self.error
        pieces, self.pieces = self.pieces, []
        return pieces


def _headers(accept: str) -> bytes:
    """Return the header lines that differ between requests."""
    parent = telemetry.traceparent()
    return f"Accept: {accept}\r\ntraceparent: {parent}\r\n".encode() if parent else ACCEPTS[accept]


class OpenAIGenerator:
    """Generates with one model of an upstream."""

    def __init__(
        self,
        upstream: OpenAIUpstream,
        upstream_name: str,
        name: str,
        limit_field: str = "max_tokens",
        now: Callable[[], float] = time.time,
    ) -> None:
        """Take the upstream, the model's name there and in the catalogue, and what it calls max_tokens there.

        `now` returns seconds since 1970, which a date in Retry-After is compared with.
        """
        self._upstream = upstream
        self._upstream_name = upstream_name
        self._name = name
        self._limit_field = limit_field
        self._now = now

    async def generate(
        self, order: Order, timeout_s: float, take: TakeText | None = None
    ) -> AsyncGenerator[Piece, None]:
        """Yield the pieces of an answer; raise Unavailable with reason backend_failed when it breaks off.

        What arrives together is one piece. `take` is offered the text that comes while the iteration waits.
        """
        body = write_body(order, self._upstream_name, streaming=True, limit_field=self._limit_field)
        exchange = _Exchange(self._upstream, self._name, timeout_s)
        try:
            await exchange.begin(body, EVENTS, self._now)
            answer = StreamedAnswer(self._name, self._upstream_name, order, exchange.took_s, take)
            reading = _Reading(answer)
            while not answer.complete and await exchange.follow(reading.feed):
                for piece in reading.taken():
                    yield piece
            if not answer.complete:
                yield Piece(usage=answer.finished())
            await exchange.drain()
        except EventTooLong as error:
            raise failed(self._name, "sent an event that is too long") from error
        except HttpFailed as error:
            raise self._lost(error) from error
        finally:
            exchange.close()

    async def complete(self, order: Order, timeout_s: float) -> Answer:
        """Return the whole of an answer, asked for as one; raise as `generate` does."""
        body = write_body(order, self._upstream_name, streaming=False, limit_field=self._limit_field)
        exchange = _Exchange(self._upstream, self._name, timeout_s)
        try:
            await exchange.begin(body, JSON, self._now)
            raw = await exchange.whole(LARGEST_ANSWER_BYTES)
            took_s = exchange.took_s()
        except HttpFailed as error:
            raise self._lost(error) from error
        finally:
            exchange.close()
        return read_whole(self._name, self._upstream_name, order, raw, took_s)

    def _lost(self, error: HttpFailed) -> PenstockError:
        """Return what a connection means that did not come about or broke; addresses are not told."""
        log.warning("the upstream of %s failed: %s", self._name, error)
        return failed(self._name, "cannot be reached or broke off")
