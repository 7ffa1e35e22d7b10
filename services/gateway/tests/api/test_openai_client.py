"""The official OpenAI client against the REST door."""

import asyncio

import openai
import pytest
from gateway_fakes import Gateway
from servicekit.errors import QuotaExceeded, TimedOut, Unavailable
from servicekit.testing import eventually


@pytest.fixture
async def client(gateway: Gateway):
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0) as made:
        yield made


async def test_chat(client, gateway: Gateway) -> None:
    made = await client.chat.completions.create(
        model="writer", messages=[{"role": "user", "content": "Hi"}], temperature=0.5, max_completion_tokens=7, stop="x"
    )
    assert made.object == "chat.completion"
    assert made.choices[0].message.content == "Hello there."
    assert made.choices[0].finish_reason == "stop"
    assert made.usage.total_tokens == made.usage.prompt_tokens + made.usage.completion_tokens == 8
    assert len(made._request_id) == 32
    asked = gateway.world.requests[-1]
    assert (asked.sampling.max_tokens, asked.sampling.temperature, list(asked.sampling.stop)) == (7, 0.5, ["x"])


async def test_an_assistant_message_can_be_sent_back_as_it_came(client) -> None:
    first = await client.chat.completions.create(model="writer", messages=[{"role": "user", "content": "Hi"}])
    turns = [first.choices[0].message.model_dump(), {"role": "user", "content": [{"type": "text", "text": "And?"}]}]
    assert (await client.chat.completions.create(model="writer", messages=turns)).choices


@pytest.mark.parametrize("model", ["writer", "rag:docs"])
async def test_stream_with_usage(client, model: str) -> None:
    stream = await client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Hi"}], stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert len({(chunk.id, chunk.created, chunk.object) for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    content = chunks[:-1]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in content) == "Hello there."
    assert [chunk.choices[0].finish_reason for chunk in content] == [None] * (len(content) - 1) + ["stop"]
    assert all(chunk.usage is None for chunk in content)
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == 8
    extension = (content[-1].model_extra or {}).get("penstock")
    assert ("citations" in extension) == model.startswith("rag:")
    assert extension["served"]["model"] == "writer"


async def test_stream_without_usage(client) -> None:
    stream = await client.chat.completions.create(
        model="writer", messages=[{"role": "user", "content": "Hi"}], stream=True
    )
    assert all(chunk.choices for chunk in [chunk async for chunk in stream])


async def test_a_pipeline_says_what_it_stands_on(client, gateway: Gateway) -> None:
    turns = [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Who?"},
    ]
    made = await client.chat.completions.create(model="rag:docs", messages=turns)
    extension = made.model_extra["penstock"]
    assert extension["provenance_id"] == "ans_1"
    assert extension["citations"][0]["quote"] == "Hello"
    assert extension["degradations"] == [{"step": "generate", "reason": "queue_full", "message": "busy"}]
    question = gateway.world.requests[-1].question
    assert question.text == "Who?"
    assert [turn.role for turn in question.history] == ["system", "user", "assistant"]


async def test_embeddings_come_as_base64_and_equal_floats(client) -> None:
    default = await client.embeddings.create(model="minilm-l6", input=["a", "bbb"])
    floats = await client.embeddings.create(model="minilm-l6", input=["a", "bbb"], encoding_format="float")
    assert [item.index for item in default.data] == [0, 1]
    for one, other in zip(default.data, floats.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
    assert default.data[1].embedding[3] == 3.0
    assert default.usage.prompt_tokens == 6


async def test_models(client) -> None:
    listed = await client.models.list()
    assert [each.id for each in listed.data] == ["minilm-l6", "org/writer", "rag:docs", "writer"]
    assert all(each.object == "model" and each.created and each.owned_by for each in listed.data)
    assert (await client.models.retrieve("org/writer")).id == "org/writer"
    assert (await client.models.retrieve("rag:docs")).id == "rag:docs"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("nothing")


@pytest.mark.parametrize("model", ["nothing", "rag:nothing"])
@pytest.mark.parametrize("stream", [False, True])
async def test_unknown_model(client, model: str, stream: bool) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Hi"}], stream=stream)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize(
    ("failure", "kind", "retry_after"),
    [
        (Unavailable("busy", reason="queue_full", retry_after_s=3.2), openai.InternalServerError, "4"),
        (QuotaExceeded("enough", retry_after_s=900), openai.RateLimitError, "120"),
        (TimedOut("late"), openai.InternalServerError, None),
    ],
)
async def test_failures_have_the_clients_classes(client, gateway: Gateway, failure, kind, retry_after) -> None:
    gateway.world.failure = failure
    for stream in (False, True):
        with pytest.raises(kind) as caught:
            await client.chat.completions.create(
                model="writer", messages=[{"role": "user", "content": "Hi"}], stream=stream
            )
        assert caught.value.code == failure.reason
        assert caught.value.response.headers.get("retry-after") == retry_after


async def test_bad_key(gateway: Gateway) -> None:
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="pst_x_y", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError) as caught:
            await stranger.models.list()
    assert caught.value.code == "invalid_api_key"


async def test_a_stream_that_breaks_is_not_shown_as_complete(client, gateway: Gateway) -> None:
    gateway.world.failure, gateway.world.fail_after = Unavailable("gone", reason="backend_failed"), 2
    stream = await client.chat.completions.create(
        model="writer", messages=[{"role": "user", "content": "Hi"}], stream=True
    )
    seen = []
    with pytest.raises(openai.APIError, match="gone"):
        async for chunk in stream:
            seen.append(chunk)  # noqa: PERF401  what came before the failure counts
    assert seen
    assert all(chunk.choices[0].finish_reason is None for chunk in seen)


async def test_closing_a_stream_stops_the_model_within_a_second(client, gateway: Gateway) -> None:
    gateway.world.endless = True
    stream = await client.chat.completions.create(
        model="writer", messages=[{"role": "user", "content": "Hi"}], stream=True
    )
    async for _ in stream:
        break
    await stream.close()
    await asyncio.wait_for(gateway.world.ended.wait(), 1)
    await eventually(lambda: gateway.desk.gate.counts.running == [0, 0, 0])
    assert (await gateway.desk.row()).outcome.status == "cancelled"


async def test_the_synchronous_client(gateway: Gateway) -> None:
    def talk() -> tuple[str, int]:
        with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0) as client:
            stream = client.chat.completions.create(
                model="writer", messages=[{"role": "user", "content": "Hi"}], stream=True
            )
            text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
            return text, len(client.embeddings.create(model="minilm-l6", input="a").data[0].embedding)

    assert await asyncio.to_thread(talk) == ("Hello there.", 4)
