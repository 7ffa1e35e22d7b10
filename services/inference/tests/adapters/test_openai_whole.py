"""The OpenAI adapter's answers that come at once, against a real HTTP server, friendly and hostile."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from inference.adapters.openai import OpenAIGenerator, OpenAIUpstream, Patience
from inference.core.answer import Answer, Choice, FinishReason, Served, Usage
from inference.core.conversation import ToolCall, Turn
from inference.core.generation import Order, Sampling
from inference_fakes import FakeUpstream
from servicekit.errors import TimedOut, Unavailable
from servicekit.testing import eventually

HI = [Turn("user", "Hi?")]
PLAIN = Order(HI)
PATIENT = Patience()
JSON = {"Content-Type": "application/json; charset=utf-8"}
USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 5,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 3},
}


def message(content: Any = "Hi.", finish_reason: Any = "stop", index: Any = 0, **fields: Any) -> dict[str, Any]:
    said = {"role": "assistant", "content": content, **fields}
    return {"index": index, "message": said, "finish_reason": finish_reason, "logprobs": None}


def document(*choices: Any, **fields: Any) -> bytes:
    return orjson.dumps({"id": "id-1", "model": "up-1", "choices": choices, "usage": USAGE} | fields)


@asynccontextmanager
async def connected(upstream: FakeUpstream, patience: Patience = PATIENT) -> AsyncIterator[OpenAIGenerator]:
    async with upstream.running(), OpenAIUpstream(upstream.url, "sk-very-secret", patience) as connection:
        yield OpenAIGenerator(connection, "up", "chat")


async def answer(upstream: FakeUpstream, order: Order = PLAIN, timeout_s: float = 5.0) -> Answer:
    upstream.headers = upstream.headers if "Content-Encoding" in upstream.headers else JSON
    async with connected(upstream) as generator:
        return await generator.complete(order, timeout_s)


async def test_asks_for_no_stream_and_reads_all_there_is() -> None:
    upstream = FakeUpstream([document(message(), system_fingerprint="fp-1")])
    whole = await answer(upstream, Order(HI, Sampling(max_tokens=9)))
    usage = Usage(7, 5, reported=True, cached_input_tokens=4, reasoning_output_tokens=3)
    choice = Choice(0, Turn("assistant", "Hi."), FinishReason.STOP)
    assert whole == Answer(Served("up-1", "id-1", "fp-1"), [choice], usage)
    assert upstream.asked == [
        {"model": "up", "messages": [{"role": "user", "content": "Hi?"}], "stream": False, "max_tokens": 9}
    ]
    assert upstream.asked_headers[0]["Accept"] == "application/json"


async def test_tools_refusal_and_log_probabilities() -> None:
    calls = [
        {"id": "c0", "type": "function", "function": {"name": "f", "arguments": "{}"}},
        {"id": "c1", "type": "function", "function": {"name": "g", "arguments": ""}},
    ]
    told = {"content": [{"token": "a", "logprob": -0.5}]}
    refused = message(None, "content_filter", 1, refusal="No.") | {"logprobs": told}
    whole = await answer(
        FakeUpstream([document(refused, message(None, "tool_calls", tool_calls=calls))]), Order(HI, Sampling(n=2))
    )
    first, second = whole.choices
    assert first.turn.tool_calls == [ToolCall(0, "c0", "f", "{}"), ToolCall(1, "c1", "g", "")]
    assert first.finish_reason is FinishReason.TOOL_CALLS
    assert (second.index, second.turn.refusal, second.finish_reason) == (1, "No.", FinishReason.CONTENT_FILTER)
    assert orjson.loads(second.logprobs_json) == told


async def test_an_answer_without_usage_says_so() -> None:
    assert (await answer(FakeUpstream([document(message(), usage=None)]))).usage == Usage()


HOSTILE = {
    "nothing": b"",
    "truncated": document(message())[:-10],
    "no object": b"[]",
    "null": b"null",
    "error": document(message(), error={"message": "secret detail"}),
    "error alone": b'{"error": {"message": "secret detail"}}',
    "no choices": document(),
    "choices by name": document(message()).replace(b"[", b'{"a":[').replace(b"]", b"]}"),
    "choice of text": document("a"),
    "too many choices": document(message(), message(index=1)),
    "the same twice": document(message(), message()),
    "another index": document(message(index=1)),
    "index of text": document(message(index="0")),
    "no message": document({"index": 0, "finish_reason": "stop"}),
    "no finish reason": document(message(finish_reason=None)),
    "unknown finish": document(message(finish_reason="error")),
    "finish list": document(message(finish_reason=["stop"])),
    "tool calls without one": document(message(None, "tool_calls")),
    "nameless tool": document(message(None, "tool_calls", tool_calls=[{"id": "c", "function": {"arguments": ""}}])),
    "content in parts": document(message([{"type": "text", "text": "a"}])),
    "usage of text": document(message(), usage="much"),
    "deep nesting": b"[" * 100_000,
    "half of an emoji": b'{"choices": [{"message": {"content": "\\ud83d"}, "finish_reason": "stop"}]}',
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
async def test_what_is_not_a_whole_answer_is_a_failure(body: bytes) -> None:
    with pytest.raises(Unavailable) as caught:
        await answer(FakeUpstream([body]))
    assert caught.value.reason == "backend_failed"
    assert "secret" not in str(caught.value)


async def test_a_body_larger_than_any_answer_is_a_failure() -> None:
    with pytest.raises(Unavailable, match="more than anyone can want"):
        await answer(FakeUpstream([b" " * 1_100_000] * 32))


async def test_a_compressed_body_is_not_unpacked() -> None:
    headers = JSON | {"Content-Encoding": "gzip"}
    with pytest.raises(Unavailable):
        await answer(FakeUpstream([gzip.compress(document(message()))], headers=headers))


async def test_the_deadline_ends_a_hanging_answer() -> None:
    with pytest.raises(TimedOut):
        await answer(FakeUpstream([document(message())[:9]], hang=True), timeout_s=0.2)


async def test_a_stall_ends_before_the_deadline() -> None:
    upstream = FakeUpstream([document(message())[:9]], hang=True, headers=JSON)
    async with connected(upstream, Patience(stall_s=0.1)) as generator:
        with pytest.raises(Unavailable) as caught:
            await generator.complete(Order(HI), 60.0)
        assert caught.value.reason == "backend_failed"
        await asyncio.wait_for(upstream.gone.wait(), 1.0)


async def test_cancelling_reaches_the_upstream_within_a_second() -> None:
    upstream = FakeUpstream([document(message())[:9]], hang=True, headers=JSON)
    async with connected(upstream) as generator, asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(generator.complete(Order(HI), 60.0))
        await eventually(lambda: bool(upstream.asked))
        asking.cancel()
        await asyncio.wait_for(upstream.gone.wait(), 1.0)


async def test_a_finished_answer_gives_its_connection_back() -> None:
    upstream = FakeUpstream([document(message())], headers=JSON)
    async with connected(upstream) as generator:
        for _ in range(3):
            await generator.complete(Order(HI), 5.0)
    assert len(upstream.connections) == 1
