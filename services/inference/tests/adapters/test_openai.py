"""The OpenAI adapter's streams against a real HTTP server, friendly and hostile."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from inference.adapters.openai import OpenAIGenerator, OpenAIUpstream
from inference.core.answer import Delta, FinishReason, Piece, Served, Usage
from inference.core.conversation import ToolCall, Turn
from inference.core.generation import Order, Sampling
from inference_fakes import END, USAGE, FakeUpstream, chunk
from servicekit.errors import InvalidInput, PenstockError, TimedOut, Unavailable
from servicekit.testing import eventually

ORDER = Order((Turn("user", "Hi?"),), Sampling(max_tokens=9, stop=("\n",)))
KEY = "sk-very-secret"


@asynccontextmanager
async def connected(upstream: FakeUpstream) -> AsyncIterator[OpenAIGenerator]:
    async with upstream.running(), OpenAIUpstream(upstream.url, KEY) as connection:
        yield OpenAIGenerator(connection, "up", "chat")


async def answer(upstream: FakeUpstream, timeout_s: float = 5.0, order: Order = ORDER) -> list[Piece]:
    async with connected(upstream) as generator:
        return [event async for event in generator.generate(order, timeout_s)]


def text(events: Sequence[Piece]) -> str:
    return "".join(delta.text for event in events for delta in event.deltas)


def reasons(events: Sequence[Piece]) -> list[FinishReason]:
    return [delta.finish_reason for event in events for delta in event.deltas if delta.finish_reason]


async def test_yields_version_text_and_end_with_usage() -> None:
    upstream = FakeUpstream([chunk("Good"), chunk(" day"), END])
    events = await answer(upstream)
    assert events[0].served == Served("up-1")
    assert text(events) == "Good day"
    assert reasons(events) == [FinishReason.STOP]
    assert events[-1].usage == Usage(7, 2, reported=True)
    assert [event.served for event in events[1:]] == [None] * (len(events) - 1)
    assert [event.usage for event in events[:-1]] == [None] * (len(events) - 1)


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
    deltas = [Delta("a"), Delta("b"), Delta("c"), Delta(finish_reason=FinishReason.STOP)]
    assert events == [Piece(Served("up-1"), deltas, Usage(7, 2, reported=True))]


async def test_tells_the_upstreams_own_marks_once_and_bounds_them() -> None:
    marks = {"id": "chatcmpl-1", "system_fingerprint": "f" * 1000, "model": 7}
    events = await answer(FakeUpstream([chunk("a", **marks), chunk("b", **marks), END]))
    assert [event.served for event in events if event.served] == [Served("up", "chatcmpl-1", "f" * 200)]


async def test_usage_has_its_details() -> None:
    usage = {
        "prompt_tokens": 7,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    events = await answer(FakeUpstream([chunk("a", "stop"), chunk(choices=[], usage=usage)]))
    assert events[-1].usage == Usage(7, 5, reported=True, cached_input_tokens=4, reasoning_output_tokens=3)


@pytest.mark.parametrize("details", [None, {}, {"cached_tokens": None}, {"cached_tokens": -1}, {"cached_tokens": True}])
async def test_details_that_cannot_be_count_as_none(details: Any) -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 5, "prompt_tokens_details": details}
    events = await answer(FakeUpstream([chunk("a", "stop"), chunk(choices=[], usage=usage)]))
    assert events[-1].usage == Usage(7, 5, reported=True)


def tools(*calls: dict[str, Any], finish_reason: str | None = None) -> bytes:
    return chunk(choices=[{"index": 0, "delta": {"tool_calls": list(calls)}, "finish_reason": finish_reason}])


def call(index: int | None, id_: str | None, name: str | None, arguments: str = "") -> dict[str, Any]:
    fields = {"index": index, "id": id_, "function": {"name": name, "arguments": arguments}}
    return {key: value for key, value in fields.items() if value is not None}


PARALLEL = {
    "as OpenAI does": [call(0, "c0", "f"), call(1, "c1", "g"), call(0, None, None, "{}"), call(1, None, None, "[]")],
    "from one": [call(1, "c0", "f"), call(2, "c1", "g"), call(1, None, None, "{}"), call(2, None, None, "[]")],
    "with gaps": [call(3, "c0", "f"), call(9, "c1", "g"), call(3, None, None, "{}"), call(9, None, None, "[]")],
    "all zero": [call(0, "c0", "f"), call(0, None, None, "{}"), call(0, "c1", "g"), call(0, None, None, "[]")],
    "without an index": [call(None, "c0", "f", "{}"), call(None, "c1", "g", "[]")],
    "repeating itself": [
        *(call(0, "c0", "f"), call(1, "c1", "g"), call(0, "c0", "f", "{"), call(0, "c0", "f", "}")),
        call(1, "c1", "g", "[]"),
    ],
    "another id each time": [
        call(0, "c0", "f"),
        call(1, "c1", "g"),
        call(0, "x", None, "{}"),
        call(1, "y", None, "[]"),
    ],
}


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("calls", PARALLEL.values(), ids=PARALLEL.keys())
async def test_parallel_calls_are_dense_and_kept_apart(calls: list[dict[str, Any]], together: bool) -> None:
    pieces = [tools(*calls)] if together else [tools(each) for each in calls]
    events = await answer(FakeUpstream([*pieces, chunk(finish_reason="tool_calls"), USAGE]))
    told = [each for event in events for delta in event.deltas for each in delta.tool_calls]
    assert [(each.index, each.id, each.name) for each in told if each.name] == [(0, "c0", "f"), (1, "c1", "g")]
    assert [each.id for each in told if not each.name] == [""] * (len(told) - 2)
    assert "".join(each.arguments for each in told if each.index == 0) == "{}"
    assert "".join(each.arguments for each in told if each.index == 1) == "[]"
    assert reasons(events) == [FinishReason.TOOL_CALLS]


async def test_a_call_without_an_id_gets_one() -> None:
    events = await answer(
        FakeUpstream([tools(call(0, None, "f", "{}"), call(1, None, "f")), chunk(finish_reason="stop")])
    )
    one, two = (each for event in events for delta in event.deltas for each in delta.tool_calls)
    assert one.id
    assert two.id
    assert one.id != two.id
    assert one == ToolCall(0, one.id, "f", "{}")


async def test_a_refusal_and_log_probabilities_are_handed_on() -> None:
    told = {"content": [{"token": "a", "logprob": -0.5}], "refusal": None}
    choice = {"index": 0, "delta": {"content": "a"}, "logprobs": told}
    refusal = chunk(choices=[{"index": 0, "delta": {"refusal": "No."}, "finish_reason": None}])
    events = await answer(FakeUpstream([chunk(choices=[choice]), refusal, END]))
    first, second, _ = (delta for event in events for delta in event.deltas)
    assert first == Delta("a", logprobs_json='{"content":[{"token":"a","logprob":-0.5}],"refusal":null}')
    assert second == Delta(refusal="No.")


async def test_choices_are_kept_apart_and_all_have_to_end() -> None:
    two = Order(ORDER.turns, Sampling(n=2))
    told = [chunk(choices=[{"index": index, "delta": {"content": text}}]) for index, text in ((1, "b"), (0, "a"))]
    ends = [chunk(choices=[{"index": index, "delta": {}, "finish_reason": "stop"}]) for index in (1, 0)]
    events = await answer(FakeUpstream([*told, *ends, USAGE]), order=two)
    deltas = [(delta.choice, delta.text) for event in events for delta in event.deltas if delta.text]
    assert deltas == [(1, "b"), (0, "a")]
    assert reasons(events) == [FinishReason.STOP] * 2
    with pytest.raises(Unavailable):
        await answer(FakeUpstream([*told, ends[0], USAGE, b"data: [DONE]\n\n"]), order=two)


async def test_the_end_of_a_choice_may_be_told_twice() -> None:
    events = await answer(FakeUpstream([chunk("a"), chunk(finish_reason="length"), chunk("", "stop"), USAGE]))
    assert reasons(events) == [FinishReason.LENGTH]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
async def test_reads_events_however_they_are_cut(end: bytes) -> None:
    body = (b": hello\nevent: x\nid: 1\n" + chunk("Grüße ") + b": ping\n\n" + chunk("🙂") + END).replace(b"\n", end)
    pieces = [body[index : index + 1] for index in range(len(body))]
    assert text(await answer(FakeUpstream(pieces))) == "Grüße 🙂"


async def test_takes_an_end_without_done_and_without_usage() -> None:
    events = await answer(FakeUpstream([chunk("a"), chunk(finish_reason="length")]))
    assert reasons(events) == [FinishReason.LENGTH]
    assert events[-1].usage == Usage(0, 0, reported=False)


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
    "text after the end": [chunk("a", "stop"), chunk("b"), END],
    "another choice": [chunk(choices=[{"index": 1, "delta": {"content": "a"}}]), END],
    "choice by name": [chunk(choices=[{"index": "0", "delta": {"content": "a"}}]), END],
    "content in parts": [chunk(choices=[{"index": 0, "delta": {"content": [{"text": "a"}]}}]), END],
    "refusal in parts": [chunk(choices=[{"index": 0, "delta": {"refusal": ["a"]}}]), END],
    "tool calls without one": [chunk("a"), chunk(finish_reason="tool_calls")],
    "tools by name": [chunk(choices=[{"index": 0, "delta": {"tool_calls": {"f": 1}}}]), END],
    "tool without a name": [tools({"index": 0, "id": "c", "function": {"arguments": "{}"}}), END],
    "arguments as object": [tools({"index": 0, "id": "c", "function": {"name": "f", "arguments": {"a": 1}}}), END],
    "too many tools": [tools(*(call(index, f"c{index}", "f") for index in range(129))), END],
    "legacy function": [chunk("a"), chunk(finish_reason="function_call")],
    "half of an emoji": [b'data: {"choices": [{"delta": {"content": "\\ud83d"}}]}\n\n', END],
    "deep nesting": [b"data: " + b"[" * 100_000 + b"\n\n", END],
    "more than asked for": [chunk("a") * (9 * 8 + 256 + 1), END],
    "endless line": [b"data: " + b"x" * 2_000_000],
    "endless event": [b"data: xxxxxxxxxxxxxxxxxxxx\n" * 100_000],
}


@pytest.mark.parametrize("pieces", HOSTILE.values(), ids=HOSTILE.keys())
async def test_an_answer_that_breaks_off_is_a_failure(pieces: list[bytes]) -> None:
    with pytest.raises(Unavailable) as caught:
        await answer(FakeUpstream(pieces))
    assert caught.value.reason == "backend_failed"
    assert "secret" not in str(caught.value)


async def test_an_answer_may_come_in_more_pieces_than_it_has_tokens() -> None:
    assert text(await answer(FakeUpstream([chunk("a") * (9 * 8), END]))) == "a" * 72


async def test_a_compressed_body_is_not_unpacked() -> None:
    headers = {"Content-Type": "text/event-stream", "Content-Encoding": "gzip"}
    with pytest.raises(Unavailable):
        await answer(FakeUpstream([gzip.compress(chunk("a") + END)], headers=headers))


async def test_a_connection_that_breaks_mid_stream_is_a_failure() -> None:
    with pytest.raises(Unavailable) as caught:
        await answer(FakeUpstream([chunk("a")], break_off=True))
    assert caught.value.reason == "backend_failed"


async def test_a_connection_that_breaks_after_the_end_does_no_harm() -> None:
    events = await answer(FakeUpstream([chunk("a"), END], break_off=True))
    assert events[-1].usage == Usage(7, 2, reported=True)


async def test_a_wrong_content_type_is_a_failure() -> None:
    with pytest.raises(Unavailable, match="content type"):
        await answer(FakeUpstream([b"<html>"], headers={"Content-Type": "text/html"}))


STATUSES: list[tuple[int, type[PenstockError], str]] = [
    (400, InvalidInput, "invalid_input"),
    (401, Unavailable, "backend_failed"),
    (403, Unavailable, "backend_failed"),
    (404, Unavailable, "backend_failed"),
    (422, InvalidInput, "invalid_input"),
    (429, Unavailable, "rate_limited"),
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
    assert caught.value.retry_after_s == (None if kind is InvalidInput else 7.0)
    assert KEY not in str(caught.value)


async def test_an_upstream_that_repeats_the_key_is_not_repeated() -> None:
    body = b'{"error": {"message": "wrong: Bearer %s", "param": "%s"}}' % (KEY.encode(), KEY.encode())
    with pytest.raises(InvalidInput) as caught:
        await answer(FakeUpstream([body], status=400, headers={"Content-Type": "application/json"}))
    assert "wrong: Bearer ***" in caught.value.message
    assert KEY not in caught.value.message + caught.value.field


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
            assert await anext(events) == Piece(Served("up-1"), [Delta("a")])
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
    assert events[-1].usage == Usage()


async def test_usage_in_every_chunk_counts_once() -> None:
    events = await answer(FakeUpstream([chunk("a", usage={"prompt_tokens": 7, "completion_tokens": 1}), USAGE, END]))
    assert events[-1].usage == Usage(7, 2, reported=True)
