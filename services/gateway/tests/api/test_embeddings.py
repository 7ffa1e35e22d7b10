"""Embeddings in all the forms that OpenAI's clients send, and what is refused by the place of the element."""

import base64
import json
import struct

import grpc
import httpx
import openai
import pytest
from gateway.core.routes import Route
from gateway_fakes import Gateway
from gateway_service_fakes import ENCODER, model
from penstock.embedding.v1 import embedding_pb2 as embedding
from penstock.gateway.v1 import gateway_pb2 as pb
from penstock.gateway.v1.gateway_pb2_grpc import GatewayServiceStub
from penstock.inference.v1 import inference_pb2 as inference

TOKENS = [101, 7592, 102]


def client_of(gateway: Gateway, key: str = "") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(api_key=key or gateway.key, base_url=f"{gateway.url}/v1", max_retries=0)


@pytest.mark.parametrize(
    ("value", "sent", "tokens"),
    [
        ("abc", ["abc"], []),
        (["abc", "d"], ["abc", "d"], []),
        (TOKENS, [], [TOKENS]),
        ([TOKENS, [0]], [], [TOKENS, [0]]),
    ],
)
async def test_all_four_forms_as_base64_and_as_numbers(gateway: Gateway, value, sent, tokens) -> None:
    async with client_of(gateway) as client:
        packed = await client.embeddings.create(model="minilm-l6", input=value)
        plain = await client.embeddings.create(model="minilm-l6", input=value, encoding_format="float")
    request: embedding.EmbedRequest = gateway.world.requests[-1]
    assert list(request.texts) == sent
    assert [list(each.ids) for each in request.tokens] == tokens
    assert not request.HasField("dimensions")
    assert [each.index for each in plain.data] == list(range(len(sent) or len(tokens)))
    for left, right in zip(packed.data, plain.data, strict=True):
        assert left.embedding == pytest.approx(right.embedding, abs=1e-6)
    assert (packed.usage.prompt_tokens, packed.usage.total_tokens) == (3 * len(plain.data), 3 * len(plain.data))


async def test_base64_is_little_endian_float32(http: httpx.AsyncClient) -> None:
    body = {"model": "minilm-l6", "input": "abc", "encoding_format": "base64"}
    answer = (await http.post("/v1/embeddings", json=body)).json()
    assert struct.unpack("<4f", base64.b64decode(answer["data"][0]["embedding"])) == pytest.approx((0.1, 0.2, 0.3, 3.0))


@pytest.mark.parametrize("more", [{"dimensions": None}, {"encoding_format": None}, {"user": None}, {"user": "u"}])
async def test_null_is_nothing(http: httpx.AsyncClient, gateway: Gateway, more) -> None:
    response = await http.post("/v1/embeddings", json={"model": "minilm-l6", "input": "a", **more})
    assert response.status_code == 200
    assert isinstance(response.json()["data"][0]["embedding"], list)
    assert not gateway.world.requests[-1].HasField("dimensions")


async def test_dimensions_are_the_encoders_or_refused(gateway: Gateway) -> None:
    async with client_of(gateway) as client:
        assert len((await client.embeddings.create(model="minilm-l6", input="a", dimensions=4)).data[0].embedding) == 4
        with pytest.raises(openai.BadRequestError) as caught:
            await client.embeddings.create(model="minilm-l6", input="a", dimensions=256)
    assert (caught.value.param, caught.value.code) == ("dimensions", "wrong_dimensions")


@pytest.mark.parametrize(
    ("value", "param"),
    [([100_257, 1], "input[0]"), ([1, 30_522], "input[1]"), ([[1], [2, 99_999]], "input[1][1]")],
)
async def test_ids_of_another_vocabulary_are_named_by_place(gateway: Gateway, value, param: str) -> None:
    async with client_of(gateway) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.embeddings.create(model="minilm-l6", input=value)
    assert (caught.value.param, caught.value.code) == (param, "unknown_token")


async def test_most_texts_and_one_more(http: httpx.AsyncClient) -> None:
    for value in (["a"] * 2048, [[1]] * 2048):
        response = await http.post("/v1/embeddings", json={"model": "minilm-l6", "input": value})
        assert len(response.json()["data"]) == 2048
        response = await http.post("/v1/embeddings", json={"model": "minilm-l6", "input": [*value, value[0]]})
        assert (response.status_code, response.json()["error"]["param"]) == (400, "input")


async def test_the_allowlist_holds_on_both_doors(gateway: Gateway) -> None:
    text = await gateway.key_for("writer")
    async with client_of(gateway, text) as client:
        with pytest.raises(openai.NotFoundError) as caught:
            await client.embeddings.create(model="minilm-l6", input="a")
    assert caught.value.code == "model_not_found"
    async with grpc.aio.insecure_channel(gateway.grpc_address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await GatewayServiceStub(channel).Embed(
                pb.EmbedRequest(model="minilm-l6", texts=["a"]), metadata=(("authorization", f"Bearer {text}"),)
            )
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


async def test_the_typed_door_takes_tokens_and_dimensions_as_well(gateway: Gateway) -> None:
    request = pb.EmbedRequest(model="minilm-l6", tokens=[embedding.TokenIds(ids=TOKENS)], dimensions=4)
    async with grpc.aio.insecure_channel(gateway.grpc_address) as channel:
        metadata = (("authorization", f"Bearer {gateway.key}"),)
        answer = await GatewayServiceStub(channel).Embed(request, metadata=metadata)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await GatewayServiceStub(channel).Embed(
                pb.EmbedRequest(model="minilm-l6", texts=["a"], dimensions=5), metadata=metadata
            )
    assert len(answer.vectors) == 16
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_the_page_shows_all_four_forms(http: httpx.AsyncClient) -> None:
    shown = (await http.get("/openapi.json")).json()["components"]["schemas"]["EmbeddingsRequest"]
    assert len(shown["properties"]["input"]["anyOf"]) == 4
    assert "minimum" in json.dumps(shown)


async def test_an_alias_falls_back_to_the_next_encoder_of_the_same_vectors(gateway: Gateway) -> None:
    twin = model("gone", inference.MODEL_TASK_EMBED, digest=ENCODER.digest)  # the embedding service does not serve it
    stranger = model("stranger", inference.MODEL_TASK_EMBED, digest="sha256:other")
    gateway.world.models |= {"gone": twin, "stranger": stranger}
    assert await gateway.models.refresh()
    gateway.routes["vectors"] = Route("vectors", ("gone", "stranger", "minilm-l6"))
    gateway.world.forget()
    async with client_of(gateway) as client:
        raw = await client.embeddings.with_raw_response.create(model="vectors", input="abc")
    assert len(raw.parse().data[0].embedding) == 4
    assert (raw.headers["x-penstock-model"], raw.headers["x-penstock-version"]) == ("minilm-l6", "1")
    assert [request.model for request in gateway.world.requests] == ["gone", "minilm-l6"]
    rows = await gateway.desk.rows()
    assert [(row.attempt.alias, row.attempt.model, row.outcome.status) for row in rows] == [
        ("vectors", "gone", "failed"),
        ("vectors", "minilm-l6", "ok"),
    ]


async def test_an_alias_whose_encoders_are_all_gone_says_so(gateway: Gateway) -> None:
    gateway.world.models["gone"] = model("gone", inference.MODEL_TASK_EMBED, digest=ENCODER.digest)
    assert await gateway.models.refresh()
    gateway.routes["vectors"] = Route("vectors", ("gone",))
    async with client_of(gateway) as client:
        with pytest.raises(openai.NotFoundError) as caught:
            await client.embeddings.create(model="vectors", input="abc")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert "'vectors'" in caught.value.message
