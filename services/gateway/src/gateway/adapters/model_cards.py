"""The models of the inference service as the gateway's core knows them."""

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from penstock.inference.v1 import inference_pb2 as pb
from servicekit import deadline
from servicekit.identity import Identity, acting_as

from gateway.core.models import ModelCard, Task
from gateway.core.pricing import FREE, Price

LIST_TIMEOUT_S: Final = 1.5
TASKS: Final[Mapping[int, Task]] = {
    pb.MODEL_TASK_GENERATE: Task.GENERATE,
    pb.MODEL_TASK_EMBED: Task.EMBED,
    pb.MODEL_TASK_TENSOR: Task.TENSOR,
}


class ModelLister(Protocol):
    """What lists the catalogue in the vocabulary of the protos."""

    async def list(self) -> pb.ListModelsResponse: ...


class InferenceModelCards:
    """Asks inference for its models, as the gateway itself: no caller's request is being served then."""

    def __init__(self, models: ModelLister, sign: Callable[[Identity], Identity]) -> None:
        """Take what lists models, and what signs identities."""
        self._models = models
        self._sign = sign

    async def fetch(self) -> list[ModelCard]:
        """Return the catalogue; raise one of servicekit's errors when it cannot be had within 1.5 s."""
        identity = self._sign(Identity(tenant="", principal="gateway", key_id="gateway", scopes=frozenset()))
        with acting_as(identity), deadline.within(LIST_TIMEOUT_S):
            response = await self._models.list()
        return [card_of(model) for model in response.models if model.task in TASKS]


def card_of(model: pb.Model) -> ModelCard:
    """Return what the core knows of a model; raise KeyError for one whose task this gateway does not know."""
    price = model.price if model.HasField("price") else None
    return ModelCard(
        name=model.name,
        task=TASKS[model.task],
        provider=model.provider,
        region=model.region,
        capabilities=frozenset(model.capabilities),
        context_tokens=model.context_tokens,
        price=FREE if price is None else Price(price.input_micros_per_million, price.output_micros_per_million),
        ready=model.ready,
        version=model.version,
        digest=model.digest,
        reason=model.reason,
        description=model.description,
        created_at=model.created_at.seconds,
    )
