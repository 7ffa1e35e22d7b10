"""Translates the typed calls of penstock.inference.v1; every decision is the pool's."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp
from penstock.inference.v1 import inference_pb2 as pb
from penstock.inference.v1 import inference_pb2_grpc as pb_grpc
from servicekit.rpc import Service

from inference.core.catalogue import Task
from inference.core.generation import Finished, FinishReason, Piece, Sampling, Turn
from inference.core.pool import Pool
from inference.core.served_model import ServedModel

TASKS: Final = {
    Task.GENERATE: pb.MODEL_TASK_GENERATE,
    Task.EMBED: pb.MODEL_TASK_EMBED,
    Task.TENSOR: pb.MODEL_TASK_TENSOR,
}
REASONS: Final = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
    FinishReason.CONTENT_FILTER: pb.FINISH_REASON_CONTENT_FILTER,
}


class InferenceServicer(pb_grpc.InferenceServiceServicer):
    """Serves generation and the list of models."""

    def __init__(self, pool: Pool, loaded_at: datetime) -> None:
        """Take the pool and when its catalogue was loaded."""
        self._pool = pool
        self._loaded_at = Timestamp()
        self._loaded_at.FromDatetime(loaded_at)

    async def Generate(self, request: pb.GenerateRequest, _context: Any) -> AsyncGenerator[pb.GenerateResponse, None]:
        """Stream an answer; what is there at a time is one message."""
        async with aclosing(self._pieces(request)) as pieces:
            async for piece in pieces:
                yield pb.GenerateResponse(
                    served=self._served(request.model, piece),
                    text=piece.text,
                    finished=_finished(piece.finished),
                )

    async def Complete(self, request: pb.CompleteRequest, _context: Any) -> pb.CompleteResponse:
        """Write an answer as a whole."""
        response = pb.CompleteResponse()
        texts: list[str] = []
        async with aclosing(self._pieces(request)) as pieces:
            async for piece in pieces:
                texts.append(piece.text)
                response.MergeFrom(
                    pb.CompleteResponse(served=self._served(request.model, piece), finished=_finished(piece.finished))
                )
        response.text = "".join(texts)
        return response

    async def ListModels(self, _request: pb.ListModelsRequest, _context: Any) -> pb.ListModelsResponse:
        """List the catalogue."""
        return pb.ListModelsResponse(models=[self._model(served) for served in self._pool.models()])

    async def GetModel(self, request: pb.GetModelRequest, _context: Any) -> pb.GetModelResponse:
        """Return one model."""
        return pb.GetModelResponse(model=self._model(self._pool.find(request.name)))

    def _pieces(self, request: pb.GenerateRequest | pb.CompleteRequest) -> AsyncGenerator[Piece, None]:
        turns = [Turn(message.role, message.content) for message in request.messages]
        return self._pool.generate(request.model, turns, _sampling(request.sampling))

    def _served(self, name: str, piece: Piece) -> pb.ServedModel | None:
        if piece.version is None:
            return None
        served = self._pool.find(name)
        return pb.ServedModel(
            model=name, version=piece.version, digest=served.state.digest, provider=served.model.provider.value
        )

    def _model(self, served: ServedModel) -> pb.Model:
        model, state = served.model, served.state
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
        )


def _finished(finished: Finished | None) -> pb.GenerationFinished | None:
    if finished is None:
        return None
    usage = pb.TokenUsage(
        input_tokens=finished.usage.input_tokens,
        output_tokens=finished.usage.output_tokens,
        reported=finished.usage.reported,
    )
    return pb.GenerationFinished(finish_reason=REASONS[finished.reason], usage=usage)


def _sampling(message: pb.SamplingParameters) -> Sampling:
    return Sampling(
        max_tokens=message.max_tokens if message.HasField("max_tokens") else None,
        temperature=message.temperature if message.HasField("temperature") else None,
        top_p=message.top_p if message.HasField("top_p") else None,
        stop=tuple(message.stop),
        seed=message.seed if message.HasField("seed") else None,
    )


def inference_service(pool: Pool, loaded_at: datetime) -> Service:
    """Return the typed service as servicekit serves it; whoever may embed may look at the catalogue."""
    return Service(
        "penstock.inference.v1.InferenceService",
        pb_grpc.add_InferenceServiceServicer_to_server,
        InferenceServicer(pool, loaded_at),
        {"Generate": "models", "Complete": "models", "ListModels": "", "GetModel": ""},
    )
