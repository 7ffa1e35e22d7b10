"""The short way of a stream's pieces, past the iterations between wire and client: nothing changes but the cost."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from gateway.api.event_stream import Passage
from gateway_chat_fakes import TOOL_CALLS, Written
from gateway_fakes import Gateway
from servicekit.errors import Unavailable
from servicekit.testing import eventually

CHAT = "/v1/chat/completions"
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "form", "schema": SCHEMA}}
LONG = "".join(f"{number} " for number in range(60))
PACE_S = 0.002


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """Everything that went the short way."""
    seen: list[bytes] = []
    write = Passage.write

    def spied(self: Passage, events: bytes) -> bool:
        went = write(self, events)
        if went:
            seen.append(events)
        return went

    monkeypatch.setattr(Passage, "write", spied)
    yield seen


def body(**changes: Any) -> dict[str, Any]:
    return {"model": "writer", "messages": [{"role": "user", "content": "Hi"}], "stream": True, **changes}


def normal(text: str) -> list[Any]:
    """Return the events of a stream without what differs from one to the next."""
    events = []
    for line in text.strip().split("\n\n"):
        told = line.removeprefix("data: ")
        event = told if told == "[DONE]" else json.loads(told)
        if isinstance(event, dict):
            for name in ("id", "created", "penstock", "obfuscation", "error"):
                event.pop(name, None)
        events.append(event)
    return events


CASES: dict[str, tuple[Written, dict[str, Any]]] = {
    "text": (Written(LONG), {}),
    "usage": (Written(LONG), {"stream_options": {"include_usage": True}}),
    "padded": (Written(LONG), {"stream_options": {"include_obfuscation": True}}),
    "several": (Written(texts=[LONG, LONG[:40], "x"]), {"n": 3}),
    "tools": (Written("One. ", calls=[("c1", "find", LONG)], finish_reason=TOOL_CALLS), {}),
    "logprobs": (Written(LONG, logprobs='{"content":[],"refusal":null}'), {"logprobs": True}),
    "refusal": (Written(refusal=LONG), {}),
    "a form": (Written('{"a": 1,' + " " * 60 + '"b": 2}'), {"response_format": FORMAT}),
    "another form": (Written('{"a": "one",' + " " * 60 + '"b": 2}'), {"response_format": FORMAT}),
    "broken": (Written(LONG, breaks=Unavailable("gone", reason="backend_failed")), {}),
    "cut": (Written(LONG, ends=False), {}),
}


@pytest.mark.parametrize(("written", "more"), CASES.values(), ids=CASES.keys())
async def test_both_ways_say_the_same(
    http: httpx.AsyncClient, gateway: Gateway, passed: list[bytes], written: Written, more: dict[str, Any]
) -> None:
    gateway.world.answers, gateway.world.pace_s = [written], PACE_S
    said = []
    for gateway.world.dawdles in (False, True):
        passed.clear()
        response = await http.post(CHAT, json=body(**more))
        assert response.status_code == 200
        said.append(normal(response.text))
    assert said[0] == said[1]
    assert len(passed) > 5
    first, second = await gateway.desk.rows()
    assert first.outcome.output_tokens == second.outcome.output_tokens
    assert (first.outcome.status, first.outcome.cost_nanos) == (second.outcome.status, second.outcome.cost_nanos)


@asynccontextmanager
async def connection(gateway: Gateway) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    place = urlsplit(gateway.url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port, limit=1 << 24)
    try:
        yield reader, writer
    finally:
        writer.close()


def request(gateway: Gateway, **changes: Any) -> bytes:
    content = json.dumps(body(**changes)).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.key}\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content


async def test_a_client_who_does_not_read_holds_the_model_up(gateway: Gateway, passed: list[bytes]) -> None:
    world = gateway.world
    world.endless, world.pace_s, world.more = True, 0.0, "x" * 100_000
    async with connection(gateway) as (reader, writer):
        writer.write(request(gateway))
        await reader.readuntil(b"\r\n\r\n")
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        before, settled_s = -1, time.monotonic()

        def settled() -> bool:
            nonlocal before, settled_s
            if world.given != before:
                before, settled_s = world.given, time.monotonic()
            return time.monotonic() - settled_s > 0.3

        await eventually(settled, timeout_s=30)
        assert world.given < 400, "the window, and what sockets hold"
        given = world.given
        reader._transport.resume_reading()  # type: ignore[attr-defined]

        async def read() -> bool:
            await reader.read(1 << 20)
            return world.given > given + 400

        await eventually(read, timeout_s=30)
    assert passed


async def test_a_client_who_leaves_ends_the_model_within_a_second(gateway: Gateway, passed: list[bytes]) -> None:
    gateway.world.endless, gateway.world.pace_s = True, PACE_S
    async with connection(gateway) as (_, writer):
        writer.write(request(gateway))
        await eventually(lambda: len(passed) > 20)
    async with asyncio.timeout(1):
        await gateway.world.ended.wait()
    await eventually(lambda: gateway.desk.gate.counts.running == [0, 0, 0])
    (row,) = await gateway.desk.rows()
    assert row.outcome.status == "cancelled"
    assert row.outcome.output_tokens >= len(passed)


async def test_requests_that_come_upon_each_other_are_answered_one_after_the_other(gateway: Gateway) -> None:
    gateway.world.answers = [Written(LONG)]
    gateway.world.dawdles, gateway.world.pace_s = True, PACE_S
    async with connection(gateway) as (reader, writer):
        writer.write(request(gateway) + request(gateway))
        both = [await reader.readuntil(b"\r\n0\r\n\r\n") for _ in range(2)]
    for answer in both:
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.count(b"HTTP/1.1") == answer.count(b"[DONE]") == 1
        events = b"".join(part for part in answer.split(b"\r\n") if part.startswith(b"data: ")).decode()
        said = [each for each in normal(events) if isinstance(each, dict)]
        assert "".join(each["choices"][0]["delta"].get("content", "") for each in said) == LONG
