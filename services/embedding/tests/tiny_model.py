"""A real OIP server of a tiny encoder, for the tests that go over the wire."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from servicekit.errors import NotFound
from servicekit.rpc import Service
from tritonclient.grpc import service_pb2 as oip
from tritonclient.grpc import service_pb2_grpc as oip_grpc

NAME = "inference.GRPCInferenceService"
PARAMETERS = {"version": "1", "digest": "0" * 64, "dimensions": "2", "pooling": "mean", "max_tokens": "16"}
METHODS = [method.name for method in oip.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods]


@dataclass
class TinyModel(oip_grpc.GRPCInferenceServiceServicer):
    """A model `tiny`: sum and count of the attended ids."""

    parameters: dict[str, str] = field(default_factory=lambda: dict(PARAMETERS))
    spoil: Callable[[Any], None] = lambda _: None
    requests: list[Any] = field(default_factory=list)
    hang: bool = False
    cancelled: bool = False

    async def ModelConfig(self, request: Any, context: Any) -> Any:
        if request.name != "tiny":
            raise NotFound("no such model", reason="model_not_found")
        response = oip.ModelConfigResponse()
        for name, value in self.parameters.items():
            response.config.parameters[name].string_value = value
        return response

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        if self.hang:
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled = True
        tokens, mask = (
            np.frombuffer(raw, "<i8").reshape(tensor.shape)
            for raw, tensor in zip(request.raw_input_contents, request.inputs, strict=True)
        )
        rows = np.stack([(tokens * mask).sum(1), mask.sum(1)], axis=1).astype("<f4")
        response = oip.ModelInferResponse(model_name="tiny", raw_output_contents=[rows.tobytes()])
        response.outputs.add(name="embedding", datatype="FP32", shape=rows.shape)
        self.spoil(response)
        return response


def tiny_service(model: TinyModel, scope: str = "embeddings") -> Service:
    """Return the model as servicekit serves it."""
    scopes = dict.fromkeys(METHODS, scope) | {"ModelConfig": None}
    return Service(NAME, oip_grpc.add_GRPCInferenceServiceServicer_to_server, model, scopes)
