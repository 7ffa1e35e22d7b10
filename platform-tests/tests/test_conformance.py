"""What the official OpenAI client expects of a server, for a model of Triton and for a model of an upstream."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator

import httpx
import openai
import pytest
from hostile_process import Hostile
from pydantic import BaseModel
from servicekit.testing import eventually
from stack_process import RunningStack

READER, HOSTED = "extractive-reader", "hostile-ok"
QUESTION = "The filter of the turbine is changed every 500 hours. When is the filter of the turbine changed?"
TURNS = [{"role": "user", "content": QUESTION}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
    for name in ("weather", "time")
]
CHAT = "/v1/chat/completions"
both = pytest.mark.parametrize("model", [READER, HOSTED])
pytestmark = pytest.mark.stack


class Place(BaseModel):
    """A form that an answer has to have."""

    city: str
    people: int
    twins: list[str]


@pytest.fixture
async def client(stack: RunningStack) -> AsyncIterator[openai.AsyncOpenAI]:
    """The official client with the tenant's key; it does not try again by itself."""
    inner = httpx.AsyncClient(trust_env=False)
    async with openai.AsyncOpenAI(
        base_url=f"{stack.url}/v1", api_key=stack.api_key, max_retries=0, http_client=inner, timeout=30
    ) as made:
        yield made


@both
async def test_1_a_whole_answer(client: openai.AsyncOpenAI, model: str) -> None:
    made = await client.chat.completions.create(model=model, messages=TURNS)
    assert (made.object, made.model) == ("chat.completion", model)
    assert made.id
    assert abs(made.created - time.time()) < 60
    (choice,) = made.choices
    assert (choice.index, choice.finish_reason, choice.message.role) == (0, "stop", "assistant")
    assert choice.message.content
    assert made.usage is not None
    assert made.usage.total_tokens == made.usage.prompt_tokens + made.usage.completion_tokens > 0
    assert made._request_id
    extension = (made.model_extra or {})["penstock"]
    assert extension["served"]["model"] == model
    assert [each["outcome"] for each in extension["routing"]["attempts"]] == ["ok"]


@both
async def test_2_a_stream(client: openai.AsyncOpenAI, model: str) -> None:
    async with client.chat.completions.with_streaming_response.create(model=model, messages=TURNS, stream=True) as raw:
        assert raw.headers["content-type"].startswith("text/event-stream")
        assert raw.headers["x-request-id"]
        assert raw.headers["x-penstock-model"] == model
        *events, done = [line async for line in raw.iter_lines() if line]
    assert done == "data: [DONE]"
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert len({(chunk["id"], chunk["created"], chunk["object"]) for chunk in chunks}) == 1
    assert chunks[0]["object"] == "chat.completion.chunk"
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["stop"]
    assert all("usage" not in chunk for chunk in chunks)


async def test_2_a_stream_is_not_held_back(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model="hostile-ok-paced", messages=TURNS, max_tokens=50, stream=True)
    moments = [time.monotonic() async for _ in stream]
    assert moments[-1] - moments[0] > 0.5


@both
async def test_3_usage_in_streams(client: openai.AsyncOpenAI, model: str) -> None:
    options = {"include_usage": True, "include_obfuscation": False}
    stream = await client.chat.completions.create(model=model, messages=TURNS, stream=True, stream_options=options)
    *chunks, last = [chunk async for chunk in stream]
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    assert last.choices == []
    assert last.usage.total_tokens == last.usage.prompt_tokens + last.usage.completion_tokens > 0


@both
async def test_3_the_streaming_helper(client: openai.AsyncOpenAI, model: str) -> None:
    async with client.chat.completions.stream(
        model=model, messages=TURNS, stream_options={"include_usage": True}
    ) as stream:
        pieces = [event.delta async for event in stream if event.type == "content.delta"]
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == "".join(pieces)
    assert final.choices[0].finish_reason == "stop"
    assert final.usage.total_tokens > 0


async def test_4_tools(client: openai.AsyncOpenAI) -> None:
    made = await client.chat.completions.create(model="hostile-ok-tools", messages=TURNS, tools=TOOLS)
    (choice,) = made.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    calls = choice.message.tool_calls
    assert [call.function.name for call in calls] == ["weather", "time"]
    assert len({call.id for call in calls}) == 2
    assert all("city" in json.loads(call.function.arguments) for call in calls)
    answers = [{"role": "tool", "tool_call_id": call.id, "content": f"{call.function.name}!"} for call in calls]
    again = await client.chat.completions.create(
        model="hostile-ok-tools", messages=[*TURNS, choice.message, *answers], tools=TOOLS
    )
    assert "weather!" in again.choices[0].message.content


async def test_4_tools_streamed(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="hostile-ok-tools", messages=TURNS, tools=TOOLS, parallel_tool_calls=True, stream=True
    )
    chunks = [chunk async for chunk in stream]
    pieces = [piece for chunk in chunks for each in chunk.choices for piece in each.delta.tool_calls or []]
    assert {piece.index for piece in pieces} == {0, 1}
    for index, name in enumerate(("weather", "time")):
        first, *rest = [piece for piece in pieces if piece.index == index]
        assert (first.type, first.function.name) == ("function", name)
        assert first.id
        assert all(piece.id is None and piece.type is None and piece.function.name is None for piece in rest)
        assert "city" in json.loads("".join(piece.function.arguments or "" for piece in (first, *rest)))
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    async with client.chat.completions.stream(model="hostile-ok-tools", messages=TURNS, tools=TOOLS) as helper:
        final = await helper.get_final_completion()
    assert [call.function.name for call in final.choices[0].message.tool_calls] == ["weather", "time"]


async def test_5_structured_output(client: openai.AsyncOpenAI) -> None:
    made = await client.chat.completions.parse(model="hostile-ok-json", messages=TURNS, response_format=Place)
    assert isinstance(made.choices[0].message.parsed, Place)
    async with client.chat.completions.stream(model="hostile-ok-json", messages=TURNS, response_format=Place) as stream:
        final = await stream.get_final_completion()
    assert isinstance(final.choices[0].message.parsed, Place)


async def test_5_what_is_cut_or_refused(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.LengthFinishReasonError):
        await client.chat.completions.parse(model="hostile-ok-length", messages=TURNS, response_format=Place)
    made = await client.chat.completions.parse(model="hostile-refusal", messages=TURNS, response_format=Place)
    message = made.choices[0].message
    assert (message.refusal, message.content, message.parsed) == ("I cannot help with that.", None, None)


async def test_5_what_does_not_fit(client: openai.AsyncOpenAI, hostile: Hostile) -> None:
    hostile.reset()
    made = await client.chat.completions.parse(model="hostile-bad-json-once", messages=TURNS, response_format=Place)
    assert made.choices[0].message.parsed is not None
    assert hostile.counts()["requests"]["bad-json-once"] == 2
    with pytest.raises(openai.InternalServerError) as caught:
        await client.chat.completions.parse(model="hostile-bad-json", messages=TURNS, response_format=Place)
    assert caught.value.code == "invalid_structured_output"
    assert hostile.counts()["requests"]["bad-json"] == 2
    with pytest.raises(openai.APIError) as streamed:
        async with client.chat.completions.stream(
            model="hostile-bad-json", messages=TURNS, response_format=Place
        ) as stream:
            await stream.get_final_completion()
    assert streamed.value.code == "invalid_structured_output"


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"tools": TOOLS}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"extra_body": {"flavour": "sweet"}}, "flavour"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
    ],
)
async def test_14_a_model_that_cannot_says_so(client: openai.AsyncOpenAI, changes, param: str) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(model=READER, messages=TURNS, stream=stream, **changes)
        assert (caught.value.param, caught.value.code) == (param, "unsupported_parameter")


async def test_5_a_schema_that_cannot_be_used(client: openai.AsyncOpenAI) -> None:
    schema = {"$ref": "http://127.0.0.1:1/schema"}
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema, "strict": True}}
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model="hostile-ok-json", messages=TURNS, response_format=form)
    assert caught.value.param == "response_format.json_schema.schema.$ref"


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"{", 400, None),
        (b'{"model": "hostile-ok", "model": "hostile-ok", "messages": []}', 400, None),
        (b'{"messages": [{"role": "user", "content": "Hi"}]}', 400, "model"),
        (b'{"model": "none", "messages": [{"role": "user", "content": "Hi"}]}', 404, "model"),
        (b'{"model": "hostile-400", "messages": [{"role": "user", "content": "Hi"}]}', 400, "temperature"),
        (b'{"model": "hostile-500", "messages": [{"role": "user", "content": "Hi"}]}', 503, None),
        (b'{"model": "hostile-401", "messages": [{"role": "user", "content": "Hi"}]}', 503, None),
        (b'{"model": "hostile-context-length", "messages": [{"role": "user", "content": "Hi"}]}', 400, "messages"),
    ],
)
async def test_6_the_shape_of_errors(rest: httpx.AsyncClient, body: bytes, status: int, param: str | None) -> None:
    response = await rest.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert error["code"] is None or not error["code"].isdigit()
    assert response.headers["x-request-id"]


async def test_7_who_may_ask_for_what(client: openai.AsyncOpenAI, stack: RunningStack) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        await client.chat.completions.create(model="nothing/here", messages=TURNS)
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    stranger = client.with_options(api_key="pst_aaaaaaaaaaaa_" + "b" * 43)
    with pytest.raises(openai.AuthenticationError) as caught:
        await stranger.chat.completions.create(model=HOSTED, messages=TURNS)
    assert caught.value.code == "invalid_api_key"


async def test_8_when_to_try_again(client: openai.AsyncOpenAI, hostile: Hostile) -> None:
    hostile.reset()
    patient = client.with_options(max_retries=2)
    assert (await patient.chat.completions.create(model="hostile-flaky", messages=TURNS)).choices
    assert hostile.counts()["requests"]["flaky"] == 2
    for model, least in (("hostile-429-retry-after", 1), ("hostile-429-long", 1), ("hostile-500", 1)):
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(model=model, messages=TURNS)
        assert caught.value.status_code in {429, 503}
        assert least <= int(caught.value.response.headers["retry-after"]) <= 120


async def test_9_embeddings_are_base64_unless_asked(client: openai.AsyncOpenAI, rest: httpx.AsyncClient) -> None:
    default = await client.embeddings.create(model="minilm-l6", input=["a filter", "a turbine"])
    floats = await client.embeddings.create(model="minilm-l6", input=["a filter", "a turbine"], encoding_format="float")
    assert [item.index for item in default.data] == [0, 1]
    for one, other in zip(default.data, floats.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
    body = {"model": "minilm-l6", "input": "a filter", "encoding_format": "base64"}
    raw = (await rest.post("/v1/embeddings", json=body)).json()["data"][0]["embedding"]
    assert len(base64.b64decode(raw)) == 4 * len(default.data[0].embedding)
    assert default.usage.prompt_tokens > 0


@pytest.mark.parametrize("bad", ["", [], ["a", ""], ["a"] * 2049])
async def test_10_embeddings_that_are_refused(client: openai.AsyncOpenAI, bad) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.embeddings.create(model="minilm-l6", input=bad)
    assert caught.value.param.startswith("input")


async def test_11_closing_a_stream_closes_the_upstream(client: openai.AsyncOpenAI, hostile: Hostile) -> None:
    hostile.reset()
    stream = await client.chat.completions.create(model="hostile-ok-paced", messages=TURNS, stream=True)
    seen = 0
    async for _ in stream:
        seen += 1
        if seen == 3:
            break
    await stream.close()
    await eventually(lambda: hostile.counts()["left"].get("ok-paced") == 1, timeout_s=1)
    asking = asyncio.create_task(client.chat.completions.create(model="hostile-ok-paced", messages=TURNS))
    await eventually(lambda: hostile.counts()["open"].get("ok-paced") == 1)
    asking.cancel()
    await eventually(lambda: hostile.counts()["left"].get("ok-paced") == 2, timeout_s=1)


@pytest.mark.parametrize("fault", ["cut", "stall", "truncated-json", "no-finish", "error-event"])
async def test_12_an_upstream_that_dies_in_the_middle(rest: httpx.AsyncClient, fault: str) -> None:
    body = {"model": f"hostile-{fault}", "messages": TURNS, "stream": True}
    response = await rest.post(CHAT, json=body)
    *chunks, error = [event.removeprefix("data: ") for event in response.text.strip().split("\n\n")]
    if response.status_code != 200:
        assert response.status_code in {503, 504}
        return
    assert json.loads(error)["error"]["code"]
    assert all(json.loads(chunk)["choices"][0]["finish_reason"] is None for chunk in chunks)
    assert "[DONE]" not in response.text


@pytest.mark.parametrize("fault", ["cut", "stall"])
async def test_12_the_client_raises(client: openai.AsyncOpenAI, fault: str) -> None:
    with pytest.raises(openai.APIError):
        async for chunk in await client.chat.completions.create(model=f"hostile-{fault}", messages=TURNS, stream=True):
            assert chunk.choices[0].finish_reason is None


@pytest.mark.parametrize("fault", ["refused", "500", "wrong-type", "garbage", "empty-choices", "error-200", "silent"])
@pytest.mark.parametrize("stream", [False, True])
async def test_12_an_upstream_that_dies_at_once(client: openai.AsyncOpenAI, fault: str, stream: bool) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        await client.chat.completions.create(model=f"hostile-{fault}", messages=TURNS, stream=stream)
    assert caught.value.status_code in {503, 504}


async def test_13_models(client: openai.AsyncOpenAI) -> None:
    listed = await client.models.list()
    assert listed.object == "list"
    assert {READER, HOSTED} <= {each.id for each in listed.data}
    assert all(each.object == "model" and isinstance(each.created, int) and each.owned_by for each in listed.data)
    for model in (READER, HOSTED):
        assert (await client.models.retrieve(model)).id == model
    for name in ("nothing", "nothing/here"):
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve(name)


async def test_14_parameters_reach_the_upstream(client: openai.AsyncOpenAI) -> None:
    made = await client.chat.completions.create(
        model="hostile-ok-echo", messages=TURNS, seed=7, stop=["a", "b"], max_completion_tokens=9, temperature=0,
        top_p=0.5, presence_penalty=1, frequency_penalty=-1, logit_bias={"5": -100}, user="u", metadata={"a": "b"},
        extra_body={"top_k": 5, "stream_options": None},
    )  # fmt: skip
    sent = json.loads(made.choices[0].message.content)
    wanted = {"seed": 7, "temperature": 0, "top_p": 0.5, "presence_penalty": 1, "frequency_penalty": -1, "top_k": 5}
    assert {name: sent[name] for name in wanted} == wanted
    assert sent["stop"] == ["a", "b"]
    assert {sent.get("max_tokens"), sent.get("max_completion_tokens")} >= {9}
    assert sent["logit_bias"] == {"5": -100}
    assert not {"user", "metadata", "tools", "response_format", "n", "logprobs"} & sent.keys()


async def test_14_several_answers_with_logprobs(client: openai.AsyncOpenAI) -> None:
    made = await client.chat.completions.create(
        model="hostile-ok-n", messages=TURNS, n=2, logprobs=True, top_logprobs=1
    )
    assert [choice.index for choice in made.choices] == [0, 1]
    assert made.choices[0].message.content != made.choices[1].message.content
    assert all(choice.logprobs.content for choice in made.choices)
    async with client.chat.completions.stream(model="hostile-ok-n", messages=TURNS, n=2) as stream:
        final = await stream.get_final_completion()
    assert [choice.message.content for choice in final.choices] == [each.message.content for each in made.choices]


async def test_14_an_image_of_5_megabytes(client: openai.AsyncOpenAI) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 5_000_000}}
    turns = [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, image]}]
    assert (await client.chat.completions.create(model=HOSTED, messages=turns)).choices
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model=READER, messages=turns)
    assert caught.value.param == "messages[0].content[1]"
