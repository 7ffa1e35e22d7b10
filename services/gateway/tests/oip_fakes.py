"""A model pool that speaks OIP: it answers every input with an output of the same bytes, and keeps what it was sent."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import grpc
from gateway.core.models import Catalogue, ModelCard, Task
from servicekit.errors import Unavailable
from servicekit.rpc import Service
from tritonclient.grpc import service_pb2 as oip

NAME = "inference.GRPCInferenceService"
CATALOGUE = Catalogue.of(
    [
        ModelCard("echo", Task.TENSOR, version="1"),
        ModelCard("org/echo", Task.TENSOR, region="eu"),
        ModelCard("minilm-l6", Task.EMBED),
        ModelCard("asleep", Task.TENSOR, ready=False, reason="not_loaded"),
    ]
)


@dataclass
class FakePool:
    """What was sent, and how to behave: `failure` ends calls, `held` keeps them, `answer` replaces the echo."""

    requests: list[bytes] = field(default_factory=list)
    failure: Exception | None = None
    held: bool = False
    answer: bytes | None = None
    ready: bool = True
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def ServerReady(self, request: oip.ServerReadyRequest, context: Any) -> oip.ServerReadyResponse:
        return oip.ServerReadyResponse(ready=self.ready)

    async def ModelMetadata(self, request: bytes, context: Any) -> bytes:
        asked = oip.ModelMetadataRequest.FromString(request)
        if asked.version not in {"", "1"}:
            raise Unavailable(f"no version {asked.version}", reason="not_loaded")
        answer = oip.ModelMetadataResponse(name=asked.name, versions=["1"], platform="fake")
        answer.inputs.add(name="in", datatype="INT64", shape=[-1, 2])
        answer.outputs.add(name="in", datatype="INT64", shape=[-1, 2])
        return answer.SerializeToString()

    async def ModelConfig(self, request: bytes, context: Any) -> bytes:
        answer = oip.ModelConfigResponse()
        answer.config.name = oip.ModelConfigRequest.FromString(request).name
        answer.config.max_batch_size = 8
        return answer.SerializeToString()

    async def ModelInfer(self, request: bytes, context: Any) -> bytes:
        self.requests.append(request)
        await self._behave()
        return self.answer or echo(oip.ModelInferRequest.FromString(request)).SerializeToString()

    async def ModelStreamInfer(self, requests: Any, context: Any) -> Any:
        async for request in requests:
            self.requests.append(request)
            asked = oip.ModelInferRequest.FromString(request)
            for number in range(asked.parameters["count"].int64_param):
                response = oip.ModelStreamInferResponse(infer_response=echo(asked))
                response.infer_response.parameters["number"].int64_param = number
                yield response.SerializeToString()
                await self._behave()

    async def _behave(self) -> None:
        if self.failure is not None:
            raise self.failure
        try:
            while self.held:  # noqa: ASYNC110  work that goes on
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.ended.set()
            raise


def echo(asked: oip.ModelInferRequest) -> oip.ModelInferResponse:
    """Return every input as an output."""
    answer = oip.ModelInferResponse(model_name=asked.model_name, model_version="1", id=asked.id)
    for tensor, raw in zip(asked.inputs, asked.raw_input_contents, strict=False):
        answer.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        answer.raw_output_contents.append(raw)
    return answer


def pool_service(pool: FakePool) -> Service:
    """Return the pool as servicekit serves it."""

    def add(servicer: FakePool, server: grpc.aio.Server) -> None:
        unary: Any = grpc.unary_unary_rpc_method_handler
        methods = {name: unary(getattr(servicer, name)) for name in ("ModelMetadata", "ModelConfig", "ModelInfer")}
        methods["ServerReady"] = unary(
            servicer.ServerReady, oip.ServerReadyRequest.FromString, oip.ServerReadyResponse.SerializeToString
        )
        methods["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(servicer.ModelStreamInfer)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, methods),))

    named = ("ModelMetadata", "ModelConfig", "ModelInfer", "ModelStreamInfer")
    return Service(NAME, add, pool, dict.fromkeys(named, "") | {"ServerReady": None})
