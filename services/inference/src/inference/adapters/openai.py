"""Generates text with any upstream that has the OpenAI chat completions API."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import Any, Final, Self

import aiohttp
import orjson
from servicekit import telemetry
from servicekit.errors import InvalidInput, PenstockError, TimedOut, Unavailable

from inference.adapters.event_stream import EventStream, EventTooLong
from inference.core.generation import Finished, FinishReason, Order, Piece, Usage
from inference.core.ports import BACKEND_FAILED

CONNECT_TIMEOUT_S: Final = 5.0
IDLE_CONNECTION_S: Final = 30.0
DRAIN_S: Final = 0.05
LARGEST_ERROR_BYTES: Final = 16 * 1024
LONGEST_RETRY_AFTER_S: Final = 120.0
DONE: Final = b"[DONE]"
CALLERS_FAULT: Final = frozenset({400, 413, 422})
REASONS: Final = {
    "stop": FinishReason.STOP,
    "eos": FinishReason.STOP,
    "end_turn": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "model_length": FinishReason.LENGTH,
    "content_filter": FinishReason.CONTENT_FILTER,
}
log = logging.getLogger(__name__)


class OpenAIUpstream:
    """The connections to one upstream, kept open between requests."""

    def __init__(self, base_url: str, api_key: str | None) -> None:
        """Take the address up to and with the version, and the key, which is sent and never shown."""
        self.url = f"{base_url.rstrip('/')}/chat/completions"
        self._headers = {
            "Content-Type": "application/json",
            "Accept": "text/event-stream",
            "Accept-Encoding": "identity",
            "User-Agent": "penstock",
        }
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"

    async def __aenter__(self) -> Self:
        """Make the session; how many connections there are is bounded by the models' queues."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_CONNECTION_S),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        await self._session.close()

    async def post(self, body: bytes, timeout_s: float) -> aiohttp.ClientResponse:
        """Send a request and return the response as soon as its head is there; `timeout_s` covers its body too."""
        parent = telemetry.traceparent()
        headers = self._headers | {"traceparent": parent} if parent else self._headers
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_TIMEOUT_S)
        return await self._session.post(self.url, data=body, headers=headers, timeout=timeout, allow_redirects=False)


class OpenAIGenerator:
    """Generates with one model of an upstream."""

    def __init__(self, upstream: OpenAIUpstream, upstream_name: str, name: str) -> None:
        """Take the upstream, the model's name there, and its name in the catalogue."""
        self._upstream = upstream
        self._upstream_name = upstream_name
        self._name = name

    async def generate(self, order: Order, timeout_s: float) -> AsyncGenerator[Piece, None]:
        """Yield the pieces of an answer; raise Unavailable with reason backend_failed when it breaks off.

        What arrives together is one piece.
        """
        response: aiohttp.ClientResponse | None = None
        try:
            response = await self._upstream.post(self._body(order), timeout_s)
            await self._check(response)
            answer, stream = _Answer(self._name, self._upstream_name), EventStream()
            while not answer.complete:
                chunk = await response.content.readany()
                if not chunk:
                    break
                if (piece := answer.read(stream.feed(chunk))) is not None:
                    yield piece
            if not answer.complete:
                yield Piece(finished=answer.finished())
            await _drain(response)
        except (aiohttp.ClientError, TimeoutError, EventTooLong, orjson.JSONDecodeError) as error:
            raise self._translate(error) from error
        finally:
            if response is not None:
                response.close()  # one that was read to its end has given its connection back already

    def _body(self, order: Order) -> bytes:
        sampling = order.sampling
        choices: dict[str, Any] = {
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "stop": sampling.stop or None,
            "seed": sampling.seed,
        }
        body: dict[str, Any] = {
            "model": self._upstream_name,
            "messages": [{"role": turn.role, "content": turn.content} for turn in order.turns],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return orjson.dumps(body | {name: value for name, value in choices.items() if value is not None})

    async def _check(self, response: aiohttp.ClientResponse) -> None:
        """Raise what a response means that is not a stream of events."""
        if response.status == 200 and response.content_type == "text/event-stream":
            return
        status = response.status
        if status in CALLERS_FAULT:
            raise InvalidInput(f"the upstream of {self._name} refused the request: {await _message(response)}")
        if status == 429:
            raise Unavailable(
                f"the upstream of {self._name} is busy", reason="queue_full", retry_after_s=_retry_after_s(response)
            )
        what = f"status {status}" if status != 200 else f"content type {response.content_type[:80]!r}"
        log.warning("the upstream of %s answered with %s", self._name, what)
        raise self._failed(f"the upstream answered with {what}")

    def _translate(self, error: Exception) -> PenstockError:
        if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ConnectionTimeoutError):
            return TimedOut(f"the upstream of {self._name} did not answer in time")
        if isinstance(error, orjson.JSONDecodeError):
            return self._failed("the upstream sent an event that is not JSON")
        if isinstance(error, EventTooLong):
            return self._failed("the upstream sent an event that is too long")
        log.warning("the upstream of %s failed: %s", self._name, type(error).__name__)
        return self._failed("the connection to the upstream failed")

    def _failed(self, why: str) -> Unavailable:
        return _failed(self._name, why)


class _Answer:
    """Collects what the events of one answer tell."""

    def __init__(self, name: str, upstream_name: str) -> None:
        self.complete = False
        self._name = name
        self._version = upstream_name
        self._begun = False
        self._reason: FinishReason | None = None
        self._usage = Usage()

    def read(self, payloads: list[bytes]) -> Piece | None:
        """Return what came in together, or None when that was nothing to tell."""
        texts: list[str] = []
        for payload in payloads:
            if payload == DONE:
                self.complete = True
                break
            try:
                texts.append(self._read(orjson.loads(payload)))
            except (AttributeError, KeyError, TypeError) as error:
                raise _failed(self._name, "the upstream sent an event of an unknown shape") from error
        text = "".join(texts)
        first = bool(payloads) and not self._begun
        if not (first or text or self.complete):
            return None
        self._begun = True
        return Piece(
            self._version if first else None,
            text,
            self.finished() if self.complete else None,
        )

    def finished(self) -> Finished:
        """Return the end of the answer; raise Unavailable when the upstream never told one."""
        if self._reason is None:
            raise _failed(self._name, "the upstream's stream ended without a finish reason")
        return Finished(self._reason, self._usage)

    def _read(self, event: Any) -> str:
        """Take in one chunk and return its text."""
        if event.get("error"):
            log.warning("the upstream of %s sent an error in its stream", self._name)
            raise _failed(self._name, "the upstream sent an error in its stream")
        if not self._begun and isinstance(event.get("model"), str):
            self._version = event["model"]
        if usage := event.get("usage"):
            self._usage = _usage(usage)
        if not (choices := event.get("choices")):
            return ""
        choice = choices[0]
        if reason := choice.get("finish_reason"):
            self._end(reason)
        text = (choice.get("delta") or {}).get("content")
        return text if isinstance(text, str) else ""

    def _end(self, reason: Any) -> None:
        if reason not in REASONS:
            raise _failed(self._name, f"the upstream ended with {str(reason)[:40]!r}")
        self._reason = REASONS[reason]


def _failed(name: str, why: str) -> Unavailable:
    return Unavailable(f"{name}: {why}", reason=BACKEND_FAILED, retry_after_s=1.0)


def _usage(usage: Any) -> Usage:
    tokens = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if all(isinstance(count, int) and 0 <= count < 2**32 for count in tokens):
        return Usage(*tokens, reported=True)
    return Usage()


async def _message(response: aiohttp.ClientResponse) -> str:
    """Return what the upstream says of the request, if it says it in the usual envelope."""
    raw = await response.content.read(LARGEST_ERROR_BYTES)
    try:
        return str(orjson.loads(raw)["error"]["message"])[:500]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return "no reason given"


def _retry_after_s(response: aiohttp.ClientResponse) -> float:
    try:
        asked_s = float(response.headers.get("Retry-After", "1"))
    except ValueError:  # a date: whoever sends one means well, but a second will do
        return 1.0
    return min(max(1.0, asked_s), LONGEST_RETRY_AFTER_S)  # in this order NaN becomes 1


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Read the end of a body that is complete, so that its connection can be used again."""
    if response.content.at_eof():
        return
    try:
        async with asyncio.timeout(DRAIN_S):
            await response.content.readany()
    except (TimeoutError, aiohttp.ClientError):
        return  # the connection is closed instead
