"""The catalogue as inference tells it, over a real connection with the gateway's own identity."""

import asyncio
from typing import Any

import pytest
from gateway.adapters.model_cards import InferenceModelCards
from gateway.adapters.services import InferenceModels
from gateway.core.models import ModelCard, Models, Task
from gateway.core.pricing import FREE, Price
from google.protobuf.timestamp_pb2 import Timestamp
from penstock.inference.v1 import inference_pb2 as pb
from penstock.inference.v1 import inference_pb2_grpc as pb_grpc
from servicekit import identity
from servicekit.errors import TimedOut
from servicekit.identity import Minter
from servicekit.rpc import Channel, Service
from servicekit.testing import PRIVATE_KEY_PEM, serving

MODELS = [
    pb.Model(
        name="big",
        task=pb.MODEL_TASK_GENERATE,
        provider="openai",
        region="eu",
        version="v",
        digest="sha256:1",
        ready=True,
        capabilities=["tools", "n"],
        context_tokens=4096,
        price=pb.Price(input_micros_per_million=150_000, output_micros_per_million=600_000),
        created_at=Timestamp(seconds=7),
        description="Big",
    ),
    pb.Model(name="enc", task=pb.MODEL_TASK_EMBED, provider="triton", reason="not_loaded"),
    pb.Model(name="novel", task=77),  # type: ignore[arg-type]  of a newer inference
]


class FakeInference(pb_grpc.InferenceServiceServicer):
    def __init__(self) -> None:
        self.callers: list[tuple[str, frozenset[str]]] = []
        self.silent = False

    async def ListModels(self, _request: pb.ListModelsRequest, _context: Any) -> pb.ListModelsResponse:
        caller = identity.current()
        self.callers.append((caller.principal, caller.scopes))
        if self.silent:
            await asyncio.Event().wait()
        return pb.ListModelsResponse(models=MODELS)


@pytest.fixture
def inference() -> FakeInference:
    return FakeInference()


def service(inference: FakeInference) -> Service:
    return Service(
        "penstock.inference.v1.InferenceService",
        pb_grpc.add_InferenceServiceServicer_to_server,
        inference,
        {"Generate": "models", "Complete": "models", "ListModels": "", "GetModel": ""},
    )


async def test_cards_say_all_that_is_needed_to_route(inference: FakeInference) -> None:
    async with serving(service(inference)) as address, Channel(address) as channel:
        cards = await InferenceModelCards(InferenceModels(channel), Minter(PRIVATE_KEY_PEM).mint).fetch()
    assert cards == [
        ModelCard(
            name="big",
            task=Task.GENERATE,
            provider="openai",
            region="eu",
            capabilities=frozenset({"tools", "n"}),
            context_tokens=4096,
            price=Price(150_000, 600_000),
            ready=True,
            version="v",
            digest="sha256:1",
            description="Big",
            created_at=7,
        ),
        ModelCard(name="enc", task=Task.EMBED, provider="triton", price=FREE, ready=False, reason="not_loaded"),
    ]
    assert inference.callers == [("gateway", frozenset())]


async def test_an_inference_that_is_away_or_silent_leaves_the_last_list(inference: FakeInference) -> None:
    async with Channel("127.0.0.1:1") as nowhere:
        models = Models(InferenceModelCards(InferenceModels(nowhere), Minter(PRIVATE_KEY_PEM).mint).fetch)
        assert not await models.refresh()
    async with serving(service(inference)) as address, Channel(address) as channel:
        source = InferenceModelCards(InferenceModels(channel), Minter(PRIVATE_KEY_PEM).mint)
        models = Models(source.fetch)
        assert await models.refresh()
        inference.silent = True
        with pytest.raises(TimedOut):
            await source.fetch()
        assert not await models.refresh()
        assert set(models.catalogue.cards) == {"big", "enc"}
