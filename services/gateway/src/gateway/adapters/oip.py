"""Runs tensors through the inference service over OIP; messages pass as the bytes they came as."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final, cast

from servicekit.rpc import Channel
from tritonclient.grpc import service_pb2 as oip
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

SERVICE: Final = "/inference.GRPCInferenceService/"


class OipTensors:
    """The model pool, as OIP serves it."""

    def __init__(self, channel: Channel) -> None:
        """Use an open channel to inference; without (de)serialisers gRPC takes and hands over plain bytes."""
        self._channel = channel
        self._stub: Any = GRPCInferenceServiceStub(channel.grpc)
        described: Any = channel.grpc
        self._infer = described.unary_unary(f"{SERVICE}ModelInfer")
        self._stream = described.stream_stream(f"{SERVICE}ModelStreamInfer")
        self._metadata = described.unary_unary(f"{SERVICE}ModelMetadata")
        self._config = described.unary_unary(f"{SERVICE}ModelConfig")

    async def ready(self) -> bool:
        """Say whether any model would serve a request."""
        response = await self._channel.call(self._stub.ServerReady, oip.ServerReadyRequest(), idempotent=True)
        return bool(response.ready)

    async def infer(self, request: bytes) -> bytes:
        """Run a ModelInferRequest; return the ModelInferResponse."""
        return await self._channel.call(self._infer, request)

    async def metadata(self, request: bytes) -> bytes:
        """Return the ModelMetadataResponse to a ModelMetadataRequest."""
        return await self._channel.call(self._metadata, request, idempotent=True)

    async def config(self, request: bytes) -> bytes:
        """Return the ModelConfigResponse to a ModelConfigRequest."""
        return await self._channel.call(self._config, request, idempotent=True)

    async def stream(self, request: bytes) -> AsyncGenerator[bytes, None]:
        """Yield the ModelStreamInferResponses to one ModelInferRequest; leaving cancels it."""
        responses = self._channel.stream(self._stream, request)
        async with aclosing(cast("AsyncGenerator[bytes, None]", responses)) as opened:
            async for response in opened:
                yield response
