"""Serves OIP (inference.GRPCInferenceService); what is about a model passes through as bytes."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, Final

import grpc
from servicekit import identity
from servicekit.landed import Land, Message
from servicekit.oip import read_model_name
from servicekit.rpc import Service
from tritonclient.grpc import service_pb2 as oip

from inference.core.catalogue import Task
from inference.core.pool import Pool
from inference.core.versioned_pool import VersionedPool

SERVICE: Final = "inference.GRPCInferenceService"
VERSION: Final = "1"


class TensorServicer:
    """Serves the calls of OIP that a pool can answer."""

    def __init__(self, pool: Pool | VersionedPool) -> None:
        self._pool = pool

    async def ServerLive(self, _request: oip.ServerLiveRequest, _context: Any) -> oip.ServerLiveResponse:
        """Say that the process answers."""
        return oip.ServerLiveResponse(live=True)

    async def ServerReady(self, _request: oip.ServerReadyRequest, _context: Any) -> oip.ServerReadyResponse:
        """Say whether any model would serve a request."""
        return oip.ServerReadyResponse(ready=await self._pool.readiness() is None)

    async def ServerMetadata(self, _request: oip.ServerMetadataRequest, _context: Any) -> oip.ServerMetadataResponse:
        """Name the server."""
        return oip.ServerMetadataResponse(name="penstock", version=VERSION, extensions=["model_configuration"])

    async def ModelReady(self, request: oip.ModelReadyRequest, _context: Any) -> oip.ModelReadyResponse:
        """Say whether a model would serve a request."""
        return oip.ModelReadyResponse(ready=self._pool.state(request.name).ready)

    async def ModelMetadata(self, request: bytes, _context: Any) -> bytes:
        """Return what goes into a model and what comes out."""
        return await self._pool.metadata(read_model_name(request), request)

    async def ModelConfig(self, request: bytes, _context: Any) -> bytes:
        """Return a model's configuration; its parameters carry version and digest."""
        return await self._pool.config(read_model_name(request), request)

    async def ModelInfer(self, request: Message, _context: Any) -> bytes:
        """Run a model once."""
        return await self._pool.infer(self._model(request), request)

    async def ModelStreamInfer(self, requests: AsyncIterator[bytes], _context: Any) -> AsyncGenerator[bytes, None]:
        """Run the requests of a stream one after another; the first that fails ends the stream with its status."""
        async for request in requests:
            async with aclosing(self._pool.stream(self._model(request), request)) as responses:
                async for response in responses:
                    yield response

    def _model(self, request: Message) -> str:
        name = read_model_name(request if isinstance(request, bytes) else request.view)
        self._allow(name)
        return name

    def _allow(self, name: str) -> None:
        """Raise Forbidden unless the caller may use models, or may embed and the model is an encoder."""
        caller = identity.current()
        if "models" in caller.scopes:
            return
        caller.require("embeddings")
        if self._pool.find(name).model.task is not Task.EMBED:
            caller.require("models")


def _add(servicer: TensorServicer, server: grpc.aio.Server) -> None:
    """Register the methods; without (de)serialisers gRPC hands over and takes plain bytes."""
    unary: Callable[..., Any] = grpc.unary_unary_rpc_method_handler
    methods = {
        name: unary(getattr(servicer, name), request.FromString, response.SerializeToString)
        for name, request, response in (
            ("ServerLive", oip.ServerLiveRequest, oip.ServerLiveResponse),
            ("ServerReady", oip.ServerReadyRequest, oip.ServerReadyResponse),
            ("ServerMetadata", oip.ServerMetadataRequest, oip.ServerMetadataResponse),
            ("ModelReady", oip.ModelReadyRequest, oip.ModelReadyResponse),
        )
    }
    for name in ("ModelMetadata", "ModelConfig", "ModelInfer"):
        methods[name] = unary(getattr(servicer, name))
    methods["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(servicer.ModelStreamInfer)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))


def tensor_service(pool: Pool | VersionedPool, land: Land | None = None) -> Service:
    """Return OIP as servicekit serves it; large requests are received where `land` says.

    Health and descriptions are open, as services ask for them before anybody calls. To run a model takes a scope that
    depends on the model, so the servicer checks it.
    """
    open_names = ("ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata", "ModelConfig")
    scopes = dict.fromkeys(open_names, None) | dict.fromkeys(("ModelInfer", "ModelStreamInfer"), "")
    return Service(SERVICE, _add, TensorServicer(pool), scopes, land)
