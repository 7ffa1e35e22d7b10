"""The typed service: a real server, a real stub."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from inference.api.servicer import inference_service
from inference.core.answer import Answer, Choice, Delta, FinishReason, Piece, Served, Usage
from inference.core.catalogue import Task
from inference.core.conversation import Audio, Image, Text, ToolCall, Turn
from inference.core.generation import (
    ChatOptions,
    JsonObject,
    JsonSchema,
    Order,
    Sampling,
    Tool,
    ToolChoice,
    ToolMode,
)
from inference.core.pool import Pool
from inference.core.ports import ModelState
from inference.core.served_model import ServedModel
from inference_fakes import FakeGenerator, FakeTensors, generating, model
from penstock.inference.v1 import inference_pb2 as pb
from penstock.inference.v1 import inference_pb2_grpc as pb_grpc
from servicekit.errors import Forbidden, InvalidInput, NotFound, TimedOut, Unavailable
from servicekit.rpc import Channel
from servicekit.testing import caller, eventually, serving

LOADED_AT = datetime(2026, 1, 2, tzinfo=UTC)


class Client:
    """Calls the service as the tester, or as who is asked for."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.stub = pb_grpc.InferenceServiceStub(channel.grpc)

    async def generate(self, timeout_s: float = 5.0, **fields: Any) -> list[pb.GenerateResponse]:
        request = pb.GenerateRequest(**{"model": "chat", "messages": [pb.Message(role="user", content="Hi")]} | fields)
        return [each async for each in self.channel.stream(self.stub.Generate, request, timeout_s=timeout_s)]

    async def complete(self, **fields: Any) -> pb.CompleteResponse:
        request = pb.CompleteRequest(**{"model": "chat", "messages": [pb.Message(role="user", content="Hi")]} | fields)
        return await self.channel.call(self.stub.Complete, request, timeout_s=5.0)


@asynccontextmanager
async def client(*models: ServedModel) -> AsyncIterator[Client]:
    async with serving(inference_service(Pool(models), LOADED_AT)) as address, Channel(address) as channel:
        with caller():
            yield Client(channel)


SERVED = pb.ServedModel(
    model="chat", version="v1", provider="triton", region="eu", response_id="id-1", system_fingerprint="fp-1"
)
END = pb.GenerationFinished(usage=pb.TokenUsage(input_tokens=3, output_tokens=2, reported=True))


async def test_streams_what_serves_text_and_end() -> None:
    async with client(generating(FakeGenerator(), "chat", region="eu")) as inference:
        answer = await inference.generate()
    assert answer == [
        pb.GenerateResponse(served=SERVED),
        pb.GenerateResponse(deltas=[pb.Delta(text="Hello")]),
        pb.GenerateResponse(deltas=[pb.Delta(text=" there.")]),
        pb.GenerateResponse(deltas=[pb.Delta(finish_reason=pb.FINISH_REASON_STOP)], finished=END),
    ]


CALLS = [ToolCall(0, "c0", "f", '{"a": '), ToolCall(1, "c1", "g")]
PB_CALLS = [pb.ToolCall(index=0, id="c0", name="f", arguments='{"a": '), pb.ToolCall(index=1, id="c1", name="g")]


async def test_what_came_together_is_one_message_with_all_it_says() -> None:
    usage = Usage(3, 1, reported=True, cached_input_tokens=2, reasoning_output_tokens=1)
    deltas = [
        Delta("Hi", None, 1, logprobs_json='{"content": []}'),
        Delta(tool_calls=CALLS),
        Delta(refusal="No.", finish_reason=FinishReason.CONTENT_FILTER),
        Delta(finish_reason=FinishReason.TOOL_CALLS, choice=1),
    ]
    async with client(generating(FakeGenerator([Piece(Served("v1"), deltas, usage)]), "chat")) as inference:
        [answer] = await inference.generate()
    assert list(answer.deltas) == [
        pb.Delta(choice=1, text="Hi", logprobs_json='{"content": []}'),
        pb.Delta(tool_calls=PB_CALLS),
        pb.Delta(refusal="No.", finish_reason=pb.FINISH_REASON_CONTENT_FILTER),
        pb.Delta(choice=1, finish_reason=pb.FINISH_REASON_TOOL_CALLS),
    ]
    counted = answer.finished.usage
    assert (counted.cached_input_tokens, counted.reasoning_output_tokens) == (2, 1)


async def test_completes_an_answer_as_a_whole() -> None:
    async with client(generating(FakeGenerator(), "chat", region="eu")) as inference:
        answer = await inference.complete()
    message = pb.Message(role="assistant", content="Hello there.")
    choice = pb.Choice(message=message, finish_reason=pb.FINISH_REASON_STOP)
    assert answer == pb.CompleteResponse(served=SERVED, choices=[choice], finished=END)


async def test_a_caller_pinned_to_a_region_reaches_no_model_elsewhere() -> None:
    models = generating(FakeGenerator(), "chat", region="eu"), generating(FakeGenerator(), "nowhere")
    async with client(*models) as inference:
        with caller(region="eu"):
            assert (await inference.complete()).choices
            assert await inference.generate()
        for region, name in (("us", "chat"), ("eu", "nowhere")):
            with caller(region=region), pytest.raises(Forbidden) as whole:
                await inference.complete(model=name)
            with caller(region=region), pytest.raises(Forbidden) as streamed:
                await inference.generate(model=name)
            assert whole.value.reason == streamed.value.reason == "region_not_allowed"


async def test_a_whole_answer_has_every_choice_with_all_it_says() -> None:
    choices = [
        Choice(0, Turn("assistant", "Hi", tool_calls=CALLS), FinishReason.TOOL_CALLS, "{}"),
        Choice(1, Turn("assistant", refusal="No."), FinishReason.LENGTH),
    ]
    generator = FakeGenerator(answer=Answer(Served("v1"), choices, Usage()))
    async with client(generating(generator, "chat")) as inference:
        answer = await inference.complete(sampling=pb.SamplingParameters(n=2))
    first = pb.Message(role="assistant", content="Hi", tool_calls=PB_CALLS)
    second = pb.Message(role="assistant", refusal="No.")
    assert list(answer.choices) == [
        pb.Choice(message=first, finish_reason=pb.FINISH_REASON_TOOL_CALLS, logprobs_json="{}"),
        pb.Choice(index=1, message=second, finish_reason=pb.FINISH_REASON_LENGTH),
    ]
    assert not answer.finished.usage.reported


async def test_leaving_a_completion_stops_the_backend() -> None:
    generator = FakeGenerator(gate=asyncio.Event())
    served = generating(generator, "chat")
    async with client(served) as inference, asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(inference.complete())
        await eventually(lambda: generator.running == 1)
        asking.cancel()
        await eventually(lambda: generator.running == 0, timeout_s=1.0)
        await eventually(lambda: served.queue.running == 0, timeout_s=1.0)


async def test_translates_messages_and_sampling() -> None:
    generator = FakeGenerator()
    sampling = pb.SamplingParameters(max_tokens=5, temperature=0.0, stop=["x"])
    async with client(generating(generator, "chat")) as inference:
        await inference.generate(sampling=sampling)
        await inference.complete()
    plain = [Turn("user", "Hi")]
    assert generator.orders == [
        Order(plain, Sampling(max_tokens=5, temperature=0.0, stop=("x",))),
        Order(plain, Sampling()),
    ]


MESSAGES = [
    pb.Message(
        role="user",
        name="Ada",
        parts=[
            pb.ContentPart(text="What is"),
            pb.ContentPart(image=pb.Image(url="https://x/y", detail="low")),
            pb.ContentPart(audio=pb.Audio(content="AA", format="wav")),
        ],
    ),
    pb.Message(role="assistant", tool_calls=PB_CALLS),
    pb.Message(role="tool", tool_call_id="c0", content="42"),
    pb.Message(role="assistant", refusal="No."),
]
TURNS = [
    Turn("user", parts=[Text("What is"), Image("https://x/y", "low"), Audio("AA", "wav")], name="Ada"),
    Turn("assistant", tool_calls=CALLS),
    Turn("tool", "42", tool_call_id="c0"),
    Turn("assistant", refusal="No."),
]
SAMPLING = {
    "max_tokens": 5,
    "temperature": 0.7,
    "top_p": 0.9,
    "seed": -1,
    "n": 2,
    "presence_penalty": -1.5,
    "frequency_penalty": 0.0,
    "logprobs": True,
    "top_logprobs": 0,
    "logit_bias": {"50256": -100.0},
}
OPTIONS = pb.ChatOptions(
    tools=[pb.Tool(name="f", description="F", parameters_json="{}", strict=False), pb.Tool(name="g")],
    tool_choice=pb.ToolChoice(mode=pb.TOOL_MODE_FUNCTION, name="g"),
    parallel_tool_calls=False,
    response_format=pb.ResponseFormat(
        type=pb.RESPONSE_FORMAT_TYPE_JSON_SCHEMA, name="s", description="S", schema_json="{}", strict=True
    ),
    extra_json='{"user": "u"}',
)


@pytest.mark.parametrize("streaming", [True, False])
async def test_all_of_a_request_reaches_the_backend(streaming: bool) -> None:
    generator = FakeGenerator()
    fields = {"messages": MESSAGES, "sampling": pb.SamplingParameters(**SAMPLING, stop=["a", "b"]), "options": OPTIONS}
    async with client(generating(generator, "chat")) as inference:
        await (inference.generate(**fields) if streaming else inference.complete(**fields))
    options = ChatOptions(
        [Tool("f", "F", "{}", strict=False), Tool("g")],
        ToolChoice(ToolMode.FUNCTION, "g"),
        parallel_tool_calls=False,
        response_format=JsonSchema("s", "{}", "S", strict=True),
        extra_json='{"user": "u"}',
    )
    assert generator.orders == [Order(TURNS, Sampling(**SAMPLING, stop=("a", "b")), options)]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (pb.TOOL_MODE_AUTO, ToolMode.AUTO),
        (pb.TOOL_MODE_NONE, ToolMode.NONE),
        (pb.TOOL_MODE_REQUIRED, ToolMode.REQUIRED),
    ],
)
async def test_every_tool_choice_is_known(mode: pb.ToolMode.ValueType, expected: ToolMode) -> None:
    generator = FakeGenerator()
    json = pb.ResponseFormat(type=pb.RESPONSE_FORMAT_TYPE_JSON_OBJECT)
    options = pb.ChatOptions(tools=[pb.Tool(name="f")], tool_choice=pb.ToolChoice(mode=mode), response_format=json)
    async with client(generating(generator, "chat")) as inference:
        await inference.generate(options=options)
    assert generator.orders[0].options == ChatOptions([Tool("f")], ToolChoice(expected), response_format=JsonObject())


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"model": "nope"}, NotFound, "model"),
    ({"model": ""}, NotFound, "model"),
    ({"model": "encoder"}, InvalidInput, "model"),
    ({"messages": []}, InvalidInput, "messages"),
    ({"messages": [pb.Message(role="robot")]}, InvalidInput, "messages[0].role"),
    ({"sampling": pb.SamplingParameters(temperature=9)}, InvalidInput, "sampling.temperature"),
    ({"sampling": pb.SamplingParameters(max_tokens=0)}, InvalidInput, "sampling.max_tokens"),
    ({"messages": [pb.Message(role="user", parts=[pb.ContentPart()])]}, InvalidInput, "messages[0].content[0]"),
    ({"options": pb.ChatOptions(tool_choice=pb.ToolChoice(mode=9))}, InvalidInput, "tool_choice.mode"),  # type: ignore
    (
        {"options": pb.ChatOptions(response_format=pb.ResponseFormat(type=9))},  # type: ignore
        InvalidInput,
        "response_format.type",
    ),
    ({"options": pb.ChatOptions(tools=[pb.Tool(name="a b")])}, InvalidInput, "tools[0].function.name"),
]


@pytest.mark.parametrize(("fields", "kind", "field"), WRONG)
async def test_bad_input_is_named(fields: dict[str, Any], kind: type[Exception], field: str) -> None:
    encoder = ServedModel(model("encoder", Task.EMBED), tensors=FakeTensors())
    async with client(generating(FakeGenerator(), "chat"), encoder) as inference:
        for asking in (inference.generate(**fields), inference.complete(**fields)):
            with pytest.raises(kind) as caught:
                await asking
            assert getattr(caught.value, "field", None) == field


async def test_what_a_model_cannot_do_is_refused_by_name() -> None:
    plain = generating(FakeGenerator(), "chat", capabilities=frozenset({"stop"}))
    async with client(plain) as inference:
        with pytest.raises(InvalidInput) as caught:
            await inference.complete(sampling=pb.SamplingParameters(logprobs=True))
    assert (caught.value.reason, caught.value.field) == ("unsupported_parameter", "logprobs")


async def test_generating_needs_its_scope() -> None:
    async with client(generating(FakeGenerator(), "chat")) as inference:
        with caller(scopes={"embeddings"}), pytest.raises(Forbidden):
            await inference.generate()


async def test_a_failure_keeps_its_reason() -> None:
    failing = FakeGenerator(
        [Piece(Served("v1"), [Delta("half")]), Unavailable("x", reason="backend_failed", retry_after_s=1.0)]
    )
    async with client(generating(failing, "chat")) as inference:
        with pytest.raises(Unavailable) as caught:
            await inference.generate()
    assert (caught.value.reason, caught.value.retry_after_s) == ("backend_failed", 1.0)


async def test_a_caller_who_leaves_stops_the_backend() -> None:
    generator = FakeGenerator(gate=asyncio.Event())
    served = generating(generator, "chat")
    async with client(served) as inference, asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(inference.generate())
        await eventually(lambda: generator.running == 1)
        asking.cancel()
        await eventually(lambda: generator.running == 0, timeout_s=1.0)
        await eventually(lambda: served.queue.running == 0, timeout_s=1.0)


async def test_a_caller_who_leaves_while_we_write_stops_the_backend() -> None:
    endless = FakeGenerator([Piece(Served("v1")), *[Piece(deltas=[Delta("x" * 100_000)])] * 10_000])
    served = generating(endless, "chat")
    async with client(served) as inference:
        request = pb.GenerateRequest(model="chat", messages=[pb.Message(role="user", content="Hi")])
        answer = inference.channel.stream(inference.stub.Generate, request)
        async for _ in answer:
            break
        await answer.aclose()
        await eventually(lambda: endless.running == 0, timeout_s=1.0)
        await eventually(lambda: served.queue.running == 0, timeout_s=1.0)


async def test_a_deadline_stops_the_backend() -> None:
    generator = FakeGenerator(gate=asyncio.Event())
    async with client(generating(generator, "chat")) as inference:
        with pytest.raises(TimedOut):
            await inference.generate(timeout_s=0.1)
        await eventually(lambda: generator.running == 0, timeout_s=1.0)


async def test_lists_and_gets_models_for_every_caller() -> None:
    encoder = ServedModel(
        model("encoder", Task.EMBED, context_tokens=256, description="E"),
        tensors=FakeTensors(),
        state=ModelState(ready=False, reason="not_loaded", version="1", digest="sha256:ab"),
    )
    async with client(generating(FakeGenerator(), "chat"), encoder) as inference:
        with caller(scopes={"ask"}):
            listed = await inference.channel.call(inference.stub.ListModels, pb.ListModelsRequest())
            found = await inference.channel.call(inference.stub.GetModel, pb.GetModelRequest(name="encoder"))
            with pytest.raises(NotFound):
                await inference.channel.call(inference.stub.GetModel, pb.GetModelRequest(name="nope"))
    assert [each.name for each in listed.models] == ["chat", "encoder"]
    assert listed.models[0].ready
    assert listed.models[0].created_at.ToDatetime(UTC) == LOADED_AT
    assert (found.model.task, found.model.digest, found.model.reason) == (
        pb.MODEL_TASK_EMBED,
        "sha256:ab",
        "not_loaded",
    )
    assert (found.model.context_tokens, found.model.ready, found.model.description) == (256, False, "E")
