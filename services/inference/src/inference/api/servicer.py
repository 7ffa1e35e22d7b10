"""Translates the typed calls of penstock.inference.v1; every decision is the pool's."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp
from penstock.inference.v1 import inference_pb2 as pb
from penstock.inference.v1 import inference_pb2_grpc as pb_grpc
from servicekit import identity
from servicekit.errors import Forbidden
from servicekit.rpc import Passage, Service

from inference.api.messages import read_order, write_answer, write_deltas, write_end
from inference.core.answer import Served, TakeText
from inference.core.catalogue import Price, Task
from inference.core.pool import Pool
from inference.core.served_model import ServedModel
from inference.core.versioned_pool import VersionedPool

TASKS: Final = {
    Task.GENERATE: pb.MODEL_TASK_GENERATE,
    Task.EMBED: pb.MODEL_TASK_EMBED,
    Task.TENSOR: pb.MODEL_TASK_TENSOR,
}


class InferenceServicer(pb_grpc.InferenceServiceServicer):
    """Serves generation and the list of models."""

    def __init__(self, pool: Pool | VersionedPool, loaded_at: datetime) -> None:
        """Take the pool and when its catalogue was loaded."""
        self._pool = pool
        self._loaded_at = Timestamp()
        self._loaded_at.FromDatetime(loaded_at)

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> AsyncGenerator[pb.GenerateResponse, None]:
        """Stream an answer; what is there at a time is one message."""
        name = request.model
        self._keep_in_region(name)
        take = _sending(context) if isinstance(context, Passage) else None
        async with aclosing(self._pool.generate(name, read_order(request), take)) as pieces:
            async for piece in pieces:
                yield pb.GenerateResponse(
                    served=self._served(name, piece.served) if piece.served else None,
                    deltas=write_deltas(piece.deltas),
                    finished=write_end(piece.usage) if piece.usage else None,
                )

    async def Complete(self, request: pb.CompleteRequest, _context: Any) -> pb.CompleteResponse:
        """Write an answer as a whole."""
        self._keep_in_region(request.model)
        answer = await self._pool.complete(request.model, read_order(request))
        return write_answer(answer, self._served(request.model, answer.served))

    async def ListModels(self, _request: pb.ListModelsRequest, _context: Any) -> pb.ListModelsResponse:
        """List the catalogue."""
        return pb.ListModelsResponse(models=[self._model(served) for served in self._pool.models()])

    async def GetModel(self, request: pb.GetModelRequest, _context: Any) -> pb.GetModelResponse:
        """Return one model."""
        return pb.GetModelResponse(model=self._model(self._pool.find(request.name)))

    def _keep_in_region(self, name: str) -> None:
        """Raise Forbidden when the caller is pinned to a region and the model does not say that it runs there."""
        region = identity.current().region
        if region and self._pool.find(name).model.region != region:
            raise Forbidden(f"{name} does not run in {region}", reason="region_not_allowed", field="model")

    def _served(self, name: str, told: Served) -> pb.ServedModel:
        served = self._pool.find(name)
        return pb.ServedModel(
            model=name,
            version=told.version,
            digest=told.digest or served.state.digest,
            provider=served.model.provider.value,
            region=served.model.region,
            response_id=told.response_id,
            system_fingerprint=told.system_fingerprint,
        )

    def _model(self, served: ServedModel) -> pb.Model:
        model = served.model
        state = self._pool.state(model.name)
        return pb.Model(
            name=model.name,
            task=TASKS[model.task],
            provider=model.provider.value,
            version=state.version,
            digest=state.digest,
            ready=state.ready,
            reason=state.reason,
            context_tokens=model.context_tokens,
            created_at=self._loaded_at,
            description=model.description,
            region=model.region,
            capabilities=sorted(model.capabilities),
            price=_price(model.price),
        )


def _sending(passage: Passage) -> TakeText:
    """Return what sends text by the short way; one message is written again and again, since making one costs more."""
    response = pb.GenerateResponse()
    delta = response.deltas.add()

    def take(choice: int, text: str) -> bool:
        delta.choice, delta.text = choice, text
        return passage.send(response)

    return take


def _price(price: Price | None) -> pb.Price | None:
    if price is None:
        return None
    return pb.Price(
        input_micros_per_million=price.input_micros,
        output_micros_per_million=price.output_micros,
    )


def inference_service(pool: Pool | VersionedPool, loaded_at: datetime) -> Service:
    """Return the typed service as servicekit serves it; whoever may embed may look at the catalogue."""
    return Service(
        "penstock.inference.v1.InferenceService",
        pb_grpc.add_InferenceServiceServicer_to_server,
        InferenceServicer(pool, loaded_at),
        {"Generate": "models", "Complete": "models", "ListModels": "", "GetModel": ""},
    )
