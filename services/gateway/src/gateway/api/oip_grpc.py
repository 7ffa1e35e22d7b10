"""The OIP door (inference.GRPCInferenceService), as tritonclient speaks it; what is about a model passes as bytes."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, Final, cast

import grpc
from servicekit.errors import PenstockError
from servicekit.oip import read_head
from servicekit.rpc import Service
from tritonclient.grpc import service_pb2 as oip

from gateway.api.tensor_calls import TensorCalls

SERVICE: Final = "inference.GRPCInferenceService"
SERVER_NAME: Final = "penstock"
SERVER_VERSION: Final = "1"
EXTENSIONS: Final = ("model_configuration", "binary_tensor_data")
REAL_CODES: Final = "triton_grpc_error"
"""The metadata with which a caller asks that a failed stream ends in a status; Triton sends a text otherwise."""


class OipServicer:
    """Serves the calls of OIP, and of Triton's extensions ModelConfig and ModelStreamInfer."""

    def __init__(self, calls: TensorCalls) -> None:
        self._calls = calls

    async def ServerLive(self, _request: oip.ServerLiveRequest, _context: Any) -> oip.ServerLiveResponse:
        """Say that the process answers."""
        return oip.ServerLiveResponse(live=True)

    async def ServerReady(self, _request: oip.ServerReadyRequest, _context: Any) -> oip.ServerReadyResponse:
        """Say whether any model would serve a request."""
        return oip.ServerReadyResponse(ready=await self._calls.ready())

    async def ServerMetadata(self, _request: oip.ServerMetadataRequest, _context: Any) -> oip.ServerMetadataResponse:
        """Name the server."""
        return oip.ServerMetadataResponse(name=SERVER_NAME, version=SERVER_VERSION, extensions=EXTENSIONS)

    async def ModelReady(self, request: bytes, _context: Any) -> bytes:
        """Say whether a model would serve the caller."""
        head = read_head(request)  # the fields of a ModelReadyRequest are those of a ModelMetadataRequest
        ready = await self._calls.model_ready(head.name, head.version, request)
        return cast("bytes", oip.ModelReadyResponse(ready=ready).SerializeToString())

    async def ModelMetadata(self, request: bytes, _context: Any) -> bytes:
        """Return what goes into a model and what comes out."""
        return await self._calls.metadata(request)

    async def ModelConfig(self, request: bytes, _context: Any) -> bytes:
        """Return a model's configuration."""
        return await self._calls.config(request)

    async def ModelInfer(self, request: bytes, _context: Any) -> bytes:
        """Run a model once."""
        return await self._calls.infer(request)

    async def ModelStreamInfer(self, requests: AsyncIterator[bytes], context: Any) -> AsyncGenerator[bytes, None]:
        """Run the requests of a stream one after another; one that fails is answered with its text, as Triton does.

        A caller who asked for real codes gets the status instead, and the stream ends.
        """
        in_band = dict(context.invocation_metadata() or ()).get(REAL_CODES) != "true"
        async for request in requests:
            try:
                async for response in self._calls.stream(request):
                    yield response
            except PenstockError as error:
                if not in_band:
                    raise
                yield _failed(error, request)


def _failed(error: PenstockError, request: bytes) -> bytes:
    response = oip.ModelStreamInferResponse(error_message=error.message)
    try:
        head = read_head(request)
        response.infer_response.id = head.id
        response.infer_response.model_name = head.name
    except PenstockError:
        pass
    return cast("bytes", response.SerializeToString())


def _add(servicer: OipServicer, server: grpc.aio.Server) -> None:
    """Register the methods; without (de)serialisers gRPC hands over and takes plain bytes."""
    unary: Callable[..., Any] = grpc.unary_unary_rpc_method_handler
    methods = {
        name: unary(getattr(servicer, name), request.FromString, response.SerializeToString)
        for name, request, response in (
            ("ServerLive", oip.ServerLiveRequest, oip.ServerLiveResponse),
            ("ServerReady", oip.ServerReadyRequest, oip.ServerReadyResponse),
            ("ServerMetadata", oip.ServerMetadataRequest, oip.ServerMetadataResponse),
        )
    }
    for name in ("ModelReady", "ModelMetadata", "ModelConfig", "ModelInfer"):
        methods[name] = unary(getattr(servicer, name))
    methods["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(servicer.ModelStreamInfer)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))


def oip_service(calls: TensorCalls) -> Service:
    """Return the OIP door. Only the server's health is open; each call about a model checks its own scope."""
    keyed = ("ServerMetadata", "ModelReady", "ModelMetadata", "ModelConfig", "ModelInfer", "ModelStreamInfer")
    scopes = dict.fromkeys(("ServerLive", "ServerReady"), None) | dict.fromkeys(keyed, "")
    return Service(SERVICE, _add, OipServicer(calls), scopes)
