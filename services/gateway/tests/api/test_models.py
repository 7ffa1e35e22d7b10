"""Which models, aliases and pipelines a key sees: its scopes, allowlist and region decide, on both doors alike."""

from urllib.parse import quote

import grpc
import httpx
import openai
import pytest
from gateway.core.routes import Route
from gateway.core.scopes import ASK, EMBEDDINGS, KNOWLEDGE_READ, MODELS
from gateway_fakes import Gateway
from gateway_service_fakes import model
from penstock.gateway.v1 import gateway_pb2 as pb
from penstock.gateway.v1.gateway_pb2_grpc import GatewayServiceStub
from penstock.inference.v1 import inference_pb2 as inference

ROUTES = {
    "fast": Route("fast", ("none", "writer")),
    "vectors": Route("vectors", ("minilm-l6",)),
    "org/alias": Route("org/alias", ("writer",)),
    "broken": Route("broken", ("none",)),
}
EVERYTHING = ["fast", "minilm-l6", "org/alias", "org/writer", "rag:docs", "vectors", "writer"]


async def seen(gateway: Gateway, text: str) -> list[str]:
    """Return what both doors list for a key."""
    headers = {"Authorization": f"Bearer {text}"}
    async with httpx.AsyncClient(base_url=gateway.url, headers=headers) as http:
        listed = (await http.get("/v1/models")).json()
    async with grpc.aio.insecure_channel(gateway.grpc_address) as channel:
        metadata = (("authorization", f"Bearer {text}"),)
        typed = await GatewayServiceStub(channel).ListModels(pb.ListModelsRequest(), metadata=metadata)
    names = [each["id"] for each in listed["data"]]
    assert names == [each.name for each in typed.models]
    return names


@pytest.mark.parametrize(
    ("scopes", "models", "expected"),
    [
        ({MODELS, EMBEDDINGS, ASK}, (), EVERYTHING),
        ({MODELS}, (), ["fast", "org/alias", "org/writer", "writer"]),
        ({EMBEDDINGS}, (), ["minilm-l6", "vectors"]),
        ({ASK}, (), ["rag:docs"]),
        ({KNOWLEDGE_READ}, (), []),
        ({MODELS, EMBEDDINGS, ASK}, ("writer", "fast"), ["fast", "writer"]),
        ({MODELS, EMBEDDINGS, ASK}, ("fast",), []),
        ({MODELS, EMBEDDINGS, ASK}, ("rag:*",), ["rag:docs"]),
        ({MODELS, EMBEDDINGS, ASK}, ("other",), []),
    ],
)
async def test_a_key_sees_what_it_may_use(gateway: Gateway, scopes, models, expected: list[str]) -> None:
    gateway.routes |= ROUTES
    text = await gateway.key_for(*models, scopes=frozenset(scopes))
    assert await seen(gateway, text) == expected
    client = openai.AsyncOpenAI(api_key=text, base_url=f"{gateway.url}/v1", max_retries=0)
    async with client:
        for name in EVERYTHING:
            if name in expected:
                found = await client.models.retrieve(name)
                assert (found.id, found.object) == (name, "model")
            else:
                with pytest.raises(openai.NotFoundError) as caught:
                    await client.models.retrieve(name)
                assert caught.value.code == "model_not_found"


async def test_ids_with_slashes_are_found(gateway: Gateway) -> None:
    gateway.routes |= ROUTES
    async with openai.AsyncOpenAI(api_key=gateway.key, base_url=f"{gateway.url}/v1", max_retries=0) as client:
        for name in ("org/writer", "org/alias"):
            assert (await client.models.retrieve(name)).id == name
        assert [each.id async for each in await client.models.list()] == EVERYTHING


async def test_an_alias_is_described_as_its_best_candidate_is(http: httpx.AsyncClient, gateway: Gateway) -> None:
    gateway.routes |= ROUTES
    described = {each["id"]: each for each in (await http.get("/v1/models")).json()["data"]}
    assert described["vectors"]["penstock"] == described["minilm-l6"]["penstock"]
    assert isinstance(described["fast"]["created"], int)


async def test_an_alias_of_encoders_is_described_as_one_that_gives_its_vectors(
    http: httpx.AsyncClient, gateway: Gateway
) -> None:
    embeds = inference.MODEL_TASK_EMBED
    first, stranger = model("first", embeds, digest="sha256:1"), model("stranger", embeds, digest="sha256:2")
    first.ready, first.reason = False, "not_loaded"
    twin = model("twin", embeds, digest="sha256:1", description="the same")
    gateway.world.models |= {each.name: each for each in (first, stranger, twin)}
    gateway.routes["both"] = Route("both", ("first", "stranger", "twin"))
    gateway.routes["one"] = Route("one", ("first", "stranger"))
    gateway.routes["none"] = Route("none", ("ghost", "stranger"))
    described = {each["id"]: each["penstock"] for each in (await http.get("/v1/models")).json()["data"]}
    assert described["both"]["description"] == "the same"
    assert (described["one"]["ready"], described["one"]["digest"]) == (False, "sha256:1")
    assert "none" not in described


@pytest.mark.parametrize("name", ["none", "broken", "a\r\nX-Evil: 1", "%00", "x" * 256, "../../etc", "ü/\ufffd"])
async def test_what_is_not_there_is_a_404(http: httpx.AsyncClient, gateway: Gateway, name: str) -> None:
    gateway.routes |= ROUTES
    response = await http.get(f"/v1/models/{quote(name)}")
    assert response.status_code == 404, response.text
    assert "x-evil" not in response.headers
