"""The OpenAI adapter against a real HTTP server, friendly and hostile."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from inference.adapters.openai import OpenAIGenerator, OpenAIUpstream
from inference.core.generation import Finished, FinishReason, Order, Piece, Sampling, Turn, Usage
from inference_fakes import END, USAGE, FakeUpstream, chunk
from servicekit.errors import InvalidInput, PenstockError, TimedOut, Unavailable
from servicekit.testing import eventually

ORDER = Order((Turn("user", "Hi?"),), Sampling(max_tokens=9, stop=("\n",)))
KEY = "sk-very-secret"


@asynccontextmanager
async def connected(upstream: FakeUpstream) -> AsyncIterator[OpenAIGenerator]:
    async with upstream.running(), OpenAIUpstream(upstream.url, KEY) as connection:
        yield OpenAIGenerator(connection, "up", "chat")


async def answer(upstream: FakeUpstream, timeout_s: float = 5.0) -> list[Piece]:
    async with connected(upstream) as generator:
        return [event async for event in generator.generate(ORDER, timeout_s)]


def text(events: Sequence[Piece]) -> str:
    return "".join(event.text for event in events)


async def test_yields_version_text_and_end_with_usage() -> None:
    upstream = FakeUpstream([chunk("Good"), chunk(" day"), END])
    events = await answer(upstream)
    assert events[0].version == "up-1"
    assert text(events) == "Good day"
    assert events[-1].finished == Finished(FinishReason.STOP, Usage(7, 2, reported=True))


async def test_asks_for_a_stream_with_usage_and_passes_sampling_and_key() -> None:
    upstream = FakeUpstream([chunk("x"), END])
    await answer(upstream)
    assert upstream.asked == [
        {
            "model": "up",
            "messages": [{"role": "user", "content": "Hi?"}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": 9,
            "stop": ["\n"],
        }
    ]
    assert upstream.asked_headers[0]["Authorization"] == f"Bearer {KEY}"
    assert "traceparent" not in upstream.asked_headers[0]


async def test_what_arrives_together_is_one_piece() -> None:
    events = await answer(FakeUpstream([chunk("a") + chunk("b") + chunk("c") + END]))
    assert events == [Piece("up-1", "abc", Finished(FinishReason.STOP, Usage(7, 2, reported=True)))]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
async def test_reads_events_however_they_are_cut(end: bytes) -> None:
    body = (b": hello\nevent: x\nid: 1\n" + chunk("Grüße ") + b": ping\n\n" + chunk("🙂") + END).replace(b"\n", end)
    pieces = [body[index : index + 1] for index in range(len(body))]
    assert text(await answer(FakeUpstream(pieces))) == "Grüße 🙂"


async def test_takes_an_end_without_done_and_without_usage() -> None:
    events = await answer(FakeUpstream([chunk("a"), chunk(finish_reason="length")]))
    assert events[-1].finished == Finished(FinishReason.LENGTH, Usage(0, 0, reported=False))


HOSTILE = {
    "no finish reason": [chunk("half an ans"), b"data: [DONE]\n\n"],
    "ends early": [chunk("half an ans")],
    "nothing at all": [],
    "truncated json": [chunk("a"), b'data: {"choices": [{"del\n\n', END],
    "no json": [b"data: oops\n\n", END],
    "not an object": [b"data: [1]\n\n", END],
    "choices of text": [b'data: {"choices": ["a"]}\n\n', END],
    "choices by name": [b'data: {"choices": {"a": 1}}\n\n', END],
    "delta of text": [b'data: {"choices": [{"delta": "a"}]}\n\n', END],
    "finish list": [b'data: {"choices": [{"finish_reason": ["stop"]}]}\n\n', END],
    "usage of text": [b'data: {"usage": "much"}\n\n', END],
    "error event": [chunk("a"), b'data: {"error": {"message": "secret detail"}}\n\n'],
    "unknown finish": [chunk("a"), chunk(finish_reason="abort")],
    "endless line": [b"data: " + b"x" * 2_000_000],
    "endless event": [b"data: xxxxxxxxxxxxxxxxxxxx\n" * 100_000],
}


@pytest.mark.parametrize("pieces", HOSTILE.values(), ids=HOSTILE.keys())
async def test_an_answer_that_breaks_off_is_a_failure(pieces: list[bytes]) -> None:
    with pytest.raises(Unavailable) as caught:
        await answer(FakeUpstream(pieces))
    assert caught.value.reason == "backend_failed"
    assert "secret" not in str(caught.value)


async def test_a_connection_that_breaks_mid_stream_is_a_failure() -> None:
    with pytest.raises(Unavailable) as caught:
        await answer(FakeUpstream([chunk("a")], break_off=True))
    assert caught.value.reason == "backend_failed"


async def test_a_connection_that_breaks_after_the_end_does_no_harm() -> None:
    events = await answer(FakeUpstream([chunk("a"), END], break_off=True))
    assert events[-1].finished == Finished(FinishReason.STOP, Usage(7, 2, reported=True))


async def test_a_wrong_content_type_is_a_failure() -> None:
    with pytest.raises(Unavailable, match="content type"):
        await answer(FakeUpstream([b"<html>"], headers={"Content-Type": "text/html"}))


STATUSES: list[tuple[int, type[PenstockError], str]] = [
    (400, InvalidInput, "invalid_input"),
    (401, Unavailable, "backend_failed"),
    (403, Unavailable, "backend_failed"),
    (404, Unavailable, "backend_failed"),
    (422, InvalidInput, "invalid_input"),
    (429, Unavailable, "queue_full"),
    (500, Unavailable, "backend_failed"),
    (302, Unavailable, "backend_failed"),
]


@pytest.mark.parametrize(("status", "kind", "reason"), STATUSES)
async def test_each_status_is_an_error_kind(status: int, kind: type[PenstockError], reason: str) -> None:
    headers = {"Content-Type": "application/json", "Retry-After": "7"}
    body = b'{"error": {"message": "max_tokens is too large"}}'
    with pytest.raises(kind) as caught:
        await answer(FakeUpstream([body], status=status, headers=headers))
    assert caught.value.reason == reason
    assert ("too large" in caught.value.message) is (kind is InvalidInput)
    assert caught.value.retry_after_s == {429: 7.0, 400: None, 422: None}.get(status, 1.0)
    assert KEY not in str(caught.value)


async def test_an_upstream_that_is_down_is_a_failure() -> None:
    async with OpenAIUpstream("http://127.0.0.1:1/v1", None) as connection:
        with pytest.raises(Unavailable) as caught:
            await anext(OpenAIGenerator(connection, "up", "chat").generate(ORDER, 5.0))
    assert caught.value.reason == "backend_failed"


async def test_the_deadline_ends_a_hanging_answer() -> None:
    with pytest.raises(TimedOut):
        await answer(FakeUpstream([chunk("a")], hang=True), timeout_s=0.2)


async def test_closing_reaches_the_upstream_within_a_second() -> None:
    upstream = FakeUpstream([chunk("a")], hang=True)
    async with connected(upstream) as generator:
        async with aclosing(generator.generate(ORDER, 5.0)) as events:
            assert await anext(events) == Piece("up-1", "a")
        await asyncio.wait_for(upstream.gone.wait(), 1.0)


async def test_cancelling_reaches_the_upstream_within_a_second() -> None:
    upstream = FakeUpstream([chunk("a")], hang=True)
    async with connected(upstream) as generator:

        async def read() -> None:
            async for _ in generator.generate(ORDER, 5.0):
                pass

        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(read())
            await eventually(lambda: bool(upstream.asked))
            reading.cancel()
        await asyncio.wait_for(upstream.gone.wait(), 1.0)


async def test_a_finished_answer_gives_its_connection_back() -> None:
    upstream = FakeUpstream([chunk("a"), END])
    async with connected(upstream) as generator:
        for _ in range(3):
            events: list[Any] = [event async for event in generator.generate(ORDER, 5.0)]
            assert text(events) == "a"
    assert len(upstream.connections) == 1


@pytest.mark.parametrize("count", [-1, 2**40, "many", None, 1.5])
async def test_a_token_count_that_cannot_be_is_not_reported(count: Any) -> None:
    usage = chunk(choices=[], usage={"prompt_tokens": count, "completion_tokens": 1})
    events = await answer(FakeUpstream([chunk("a", "stop"), usage]))
    assert events[-1].finished == Finished(FinishReason.STOP, Usage())


@pytest.mark.parametrize(("said", "passed_on"), [("nan", 1.0), ("-5", 1.0), ("1e9", 120.0), ("Fri, 01 Jan", 1.0)])
async def test_retry_after_is_kept_sane(said: str, passed_on: float) -> None:
    with pytest.raises(Unavailable) as caught:
        await answer(FakeUpstream(status=429, headers={"Retry-After": said}))
    assert caught.value.retry_after_s == passed_on


async def test_usage_in_every_chunk_counts_once() -> None:
    events = await answer(FakeUpstream([chunk("a", usage={"prompt_tokens": 7, "completion_tokens": 1}), USAGE, END]))
    assert events[-1].finished == Finished(FinishReason.STOP, Usage(7, 2, reported=True))
