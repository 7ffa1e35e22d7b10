"""What chat answers, byte by byte: whole, as a stream, and over the typed door."""

import json
from typing import Any

import grpc
import httpx
import pytest
from gateway.api import responses as shown
from gateway_chat_fakes import FILTERED, LENGTH, TOOL_CALLS, Written
from gateway_fakes import Gateway
from penstock.gateway.v1 import gateway_pb2 as pb
from penstock.gateway.v1.gateway_pb2_grpc import GatewayServiceStub
from penstock.inference.v1 import inference_pb2 as inference
from servicekit.errors import InvalidInput, Unavailable

CHAT = "/v1/chat/completions"
TOOLS = [{"type": "function", "function": {"name": name}} for name in ("find", "book")]
CALLS = [("call_1", "find", '{"where": "Porto", "when": 3}'), ("call_2", "book", "{}")]
BROKEN = Unavailable("gone", reason="backend_failed")


def body(**changes: Any) -> dict[str, Any]:
    return {"model": "writer", "messages": [{"role": "user", "content": "Hi"}], **changes}


def chunks_of(text: str) -> list[Any]:
    """Return the events of a stream; the last one is the text `[DONE]` where it is there."""
    assert text.endswith("\n\n")
    lines = [event.removeprefix("data: ") for event in text.strip().split("\n\n")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


async def streamed(http: httpx.AsyncClient, **changes: Any) -> list[Any]:
    response = await http.post(CHAT, json=body(stream=True, **changes))
    assert response.status_code == 200, response.text
    return chunks_of(response.text)


def joined(chunks: list[Any], choice: int = 0) -> str:
    parts = [each for chunk in chunks for each in chunk["choices"] if each["index"] == choice]
    return "".join(each["delta"].get("content") or "" for each in parts)


async def test_a_whole_answer(http: httpx.AsyncClient, gateway: Gateway) -> None:
    gateway.world.answers = [Written(texts=["Hello", "Good day"], logprobs='{"content":[],"refusal":null}')]
    response = await http.post(CHAT, json=body(n=2, logprobs=True))
    answer = response.json()
    shown.ChatCompletion.model_validate(answer)
    assert (answer["object"], answer["model"], answer["system_fingerprint"]) == ("chat.completion", "writer", "fp_1")
    assert answer["id"].startswith("chatcmpl-")
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["Hello", "Good day"]
    assert answer["choices"][1]["logprobs"] == {"content": [], "refusal": None}
    assert answer["usage"] == {
        "prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8,
        "prompt_tokens_details": {"cached_tokens": 2}, "completion_tokens_details": {"reasoning_tokens": 1},
    }  # fmt: skip
    extension = answer["penstock"]
    assert extension["served"] == {
        "model": "writer", "version": "7", "digest": "sha256:11", "provider": "openai", "region": "eu",
        "response_id": None,
    }  # fmt: skip
    (attempt,) = extension["routing"]["attempts"]
    assert (attempt["model"], attempt["outcome"]) == ("writer", "ok")
    assert attempt["duration_ms"] > 0
    told = {name: value for name, value in response.headers.items() if name.startswith("x-penstock")}
    assert told == {
        "x-penstock-model": "writer", "x-penstock-version": "7", "x-penstock-provider": "openai",
        "x-penstock-region": "eu",
    }  # fmt: skip
    assert len(gateway.world.requests) == 1


@pytest.mark.parametrize(
    ("written", "message", "reason"),
    [
        (Written(text=""), {"content": "", "refusal": None}, "stop"),
        (Written(refusal="No."), {"content": None, "refusal": "No."}, "stop"),
        (Written(text="Hel", finish_reason=LENGTH), {"content": "Hel", "refusal": None}, "length"),
        (Written(text="", finish_reason=FILTERED), {"content": "", "refusal": None}, "content_filter"),
    ],
)
async def test_how_answers_end(http: httpx.AsyncClient, gateway: Gateway, written: Written, message, reason) -> None:
    gateway.world.answers = [written]
    (choice,) = (await http.post(CHAT, json=body())).json()["choices"]
    assert (choice["message"], choice["finish_reason"]) == ({"role": "assistant", **message}, reason)
    chunks = await streamed(http)
    assert [each["choices"][0]["finish_reason"] for each in chunks[:-1]] == [None] * (len(chunks) - 2) + [reason]
    assert joined(chunks[:-1]) == (message["content"] or "")
    refusals = [chunk["choices"][0]["delta"].get("refusal") or "" for chunk in chunks[:-1]]
    assert "".join(refusals) == (message["refusal"] or "")
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"


async def test_tools_whole_and_streamed(http: httpx.AsyncClient, gateway: Gateway) -> None:
    gateway.world.answers = [Written(calls=CALLS, finish_reason=TOOL_CALLS)]
    (choice,) = (await http.post(CHAT, json=body(tools=TOOLS))).json()["choices"]
    assert choice["message"]["content"] is None
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"] == [
        {"id": call, "type": "function", "function": {"name": name, "arguments": arguments}}
        for call, name, arguments in CALLS
    ]
    chunks = await streamed(http, tools=TOOLS)
    pieces = [piece for chunk in chunks[:-1] for piece in chunk["choices"][0]["delta"].get("tool_calls", [])]
    for index, (call, name, arguments) in enumerate(CALLS):
        first, *rest = [piece for piece in pieces if piece["index"] == index]
        assert (first["id"], first["type"], first["function"]["name"]) == (call, "function", name)
        assert all(piece.keys() == {"index", "function"} for piece in rest)
        assert all(piece["function"].keys() == {"arguments"} for piece in rest)
        assert "".join(piece["function"]["arguments"] for piece in (first, *rest)) == arguments
    assert {piece["index"] for piece in pieces} == {0, 1}
    assert chunks[-2]["choices"][0]["finish_reason"] == "tool_calls"


async def test_a_stream(http: httpx.AsyncClient, gateway: Gateway) -> None:
    gateway.world.answers = [Written(text='Say "ü\n" ☃', logprobs='{"content":[]}')]
    response = await http.post(CHAT, json=body(stream=True))
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-penstock-model"] == "writer"
    assert len(response.headers["x-request-id"]) == 32
    *chunks, done = chunks_of(response.text)
    assert done == "[DONE]"
    assert len({(chunk["id"], chunk["created"]) for chunk in chunks}) == 1
    assert all(chunk["object"] == "chat.completion.chunk" and chunk["model"] == "writer" for chunk in chunks)
    assert all(chunk["system_fingerprint"] == "fp_1" for chunk in chunks)
    assert all("usage" not in chunk for chunk in chunks)
    assert [chunk["choices"][0]["delta"].get("role") for chunk in chunks] == ["assistant"] + [None] * (len(chunks) - 1)
    assert chunks[0]["choices"][0]["logprobs"] == {"content": []}
    assert chunks[-1]["choices"][0]["delta"] == {}
    assert joined(chunks) == 'Say "ü\n" ☃'
    assert ["penstock" in chunk for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


async def test_usage_comes_once_and_last(http: httpx.AsyncClient, gateway: Gateway) -> None:
    for written, usage in ((Written(text="Hello"), 8), (Written(text="Hello", reported=False), None)):
        gateway.world.answers = [written]
        *chunks, last, done = await streamed(http, stream_options={"include_usage": True})
        assert done == "[DONE]"
        assert all(chunk["usage"] is None and chunk["choices"] for chunk in chunks)
        assert last["choices"] == []
        assert (last["usage"] or {}).get("total_tokens") == usage


async def test_choices_are_kept_apart(http: httpx.AsyncClient, gateway: Gateway) -> None:
    gateway.world.answers = [Written(texts=["Hello there", "Good", "Ciao, bella"])]
    *chunks, _ = await streamed(http, n=3)
    assert [joined(chunks, choice) for choice in range(3)] == ["Hello there", "Good", "Ciao, bella"]
    for choice in range(3):
        mine = [each for chunk in chunks for each in chunk["choices"] if each["index"] == choice]
        assert [each["delta"].get("role") for each in mine] == ["assistant"] + [None] * (len(mine) - 1)
        assert [each["finish_reason"] for each in mine] == [None] * (len(mine) - 1) + ["stop"]


async def test_lengths_can_be_hidden(http: httpx.AsyncClient, gateway: Gateway) -> None:
    gateway.world.answers = [Written(texts=["a bcdefghi", "x"])]
    response = await http.post(CHAT, json=body(stream=True, n=2, stream_options={"include_obfuscation": True}))
    *events, _ = [event for event in response.text.split("\n\n") if event]
    assert all((len(event) + 2) % 64 == 0 for event in events[:-1])
    assert joined(chunks_of(response.text)[:-1]) == "a bcdefghi"


@pytest.mark.parametrize(
    "written",
    [
        Written(text="Hello there", breaks=BROKEN),
        Written(text="Hello there", ends=False),
        Written(calls=CALLS, breaks=BROKEN),
    ],
)
async def test_a_stream_that_breaks_ends_in_one_error(http: httpx.AsyncClient, gateway: Gateway, written) -> None:
    gateway.world.answers = [written]
    *chunks, error = await streamed(http, stream_options={"include_usage": True})
    assert chunks
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in chunks)
    assert error["error"].keys() == {"message", "type", "param", "code"}
    assert error["error"]["code"] == "backend_failed"


@pytest.mark.parametrize("written", [Written(breaks=BROKEN), Written(text="", ends=False)])
async def test_what_fails_before_the_first_piece_has_a_status(
    http: httpx.AsyncClient, gateway: Gateway, written: Written
) -> None:
    gateway.world.answers = [Written(breaks=BROKEN, text="") if written.breaks else written]
    response = await http.post(CHAT, json=body(stream=True))
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "backend_failed"
    assert 1 <= int(response.headers["retry-after"]) <= 120


async def test_a_name_cannot_write_headers(http: httpx.AsyncClient, gateway: Gateway) -> None:
    gateway.world.answers = [Written(text="Hello")]
    gateway.world.failure = None
    name = "writer\r\nx-evil: 1"
    response = await http.post(CHAT, json=body(model=name))
    assert response.status_code == 404
    assert "x-evil" not in response.headers


async def test_everything_reaches_the_model_once(http: httpx.AsyncClient, gateway: Gateway) -> None:
    asked = body(tools=TOOLS, tool_choice="required", n=2, temperature=0, flavour="sweet", max_tokens=3)
    assert (await http.post(CHAT, json=asked)).status_code == 200
    sent = gateway.world.requests[-1]
    assert sent.model == "writer"
    assert [tool.name for tool in sent.options.tools] == ["find", "book"]
    assert sent.options.extra_json == '{"flavour":"sweet"}'
    assert (sent.sampling.n, sent.sampling.max_tokens, sent.sampling.HasField("temperature")) == (2, 3, True)
    await http.post(CHAT, json=body())
    sent = gateway.world.requests[-1]
    assert not sent.HasField("options")
    assert not sent.sampling.ListFields()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_model_that_takes_no_further_fields_names_them(
    http: httpx.AsyncClient, gateway: Gateway, stream: bool
) -> None:
    gateway.world.failure = InvalidInput("no extra fields", reason="unsupported_parameter", field="extra_json")
    error = (await http.post(CHAT, json=body(flavour="sweet", stream=stream))).json()["error"]
    assert (error["param"], error["code"]) == ("flavour", "unsupported_parameter")


@pytest.fixture
async def stub(gateway: Gateway):
    async with grpc.aio.insecure_channel(gateway.grpc_address) as channel:
        yield GatewayServiceStub(channel)


async def test_the_typed_door_has_it_all(stub, gateway: Gateway) -> None:
    gateway.world.answers = [Written(texts=["Hello", "Ciao"], calls=CALLS, finish_reason=TOOL_CALLS)]
    metadata = (("authorization", f"Bearer {gateway.key}"),)
    tools = [inference.Tool(name=name) for name in ("find", "book")]
    conversation = pb.Conversation(
        model="writer",
        messages=[inference.Message(role="user", content="Hi")],
        sampling=inference.SamplingParameters(n=2),
        options=inference.ChatOptions(tools=tools),
    )
    whole = await stub.Chat(pb.ChatRequest(conversation=conversation), metadata=metadata)
    assert [choice.message.content for choice in whole.choices] == ["Hello", "Ciao"]
    assert [(call.id, call.name, call.arguments) for call in whole.choices[1].message.tool_calls] == CALLS
    assert (whole.served.model, whole.usage.cached_input_tokens) == ("writer", 2)
    assert [(each.model, each.outcome) for each in whole.routing.attempts] == [("writer", "ok")]
    request = pb.StreamChatRequest(conversation=conversation)
    events = [event async for event in stub.StreamChat(request, metadata=metadata)]
    assert events[0].served.model == "writer"
    assert [event.HasField("served") for event in events[1:]] == [False] * (len(events) - 1)
    texts = ["".join(d.text for event in events for d in event.deltas if d.choice == choice) for choice in (0, 1)]
    assert texts == ["Hello", "Ciao"]
    assert [delta.finish_reason for delta in events[-1].deltas] == [TOOL_CALLS, TOOL_CALLS]
    assert all(not delta.finish_reason for event in events[:-1] for delta in event.deltas)
    assert events[-1].finished.routing.call_id


async def test_the_typed_door_refuses_by_the_same_names(stub, gateway: Gateway) -> None:
    conversation = pb.Conversation(
        model="rag:docs",
        messages=[inference.Message(role="user", content="Hi")],
        options=inference.ChatOptions(tools=[inference.Tool(name="find")]),
    )
    metadata = (("authorization", f"Bearer {gateway.key}"),)
    for call in (
        stub.Chat(pb.ChatRequest(conversation=conversation), metadata=metadata),
        stub.StreamChat(pb.StreamChatRequest(conversation=conversation), metadata=metadata).read(),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "tools" in caught.value.details()
